"""The plan for the disks of a clone."""

from __future__ import annotations

import os
import posixpath
import shlex
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.definition.volume import normalise
from virtomate.duplication import choice, names
from virtomate.duplication.hostfile import forbid_writing, may_be_filled_here, open_visible, visible_status
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
        self._refuse_special(disk, found.description, format_)
        found = self._with_known_format(found, format_)
        source = choice.as_format(found.description, format_)
        _refuse_other_chain(disk, source)
        for other in others:
            # two disks of one volume stay two disks of one volume
            if other.duplication is not None and other.duplication.source == source:
                return DiskPlan(disk, None, other.source, other.duplication)
        header = self._header(found, source)
        below = self._chain_below(disk, source, header)
        return DiskPlan(
            disk=disk,
            reason=None,
            source=VolumeReference(source.pool, source.name, source.path, source.format),
            duplication=self._plan_duplication(disk, found, source, header, below),
            warnings=self._header_warnings(disk, source, header),
        )

    def _header_warnings(
        self, disk: DiskDefinition, source: VolumeDescription, header: Qcow2Header | None
    ) -> tuple[str, ...]:
        if header is None:
            return ()
        warnings = []
        is_flattened = self.request.mode is Mode.COPY and header.has_backing_file
        if header.is_dirty and not is_flattened:
            what = "what is below its clone's" if self.request.mode is Mode.LINKED else "its clone's"
            warnings.append(f"disk {disk.target} ('{source.path}') was not closed properly, and neither is {what}")
        lost = {"internal snapshots": header.snapshot_count > 0, "bitmaps": header.has_bitmaps}
        warnings += [
            f"{what} of disk {disk.target} are not carried over: it is merged with what is below"
            for what, is_there in lost.items()
            if is_there and is_flattened
        ]
        return tuple(warnings)

    def _plan_duplication(
        self,
        disk: DiskDefinition,
        found: FoundVolume,
        source: VolumeDescription,
        header: Qcow2Header | None,
        below: tuple[VolumeDescription, ...],
    ) -> Duplication:
        mode = self.request.mode
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
            below=below if mode is Mode.COPY else (),
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

    def _refuse_special(self, disk: DiskDefinition, volume: VolumeDescription, format_: str) -> None:
        """Refuse what no volume of the wanted kind can stand in for."""
        is_linked = self.request.mode is Mode.LINKED
        if disk.is_sliced and (is_linked or format_ != "raw"):
            raise UnsupportedError(
                f"disk {disk.target} is a slice of '{volume.path}', and cannot be duplicated in this mode and format",
                hint="Use --mode copy." if format_ == "raw" else "Make a volume of its own of the slice.",
            )
        if disk.is_shareable and is_linked:
            raise UnsupportedError(
                f"disk {disk.target} ('{volume.path}') is shareable, and an overlay cannot be: only raw volumes can",
                hint="Use --mode copy.",
            )

    def _refuse_writer(self, disk: DiskDefinition, volume: VolumeDescription) -> None:
        """Refuse a volume that an active domain may write to, or any other QEMU as far as that can be seen."""
        for key, writer in self.identities.writers.items():
            if volume.path == (key if isinstance(key, str) else self.pools.path_of(*key)):
                raise IllegalStateError(
                    f"disk {disk.target} ('{volume.path}') is open for writing by domain '{writer}', which is active",
                    hint=f"Shut it down first: virsh shutdown {shlex.quote(writer)}",
                )
        descriptor = open_visible(volume, os.O_RDONLY)
        if descriptor is not None:
            try:
                forbid_writing(descriptor, volume.path)
            finally:
                os.close(descriptor)

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
        if source.format != "qcow2":
            return None
        header = read_qcow2_header(read_head(self.connection, found.volume, HEADER_BYTES))
        choice.check_header(source, header, self.request.mode)
        return header

    def _chain_below(
        self, disk: DiskDefinition, source: VolumeDescription, header: Qcow2Header | None
    ) -> tuple[VolumeDescription, ...]:
        """The volumes below one, nearest first.

        Each must say what the next one is: libvirt would look at the content, and believe what a guest may have written
        there. libvirt does not start a domain with such a chain either.
        """
        chain: list[VolumeDescription] = []
        above = source
        while header is not None and header.has_backing_file:
            if header.backing_format is None or above.backing_path is None:
                raise UnsupportedError(
                    f"the image '{above.path}' does not say what format the one below it has",
                    hint=f"Write it down: qemu-img rebase -u -F FORMAT -b BELOW {shlex.quote(above.path)}",
                )
            found = self._find_below(above.backing_path)
            if found is None:
                break
            below = choice.as_format(found.description, header.backing_format)
            if below.format != header.backing_format:
                raise UnsupportedError(
                    f"'{below.path}' is {below.format}, but '{above.path}', which rests on it, calls it "
                    f"{header.backing_format}"
                )
            if below.path in {volume.path for volume in (source, *chain)}:
                raise UnsupportedError(f"'{below.path}' rests on itself")
            self._refuse_writer(disk, below)
            chain.append(below)
            header = self._header(found, below)
            above = below
        return tuple(chain)

    def _find_below(self, path: str) -> FoundVolume | None:
        """A volume that another one rests on; None where it is in no pool, and not needed for more than being there."""
        try:
            return self.pools.find_path(path)
        except NotFoundError as error:
            raise NotFoundError(error.message, hint="The image is incomplete without it: bring it back.") from error
        except IllegalStateError:
            if self.request.mode is Mode.COPY:
                raise
            return None


def _refuse_other_chain(disk: DiskDefinition, source: VolumeDescription) -> None:
    """Refuse a disk whose definition says something else of what is below than its image does.

    The original reads what its definition says; every way to duplicate it would go by the image.
    """
    if not disk.names_chain:
        return
    by_definition = None if disk.backing_path is None else normalise(disk.backing_path)
    by_image = None if source.backing_path is None else normalise(source.backing_path)
    if by_definition != by_image:
        raise UnsupportedError(
            f"disk {disk.target}: by the definition '{by_definition or 'nothing'}' is below '{source.path}', "
            f"but by the image '{by_image or 'nothing'}' is",
            hint="Make them agree: virsh edit changes the one, qemu-img rebase -u the other.",
        )


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
