"""The disks of the original, looked at once for all clones, and what is to become of each."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.definition import file_readers
from virtomate.duplication import select
from virtomate.duplication.acl import may_be_given_here, with_acl
from virtomate.duplication.hostfs import find_obstacle, require_reflinks, visible_status
from virtomate.duplication.image_headers import HEADER_BYTES, read_qcow2_header
from virtomate.enums import Action, DiskAction, Mode, Transfer
from virtomate.errors import IllegalStateError, NotFoundError, UnsupportedError, UsageError
from virtomate.hypervisor.storage import read_head
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise
from virtomate.services.clone.disk_rules import IMAGE_RULES, VOLUME_RULES, DiskCase, refuse_case
from virtomate.services.clone.disks import Blueprint, SurveyedDisk
from virtomate.services.clone_records import DiskOptions, VolumeReference
from virtomate.services.storage import FoundVolume, PoolIndex, describe, refresh_when_idle
from virtomate.services.transaction import without_acl
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, virsh

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.image_headers import Qcow2Header
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.target import Identities
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.trust import PoolGate

_FILE_TYPES = frozenset({"file", "volume"})
_DUPLICATING = frozenset({DiskAction.COPY, DiskAction.LINKED, DiskAction.REFLINK})


class DiskSurveyor(NamedTuple):
    """Looks at the original's disks, once for all clones."""

    connection: Connection
    source: Source
    request: CloneRequest
    identities: Identities
    pools: PoolIndex
    gate: PoolGate

    def survey(self) -> tuple[SurveyedDisk, ...]:
        """Look at every disk, in order.

        Raises:
            UsageError: There is no such disk as one of those that something was asked for.
            VirtomateError: A disk cannot be duplicated as was asked.
        """
        disks = file_readers.disks(self.source.definition.domain)
        choices = self._choices(disks)
        surveyed: list[SurveyedDisk] = []
        for disk in disks:
            chosen = choices.get(disk.target, DiskOptions(disk.target))
            surveyed.append(self._survey_disk(disk, chosen, surveyed))
        self._refuse_shared_base(surveyed)
        return tuple(surveyed)

    def _refuse_shared_base(self, surveyed: list[SurveyedDisk]) -> None:
        """Refuse to share what an overlay of the same clone would rest on: writing to it destroys the overlay."""
        overlays = {
            item.blueprint.source.path: item.disk.target
            for item in surveyed
            if item.blueprint is not None and item.blueprint.mode is Mode.LINKED
        }
        for item in surveyed:
            disk = item.disk
            if item.action is not Action.SHARED or disk.is_readonly or disk.is_empty:
                continue
            path = disk.path or self.pools.path_of(disk.pool or "", disk.volume or "")
            if path is not None and (target := overlays.get(normalise(path))) is not None:
                raise UnsupportedError(
                    f"disk {disk.target} cannot be shared: the overlay for disk {target} would rest on '{path}'",
                    hint=f"Use --disk {disk.target}=drop, or another way than linked for {target}.",
                )

    def _choices(self, disks: tuple[DiskDefinition, ...]) -> dict[str, DiskOptions]:
        known = [disk.target for disk in disks]
        choices: dict[str, DiskOptions] = {}
        for chosen in self.request.disks:
            if chosen.target not in known:
                name = self.source.reference.name
                there = f"it has {', '.join(known)}" if known else "it has no disks"
                raise UsageError(f"domain '{name}' has no disk '{chosen.target}': {there}")
            choices[chosen.target] = chosen
        return choices

    def _survey_disk(self, disk: DiskDefinition, chosen: DiskOptions, others: list[SurveyedDisk]) -> SurveyedDisk:
        treatment = chosen.treatment
        if treatment is DiskAction.DROP:
            return _untouched(disk, "as asked", Action.DROPPED)
        reason = "as asked" if treatment is DiskAction.SHARE else _reason_to_leave(disk)
        is_read_only = disk.is_readonly and not disk.is_empty and disk.type in _FILE_TYPES
        if reason is not None and not (is_read_only and treatment in _DUPLICATING):
            _refuse_choice(disk, chosen, reason)
            return _untouched(disk, reason)
        found = self._find(disk)
        if not found.volume.is_file():
            _refuse_choice(disk, chosen, "not file-based")
            return _untouched(disk, "not file-based")
        case = self._case(disk, chosen, found)
        refuse_case(case, VOLUME_RULES)
        found = self._with_known_format(found, case.format)
        case = self._with_images(case, found)
        refuse_case(case, IMAGE_RULES)
        for other in others:
            # two disks of one volume stay two disks of one volume
            blueprint = other.blueprint
            is_same = blueprint is not None and (blueprint.source, blueprint.mode) == (case.source, case.mode)
            if is_same and chosen.name is None and chosen.pool is None:
                return SurveyedDisk(disk, other.action, None, other.source, blueprint)
        blueprint = self._blueprint(case, chosen, found)
        source, header = case.source, case.header
        return SurveyedDisk(
            disk=disk,
            action=select.ACTIONS[case.mode],
            reason=None,
            source=VolumeReference(source.pool, source.name, source.path, source.format),
            blueprint=blueprint,
            warnings=(*_header_warnings(disk, source, header, case.mode), *blueprint.cautions),
            keeps_snapshots=header is not None and _keeps_snapshots(header, case.mode),
        )

    def _case(self, disk: DiskDefinition, chosen: DiskOptions, found: FoundVolume) -> DiskCase:
        volume = found.description
        pool_name = chosen.pool or self.request.pool
        target = self.pools.named(volume.pool) if pool_name is None else self.pools.for_new_volumes(pool_name)
        return DiskCase(
            disk=disk,
            mode=self.request.mode if chosen.treatment is None else Mode(chosen.treatment.value),
            format=disk.format or volume.format,
            images=(volume,),
            headers=(None,),
            target=target,
            directory=posixpath.dirname(volume.path) if pool_name is None else target.description.path or "",
            pools=self.pools,
            writers=self.identities.writers,
        )

    def _with_images(self, case: DiskCase, found: FoundVolume) -> DiskCase:
        source = with_acl(select.as_format(found.description, case.format))
        header = self._header(found, source, case.mode)
        images, headers = self._chain(select.as_headed(source, header), header, case.mode)
        return case._replace(images=images, headers=headers)

    def _blueprint(self, case: DiskCase, chosen: DiskOptions, found: FoundVolume) -> Blueprint:
        source, mode, directory, target = case.source, case.mode, case.directory, case.target
        # --transfer is about content, of which an overlay that was asked for in spite of it has none
        is_overlay_by_choice = mode is Mode.LINKED and chosen.treatment is not None
        is_exposed = select.is_exposed(source, target.description.mode)
        transfers = select.choose_transfer(
            source,
            found.description.format,
            case.header,
            mode,
            is_local=self.connection.is_local,
            obstacle=find_obstacle(found.description),
            is_exposed=is_exposed,
            forced=None if is_overlay_by_choice else self.request.transfer,
        )
        # an overlay reads nothing of what is below it, and a reflink only the image itself
        read = {Mode.COPY: case.images, Mode.REFLINK: (source,), Mode.LINKED: ()}[mode]
        involved = {target.pool.name: target} | {
            volume.pool: self.pools.named(volume.pool) for volume in read if volume.pool != target.pool.name
        }
        transfers, cautions = self.gate.admit(
            self.connection,
            transfers,
            [(known.pool, known.description) for known in involved.values()],
            f"disk {chosen.target}",
        )
        if transfers[0] is Transfer.SERVER and is_exposed:
            cautions = (*cautions, _exposure(chosen.target, source, directory))
        if source.acl and not may_be_given_here(source):
            cautions = (*cautions, without_acl(source))
        is_visible = visible_status(found.description) is not None
        if mode is Mode.REFLINK and is_visible:
            require_reflinks(directory, source.path)
        return Blueprint(
            target=chosen.target,
            source=source,
            mode=mode,
            transfers=transfers,
            below=case.images[1:],
            pool=target.pool.name,
            pool_uuid=target.pool.uuid,
            directory=directory,
            name=chosen.name,
            is_visible=is_visible,
            cautions=cautions,
        )

    def _find(self, disk: DiskDefinition) -> FoundVolume:
        try:
            if disk.type == "volume":
                return self.pools.find_named(disk.pool or "", disk.volume or "")
            return self.pools.find_path(disk.path or "")
        except NotFoundError as error:
            edit = virsh("edit", self.source.reference.name)
            hint = error.hint or f"Bring it back, or take the disk out: {edit}"
            raise NotFoundError(f"disk {disk.target}: {error.message}", hint) from error
        except IllegalStateError as error:
            raise IllegalStateError(f"disk {disk.target}: {error.message}", error.hint) from error

    def _with_known_format(self, found: FoundVolume, format_: str) -> FoundVolume:
        """The volume, looked at again where libvirt remembers another format than the definition gives."""
        if format_ in {"raw", found.description.format}:
            return found
        has_looked = refresh_when_idle(found.pool)
        volume = found.pool.find_volume(found.volume.name)
        again = found if volume is None else describe(found.pool, volume)
        if again.description.format != format_ and not has_looked:
            raise IllegalStateError(
                f"libvirt takes '{found.description.path}' for {again.description.format} and not for {format_}, and "
                f"cannot look again while something is being built in storage pool '{found.pool.name}'",
                hint="Try again when that is done.",
            )
        if again.description.format != format_:
            raise UnsupportedError(
                f"'{found.description.path}' is {again.description.format}, but the definition calls it {format_}",
                hint=f"Put that right first: {virsh('edit', self.source.reference.name)}",
            )
        return again

    def _header(self, found: FoundVolume, source: VolumeDescription, mode: Mode) -> Qcow2Header | None:
        if source.format != "qcow2":
            return None
        header = read_qcow2_header(read_head(self.connection, found.volume, HEADER_BYTES))
        select.check_header(source, header, mode)
        return header

    def _chain(
        self, source: VolumeDescription, header: Qcow2Header | None, mode: Mode
    ) -> tuple[tuple[VolumeDescription, ...], tuple[Qcow2Header | None, ...]]:
        """A volume and those below it, nearest first, with their headers.

        Each must say what the next one is: libvirt would look at the content, and believe what a guest may have written
        there. libvirt does not start a domain with such a chain either.
        """
        images, headers = [source], [header]
        while header is not None and header.has_backing_file:
            above = images[-1]
            if header.backing_format is None or above.backing_path is None:
                raise UnsupportedError(
                    f"the image '{above.path}' does not say what format the one below it has",
                    hint=f"Write it down: qemu-img rebase -u -F FORMAT -b BELOW {shell_word(above.path)}",
                )
            found = self._find_below(above.backing_path, mode)
            if found is None:
                break
            below = select.as_format(found.description, header.backing_format)
            if below.format != header.backing_format:
                raise UnsupportedError(
                    f"'{below.path}' is {below.format}, but '{above.path}', which rests on it, calls it "
                    f"{header.backing_format}"
                )
            if below.path in {volume.path for volume in images}:
                raise UnsupportedError(f"'{below.path}' rests on itself")
            header = self._header(found, below, mode)
            images.append(select.as_headed(below, header))
            headers.append(header)
        return tuple(images), tuple(headers)

    def _find_below(self, path: str, mode: Mode) -> FoundVolume | None:
        """A volume that another one rests on; None where it is in no pool, and not needed for more than being there."""
        try:
            return self.pools.find_path(path)
        except NotFoundError as error:
            raise NotFoundError(error.message, hint="The image is incomplete without it: bring it back.") from error
        except IllegalStateError:
            if mode is Mode.COPY:
                raise
            return None


def _refuse_choice(disk: DiskDefinition, chosen: DiskOptions, reason: str) -> None:
    """Refuse to duplicate what cannot be, where that was asked for."""
    if chosen.treatment in _DUPLICATING or chosen.name is not None or chosen.pool is not None:
        raise UnsupportedError(
            f"disk {disk.target} cannot be duplicated: {reason}",
            hint=f"Use --disk {disk.target}=share or --disk {disk.target}=drop.",
        )


def _keeps_snapshots(header: Qcow2Header, mode: Mode) -> bool:
    """Whether a duplicate made byte by byte has internal snapshots; a flattened one and an overlay have none."""
    is_flattened = mode is Mode.COPY and header.has_backing_file
    return header.snapshot_count > 0 and mode is not Mode.LINKED and not is_flattened


def _exposure(target: str, source: VolumeDescription, directory: str) -> Notice:
    """Return the warning that libvirt makes a volume readable before it gives it the original's permissions."""
    return notice(
        CloneWarning.EXPOSED_COPY, target, path=source.path, directory=directory, mode=source.mode or "unknown"
    )


def _header_warnings(
    disk: DiskDefinition, source: VolumeDescription, header: Qcow2Header | None, mode: Mode
) -> tuple[Notice, ...]:
    if header is None:
        return ()
    if mode is not Mode.COPY or not header.has_backing_file:
        unclean = notice(CloneWarning.UNCLEAN_IMAGE, disk.target, path=source.path)
        return (unclean,) if header.is_dirty else ()
    lost = {CloneWarning.INTERNAL_SNAPSHOTS: header.snapshot_count > 0, CloneWarning.BITMAPS: header.has_bitmaps}
    return tuple(Notice(code, disk.target) for code, is_there in lost.items() if is_there)


def _reason_to_leave(disk: DiskDefinition) -> str | None:
    if disk.is_empty:
        return "empty drive"
    if disk.is_readonly:
        return "read-only"
    if disk.type not in _FILE_TYPES:
        return f"{disk.type} disk, not file-based"
    return None


def _untouched(disk: DiskDefinition, reason: str, action: Action = Action.SHARED) -> SurveyedDisk:
    return SurveyedDisk(disk, action, reason, VolumeReference(disk.pool, disk.volume, disk.path, disk.format), None)
