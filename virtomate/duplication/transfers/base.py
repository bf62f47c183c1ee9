"""The records that all transfers work on."""

from __future__ import annotations

import posixpath
from itertools import dropwhile
from typing import TYPE_CHECKING

from virtomate.definition.volume import NewVolume
from virtomate.duplication.pace import UNLIMITED
from virtomate.enums import Action, Transfer
from virtomate.errors import UnsupportedError, rewording
from virtomate.hypervisor.storage import get_volume
from virtomate.paths import url_in
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from virtomate.cancel import CancelToken
    from virtomate.definition.network_images import NetworkImage
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.pace import Pace
    from virtomate.enums import ArtifactKind, Quiesce
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume
    from virtomate.notices import Notice
    from virtomate.progress import Progress

# The space of a new overlay on the host: header and first tables.
_CLUSTER_BYTES = 64 * 1024
_TABLE_BYTES = 18
_FIRST_CLUSTERS = 8
_OVERLAY_BYTES = 1024 * 1024


class TransferUnavailableError(UnsupportedError):
    """A transfer turned out to be impossible before it wrote anything; another transfer may be possible."""


class Place(NamedTuple):
    """The place of a new volume; the directory is the pool's, as a normalised path."""

    pool: str
    pool_uuid: str
    directory: str
    name: str

    @property
    def path(self) -> str:
        """The normalised path of the new volume."""
        return posixpath.join(self.directory, self.name)


class RunningDisk(NamedTuple):
    """A disk of a running domain, of which a backup is made.

    Attributes:
        run_id: Tells the run of the domain from others.
        disk: Target of the disk, `vda`.
        all_disks: Targets of all disks of the domain.
        is_reserved: Whether the space of the new volume is reserved before the backup.
        is_risk_accepted: Whether the backup may begin although the space is not reserved.
        quiesce: Whether the file systems of the guest are frozen when the backup begins.
    """

    original: DomainReference
    run_id: int
    disk: str
    all_disks: tuple[str, ...]
    is_reserved: bool
    is_risk_accepted: bool
    quiesce: Quiesce


class Duplication(NamedTuple):
    """The duplication of one volume.

    Attributes:
        label: The name in progress and messages: the disk's target, or `nvram`.
        source: The original; a raw disk as raw, whatever libvirt takes the content for.
        transfers: The possible transfers, the best first.
        below: The volumes that the source rests on and whose content is copied as well, nearest first.
        keep_owner: Whether the new volume gets the original's owner and group; an unprivileged daemon cannot give files
            away.
        is_read_again: Whether others read the source meanwhile or later, so that the source is better kept in memory.
        snapshot: The internal snapshot of the source to copy, None for what the source holds now.
        running: The disk of a running domain that the source is, for a backup.
        is_moving: Whether a guest may write to the source meanwhile; then a stream reads it until two readings agree.
        otherwise: The copy to be made if a reflink turns out to be impossible; None if there is to be no copy.
        cautions: Warnings about a volume that is filled in this way after another way turned out to be impossible.
        capacity: A larger size of the new volume as the guest sees it, in bytes; None for the size of the source.
        network: The source, where it is an image in a network and no volume; then its path is a URL.
        to_device: Whether the new volume is a block device, which holds the raw content of the disk.
        originals: The source and the images below as the host of the original has them, where that is another host
            that shares the storage with the host of the new volume; else empty.
    """

    label: str
    kind: ArtifactKind
    source: VolumeDescription
    place: Place
    action: Action
    transfers: tuple[Transfer, ...]
    below: tuple[VolumeDescription, ...]
    keep_owner: bool
    is_read_again: bool
    snapshot: str | None = None
    running: RunningDisk | None = None
    is_moving: bool = False
    otherwise: Duplication | None = None
    cautions: tuple[Notice, ...] = ()
    capacity: int | None = None
    network: NetworkImage | None = None
    to_device: bool = False
    originals: tuple[VolumeDescription, ...] = ()

    @property
    def backing_name(self) -> str:
        """The name of the source in the header of an overlay on the source."""
        if self.network is not None:
            return self.network.backing_name
        source = self.source
        is_beside = posixpath.dirname(source.path) == self.place.directory
        if self.originals and source.path != self.originals[0].path and is_beside:
            # the hosts call the directory by different paths, and the host of the original is to find the base, too
            return f"./{source.name}" if ":" in source.name else source.name
        return source.path

    @property
    def witness(self) -> VolumeDescription | None:
        """The file beside which the host of the original must see the new volume, None where it need not."""
        images = zip(self.originals, (self.source, *self.below), strict=False)
        beside = (original for original, image in images if posixpath.dirname(image.path) == self.place.directory)
        return next(beside, None)

    @property
    def watched(self) -> tuple[VolumeDescription, ...]:
        """The volumes that must not change, as the host of the original has them."""
        return self.originals or (self.source, *self.below)

    @property
    def at_original(self) -> Duplication:
        """The same with the images as the host of the original has them."""
        if not self.originals:
            return self
        return self._replace(source=self.originals[0], below=self.originals[1:], originals=())

    @property
    def new_format(self) -> str:
        """The format of the new volume."""
        return "raw" if self.to_device else "qcow2" if self.action is Action.LINKED else self.source.format

    @property
    def involves_device(self) -> bool:
        """Whether the content comes from a block device, or goes to a block device."""
        return self.to_device or (self.source.is_device and self.action is not Action.LINKED)

    @property
    def new_capacity(self) -> int:
        """The size of the new volume as the guest sees it."""
        return self.capacity or self.source.capacity

    @property
    def allocates_growth(self) -> bool:
        """Whether what a larger volume has more is allocated at once, as all of the source is."""
        return self.action is not Action.LINKED and self.source.format == "raw" and self.source.is_preallocated

    @property
    def base_path(self) -> str | None:
        """The path of the image that the new volume rests on; None for a volume that does not depend on any."""
        if self.action is Action.LINKED:
            return self.source.path
        below = self.source.backing_path if self.action in {Action.SHALLOW_COPIED, Action.REFLINKED} else None
        return below and (url_in(below) or below)

    @property
    def rests_on(self) -> tuple[VolumeDescription, ...]:
        """The images that the new volume rests on, nearest first, as far as they are in storage pools."""
        if self.network is not None:
            return ()
        chain = (self.source, *self.below)
        return tuple(dropwhile(lambda image: image.path != self.base_path, chain))

    @property
    def transfer(self) -> Transfer:
        """The transfer to be tried."""
        return self.transfers[0]

    def after(self, error: UnsupportedError) -> Duplication | None:
        """Return what to try after an error before the first byte: the next transfer, or a copy; None if nothing is."""
        if isinstance(error, TransferUnavailableError) and len(self.transfers) > 1:
            return self._replace(transfers=self.transfers[1:])
        return self.otherwise and self.otherwise._replace(label=self.label, place=self.place)

    @property
    def new(self) -> NewVolume:
        """The new volume to ask libvirt for, with everything that libvirt would otherwise choose by itself.

        Unless libvirt fills the volume, it begins as an empty raw file; the next refresh tells libvirt the format.
        """
        source = self.source
        if self.to_device:
            # libvirt makes a snapshot of nothing, which is lost when it is full, of anything that allocates less
            return NewVolume(self.place.name, self.new_capacity, self.new_capacity, "raw")
        if source.is_device:
            # a device belongs to those who may use disks, and a file does not
            source = source._replace(mode=None, owner=None, group=None)
        is_preallocated = source.format == "raw" and source.is_preallocated
        size = source.physical if is_preallocated and self.transfer is Transfer.STREAM else 0
        new = NewVolume(self.place.name, size, size, "raw", source.mode)
        if self.keep_owner:
            new = new._replace(owner=source.owner, group=source.group)
        if self.transfer not in {Transfer.SERVER, Transfer.BACKUP}:
            return new
        is_reserved = self.running is not None and self.running.is_reserved
        return new._replace(
            capacity=source.capacity,
            # libvirt allocates all of a volume whose document does not say otherwise
            allocation=source.capacity if is_preallocated or is_reserved else 0,
            format=source.format,
            # without a version libvirt makes a qcow2 of the oldest one
            compat=source.compat or ("0.10" if source.format == "qcow2" else None),
            cluster_size=source.cluster_size,
            features=source.features,
        )

    @property
    def total_bytes(self) -> int:
        """The bytes that will be written, as far as that is known."""
        if self.action is Action.REFLINKED:
            return 0
        if self.action is Action.LINKED:
            return _OVERLAY_BYTES
        if self.to_device and self.transfer in {Transfer.STREAM, Transfer.SERVER}:
            # the holes, too
            return self.new_capacity
        if self.action is Action.SHALLOW_COPIED or self.source.backing_path is None:
            return self.source.allocation
        return min(sum(volume.allocation for volume in (self.source, *self.below)), self.source.capacity)

    @property
    def needed_bytes(self) -> int:
        """The bytes that must be free for the new volume, some of which a backup gives back at the end."""
        if self.otherwise is not None:
            return self.otherwise.needed_bytes
        if self.to_device:
            return self.new_capacity
        source = self.source
        growth = self.new_capacity - source.capacity if self.allocates_growth else 0
        if self.running is None or not self.running.is_reserved:
            return self.total_bytes + growth
        if source.format != "qcow2":
            return source.capacity + growth
        cluster = source.cluster_size or _CLUSTER_BYTES
        # For each cluster an entry of a table (16 bytes with subclusters) and a reference count; the header and the
        # upper tables take some clusters of their own.
        return source.capacity + source.capacity // cluster * _TABLE_BYTES + _FIRST_CLUSTERS * cluster

    @property
    def is_filled_unnoticed(self) -> bool:
        """Whether libvirt does not know what the new volume is, or takes, before it looks through the pool again."""
        return not self.to_device and self.transfer in {Transfer.HOST, Transfer.LINK, Transfer.CONVERT, Transfer.BACKUP}


class TransferContext(NamedTuple):
    """The tools of a transfer, for the one thread that runs the transfer.

    Attributes:
        connection: A connection to the host of the new volume, which no other thread uses.
        borrow: Lends one more, for looking on while the first is busy.
        token: Token of the clone that the new volume belongs to.
        pace: The limit that all transfers of the run share.
        other: A connection to the host of the original, None where that is the same host.
        at_original: Lets the commands of a text reach the host of the original.
    """

    connection: Connection
    borrow: Callable[[], AbstractContextManager[Connection]]
    progress: Progress
    cancel: CancelToken
    token: str
    pace: Pace = UNLIMITED
    other: Connection | None = None
    at_original: Callable[[str], str] = str

    @property
    def source(self) -> Connection:
        """The connection to the host of the original."""
        return self.other or self.connection

    def get_original(self, volume: VolumeDescription) -> Volume:
        """Return a volume of the original, or raise NotFoundError, whose hint reaches the host of the original."""
        with rewording(self.at_original):
            return get_volume(self.source, volume.pool, volume.name)
