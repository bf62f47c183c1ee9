"""The disks of a clone: what those of the original are, and what becomes of each."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from virtomate.advice import virsh
from virtomate.definition import disk_readers
from virtomate.duplication import select
from virtomate.duplication.acl import may_be_given_here, with_acl
from virtomate.duplication.hostfs import (
    file_system,
    find_obstacle,
    open_visible,
    require_reflinks,
    visible_status,
)
from virtomate.duplication.image_headers import HEADER_BYTES, Qcow2Header, read_qcow2_header
from virtomate.duplication.image_lock import forbid_writing
from virtomate.duplication.transfers.base import Place
from virtomate.enums import Action, ArtifactKind, DiskAction, Mode, Transfer
from virtomate.errors import ConflictError, IllegalStateError, NotFoundError, UnsupportedError, UsageError
from virtomate.hypervisor.volume_streams import read_head
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import is_relative, normalise
from virtomate.services.clone.records import DiskOptions, VolumeReference
from virtomate.services.clone.volume_names import distinct_volume_name, new_volume_name
from virtomate.services.storage import FoundVolume, PoolIndex, describe, refresh_when_idle
from virtomate.services.transaction.access import NOT_ALLOWED, without_acl
from virtomate.words import shell_word

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from virtomate.definition.disk_readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.records import CloneRequest
    from virtomate.services.clone.taken import TakenNames
    from virtomate.services.clone.target import Identities
    from virtomate.services.storage import PoolEntry
    from virtomate.services.storage.trust import PoolGate


_FILE_TYPES = frozenset({"file", "volume"})
_AGREE = f"Make them agree: {virsh('edit')} changes the one, qemu-img rebase -u the other."


class Blueprint(NamedTuple):
    """How a volume is duplicated, whatever the clone is called.

    Attributes:
        pool: Where the new volume goes.
        directory: Normalised path of that pool's directory.
        name: Name that was asked for, None for one made from the clone's.
        is_visible: Whether the daemon's files can be seen here.
        cautions: What should be known of the way in which it is filled.
    """

    target: str
    source: VolumeDescription
    mode: Mode
    transfers: tuple[Transfer, ...]
    below: tuple[VolumeDescription, ...]
    pool: Pool
    directory: str
    name: str | None
    is_visible: bool
    cautions: tuple[Notice, ...] = ()


class SurveyedDisk(NamedTuple):
    """One disk of the original, and what is to become of it in every clone.

    Attributes:
        reason: Why it is not duplicated, else None.
        blueprint: How its volume is duplicated, else None; two disks of one volume have one and the same.
        warnings: What should be known of it.
        keeps_snapshots: Whether the new image has internal snapshots, as the original has.
    """

    disk: DiskDefinition
    action: Action
    reason: str | None
    source: VolumeReference
    blueprint: Blueprint | None
    warnings: tuple[Notice, ...] = ()
    keeps_snapshots: bool = False


class DiskPlan(NamedTuple):
    """What becomes of one disk in one clone.

    Attributes:
        duplication: How its volume is duplicated, None for a disk that is not.
    """

    surveyed: SurveyedDisk
    duplication: Duplication | None


class DiskPlanner(NamedTuple):
    """Plans the disks of one clone after another; it only reads.

    Attributes:
        has_siblings: Whether several clones are made of the original.
        keep_owner: Whether new volumes get their originals' owners.
    """

    surveyed: tuple[SurveyedDisk, ...]
    source_name: str
    has_siblings: bool
    keep_owner: bool

    def plan(self, clone_name: str, taken: TakenNames) -> tuple[DiskPlan, ...]:
        """Plan every disk, in order.

        Args:
            clone_name: Name of the clone.
            taken: Names of new volumes so far; those of this clone are added.

        Raises:
            ConflictError: Something has the name that a volume would get.
            UsageError: That name would be too long.
        """
        duplications: dict[int, Duplication] = {}
        own: defaultdict[Hashable, set[str]] = defaultdict(set)
        plans = []
        for surveyed in self.surveyed:
            blueprint = surveyed.blueprint
            if blueprint is None:
                plans.append(DiskPlan(surveyed, None))
                continue
            if id(blueprint) not in duplications:
                duplications[id(blueprint)] = self._duplication(blueprint, clone_name, own, taken)
            plans.append(DiskPlan(surveyed, duplications[id(blueprint)]))
        return tuple(plans)

    def _duplication(
        self, blueprint: Blueprint, clone_name: str, own: defaultdict[Hashable, set[str]], taken: TakenNames
    ) -> Duplication:
        source = blueprint.source
        name = blueprint.name
        if name is None:
            is_overlay = blueprint.mode is Mode.LINKED
            name = new_volume_name(source.name, self.source_name, clone_name, is_overlay=is_overlay)
            name = distinct_volume_name(name, blueprint.target, own[taken.directory(blueprint.directory)])
        place = Place(blueprint.pool.name, blueprint.pool.uuid, blueprint.directory, name)
        if taken.has(place.directory, name):
            raise ConflictError(
                f"two new volumes would be '{place.path}'",
                hint="Choose other names for the clones, or --disk TARGET=MODE,name=NAME.",
            )
        # A new file, or a link that leads nowhere, libvirt does not see; qemu-img would write through the link.
        stands_here = blueprint.is_visible and os.path.lexists(place.path)
        if stands_here or blueprint.pool.find_volume(name) is not None:
            owner = "the clone" if blueprint.name is None else "the volume"
            raise ConflictError(
                f"there is already a volume '{name}' in storage pool '{place.pool}'",
                hint=f"Choose another name for {owner}.",
            )
        taken.refuse_named(place.directory, name, "Choose another name for the clone, or --disk TARGET=MODE,name=NAME.")
        own[taken.directory(place.directory)].add(name)
        taken.add(place.directory, name)
        label = f"{clone_name}/{blueprint.target}" if self.has_siblings else blueprint.target
        return select.plan_duplication(
            label,
            ArtifactKind.VOLUME,
            source,
            place,
            select.ACTIONS[blueprint.mode],
            blueprint.transfers,
            blueprint.below,
            keep_owner=self.keep_owner,
            is_read_again=self.has_siblings,
        )


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
        disks = disk_readers.disks(self.source.definition.domain)
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
            return _untouched(disk, "left out as asked", Action.DROPPED)
        reason = "shared as asked" if treatment is DiskAction.SHARE else _reason_to_leave(disk)
        is_read_only = disk.is_readonly and not disk.is_empty and disk.type in _FILE_TYPES
        if reason is not None and not (is_read_only and treatment not in {None, DiskAction.SHARE}):
            _refuse_choice(disk, chosen, reason)
            return _untouched(disk, reason)
        found = self._find(disk)
        if not found.volume.is_file():
            _refuse_choice(disk, chosen, "not file-based")
            return _untouched(disk, "not file-based")
        mode = self.request.mode if treatment is None else Mode(treatment.value)
        self._refuse_writer(disk, found.description)
        format_ = disk.format or found.description.format
        _refuse_special(disk, found.description, format_, mode)
        found = self._with_known_format(found, format_)
        source = with_acl(select.as_format(found.description, format_))
        header = self._header(found, source, mode)
        source = select.as_headed(source, header)
        self._refuse_other_store(disk, 0, source)
        _refuse_to_decrypt(disk, source, mode)
        for other in others:
            # two disks of one volume stay two disks of one volume
            blueprint = other.blueprint
            is_same = blueprint is not None and (blueprint.source, blueprint.mode) == (source, mode)
            if is_same and chosen.name is None and chosen.pool is None:
                return SurveyedDisk(disk, other.action, None, other.source, blueprint)
        below = self._chain_below(disk, source, header, mode)
        blueprint = self._blueprint(found, source, header, below, mode, chosen)
        return SurveyedDisk(
            disk=disk,
            action=select.ACTIONS[mode],
            reason=None,
            source=VolumeReference(source.pool, source.name, source.path, source.format),
            blueprint=blueprint,
            warnings=(*_header_warnings(disk, source, header, mode), *blueprint.cautions),
            keeps_snapshots=header is not None and _keeps_snapshots(header, mode),
        )

    def _blueprint(
        self,
        found: FoundVolume,
        source: VolumeDescription,
        header: Qcow2Header | None,
        below: tuple[VolumeDescription, ...],
        mode: Mode,
        chosen: DiskOptions,
    ) -> Blueprint:
        known = self.pools.named(found.pool.name)
        directory = posixpath.dirname(source.path)
        if (pool_name := chosen.pool or self.request.pool) is not None:
            known = self.pools.for_new_volumes(pool_name)
            directory = known.description.path or ""
        # --transfer is about content, of which an overlay that was asked for in spite of it has none
        is_overlay_by_choice = mode is Mode.LINKED and chosen.treatment is not None
        is_exposed = select.is_exposed(source, known.description.mode)
        transfers = select.choose_transfer(
            source,
            found.description.format,
            header,
            mode,
            is_local=self.connection.is_local,
            obstacle=find_obstacle(found.description),
            is_exposed=is_exposed,
            forced=None if is_overlay_by_choice else self.request.transfer,
        )
        # an overlay reads nothing of what is below it, and a reflink only the image itself
        read = {Mode.COPY: (source, *below), Mode.REFLINK: (source,), Mode.LINKED: ()}[mode]
        transfers, cautions = self._admit(transfers, known, read, f"disk {chosen.target}")
        if transfers[0] is Transfer.SERVER and is_exposed:
            cautions = (*cautions, _exposure(chosen.target, source, directory))
        if source.acl and not may_be_given_here(source):
            cautions = (*cautions, without_acl(source, NOT_ALLOWED))
        if mode is Mode.REFLINK and directory != posixpath.dirname(source.path):
            _refuse_reflink_between(found.pool, source, known.pool, directory)
            _refuse_relative_name(source, header, known.pool)
        is_visible = visible_status(found.description) is not None
        if mode is Mode.REFLINK and is_visible:
            require_reflinks(directory, source.path)
        return Blueprint(
            target=chosen.target,
            source=source,
            mode=mode,
            transfers=transfers,
            below=below,
            pool=known.pool,
            directory=directory,
            name=chosen.name,
            is_visible=is_visible,
            cautions=cautions,
        )

    def _admit(
        self, transfers: tuple[Transfer, ...], new: PoolEntry, read: Iterable[VolumeDescription], what: str
    ) -> tuple[tuple[Transfer, ...], tuple[Notice, ...]]:
        """Those of the transfers that may be used where they read and write, and what should be known of that."""
        involved = {new.pool.name: new}
        for volume in read:
            involved.setdefault(volume.pool, self.pools.named(volume.pool))
        return self.gate.admit(
            self.connection, transfers, [(known.pool, known.description) for known in involved.values()], what
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

    def _refuse_writer(self, disk: DiskDefinition, volume: VolumeDescription) -> None:
        """Refuse a volume that an active domain may write to, or any other QEMU as far as that can be seen."""
        for key, writer in self.identities.writers.items():
            if volume.path == (key if isinstance(key, str) else self.pools.path_of(*key)):
                raise IllegalStateError(
                    f"disk {disk.target} ('{volume.path}') is open for writing by domain '{writer}', which is active",
                    hint=f"Shut it down first: {virsh('shutdown', writer)}",
                )
        # what a link leads to may be known by another path to whoever writes to it
        descriptor = open_visible(volume, os.O_RDONLY, follow_link=True)
        if descriptor is not None:
            try:
                forbid_writing(descriptor, volume.path)
            finally:
                os.close(descriptor)

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

    def _chain_below(
        self, disk: DiskDefinition, source: VolumeDescription, header: Qcow2Header | None, mode: Mode
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
                    hint=f"Write it down: qemu-img rebase -u -F FORMAT -b BELOW {shell_word(above.path)}",
                )
            _refuse_other_format(disk, len(chain), above, header.backing_format)
            found = self._find_below(above.backing_path, mode)
            if found is None:
                break
            below = select.as_format(found.description, header.backing_format)
            if below.format != header.backing_format:
                raise UnsupportedError(
                    f"'{below.path}' is {below.format}, but '{above.path}', which rests on it, calls it "
                    f"{header.backing_format}"
                )
            if below.path in {volume.path for volume in (source, *chain)}:
                raise UnsupportedError(f"'{below.path}' rests on itself")
            self._refuse_writer(disk, below)
            header = self._header(found, below, mode)
            below = select.as_headed(below, header)
            chain.append(below)
            self._refuse_other_store(disk, len(chain), below)
            above = below
        return tuple(chain)

    def _refuse_other_store(self, disk: DiskDefinition, depth: int, above: VolumeDescription) -> None:
        """Refuse a disk whose definition says something else of what is below one of its images than the image does.

        The original reads what its definition says; every way to duplicate it would go by the images.
        """
        if depth >= len(disk.below):
            return
        store = disk.below[depth]
        path = self.pools.path_of(store.pool or "", store.volume or "") if store.type == "volume" else store.path
        by_definition = None if path is None else normalise(path)
        by_image = None if above.backing_path is None else normalise(above.backing_path)
        if by_definition != by_image or (store.type is not None and path is None):
            unnamed = "nothing" if store.type is None else f"a {store.type} source"
            raise UnsupportedError(
                f"disk {disk.target}: by the definition '{by_definition or unnamed}' is below '{above.path}', "
                f"but by the image '{by_image or 'nothing'}' is",
                hint=_AGREE,
            )

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


def _refuse_other_format(disk: DiskDefinition, depth: int, above: VolumeDescription, by_image: str) -> None:
    """Refuse a disk whose definition takes what is below one of its images for another format than the image does."""
    by_definition = disk.below[depth].format if depth < len(disk.below) else None
    if by_definition not in {None, by_image}:
        raise UnsupportedError(
            f"disk {disk.target}: by the definition '{above.backing_path}', which is below '{above.path}', is "
            f"{by_definition}, but by the image it is {by_image}",
            hint=_AGREE,
        )


def _refuse_to_decrypt(disk: DiskDefinition, source: VolumeDescription, mode: Mode) -> None:
    """Refuse a flat copy of what rests on an encrypted volume: libvirt would merge it as it is, or fail to open it."""
    if mode is Mode.COPY and any(store.is_encrypted for store in disk.below):
        raise UnsupportedError(
            f"disk {disk.target} ('{source.path}') rests on an encrypted volume, which libvirt would have to decrypt",
            hint="Use --mode linked or --mode reflink.",
        )


def _refuse_choice(disk: DiskDefinition, chosen: DiskOptions, reason: str) -> None:
    """Refuse to duplicate what cannot be, where that was asked for.

    Raises:
        UnsupportedError: It was asked for.
    """
    duplicating = {DiskAction.COPY, DiskAction.LINKED, DiskAction.REFLINK}
    if chosen.treatment in duplicating or chosen.name is not None or chosen.pool is not None:
        raise UnsupportedError(
            f"disk {disk.target} cannot be duplicated: {reason}",
            hint=f"Use --disk {disk.target}=share or --disk {disk.target}=drop.",
        )


def _refuse_special(disk: DiskDefinition, volume: VolumeDescription, format_: str, mode: Mode) -> None:
    """Refuse what no volume of the wanted kind can stand in for."""
    is_linked = mode is Mode.LINKED
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


def _refuse_reflink_between(source_pool: Pool, source: VolumeDescription, pool: Pool, directory: str) -> None:
    """Refuse a reflink into another file system, as far as it can be told that it is another one."""
    here, there = file_system(posixpath.dirname(source.path)), file_system(directory)
    if visible_status(source) is not None and here is not None and there is not None:
        is_other = here != there
    else:
        is_other = source_pool.capacity_bytes() != pool.capacity_bytes()
    if is_other:
        raise UnsupportedError(
            f"'{source.path}' cannot be reflinked into storage pool '{pool.name}', which is on another file system",
            hint="Name a pool on the same file system, or use --mode copy or --mode linked.",
        )


def _refuse_relative_name(source: VolumeDescription, header: Qcow2Header | None, pool: Pool) -> None:
    """Refuse a reflink into another directory of an image that would find something else below it there."""
    if header is not None and header.has_backing_file and is_relative(header.backing_file or ""):
        raise UnsupportedError(
            f"'{source.path}' cannot be reflinked into storage pool '{pool.name}': it names what is below it by a path "
            "that is relative to its own directory",
            hint="Leave the clone in the same pool, or use --mode copy or --mode linked.",
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
