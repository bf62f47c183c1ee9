"""What a user should know of all clones of a run besides their definitions, and the refusals that follow from that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.enums import Action, DiskAction
from virtomate.errors import RefusedWarningError, UnsupportedError
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.services.clone.seeds import seed_warnings
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.nvram import SurveyedNvram
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.seeds import FoundSeed
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.firmware import Firmware


def clone_warnings(
    survey: Survey,
    disks: tuple[DiskPlan, ...],
    seeds: tuple[FoundSeed, ...],
    firmware: Firmware,
    nvram: SurveyedNvram | None,
) -> tuple[Notice, ...]:
    """Return the warnings about all clones."""
    source = survey.source
    name = source.reference.name
    return (
        *(() if survey.crossing is None else survey.crossing.warnings),
        *_shared(disks, nvram),
        *_addresses(survey),
        *(() if survey.request.freeze else _links(source, disks)),
        *_shared_bases(source, disks),
        *(warning for item in disks for warning in item.warnings),
        *seed_warnings(disks, seeds),
        *(() if nvram is None else nvram.warnings),
        *(() if source.snapshot is None else source.snapshot.warnings()),
        *(() if firmware.missing is None else (firmware.missing,)),
        *_snapshots(source, disks),
        *source.not_carried_over,
        *((Notice(CloneWarning.SAVED_STATE, name),) if source.has_managed_save else ()),
    )


def _links(source: Source, disks: tuple[DiskPlan, ...]) -> Iterator[Notice]:
    """Yield warnings of what destroys a linked clone."""
    name, snapshot = source.reference.name, source.snapshot
    # nobody writes to a snapshot in a Ceph cluster
    still = {item.disk.target for item in disks if (way := item.duplication) and way.network and way.network.snapshot}
    linked = [item.disk for item in disks if item.action is Action.LINKED and item.disk.target not in still]
    frozen = [] if snapshot is None else [disk for disk in linked if snapshot.keeps(disk)]
    if snapshot is not None and frozen:
        yield notice(CloneWarning.LINKED_SNAPSHOT, snapshot.name, original=name)
    # linked clones of a running original rest on images of their own, and nobody can start a template
    if len(frozen) < len(linked) and source.running is None and not source.is_template:
        yield Notice(CloneWarning.LINKED_ORIGINAL, name)


def _shared_bases(source: Source, disks: tuple[DiskPlan, ...]) -> Iterator[Notice]:
    """Yield a warning for each image that is copied without its base, unless nobody writes to that base any more."""
    frozen = () if source.freeze_mark is None else source.freeze_mark.disks
    bases = {disk.base for disk in frozen}
    for item in disks:
        way = item.duplication
        path = None if way is None or way.action is Action.LINKED else way.base_path
        if path is not None and path not in bases:
            yield notice(CloneWarning.SHARED_BASE, item.disk.target, base=path)


def _shared(disks: tuple[DiskPlan, ...], nvram: SurveyedNvram | None) -> Iterator[Notice]:
    for item in disks:
        if item.is_written_by_both:
            target, location = item.disk.target, item.disk.location
            cure = f", unless --block copy or --disk {target}=copy duplicates it" if item.can_be_copied else ""
            yield notice(CloneWarning.SHARED_DISK, target, location=location, reason=item.reason or "", cure=cure)
    if nvram is not None and nvram.path is None:
        yield Notice(CloneWarning.SHARED_NVRAM, "NVRAM")


def _addresses(survey: Survey) -> Iterable[Notice]:
    """Return a warning for kept MAC addresses, else one for each address that a network reserves for the original."""
    domain, name = survey.source.definition.domain, survey.source.reference.name
    if survey.request.keep_mac_addresses:
        return (Notice(CloneWarning.SAME_MAC_ADDRESSES, name),) if readers.mac_addresses(domain) else ()
    addresses: dict[str, list[str]] = {}
    for interface in readers.devices(domain, "interface"):
        network = readers.child(interface, "source").get("@network")
        mac = readers.child(interface, "mac").get("@address")
        if network is not None and mac is not None:
            addresses.setdefault(network, []).append(str(mac).lower())
    lost = {}
    for network, macs in addresses.items():
        for definition in survey.target.connection.network_definitions(network):
            for entry in readers.dhcp_entries(definition):
                lease = ", ".join(part for part in (entry.address, entry.name) if part is not None)
                if entry.mac_address in macs:
                    lost[notice(CloneWarning.DHCP_ENTRY, entry.mac_address, network=network, lease=lease)] = True
    return lost


def _snapshots(source: Source, disks: Iterable[DiskPlan]) -> Iterator[Notice]:
    """Yield warnings about the original's snapshots; none where libvirt knows no snapshots."""
    name, external = source.reference.name, source.external_snapshot_count
    targets = [item.disk.target for item in disks if item.keeps_snapshots]
    if not targets or source.snapshot_count == external:
        if source.snapshot_count:
            yield Notice(CloneWarning.SNAPSHOTS, name)
        return
    for target in targets:
        yield notice(CloneWarning.UNLISTED_SNAPSHOTS, target, original=name)
    if external:
        yield Notice(CloneWarning.EXTERNAL_SNAPSHOTS, name)


def refuse_warnings(refused: Collection[CloneWarning], warnings: Iterable[Notice]) -> None:
    """Raise RefusedWarningError for warnings that the user does not accept."""
    found = tuple(dict.fromkeys(warning for warning in warnings if warning.code in refused))
    if found:
        raise RefusedWarningError(found)


def refuse_to_start(request: CloneRequest, disks: Iterable[DiskPlan], nvram: SurveyedNvram | None) -> None:
    """Raise UnsupportedError for started clones that would write to a disk or NVRAM of their original.

    Two guests that write to one device destroy its content, unless they cooperate. So the disk must be marked as
    shareable, or the user must have asked for sharing the disk.
    """
    if not request.start:
        return
    asked = {chosen.target for chosen in request.disks if chosen.treatment is DiskAction.SHARE}
    for item in disks:
        disk, target = item.disk, item.disk.target
        if item.is_written_by_both and not disk.is_shareable and target not in asked:
            copy = f"--disk {target}=copy, or " if item.can_be_copied else ""
            raise UnsupportedError(
                f"disk {target} ({disk.location}) is shared with the original ({item.reason}): original and "
                "clones that are started all write to it",
                hint=f"Leave out --start, or use {copy}--disk {target}=share if that is meant, or "
                f"--disk {target}=drop.",
            )
    if nvram is not None and nvram.path is None:
        raise UnsupportedError(
            "the NVRAM is not a file and is shared with the original: original and started clones all write to it",
            hint=f"Leave out --start, and give the clone an NVRAM of its own with {virsh('edit')}.",
        )
