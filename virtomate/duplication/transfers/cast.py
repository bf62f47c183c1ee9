"""Linked clones by the dozen: new overlays of one volume are equal byte for byte, so one is a mould for the others.

To have libvirt run qemu-img for each of them takes several times as long as to write the few bytes that it writes.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from virtomate.definition.volume import SUBCLUSTERS, NewVolume, describe_volume, volume_document
from virtomate.duplication import hostfile
from virtomate.errors import TransferUnavailableError

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, Workplace
    from virtomate.hypervisor.storage import Pool, Volume

# A new overlay takes less than half of it, whatever its capacity.
_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Mould:
    """The content of a new overlay.

    Attributes:
        size: Length of its file.
        pieces: What is in it, each with its offset, the beginning last: until then it is no image.
    """

    size: int
    pieces: tuple[tuple[int, bytes], ...]
    has_subclusters: bool


class Moulds:
    """The moulds of a run; several threads use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moulds: dict[NewVolume, Mould] = {}

    def find(self, new: NewVolume) -> Mould | None:
        """The mould for a new overlay, if there is one yet."""
        with self._lock:
            return self._moulds.get(replace(new, name=""))

    def keep(self, pool_name: str, volume: Volume, new: NewVolume) -> None:
        """Make a mould of an overlay that nobody has written to yet, if its file can be seen here."""
        if self.find(new) is not None:
            return
        description = describe_volume(pool_name, volume.document())
        descriptor = hostfile.open_visible(description, os.O_RDONLY)
        if descriptor is None:
            return
        try:
            size = os.fstat(descriptor).st_size
            extents = list(hostfile.data_extents(descriptor, 0, size))
            if sum(end - begin for begin, end in extents) > _MAX_BYTES:
                return
            pieces = tuple((begin, os.pread(descriptor, end - begin, begin)) for begin, end in reversed(extents))
        finally:
            os.close(descriptor)
        with self._lock:
            self._moulds[replace(new, name="")] = Mould(size, pieces, SUBCLUSTERS in description.features)


class CastTransfer:
    """Has libvirt create an empty file, and makes it an overlay by a mould.

    libvirt learns what it has become when it looks through the pool again.
    """

    def create(self, duplication: Duplication, pool: Pool, workplace: Workplace) -> Volume:
        """Create the empty file.

        Raises:
            TransferUnavailableError: There is no mould yet; nothing has been made.
        """
        if workplace.moulds.find(duplication.new) is None:
            raise TransferUnavailableError("no overlay of this volume has been made yet")
        new = duplication.new
        empty = NewVolume(new.name, 0, 0, "raw", mode=new.mode, owner=new.owner, group=new.group)
        return pool.create_volume(new.name, volume_document(empty))

    def fill(self, duplication: Duplication, _volume: Volume, created: VolumeDescription, workplace: Workplace) -> int:
        """Write it; it counts as nothing, like every overlay's beginning.

        Raises:
            TransferUnavailableError: The file is not to be seen or opened here; nothing has been written.
        """
        mould = workplace.moulds.find(duplication.new)
        descriptor = hostfile.open_visible(created, os.O_WRONLY)
        if descriptor is None or mould is None:
            raise TransferUnavailableError(f"'{created.path}' cannot be opened here")
        try:
            os.ftruncate(descriptor, mould.size)
            for offset, data in mould.pieces:
                hostfile.write(descriptor, data, offset)
            os.fdatasync(descriptor)
        except OSError as error:
            raise hostfile.write_failure(error, created.path) from error
        finally:
            os.close(descriptor)
        return 0
