"""What a transfer is, and the record that it works on."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, NamedTuple

from virtomate.enums import Transfer
from virtomate.errors import UnsupportedError

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
    """Where a new volume goes.

    Attributes:
        directory: Normalised path of the pool's directory.
    """

    pool: str
    pool_uuid: str
    directory: str
    name: str

    @property
    def path(self) -> str:
        """Normalised path that the new volume will have."""
        return posixpath.join(self.directory, self.name)


class Duplication(NamedTuple):
    """One volume to be duplicated.

    Attributes:
        label: What a person calls it: the disk's target, or `nvram`.
        source: The original; for a raw disk as raw, whatever libvirt takes its content for.
        pool: The pool that the new volume goes to.
        pool_uuid: UUID of that pool; a name may come to stand for another one.
        new: The new volume.
        path: Normalised path that the new volume will have.
        total_bytes: What has to be written, as far as that is known beforehand.
        below: The volumes that the source rests on and whose content is copied as well, nearest first.
        fallback: What to do where the transfer turns out to be impossible, None where that is a failure.
        is_read_again: Whether others read the source meanwhile or later, so that it is better kept in memory.
    """

    label: str
    kind: ArtifactKind
    source: VolumeDescription
    pool: str
    pool_uuid: str
    new: NewVolume
    path: str
    action: Action
    transfer: Transfer
    total_bytes: int
    below: tuple[VolumeDescription, ...] = ()
    fallback: Duplication | None = None
    is_read_again: bool = False

    @property
    def is_filled_unnoticed(self) -> bool:
        """Whether libvirt does not know what the new volume is, or takes, before it looks through the pool again."""
        return self.transfer in {Transfer.HOST, Transfer.LINK}


class TransferContext(NamedTuple):
    """What a transfer works with; it belongs to the one thread that runs the transfer.

    Attributes:
        connection: A connection that no other thread uses meanwhile.
        borrow: Lends one more connection, for looking on while the first is busy.
        token: Proves whose the new volume is.
    """

    connection: Connection
    borrow: Callable[[], AbstractContextManager[Connection]]
    progress: Progress
    cancel: CancelToken
    token: str
