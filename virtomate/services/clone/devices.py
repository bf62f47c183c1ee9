"""Disks of the original that are block devices: how each is copied, or becomes the base of an overlay."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.network_images import is_encrypted
from virtomate.definition.volume import outside_pools
from virtomate.duplication import devices, select
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import ArtifactKind, Mode
from virtomate.errors import HypervisorError, IllegalStateError, UnsupportedError, VirtomateError
from virtomate.hypervisor.block_devices import device_size
from virtomate.hypervisor.domains import find_domain
from virtomate.paths import is_nameless_device, normalise
from virtomate.services.clone.disks import DiskPlan
from virtomate.services.clone_parts import VolumeReference
from virtomate.services.storage.devices import device_number, find_device, is_device
from virtomate.words import virsh

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.notices import Notice
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone_records import DiskOptions
    from virtomate.services.storage import PoolEntry

_OFFER = "Use --disk {0}=share or --disk {0}=drop."


def plan_device(
    survey: Survey,
    disk: DiskDefinition,
    chosen: DiskOptions,
    volume: VolumeDescription | None,
    others: list[DiskPlan],
    mode: Mode,
) -> DiskPlan:
    """Plan the duplication of a disk that is a block device.

    Args:
        survey: What is known before.
        disk: The disk.
        chosen: What was asked for.
        volume: The volume, if the disk names its pool; else the device is looked for.
        others: The plans of the disks before.
        mode: `copy`, or `linked` for an overlay in a file; `auto` and `shallow` are a copy.

    Raises:
        IllegalStateError: The device is in use.
        UnsupportedError: The device cannot be duplicated as was asked.
    """
    if mode in {Mode.AUTO, Mode.SHALLOW}:
        mode = Mode.COPY
    _refuse(survey, disk, mode)
    volume = _as_it_is(survey, _find(survey, disk) if volume is None else volume)
    _refuse_writers(survey, disk, volume)
    if survey.connection.is_local:
        devices.refuse_used_device(volume)
    # on the way to another host, the pool is chosen there
    target = None if survey.is_leaving else _target(survey, disk, chosen, volume, mode)
    for other in others:
        # two disks of one device stay two disks of one volume
        way, action = other.duplication, select.ACTIONS[mode]
        is_same_place = chosen.name is None and chosen.pool is None
        if way is not None and (way.source, way.action) == (volume, action) and is_same_place:
            return DiskPlan(disk, action, other.reason, other.source, way)
    duplication, cautions = _duplication(survey, disk, chosen, volume, target, mode)
    return DiskPlan(
        disk=disk,
        action=duplication.action,
        reason=None,
        source=VolumeReference(volume.pool or None, volume.name if volume.pool else None, volume.path, volume.format),
        duplication=duplication,
        warnings=cautions,
    )


def _refuse(survey: Survey, disk: DiskDefinition, mode: Mode) -> None:
    """Refuse what is not possible with any block device."""
    if (refusal := find_refusal(survey, disk, mode)) is not None:
        reason, hint = refusal
        raise UnsupportedError(f"disk {disk.target} ('{disk.location}') cannot be duplicated: {reason}", hint)


def find_refusal(survey: Survey, disk: DiskDefinition, mode: Mode) -> tuple[str, str] | None:
    """Return why a disk cannot be duplicated whatever device it is, and a hint; None if nothing is against that."""
    source = survey.source
    if mode is Mode.REFLINK:
        reason, hint = "a block device shares no blocks with another volume", f"Use --disk {disk.target}=copy."
    elif source.snapshot is not None:
        reason, hint = "no snapshot of a block device can be cloned", _OFFER.format(disk.target)
    elif source.running is not None:
        reason = "a block device is cloned only while nobody writes to it"
        hint = f"Use --shutdown instead of --live, or --disk {disk.target}=share, or --disk {disk.target}=drop."
    elif survey.request.freeze and mode is Mode.LINKED and not disk.is_readonly:
        reason = "--freeze moves only disks that are files onto overlays"
        hint = f"Leave out --freeze, or use --disk {disk.target}=copy."
    elif disk.is_passed_through:
        reason, hint = "its guest sends SCSI commands to the device (device='lun')", _OFFER.format(disk.target)
    elif disk.is_sliced:
        reason, hint = "it is a slice of the device", _OFFER.format(disk.target)
    elif disk.format not in {None, "raw"}:
        reason, hint = f"it is an image of format {disk.format} on a block device", _OFFER.format(disk.target)
    elif mode is Mode.LINKED and is_encrypted(source.definition.domain, disk.position):
        # libvirt tells the size of the device, and the guest sees less
        reason = "it is encrypted, and libvirt does not tell the size that the guest sees"
        hint = f"Use --disk {disk.target}=copy."
    elif disk.is_shareable and mode is Mode.LINKED:
        reason, hint = "it is shareable, and an overlay cannot be", f"Use --disk {disk.target}=copy."
    else:
        return None
    return reason, hint


def _find(survey: Survey, disk: DiskDefinition) -> VolumeDescription:
    """Return the description of the device that a definition names by its path."""
    path = normalise(disk.path or "")
    found = find_device(survey.connection, survey.pools, path)
    if found is not None:
        return found.description
    return _outside_pools(survey, disk, path)


def _outside_pools(survey: Survey, disk: DiskDefinition, path: str) -> VolumeDescription:
    """Describe a device in no active storage pool, which can only be read here."""
    what = f"disk {disk.target}: '{path}' is in no active storage pool"
    cure = "Make a pool of type logical, iscsi, scsi, mpath or disk that has it, and start the pool."
    if not survey.connection.is_local or device_number(path) is None:
        raise IllegalStateError(f"{what}, and cannot be read here", cure)
    try:
        size = device_size(find_domain(survey.connection, survey.source.reference.uuid), disk.target)
    except HypervisorError as error:
        raise IllegalStateError(f"{what}, and libvirt does not tell its size: {error.message}", cure) from error
    device = outside_pools(posixpath.basename(path), path, size, allocation=size, kind="block")
    if (obstacle := devices.find_device_obstacle(device)) is not None:
        raise IllegalStateError(f"{what}, and {obstacle}", cure)
    return device


def _refuse_writers(survey: Survey, disk: DiskDefinition, volume: VolumeDescription) -> None:
    for key, writer in survey.original.identities.writers.items():
        path = (key if isinstance(key, str) else survey.pools.path_of(*key)) or ""
        is_same = key == (volume.pool, volume.name) or is_device(survey.connection, volume, path)
        if not is_same and _may_be(survey, volume, path, writer):
            raise IllegalStateError(
                f"disk {disk.target} ('{volume.path}') may be '{path}', which has the same size and is open for "
                f"writing by domain '{writer}', which is active",
                hint=f"Shut it down first: {virsh('shutdown', writer)}",
            )
        if is_same or path == normalise(disk.path or "/"):
            raise IllegalStateError(
                f"disk {disk.target} ('{volume.path}') is open for writing by domain '{writer}', which is active",
                hint=f"Shut it down first: {virsh('shutdown', writer)}",
            )


def _may_be(survey: Survey, volume: VolumeDescription, path: str, writer: str) -> bool:
    """Return whether a path on another host that does not tell whose device it is may lead to the device of a volume.

    Devices of different sizes are different devices.
    """
    if survey.connection.is_local or not is_nameless_device(path):
        return False
    with suppress(VirtomateError):
        return device_size(find_domain(survey.connection, writer), path) == volume.physical
    return True


def _target(
    survey: Survey, disk: DiskDefinition, chosen: DiskOptions, volume: VolumeDescription, mode: Mode
) -> PoolEntry:
    """Return the pool of the new volume."""
    if (name := chosen.pool or survey.request.pool) is not None:
        known = survey.target.pools.for_new_volumes(name)
    elif volume.pool:
        known = survey.target.pools.named(volume.pool)
        if mode is Mode.COPY:
            known.backend.require_new_volumes(known.description)
    else:
        known = None
    if known is None or (mode is Mode.LINKED and known.backend.makes_devices):
        what = "the overlay is a file" if mode is Mode.LINKED else "the device is in no storage pool"
        raise UnsupportedError(
            f"disk {disk.target} ('{volume.path}') needs a storage pool for the clone's volume: {what}",
            hint=f"Name a pool: --disk {disk.target}={mode.value},pool=POOL, or --pool POOL.",
        )
    return known


def _duplication(
    survey: Survey,
    disk: DiskDefinition,
    chosen: DiskOptions,
    volume: VolumeDescription,
    target: PoolEntry | None,
    mode: Mode,
) -> tuple[Duplication, tuple[Notice, ...]]:
    to_device = target is not None and target.backend.makes_devices
    forced = survey.request.transfer
    if mode is Mode.LINKED and chosen.treatment is not None:
        forced = None
    transfers = select.choose_transfer(
        volume,
        "raw",
        None,
        mode,
        is_local=survey.connection.is_local,
        obstacle=devices.find_device_obstacle(volume) if survey.connection.is_local else "it is on another host",
        is_limited=survey.request.bandwidth_bytes > 0,
        to_device=to_device,
        is_leaving=survey.is_leaving,
        forced=forced,
    )
    place = Place("", "", "", chosen.name or "")
    cautions: tuple[Notice, ...] = ()
    if target is not None:
        read = [survey.pools.named(volume.pool)] if volume.pool and mode is Mode.COPY else []
        transfers, cautions = survey.admit(transfers, target, read, f"disk {disk.target}")
        place = Place(target.pool.name, target.pool.uuid, target.description.path or "", chosen.name or "")
    duplication = Duplication(
        label=disk.target,
        kind=ArtifactKind.VOLUME,
        source=volume,
        place=place,
        action=select.ACTIONS[mode],
        transfers=transfers,
        below=(),
        keep_owner=False,
        is_read_again=survey.has_siblings,
        to_device=mode is Mode.COPY and to_device,
    )
    if chosen.size is not None:
        from virtomate.services.clone.shape import grown_device  # noqa: PLC0415 - few disks become larger

        duplication = grown_device(disk, duplication, chosen.size)
    return duplication, cautions


def _as_it_is(survey: Survey, volume: VolumeDescription) -> VolumeDescription:
    """Return the description of a device; libvirt looks at the device again where it remembers old times."""
    if not survey.connection.is_local or not volume.pool or devices.find_device_obstacle(volume) is None:
        return volume
    survey.pools.named(volume.pool).pool.refresh()
    return survey.pools.find_named(volume.pool, volume.name).description
