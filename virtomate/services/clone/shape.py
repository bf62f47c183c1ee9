"""Size and shape of clones where they differ from the original's: memory, virtual CPUs, networks, larger disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.rewrite.shape import find_interface, with_memory, with_network, with_vcpus
from virtomate.definition.rewrite.unshared import Outcome
from virtomate.errors import IllegalStateError, NotFoundError, UnsupportedError, UsageError
from virtomate.notices import Change, notice
from virtomate.services.clone.target import errors_of
from virtomate.words import binary_size, virsh

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.services.clone.disk_rules import DiskCase
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.target import Survey

# The formats that libvirt resizes.
_RESIZABLE = frozenset({"raw", "qcow2"})
_OLD_VERSION = "0.10"


def shaped(survey: Survey, prepared: Outcome, disks: tuple[DiskPlan, ...]) -> Outcome:
    """Return the definition of the clones with the shape that was asked for, and what that changes.

    Raises:
        UsageError: An interface that was named does not exist.
        NotFoundError: There is no such network.
        IllegalStateError: The network is not active, and the clones are to be started.
        UnsupportedError: The definition would contradict itself.
    """
    shape, outcomes = survey.request.shape, [prepared]
    if shape is not None and shape.memory_bytes is not None:
        outcomes.append(with_memory(outcomes[-1].domain, shape.memory_bytes))
    if shape is not None and shape.vcpus is not None:
        outcomes.append(with_vcpus(outcomes[-1].domain, shape.vcpus))
    connected: dict[int, str] = {}
    for choice in () if shape is None else shape.networks:
        # of the original, whose interfaces have their names
        position = find_interface(survey.source.definition.domain, choice.interface)
        if position in connected:
            raise UsageError(f"--network is given twice for one interface: '{connected[position]}' and '{choice.word}'")
        connected[position] = choice.word
        if choice.kind == "network":
            with errors_of(survey.request.target_uri):
                _require_network(survey, choice.name)
        outcomes.append(with_network(outcomes[-1].domain, position, choice.kind, choice.name))
    grown = [
        notice(Change.ASKED, f"capacity of disk {item.disk.target}", old=binary_size(old), new=binary_size(new))
        for item in disks
        if (way := item.duplication) is not None and (old := way.source.capacity) != (new := way.new_capacity)
    ]
    if survey.request.autostarts:
        grown.append(notice(Change.ASKED, "start with the host", old="no", new="yes"))
    changes = (*(change for outcome in outcomes for change in outcome.changes), *grown)
    return Outcome(outcomes[-1].domain, changes, prepared.warnings)


def _require_network(survey: Survey, name: str) -> None:
    is_active = survey.target.connection.is_network_active(name)
    if is_active is None:
        raise NotFoundError(f"there is no network '{name}'", hint=f"{virsh('net-list', options='--all')} lists them.")
    if not is_active and survey.request.start:
        raise IllegalStateError(
            f"network '{name}' is not active, so the clone cannot be started",
            hint=f"Start it first: {virsh('net-start', name)}",
        )


def grown(case: DiskCase, duplication: Duplication, size_bytes: int) -> Duplication:
    """Return the duplication of a disk that becomes larger, before anything is made.

    Raises:
        UsageError: The disk would become smaller.
        UnsupportedError: The new volume cannot be made larger.
    """
    target, source = case.disk.target, duplication.source
    if not _is_larger(target, duplication, size_bytes):
        return duplication
    is_overlay = duplication.base_path == source.path
    # qemu-img resizes no image of that version with internal snapshots
    header = case.header
    is_held = header is not None and header.snapshot_count > 0 and source.compat == _OLD_VERSION
    if source.is_encrypted or any(store.is_encrypted for store in case.disk.below):
        obstacle = "it is encrypted"
    elif case.disk.is_sliced:
        obstacle = "it is a slice of its volume"
    elif case.disk.is_shareable:
        obstacle = "it is shareable"
    elif not is_overlay and not duplication.to_device and source.format not in _RESIZABLE:
        obstacle = f"libvirt does not resize images of format {source.format}"
    elif not is_overlay and not duplication.to_device and is_held:
        obstacle = f"it is an image of version {_OLD_VERSION} with internal snapshots"
    else:
        return duplication._replace(capacity=size_bytes)
    raise UnsupportedError(
        f"disk {target} ('{source.path}') cannot become larger: {obstacle}", hint="Leave out its size=."
    )


def grown_device(disk: DiskDefinition, duplication: Duplication, size_bytes: int) -> Duplication:
    """Return the duplication of a block device whose copy becomes larger; for the errors see `grown`."""
    if not _is_larger(disk.target, duplication, size_bytes):
        return duplication
    if disk.is_shareable:
        raise UnsupportedError(
            f"disk {disk.target} ('{duplication.source.path}') cannot become larger: it is shareable",
            hint="Leave out its size=.",
        )
    return duplication._replace(capacity=size_bytes)


def _is_larger(target: str, duplication: Duplication, size_bytes: int) -> bool:
    """Return whether a disk becomes larger, or raise UsageError if it would become smaller."""
    source = duplication.source
    if size_bytes < source.capacity:
        was, wanted = binary_size(source.capacity), binary_size(size_bytes)
        if was == wanted:
            was, wanted = f"{source.capacity} bytes", f"{size_bytes} bytes"
        raise UsageError(f"--disk {target}: a size of {wanted} is less than the {was} of the original's disk")
    return size_bytes > source.capacity
