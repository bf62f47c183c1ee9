"""Disks as a snapshot holds them: what the snapshot holds of each disk, and whether it still does.

An external snapshot freezes the image of a disk: since then the domain writes to an overlay on that image. So a running
original does not change the image, but a block commit does. QEMU's lock keeps block commits out where the file is seen.
The times of the image, and the place of the overlay in the chain of the domain, tell of earlier block commits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.definition.snapshot import EXTERNAL, INTERNAL
from virtomate.duplication import select
from virtomate.duplication.hostfs import NANOSECONDS, birth_time, find_obstacle, nanoseconds, open_visible
from virtomate.duplication.image_headers import HEADER_BYTES, read_qcow2_header
from virtomate.duplication.internal_snapshots import read_snapshots
from virtomate.enums import Mode
from virtomate.errors import IllegalStateError, NotFoundError, UnreadableFileError, UnsupportedError, VirtomateError
from virtomate.hypervisor.storage import read_head
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.file_readers import BackingStore, DiskDefinition
    from virtomate.definition.snapshot import Snapshot, SnapshotDisk
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.internal_snapshots import InternalSnapshot
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.disk_rules import DiskCase
    from virtomate.services.clone.snapshot import SnapshotSource
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone_records import DiskOptions
    from virtomate.services.storage import PoolIndex

# libvirt notes the time of a snapshot before it makes the overlays, and the guest writes to a disk until all are there.
_PATIENCE = 10 * NANOSECONDS

_CHOOSE = "A block commit or a return to the snapshot does that. Choose another snapshot."
_REVERT = "Revert to the snapshot, and clone the domain then."
_MAX_DEPTH = 200


def held_of_disk(survey: Survey, disk: DiskDefinition, chosen: DiskOptions) -> SnapshotDisk | None:
    """Return what the snapshot holds of a disk that is to be duplicated; None for the disk as it is now.

    That is every disk of a clone that is made of no snapshot, a read-only disk, and a disk for which the user has asked
    for a way of duplication although the snapshot does not hold it.

    Raises:
        IllegalStateError: The disk's content is inside of an image, and the original is active.
        UnsupportedError: The snapshot does not hold the disk.
    """
    source = survey.source.snapshot
    if source is None or disk.is_readonly:
        return None
    held = source.snapshot.disks.get(disk.target)
    frozen = None if held is None else held.frozen
    if held is not None and held.kind in {INTERNAL, EXTERNAL} and frozen is not None and frozen.has_volume_of(disk):
        _refuse_written(survey.source.reference.name, source, held, disk)
        return held
    target = disk.target
    if chosen.treatment is not None and chosen.treatment.duplicates:
        if not source.uses(disk):
            raise UnsupportedError(
                f"disk {target} cannot be taken as it is now: at snapshot '{source.name}' it was '{disk.location}', "
                "which the domain does not use any more",
                hint=f"Use --disk {target}=drop, or choose another snapshot.",
            )
        return None
    raise UnsupportedError(
        f"snapshot '{source.name}' does not hold disk {target} ({disk.location}), whose content is of another moment",
        hint=f"Use --disk {target}=drop, or --disk {target}=copy to take it as it is now.",
    )


def refuse_sharing(survey: Survey, disk: DiskDefinition) -> None:
    """Refuse a clone that would write to an image which the snapshot froze, and on which the original's overlay rests.

    Raises:
        UnsupportedError: The snapshot froze the image of this disk.
    """
    source = survey.source.snapshot
    if source is not None and source.is_frozen(disk.target) and not disk.is_readonly and not disk.is_empty:
        raise UnsupportedError(
            f"disk {disk.target} ({disk.location}) cannot be shared: the overlay that the original got with snapshot "
            f"'{source.name}' rests on it",
            hint=f"Use --disk {disk.target}=drop.",
        )


def _refuse_written(name: str, source: SnapshotSource, held: SnapshotDisk, disk: DiskDefinition) -> None:
    """Refuse an image with a snapshot to which the running original writes."""
    if not source.is_running:
        return
    if held.kind == INTERNAL:
        raise IllegalStateError(
            f"snapshot '{source.name}' is inside of disk {disk.target} of domain '{name}', which is active",
            hint=f"Shut it down first: {virsh('shutdown', name)}",
        )
    if source.uses(disk):
        raise IllegalStateError(
            f"domain '{name}' writes to '{disk.location}', the image of disk {disk.target} that snapshot "
            f"'{source.name}' had frozen",
            hint=_CHOOSE,
        )


def judge_frozen(survey: Survey, held: SnapshotDisk, images: tuple[VolumeDescription, ...]) -> tuple[Notice, ...]:
    """Refuse a frozen image, or an image below, that does not hold any more what it held at the moment of the snapshot.

    Args:
        survey: What is known of the original.
        held: What the snapshot holds of the disk.
        images: The frozen image and those below it.

    Returns:
        A warning if somebody wrote to an image, and the chain of the domain is as the snapshot left it: a deletion of
        an older snapshot does that, and also a block commit that was ended early.

    Raises:
        IllegalStateError: An image was written to.
    """
    source = survey.source.snapshot
    if source is None or held.frozen is None or held.kind != EXTERNAL:
        return ()
    target, name = held.frozen.target, source.name
    overlays = frozenset(map(normalise, held.overlays))
    above = next(_above(survey.pools, survey.connection, source, target, images[0].path), None)
    is_in_place = above is not None and above in overlays
    limit = _limit(survey.connection, source.snapshot, overlays, is_in_place=is_in_place)
    written = next((image for image in images if limit is not None and nanoseconds(image.modified) > limit), None)
    if written is None:
        return ()
    if is_in_place:
        return (notice(CloneWarning.SNAPSHOT_WRITTEN, name, disk=target, path=written.path),)
    raise IllegalStateError(
        f"disk {target}: '{written.path}' was written to since snapshot '{name}' was made, and does not hold any more "
        "what the snapshot froze",
        hint=_CHOOSE,
    )


def _limit(connection: Connection, snapshot: Snapshot, overlays: Iterable[str], *, is_in_place: bool) -> int | None:
    """Return when the image was written to at the latest, in nanoseconds since 1970; None where that is not known.

    If the overlay is not in its place, somebody may have written to the image right after the snapshot, even within the
    same second, so only an image that is older than the snapshot is believed to be unchanged.
    """
    if not is_in_place:
        return snapshot.created * NANOSECONDS
    if not snapshot.is_of_running_domain:
        # nobody wrote to the image while the overlay was made; the time of the snapshot is rounded down
        return (snapshot.created + 1) * NANOSECONDS
    births = [birth_time(path) for path in overlays] if connection.is_local else []
    born = max((birth for birth in births if birth is not None), default=None)
    if born is not None:
        return born + _PATIENCE
    # the memory is saved before the overlays are made, which takes as long as it takes
    return None if snapshot.memory == EXTERNAL else snapshot.created * NANOSECONDS + _PATIENCE


def _above(pools: PoolIndex, connection: Connection, source: SnapshotSource, target: str, path: str) -> Iterator[str]:
    """Yield the path of the image that is directly above another in the chain of a disk now, '' above the topmost."""
    disk = next((disk for disk in source.current if disk.target == target), None)
    chain = () if disk is None else _live_chain(pools, disk) if source.is_running else _chain(pools, connection, disk)
    above = ""
    for image in chain:
        if pools.is_same_file(image, path):
            yield above
        above = image


def _live_chain(pools: PoolIndex, disk: DiskDefinition) -> Iterator[str]:
    stores: tuple[DiskDefinition | BackingStore, ...] = (disk, *disk.below)
    for store in stores:
        named = pools.path_of(store.pool or "", store.volume or "") if store.type == "volume" else store.path
        if named is None:
            return
        yield normalise(named)


def _chain(pools: PoolIndex, connection: Connection, disk: DiskDefinition) -> Iterator[str]:
    """Yield the paths of a disk's images by their headers, as far as they are volumes that can be read."""
    path = disk.path or pools.path_of(disk.pool or "", disk.volume or "")
    for _ in range(_MAX_DEPTH):
        if path is None:
            return
        yield normalise(path)
        try:
            found = pools.find_path(path)
            header = read_qcow2_header(read_head(connection, found.volume, HEADER_BYTES))
        except VirtomateError:
            return
        path = None if header is None else select.as_headed(found.description, header).backing_path


def require_copyable(survey: Survey, case: DiskCase, name: str) -> None:
    """Make sure that the internal snapshot of this name can be copied out of an image, by qemu-img and here.

    Raises:
        NotFoundError: The image does not have the snapshot.
        UnsupportedError: The snapshot cannot be copied, or not as was asked.
        UnreadableFileError: The file cannot be read.
    """
    what = f"snapshot '{name}' inside of '{case.source.path}'"
    if case.mode is not Mode.COPY:
        raise UnsupportedError(f"{what} can only be copied, not {case.mode}", hint="Use --mode copy.")
    if survey.request.transfer is not None:
        raise UnsupportedError(
            f"{what} is copied by qemu-img, so there is no transfer '{survey.request.transfer.value}' for it",
            hint="Leave out --transfer.",
        )
    if survey.request.bandwidth_bytes:
        raise UnsupportedError(f"{what} is copied by qemu-img without a limit", hint="Leave out --bandwidth.")
    if case.source.format != "qcow2" or case.source.is_encrypted:
        kind = f"encrypted {case.source.format}" if case.source.is_encrypted else case.source.format
        raise UnsupportedError(f"{what} cannot be copied: the image is {kind}", hint=_REVERT)
    obstacle = find_obstacle(case.source) or _obstacle_to_convert()
    if obstacle is not None:
        raise UnsupportedError(
            f"{what} cannot be copied: {obstacle}",
            hint="Run virtomate as root on the host of the domain, and with qemu-img installed.",
        )
    _require_inside(case.source, name)


def _obstacle_to_convert() -> str | None:
    """Return why qemu-img cannot be used here, None where it can."""
    from virtomate.duplication.qemu_img import is_installed  # noqa: PLC0415 - few clones need it

    return None if is_installed() else "there is no qemu-img here"


def holds_nvram(survey: Survey, nvram: VolumeDescription, format_: str) -> bool:
    """Return whether an NVRAM contains the snapshot, and can be copied as it was then.

    libvirt 10.10 and later make internal snapshots of domains whose NVRAM is a qcow2 image, and snapshot that, too.
    """
    source = survey.source.snapshot
    if source is None or not source.has_internal or (format_, nvram.format) != ("qcow2", "qcow2"):
        return False
    is_at_hand = find_obstacle(nvram) is None and _obstacle_to_convert() is None
    return is_at_hand and _find_inside(nvram, source.name) is not None


def _find_inside(volume: VolumeDescription, name: str) -> InternalSnapshot | None:
    descriptor = open_visible(volume, os.O_RDONLY)
    try:
        found = () if descriptor is None else read_snapshots(descriptor)
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"the snapshots inside of '{volume.path}' cannot be read: {error}") from error
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return next((snapshot for snapshot in found if snapshot.name == name), None)


def _require_inside(volume: VolumeDescription, name: str) -> None:
    """Make sure that an image has an internal snapshot, of the size that the disk has now: qemu-img copies no other."""
    held = _find_inside(volume, name)
    if held is None:
        raise NotFoundError(
            f"'{volume.path}' has no internal snapshot '{name}', although libvirt lists one",
            hint=f"{virsh('snapshot-list')} shows the snapshots of a domain, qemu-img snapshot -l those of an image.",
        )
    if held.capacity not in {None, volume.capacity}:
        raise UnsupportedError(
            f"'{volume.path}' was resized since snapshot '{name}': its size was {held.capacity} bytes then, and is "
            f"{volume.capacity} bytes now",
            hint=_REVERT,
        )


def moment_warnings(survey: Survey, disk: DiskDefinition, held: SnapshotDisk | None) -> tuple[Notice, ...]:
    """Return the warning of a disk that a snapshot does not hold."""
    source = survey.source.snapshot
    if source is None or held is not None or disk.is_readonly:
        return ()
    return (notice(CloneWarning.OTHER_MOMENT, disk.target, snapshot=source.name),)
