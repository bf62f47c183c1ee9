"""The records that all transfers work on."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.definition.volume import NewVolume
from virtomate.duplication.pace import UNLIMITED
from virtomate.enums import Action, Transfer
from virtomate.errors import UnsupportedError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from virtomate.cancel import CancelToken
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.pace import Pace
    from virtomate.enums import ArtifactKind
    from virtomate.hypervisor.connection import Connection
    from virtomate.progress import Progress

# The space of a new overlay on the host: header and first tables.
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
        is_moving: Whether a guest may write to the source meanwhile; then a stream reads it until two readings agree.
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
    is_moving: bool = False

    @property
    def transfer(self) -> Transfer:
        """The transfer to be tried."""
        return self.transfers[0]

    @property
    def fallback(self) -> Duplication | None:
        """The duplication by the next transfer, for a transfer that turns out to be impossible; None after the last."""
        return self._replace(transfers=self.transfers[1:]) if len(self.transfers) > 1 else None

    @property
    def new(self) -> NewVolume:
        """The new volume to ask libvirt for, with everything that libvirt would otherwise choose by itself.

        Unless libvirt fills the volume, it begins as an empty raw file; the next refresh tells libvirt the format.
        """
        source = self.source
        is_preallocated = source.format == "raw" and source.is_preallocated
        size = source.physical if is_preallocated and self.transfer is Transfer.STREAM else 0
        new = NewVolume(self.place.name, size, size, "raw", source.mode)
        if self.keep_owner:
            new = new._replace(owner=source.owner, group=source.group)
        if self.transfer is not Transfer.SERVER:
            return new
        return new._replace(
            capacity=source.capacity,
            # libvirt allocates all of a volume whose document does not say otherwise
            allocation=source.capacity if is_preallocated else 0,
            format=source.format,
            # without a version libvirt makes a qcow2 of the oldest one
            compat=source.compat or ("0.10" if source.format == "qcow2" else None),
            cluster_size=source.cluster_size,
            features=source.features,
        )

    @property
    def total_bytes(self) -> int:
        """The bytes that the new volume will take on the host."""
        if self.action is Action.REFLINKED:
            return 0
        if self.action is Action.LINKED:
            return _OVERLAY_BYTES
        if self.source.backing_path is None:
            return self.source.allocation
        return min(sum(volume.allocation for volume in (self.source, *self.below)), self.source.capacity)

    @property
    def is_filled_unnoticed(self) -> bool:
        """Whether libvirt does not know what the new volume is, or takes, before it looks through the pool again."""
        return self.transfer in {Transfer.HOST, Transfer.LINK, Transfer.CONVERT}


class TransferContext(NamedTuple):
    """The tools of a transfer, for the one thread that runs the transfer.

    No other thread uses the connection; `borrow` lends one more, for looking on while the first is busy. The token is
    that of the clone that the new volume belongs to. All transfers of the run share the pace.
    """

    connection: Connection
    borrow: Callable[[], AbstractContextManager[Connection]]
    progress: Progress
    cancel: CancelToken
    token: str
    pace: Pace = UNLIMITED
