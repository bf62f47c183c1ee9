"""The disks of clones on another host: streamed or copied from the volumes of the original, or from images of them.

A volume that one stream can copy goes to the other host as it is. Of any other volume, such as an overlay with images
below or a disk of a running original, an image is made on the host of the original first, see `moment`.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication.devices import find_device_obstacle
from virtomate.duplication.hostfs import can_be_copied_here, visible_status
from virtomate.duplication.transfers.base import Place
from virtomate.enums import DiskAction, MapKind, Mode, Transfer
from virtomate.errors import UnsupportedError
from virtomate.services.clone.crossing_shared import copied_there, made_there, needs_sharing
from virtomate.services.clone.disk_rules import refuse_nothing
from virtomate.services.clone.disks import with_ways
from virtomate.services.clone.moment import image_of, plan_images
from virtomate.services.clone.target import errors_of
from virtomate.services.clone_records import DiskOptions
from virtomate.services.storage import is_certainly_unwritable

if TYPE_CHECKING:
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.notices import Notice
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.moment import MomentPlan
    from virtomate.services.clone.target import Survey
    from virtomate.services.storage import PoolEntry

_BY_BYTES = frozenset({Transfer.HOST, Transfer.STREAM})
# Only the other host can make reflinks of what it sees, but the same images are copied as by these.
_STEP = {Mode.REFLINK: Mode.SHALLOW, Mode.AUTO: Mode.COPY}
_STEP_OF_DISK = {DiskAction.REFLINK: DiskAction.SHALLOW, DiskAction.AUTO: DiskAction.COPY}


def before_crossing(survey: Survey) -> Survey:
    """Return the survey for copies of the disks on the host of the original, each in the pool of its volume."""
    disks = tuple(
        chosen._replace(pool=None, treatment=_STEP_OF_DISK.get(chosen.treatment or DiskAction.DROP, chosen.treatment))
        for chosen in survey.request.disks
    )
    mode = _STEP.get(survey.request.mode, survey.request.mode)
    request = survey.request._replace(pool=None, mode=mode, disks=disks, transfer=None, bandwidth_bytes=0)
    return survey._replace(request=request, target=survey.original, is_leaving=True)


def crossed(survey: Survey, disks: tuple[DiskPlan, ...]) -> tuple[MomentPlan | None, tuple[DiskPlan, ...]]:
    """Return the images to be made first, if there are any, and the disks with volumes on the other host.

    Args:
        survey: The survey of both hosts.
        disks: The disks as they would be copied on the host of the original, see `before_crossing`.

    Raises:
        UnsupportedError: The transfer that was asked for is not possible.
        VirtomateError: Images cannot be made, or a pool cannot be used.
    """
    strict = tuple(disk for disk in disks if needs_sharing(survey, disk))
    shared: dict[int, DiskPlan] = {}
    if strict:
        with errors_of(survey.request.target_uri):
            shared = {disk.disk.position: disk for disk in made_there(survey, strict)}
    every, disks = disks, tuple(disk for disk in disks if disk not in strict)
    indirect = tuple(disk for disk in disks if disk.duplication is not None and not _is_direct(disk.duplication))
    moment: MomentPlan | None = None
    images: dict[int, Duplication] = {}
    if indirect:
        _require_room_for_images(survey, indirect)
        moment, images = plan_images(before_crossing(survey), indirect, survey.original.taken)
    choices = {chosen.target: chosen for chosen in survey.request.disks}
    cautions: dict[int, tuple[Notice, ...]] = {}

    def cross(way: Duplication) -> Duplication:
        chosen = choices.get(way.label, DiskOptions(way.label))
        known = _pool(survey, way, chosen)
        image = images.get(id(way))
        there, cautions[id(there)] = _there(survey, way, image, known, chosen.name or "")
        return there

    planned = (
        disk._replace(warnings=tuple(dict.fromkeys((*disk.warnings, *cautions.get(id(disk.duplication), ())))))
        for disk in with_ways(disks, cross)
    )
    copies: dict[int, DiskPlan] = {}
    for disk, moved in zip(disks, planned, strict=True):
        if moved.duplication is not None:
            refuse_nothing(moved.disk, moved.duplication)
        if disk.duplication is None or disk in indirect:
            shared[disk.disk.position] = moved
            continue
        if id(disk.duplication) not in copies:
            copies[id(disk.duplication)] = copied_there(survey, disk, moved)
        shared[disk.disk.position] = copies[id(disk.duplication)]._replace(disk=disk.disk)
    return moment, tuple(shared[disk.disk.position] for disk in every)


def _require_room_for_images(survey: Survey, disks: tuple[DiskPlan, ...]) -> None:
    """Raise UnsupportedError if libvirt certainly cannot make images beside volumes, as with templates."""
    for way in (disk.duplication for disk in disks if disk.duplication is not None):
        directory = posixpath.dirname(way.source.path)
        if visible_status(way.source) is not None and is_certainly_unwritable(survey.connection, directory):
            raise UnsupportedError(
                f"libvirt cannot write to '{directory}', where disk {way.label} has to become one image before it is "
                "copied to another host",
                hint="Clone the domain into another pool of its own host first (--pool POOL), and then that clone.",
            )


def _is_direct(way: Duplication) -> bool:
    return way.transfer in _BY_BYTES and way.running is None and way.snapshot is None


def _pool(survey: Survey, way: Duplication, chosen: DiskOptions) -> PoolEntry:
    pool = way.source.pool
    mapped = pool if survey.crossing is None else survey.crossing.moved.name(MapKind.POOL, pool)
    with errors_of(survey.request.target_uri):
        return survey.target.pools.for_new_volumes(chosen.pool or survey.request.pool or mapped)


def _there(
    survey: Survey, way: Duplication, image: Duplication | None, known: PoolEntry, name: str
) -> tuple[Duplication, tuple[Notice, ...]]:
    """Return how a volume on the other host is made of a volume here, or of an image of it that is not there yet."""
    source = way.source if image is None else image_of(way, image)
    is_near = survey.target.connection.is_local and survey.original.connection.is_local
    possible: tuple[Transfer, ...] = (Transfer.STREAM,)
    if is_near and _is_seen(way, image):
        possible = (Transfer.HOST, Transfer.STREAM)
    to_device = known.backend.makes_devices
    if to_device and source.format != "raw":
        raise UnsupportedError(
            f"disk {way.label} ('{way.source.path}') cannot be copied into storage pool '{known.pool.name}' of the "
            f"other host: a block device holds raw content, and it is {source.format}",
            hint="Name a pool of type dir, fs, netfs or vstorage there.",
        )
    if not source.pool:
        # no stream reads what libvirt has no volume of
        possible = tuple(transfer for transfer in possible if transfer is Transfer.HOST)
    if not possible:
        raise UnsupportedError(
            f"disk {way.label} ('{way.source.path}') is in no active storage pool, and cannot be copied to another "
            "host through libvirt",
            hint="Make a pool of type logical, iscsi, scsi, mpath or disk that has it, and start the pool.",
        )
    if (forced := survey.request.transfer) is not None:
        if forced not in possible:
            raise UnsupportedError(
                f"'{way.source.path}' cannot be copied to the other host with --transfer {forced.value}",
                hint="Leave out --transfer.",
            )
        possible = (forced,)
    read = (survey.original.pools.named(source.pool),) if source.pool else ()
    transfers, cautions = survey.admit(possible, known, read, f"disk {way.label}")
    place = Place(known.pool.name, known.pool.uuid, known.description.path or "", name)
    # users have other numbers on another host
    crossed_way = way._replace(
        source=source, place=place, transfers=transfers, below=(), running=None, snapshot=None, keep_owner=False
    )
    return crossed_way._replace(to_device=to_device), cautions


def _is_seen(way: Duplication, image: Duplication | None) -> bool:
    """Return whether what is copied to the other host can probably be opened here."""
    if image is not None:
        return can_be_copied_here(way.source.path)
    if way.source.is_device:
        return find_device_obstacle(way.source) is None
    return visible_status(way.source) is not None
