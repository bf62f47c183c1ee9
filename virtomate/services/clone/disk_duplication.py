"""How the volume of a disk is duplicated, by which transfers and to which place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication import select
from virtomate.duplication.acl import may_be_given_here
from virtomate.duplication.hostfs import can_be_copied_here, find_obstacle, require_reflinks, visible_status
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import ArtifactKind, Mode, Transfer
from virtomate.errors import UnsupportedError
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.services.clone.frozen import (
    require_copyable,
)
from virtomate.services.transaction import without_acl

if TYPE_CHECKING:
    from virtomate.services.clone.disk_rules import DiskCase
    from virtomate.services.clone.live import RunningOriginal
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone_records import DiskOptions
    from virtomate.services.storage import FoundVolume, PoolEntry


def plain_duplication(
    survey: Survey, case: DiskCase, chosen: DiskOptions, found: FoundVolume
) -> tuple[Duplication, tuple[Notice, ...]]:
    """Return the duplication of a disk's volume, and warnings about how the new volume is filled."""
    source, mode, directory, target = case.source, case.mode, case.directory, case.target
    forced = survey.request.transfer
    if mode is Mode.LINKED and chosen.treatment is not None:
        # --transfer is about the other disks: an overlay has no content
        forced = None
    is_exposed = not case.to_device and select.is_exposed(source, target.description.mode)
    transfers = select.choose_transfer(
        source,
        found.description.format,
        case.header,
        mode,
        is_local=survey.connection.is_local,
        obstacle=find_obstacle(found.description),
        is_exposed=is_exposed,
        is_limited=survey.request.bandwidth_bytes > 0,
        to_device=case.to_device,
        is_leaving=survey.is_leaving,
        forced=forced,
    )
    transfers, cautions = survey.admit(transfers, target, _read_pools(case), f"disk {chosen.target}")
    if transfers[0] is Transfer.SERVER and is_exposed:
        permissions = source.mode or "unknown"
        # libvirt makes a volume readable before it gives the volume the original's permissions
        cautions = (
            *cautions,
            notice(CloneWarning.EXPOSED_COPY, chosen.target, path=source.path, directory=directory, mode=permissions),
        )
    if source.acl and case.to_device:
        cautions = (*cautions, without_acl(source, "a block device has no list of its own"))
    elif source.acl and not may_be_given_here(source):
        cautions = (*cautions, without_acl(source))
    if mode is Mode.REFLINK and visible_status(source) is not None:
        require_reflinks(directory, source.path)
    return _new_duplication(survey, case, chosen, transfers), cautions


def _new_duplication(
    survey: Survey, case: DiskCase, chosen: DiskOptions, transfers: tuple[Transfer, ...]
) -> Duplication:
    pool = case.target.pool
    return Duplication(
        label=chosen.target,
        kind=ArtifactKind.VOLUME,
        source=case.source,
        place=Place(pool.name, pool.uuid, case.directory, chosen.name or ""),
        action=select.ACTIONS[case.mode],
        transfers=transfers,
        below=case.images[1:],
        keep_owner=survey.keeps_owner,
        is_read_again=survey.has_siblings,
        to_device=case.to_device,
    )


def snapshot_duplication(survey: Survey, case: DiskCase, chosen: DiskOptions) -> tuple[Duplication, tuple[Notice, ...]]:
    """Return how an internal snapshot is copied out of its image, see `require_copyable`."""
    name = "" if survey.source.snapshot is None else survey.source.snapshot.name
    if case.to_device:
        raise UnsupportedError(
            f"disk {chosen.target}: an internal snapshot cannot be copied into storage pool '{case.target.pool.name}', "
            "whose volumes are block devices",
            hint="Name a pool of type dir, fs, netfs or vstorage.",
        )
    require_copyable(survey, case, name)
    # only files that are open here are read and written, unless images below are read, too
    transfers = (Transfer.CONVERT,) if case.images[1:] else (Transfer.HOST,)
    _, cautions = survey.admit(transfers, case.target, _read_pools(case), f"disk {chosen.target}")
    if case.source.acl and not may_be_given_here(case.source):
        cautions = (*cautions, without_acl(case.source))
    return _new_duplication(survey, case, chosen, (Transfer.CONVERT,))._replace(snapshot=name), cautions


def backup_duplication(
    survey: Survey, case: DiskCase, chosen: DiskOptions, running: RunningOriginal
) -> tuple[Duplication, tuple[Notice, ...]]:
    """Return the backup of a disk of the running original, and warnings about it."""
    target = case.target
    disk, source = running.back_up(case.disk, case.source, target, case.directory, survey.pools)
    transfers, cautions = survey.admit((Transfer.BACKUP,), target, (), f"disk {chosen.target}")
    if source.acl and not may_be_given_here(source):
        cautions = (*cautions, without_acl(source))
    if case.mode is Mode.REFLINK and survey.connection.is_local and can_be_copied_here(source.path):
        require_reflinks(case.directory, source.path)
    return _new_duplication(survey, case._replace(images=(source, *case.images[1:])), chosen, transfers)._replace(
        running=disk
    ), cautions


def _read_pools(case: DiskCase) -> list[PoolEntry]:
    """Return the pools that are read from; an overlay reads nothing, and only a copy reads the whole chain."""
    read = {Mode.COPY: case.images, Mode.LINKED: ()}.get(case.mode, case.images[:1])
    return [case.pools.named(volume.pool) for volume in read]
