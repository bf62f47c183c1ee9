"""The plan for the disks of a clone."""

from __future__ import annotations

import os
import posixpath
import shlex
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.duplication import choice, names
from virtomate.duplication.hostfile import may_be_filled_here, visible_status
from virtomate.duplication.images import HEADER_BYTES, Qcow2Header, read_qcow2_header
from virtomate.errors import ConflictError, IllegalStateError, NotFoundError, UnsupportedError
from virtomate.hypervisor.storage import read_head
from virtomate.records import MadeKind, Mode, VolumeReference
from virtomate.services.pools import FoundVolume, PoolDirectory, describe

if TYPE_CHECKING:
    from virtomate.definition.readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.records import CloneRequest
    from virtomate.services.identities import Identities
    from virtomate.services.source import Source


@dataclass(frozen=True)
class DiskPlan:
    """What becomes of one disk.

    Attributes:
        reason: Why the disk is left untouched, else None.
        duplication: How its volume is duplicated, None for a disk that is left untouched.
        warnings: What should be known of it, each a sentence.
    """

    disk: DiskDefinition
    reason: str | None
    source: VolumeReference
    duplication: Duplication | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiskPlanner:
    """What planning the disks of one clone looks at; it only reads.

    Attributes:
        taken_names: Names given to new volumes so far, by directory, since two pools may be over one.
        keep_owner: Whether new volumes get their originals' owners.
    """

    connection: Connection
    source: Source
    request: CloneRequest
    identities: Identities
    pools: PoolDirectory
    keep_owner: bool
    taken_names: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def plan(self) -> tuple[DiskPlan, ...]:
        """Plan every disk, in order."""
        plans: list[DiskPlan] = []
        for disk in readers.disks(self.source.definition.domain):
            plan = self._plan_disk(disk, plans)
            plans.append(plan)
        return tuple(plans)

    def _plan_disk(self, disk: DiskDefinition, others: list[DiskPlan]) -> DiskPlan:
        reason = _reason_to_leave(disk)
        if reason is not None:
            return _untouched(disk, reason)
        found = self._find(disk)
        if not found.volume.is_file():
            return _untouched(disk, "not file-based")
        self._refuse_writer(disk, found.description)
        format_ = disk.format or found.description.format
        found = self._with_known_format(found, format_)
        source = choice.as_format(found.description, format_)
        for other in others:
            # two disks of one volume stay two disks of one volume
            if other.duplication is not None and other.duplication.source == source:
                return DiskPlan(disk, None, other.source, other.duplication)
        header = self._header(found, source)
        return DiskPlan(
            disk=disk,
            reason=None,
            source=VolumeReference(source.pool, source.name, source.path, source.format),
            duplication=self._plan_duplication(disk, found, source, header),
            warnings=self._header_warnings(disk, source, header),
        )

    def _header_warnings(
        self, disk: DiskDefinition, source: VolumeDescription, header: Qcow2Header | None
    ) -> tuple[str, ...]:
        warnings = []
        if header is not None and header.is_dirty:
            warnings.append(f"disk {disk.target} ('{source.path}') was not closed properly, and neither is its clone's")
        is_flattened = self.request.mode is Mode.COPY and header is not None and header.has_backing_file
        if header is not None and header.snapshot_count and is_flattened:
            warnings.append(
                f"internal snapshots of disk {disk.target} are not carried over: it is merged with what is below"
            )
        return tuple(warnings)

    def _plan_duplication(
        self, disk: DiskDefinition, found: FoundVolume, source: VolumeDescription, header: Qcow2Header | None
    ) -> Duplication:
        mode = self.request.mode
        if disk.is_sliced and mode is Mode.LINKED:
            raise UnsupportedError(
                f"disk {disk.target} is a slice of '{source.path}', which no overlay can be put on",
                hint="Use --mode copy.",
            )
        transfers = choice.choose_transfer(
            source,
            found.description.format,
            header,
            mode,
            is_local=self.connection.is_local,
            is_visible=may_be_filled_here(found.description),
            forced=self.request.transfer,
        )
        name = names.new_volume_name(
            source.name, self.source.reference.name, self.request.name, is_overlay=mode is Mode.LINKED
        )
        taken = self.taken_names[posixpath.dirname(source.path)]
        name = names.distinct_volume_name(name, disk.target, taken)
        taken.add(name)
        if found.pool.find_volume(name) is not None or self._stands_here(found, name):
            raise ConflictError(
                f"there is already a volume '{name}' in storage pool '{source.pool}'",
                hint="Choose another name for the clone.",
            )
        return choice.plan_duplication(
            disk.target,
            MadeKind.VOLUME,
            source,
            name,
            choice.ACTIONS[mode],
            transfers,
            below=self._chain_below(source) if mode is Mode.COPY else (),
            keep_owner=self.keep_owner,
        )

    @staticmethod
    def _stands_here(found: FoundVolume, name: str) -> bool:
        """Whether something has the name that libvirt does not know of, as far as the directory can be seen from here.

        That may be a new file, or a link that leads nowhere: libvirt does not see it, and qemu-img writes through it.
        """
        path = posixpath.join(posixpath.dirname(found.description.path), name)
        return visible_status(found.description) is not None and os.path.lexists(path)

    def _find(self, disk: DiskDefinition) -> FoundVolume:
        try:
            if disk.type == "volume":
                return self.pools.find_named(disk.pool or "", disk.volume or "")
            return self.pools.find_path(disk.path or "")
        except NotFoundError as error:
            name = shlex.quote(self.source.reference.name)
            hint = error.hint or f"Bring it back, or take the disk out: virsh edit {name}"
            raise NotFoundError(f"disk {disk.target}: {error.message}", hint) from error
        except IllegalStateError as error:
            raise IllegalStateError(f"disk {disk.target}: {error.message}", error.hint) from error

    def _refuse_writer(self, disk: DiskDefinition, volume: VolumeDescription) -> None:
        keys: list[str | tuple[str, str]] = [volume.path, (volume.pool, volume.name)]
        for key in keys:
            writer = self.identities.writers.get(key)
            if writer is not None:
                raise IllegalStateError(
                    f"disk {disk.target} ('{volume.path}') is open for writing by domain '{writer}', which is active",
                    hint=f"Shut it down first: virsh shutdown {shlex.quote(writer)}",
                )

    def _with_known_format(self, found: FoundVolume, format_: str) -> FoundVolume:
        """The volume, looked at again where libvirt remembers another format than the definition gives."""
        if format_ in {"raw", found.description.format}:
            return found
        found.pool.refresh()
        volume = found.pool.find_volume(found.volume.name)
        again = found if volume is None else describe(found.pool, volume)
        if again.description.format != format_:
            raise UnsupportedError(
                f"'{found.description.path}' is {again.description.format}, but the definition calls it {format_}",
                hint=f"Put that right first: virsh edit {shlex.quote(self.source.reference.name)}",
            )
        return again

    def _header(self, found: FoundVolume, source: VolumeDescription) -> Qcow2Header | None:
        if source.format != "qcow2" or self.request.mode is Mode.LINKED:
            return None
        header = read_qcow2_header(read_head(self.connection, found.volume, HEADER_BYTES))
        choice.check_header(source, header)
        return header

    def _chain_below(self, source: VolumeDescription) -> tuple[VolumeDescription, ...]:
        """The volumes below one, nearest first, as far as they are in pools."""
        chain = []
        seen = {source.path}
        below = source.backing_path
        while below is not None and below not in seen:
            seen.add(below)
            try:
                description = self.pools.find_path(below).description
            except (IllegalStateError, NotFoundError):
                break
            chain.append(description)
            below = description.backing_path
        return tuple(chain)


def _reason_to_leave(disk: DiskDefinition) -> str | None:
    if disk.is_empty:
        return "empty drive"
    if disk.is_readonly:
        return "read-only"
    if disk.type not in {"file", "volume"}:
        return f"{disk.type} disk, not file-based"
    return None


def _untouched(disk: DiskDefinition, reason: str) -> DiskPlan:
    return DiskPlan(disk, reason, VolumeReference(disk.pool, disk.volume, disk.path, disk.format), None)
