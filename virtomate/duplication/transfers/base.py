"""The records that all transfers work on."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication.select import bytes_to_write, new_volume
from virtomate.enums import Transfer
from virtomate.errors import UnsupportedError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from virtomate.cancel import CancelToken
    from virtomate.definition.volume import NewVolume, VolumeDescription
    from virtomate.enums import Action, ArtifactKind
    from virtomate.hypervisor.connection import Connection
    from virtomate.progress import Progress


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
        place: Where the new volume goes.
        transfers: The possible transfers, the best first.
        below: The volumes that the source rests on and whose content is copied as well, nearest first.
        keep_owner: Whether the new volume gets the original's owner and group.
        is_read_again: Whether others read the source meanwhile or later, so that the source is better kept in memory.
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
        """The new volume to ask libvirt for."""
        return new_volume(self.source, self.place.name, self.transfer, keep_owner=self.keep_owner)

    @property
    def total_bytes(self) -> int:
        """The bytes that the new volume will take on the host."""
        return bytes_to_write(self.source, sum(volume.allocation for volume in self.below), self.transfer, self.action)

    @property
    def is_filled_unnoticed(self) -> bool:
        """Whether libvirt does not know what the new volume is, or takes, before it looks through the pool again."""
        return self.transfer in {Transfer.HOST, Transfer.LINK}


class TransferContext(NamedTuple):
    """The tools of a transfer, for the one thread that runs the transfer.

    Attributes:
        connection: A connection that no other thread uses meanwhile.
        borrow: Lends one more connection, for looking on while the first is busy.
        token: The proof of the clone that the new volume belongs to.
    """

    connection: Connection
    borrow: Callable[[], AbstractContextManager[Connection]]
    progress: Progress
    cancel: CancelToken
    token: str
