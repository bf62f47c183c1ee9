"""The disks of the original, looked at once for all clones, and how each disk is handled."""

from __future__ import annotations

import posixpath
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import file_readers
from virtomate.definition.snapshot import INTERNAL
from virtomate.duplication import select
from virtomate.duplication.hostfs import require_reflinks, visible_status
from virtomate.enums import Action, DiskAction, Mode
from virtomate.errors import (
    ConnectionLostError,
    HypervisorError,
    IllegalStateError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.services.clone.disk_duplication import backup_duplication, plain_duplication, snapshot_duplication
from virtomate.services.clone.disk_images import with_images, with_outside_pools
from virtomate.services.clone.disk_rules import IMAGE_RULES, VOLUME_RULES, DiskCase, refuse_nothing
from virtomate.services.clone.disks import DiskPlan, volume_reference
from virtomate.services.clone.frozen import (
    held_of_disk,
    judge_frozen,
    moment_warnings,
    refuse_sharing,
)
from virtomate.services.clone.last_freeze import below_empty_overlay, is_of_several_moments
from virtomate.services.clone_parts import VolumeReference
from virtomate.services.clone_records import DiskOptions
from virtomate.services.storage import is_certainly_unwritable, with_known_format
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.snapshot import SnapshotDisk
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.image_headers import Qcow2Header
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.services.clone.target import Survey
    from virtomate.services.storage import FoundVolume, PoolIndex

NO_BASE = "it rests on no other image"
_FILE_TYPES = frozenset({"file", "volume"})


def survey_disks(survey: Survey) -> tuple[DiskPlan, ...]:
    """Look at every disk of the original, in order.

    Raises:
        UsageError: The request names a disk that does not exist.
        VirtomateError: A disk cannot be duplicated as was asked.
    """
    disks = file_readers.disks(survey.source.definition.domain)
    choices = {chosen.target: chosen for chosen in survey.request.disks}
    targets = [disk.target for disk in disks]
    if (unknown := next((target for target in choices if target not in targets), None)) is not None:
        there = f"it has {', '.join(targets)}" if targets else "it has no disks"
        raise UsageError(f"domain '{survey.source.reference.name}' has no disk '{unknown}': {there}")
    surveyed = _survey_each(survey, disks, choices)
    if is_of_several_moments(survey, surveyed):
        surveyed = _survey_each(survey._replace(source=survey.source._replace(freeze_mark=None)), disks, choices)
    _refuse_shared_base(survey.pools, surveyed)
    return tuple(surveyed)


def _survey_each(survey: Survey, disks: Iterable[DiskDefinition], choices: Mapping[str, DiskOptions]) -> list[DiskPlan]:
    surveyed: list[DiskPlan] = []
    for disk in disks:
        chosen = choices.get(disk.target, DiskOptions(disk.target))
        surveyed.append(_survey_disk(survey, disk, chosen, surveyed))
    return surveyed


def _refuse_shared_base(pools: PoolIndex, surveyed: list[DiskPlan]) -> None:
    """Refuse to share a volume on which an overlay of the same clone would rest: writing to it destroys the overlay."""
    overlays = {
        item.duplication.source.path: item.disk.target
        for item in surveyed
        if item.duplication is not None and item.action is Action.LINKED
    }
    for disk in (item.disk for item in surveyed if item.is_written_by_both):
        path = disk.path or pools.path_of(disk.pool or "", disk.volume or "")
        bases = () if path is None else (base for base in overlays if pools.is_same_file(path, base))
        if (target := overlays.get(next(iter(bases), ""))) is not None:
            raise UnsupportedError(
                f"disk {disk.target} cannot be shared: the overlay for disk {target} would rest on '{path}'",
                hint=f"Use --disk {disk.target}=drop, or another way than linked for {target}.",
            )


def _survey_disk(survey: Survey, disk: DiskDefinition, chosen: DiskOptions, others: list[DiskPlan]) -> DiskPlan:
    treatment = chosen.treatment
    if treatment is DiskAction.DROP:
        return _untouched(disk, "as asked", Action.DROPPED)
    reason = "as asked" if treatment is DiskAction.SHARE else reason_to_leave(disk)
    if treatment is not DiskAction.SHARE and _is_in_cluster(survey.pools, disk):
        if treatment is not None:
            from virtomate.services.clone.network_base import plan_network_overlay  # noqa: PLC0415 - few disks

            return plan_network_overlay(survey, disk, chosen)
        reason = reason or "volume in a Ceph cluster, not file-based"
    is_chosen = treatment is not None and treatment.duplicates
    is_read_only = disk.is_readonly and not disk.is_empty and disk.type in _FILE_TYPES
    as_device = _mode_of_device(survey, disk, chosen)
    if as_device is not None and disk.type == "block":
        return _plan_device(survey, disk, chosen, None, others, as_device)
    found = None
    if reason is None or (is_read_only and is_chosen):
        found = _find(survey, disk)
        if as_device is not None and found.description.is_device:
            return _plan_device(survey, disk, chosen, found.description, others, as_device)
        reason = None if found.volume.is_file() else "not file-based"
        if reason is not None and survey.crossing is not None:
            from virtomate.services.clone.comparison import device_stays  # noqa: PLC0415 - few go to another host

            raise device_stays(disk)
    if found is None or reason is not None:
        _refuse_choice(disk, chosen, reason or "")
        refuse_sharing(survey, disk)
        is_device = disk.type == "block" or (found is not None and found.description.is_device)
        can_be_copied = is_device and treatment is not DiskAction.SHARE and _can_be_copied(survey, disk)
        return _untouched(disk, reason or "")._replace(can_be_copied=can_be_copied)
    held = held_of_disk(survey, disk, chosen)
    duplicate = partial(_duplicate, survey, disk, chosen, found, held, others)
    mode = survey.request.mode if treatment is None else Mode(treatment.value)
    return duplicate(mode) if mode is not Mode.AUTO else _reflink_or_copy(survey, duplicate)


def _mode_of_device(survey: Survey, disk: DiskDefinition, chosen: DiskOptions) -> Mode | None:
    """Return how a disk is to be duplicated if it is a block device; None if it is to be left untouched."""
    if chosen.treatment is not None:
        return Mode(chosen.treatment.value) if chosen.treatment.duplicates and not disk.is_empty else None
    return survey.request.block if not disk.is_readonly and not disk.is_empty else None


def _can_be_copied(survey: Survey, disk: DiskDefinition) -> bool:
    """Return whether a disk that is a block device could be copied if that was asked for, as far as is known so far."""
    from virtomate.services.clone.devices import find_refusal  # noqa: PLC0415 - most disks are files

    return find_refusal(survey, disk, Mode.COPY) is None


def _plan_device(
    survey: Survey,
    disk: DiskDefinition,
    chosen: DiskOptions,
    volume: VolumeDescription | None,
    others: list[DiskPlan],
    mode: Mode,
) -> DiskPlan:
    from virtomate.services.clone.devices import plan_device  # noqa: PLC0415 - most disks are files

    return plan_device(survey, disk, chosen, volume, others, mode)


def _reflink_or_copy(survey: Survey, duplicate: Callable[[Mode], DiskPlan]) -> DiskPlan:
    """Plan a reflink of a disk where that is possible, and a copy where it is not, or may turn out not to be."""
    try:
        plan = duplicate(Mode.REFLINK)
        way = plan.duplication
        if way is None or way.otherwise is not None or _is_certain(survey, way):
            return plan
    except UnsupportedError as error:
        return duplicate(Mode.COPY)._replace(reason=error.message)
    copy = duplicate(Mode.COPY)
    otherwise = copy.duplication and copy.duplication._replace(cautions=copy.warnings)
    return plan._replace(duplication=way._replace(otherwise=otherwise))


def _is_certain(survey: Survey, way: Duplication) -> bool:
    """Return whether a volume can be reflinked, as far as a try shows, or raise UnsupportedError if it cannot be."""
    running = survey.source.backed_up is not None
    if running and not survey.has_siblings:
        raise UnsupportedError(f"the backup of the running original fills the copy of '{way.source.path}' itself")
    is_seen = survey.connection.is_local if running else visible_status(way.source) is not None
    is_certain = is_seen and require_reflinks(way.place.directory, way.source.path)
    if not is_certain and (running or way.base_path is not None):
        # whether there is a backup, or a warning of the base, depends on it
        raise UnsupportedError(f"nothing shows whether '{way.source.path}' can be reflinked")
    return is_certain


def _duplicate(
    survey: Survey,
    disk: DiskDefinition,
    chosen: DiskOptions,
    found: FoundVolume,
    held: SnapshotDisk | None,
    others: list[DiskPlan],
    mode: Mode,
) -> DiskPlan:
    """Plan the duplication of a disk's volume in a mode."""
    moving = _moving(survey, disk, found, mode)
    below, found, overlay = below_empty_overlay(survey, disk, mode, found)
    case = _case(survey, below, chosen, found, mode)
    _require_writable(survey, case)
    for rule in VOLUME_RULES:
        rule(case)
    found = with_known_format(survey.source.reference.name, found, case.format)
    case = with_images(survey, case, found)
    for rule in IMAGE_RULES:
        rule(case)
    source, header = case.source, case.header
    changed = () if held is None else judge_frozen(survey, held, case.images)
    for other in others:
        # two disks of one volume stay two disks of one volume
        duplication, action = other.duplication, select.ACTIONS[case.mode]
        is_same = duplication is not None and (duplication.source, duplication.action) == (source, action)
        is_same_place = chosen.name is None and chosen.pool is None
        if is_same and is_same_place and chosen.size in {None, duplication and duplication.capacity}:
            return DiskPlan(disk, action, other.reason, other.source, duplication)
    is_internal = held is not None and held.kind == INTERNAL
    running = survey.source.backed_up
    if running is not None:
        duplication, cautions = backup_duplication(survey, case, chosen, running)
    elif is_internal:
        duplication, cautions = snapshot_duplication(survey, case, chosen)
    elif moving is not None and overlay is None:
        still = case.source._replace(capacity=moving, changed=None, modified=None, inode=None, birth_time=None)
        case = case._replace(images=(still._replace(header=None), *case.images[1:]))
        duplication, cautions = plain_duplication(survey, case, chosen, found)
    else:
        duplication, cautions = plain_duplication(survey, case, chosen, found)
    if chosen.size is not None:
        from virtomate.services.clone.shape import grown  # noqa: PLC0415 - few disks become larger

        duplication = grown(case, duplication, chosen.size)
    refuse_nothing(disk, duplication)
    return DiskPlan(
        disk=disk,
        action=duplication.action,
        reason=NO_BASE if mode is Mode.SHALLOW and case.mode is Mode.COPY else None,
        source=volume_reference(source.pool, source.name, source.path, source.format),
        duplication=duplication,
        warnings=(
            *(() if is_internal else _header_warnings(case, is_backed_up=running is not None)),
            *moment_warnings(survey, disk, held),
            *changed,
            *cautions,
        ),
        keeps_snapshots=header is not None
        and not is_internal
        and running is None
        and not case.to_device
        and _keeps_snapshots(header, case.mode),
        overlay=overlay,
    )


def _moving(survey: Survey, disk: DiskDefinition, found: FoundVolume, mode: Mode) -> int | None:
    """Return the capacity of a disk that moves onto an overlay while the original runs; None for any other disk.

    Raises:
        IllegalStateError: Something else writes to the disk, see `RunningOriginal.move`.
        UnsupportedError: The disk cannot move, or is not to be linked: it would not be of the moment of the others.
    """
    running = survey.source.running
    if running is None or not running.is_to_move or disk.is_readonly:
        return None
    if mode is not Mode.LINKED:
        raise UnsupportedError(
            f"disk {disk.target} is not to be linked, and --live --freeze links all disks that the running "
            "domain writes to",
            hint=f"Use --disk {disk.target}=linked, or --disk {disk.target}=drop. Or leave out --freeze.",
        )
    return running.move(disk, found.description, survey.pools)


def _case(survey: Survey, disk: DiskDefinition, chosen: DiskOptions, found: FoundVolume, mode: Mode) -> DiskCase:
    volume = found.description
    pool = chosen.pool or survey.request.pool
    pools = survey.target.pools
    target = pools.named(volume.pool) if pool is None else pools.for_new_volumes(pool)
    return DiskCase(
        disk=disk,
        mode=mode,
        format=disk.format or volume.format,
        images=(volume,),
        headers=(None,),
        target=target,
        directory=posixpath.dirname(volume.path) if pool is None else target.description.path or "",
        pools=survey.pools,
        writers=survey.original.identities.writers,
        is_running=survey.source.is_active or survey.source.running is not None,
        is_backed_up=survey.source.backed_up is not None,
    )


def _require_writable(survey: Survey, case: DiskCase) -> None:
    """Raise UnsupportedError if libvirt certainly cannot make files beside the original's, as with templates."""
    # on the way to another host, nothing need be made here
    is_beside = case.directory == posixpath.dirname(case.source.path) and not survey.is_leaving
    # the directory is the daemon's if the file in it is
    if is_beside and visible_status(case.source) and is_certainly_unwritable(survey.connection, case.directory):
        raise UnsupportedError(
            f"libvirt cannot write to '{case.directory}', where the new volume of disk {case.disk.target} would be",
            hint="Name a pool whose directory libvirt can write to: --pool POOL.",
        )


def _find(survey: Survey, disk: DiskDefinition) -> FoundVolume:
    try:
        if disk.type == "volume":
            return survey.pools.find_named(disk.pool or "", disk.volume or "")
        return survey.pools.find_path(disk.path or "")
    except NotFoundError as error:
        edit = virsh("edit", survey.source.reference.name)
        hint = error.hint or f"Bring it back, or take the disk out: {edit}"
        raise NotFoundError(f"disk {disk.target}: {error.message}", hint) from error
    except IllegalStateError as error:
        cure = with_outside_pools(error.hint) if disk.type == "file" else error.hint
        raise IllegalStateError(f"disk {disk.target}: {error.message}", cure) from error
    except UnsupportedError as error:
        raise UnsupportedError(f"disk {disk.target}: {error.message}", error.hint) from error
    except ConnectionLostError:
        raise
    except HypervisorError as error:
        raise HypervisorError(f"disk {disk.target}: {error.message}", error.hint, code=error.code) from error


def _refuse_choice(disk: DiskDefinition, chosen: DiskOptions, reason: str) -> None:
    """Raise UnsupportedError if a disk is to be duplicated that cannot be duplicated for this reason."""
    is_chosen = chosen.treatment is not None and chosen.treatment.duplicates
    if is_chosen or {chosen.name, chosen.pool, chosen.size} != {None}:
        raise UnsupportedError(
            f"disk {disk.target} cannot be duplicated: {reason}",
            hint=f"Use --disk {disk.target}=share or --disk {disk.target}=drop.",
        )


def _keeps_snapshots(header: Qcow2Header, mode: Mode) -> bool:
    """Return whether a duplicate has internal snapshots: only a byte copy has, and no flattened copy or overlay."""
    is_flattened = mode is Mode.COPY and header.has_backing_file
    return header.snapshot_count > 0 and mode is not Mode.LINKED and not is_flattened


def _header_warnings(case: DiskCase, *, is_backed_up: bool) -> tuple[Notice, ...]:
    header, target = case.header, case.disk.target
    if header is None:
        return ()
    if case.to_device:
        reason = "a block device holds only what the guest sees"
    elif is_backed_up:
        reason = "a backup copies only what the guest sees"
    elif case.mode is Mode.COPY and header.has_backing_file:
        reason = "its backing chain becomes one image"
    else:
        unclean = notice(CloneWarning.UNCLEAN_IMAGE, target, path=case.source.path)
        return (unclean,) if header.is_dirty else ()
    lost = {CloneWarning.INTERNAL_SNAPSHOTS: header.snapshot_count > 0, CloneWarning.BITMAPS: header.has_bitmaps}
    return tuple(notice(code, target, reason=reason) for code, is_there in lost.items() if is_there)


def _is_in_cluster(pools: PoolIndex, disk: DiskDefinition) -> bool:
    """Return whether a disk is an image in a Ceph cluster, by its source or by the type of its storage pool."""
    if disk.type == "volume" and not disk.is_empty:
        known = pools.find(disk.pool or "")
        return known is not None and known.description.type == "rbd"
    return disk.type == "network" and (disk.address or "").startswith("rbd:")


def reason_to_leave(disk: DiskDefinition) -> str | None:
    """Return why a disk is not duplicated unless that is asked for; None for a disk that is."""
    if disk.is_empty:
        return "empty drive"
    if disk.is_readonly:
        return "read-only"
    return None if disk.type in _FILE_TYPES else f"{disk.type} disk, not file-based"


def _untouched(disk: DiskDefinition, reason: str, action: Action = Action.SHARED) -> DiskPlan:
    return DiskPlan(disk, action, reason, VolumeReference(disk.pool, disk.volume, disk.path, disk.format), None)
