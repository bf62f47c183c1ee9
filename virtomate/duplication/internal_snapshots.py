"""The internal snapshots of a qcow2 image.

Source: https://www.qemu.org/docs/master/interop/qcow2.html#snapshots
"""

from __future__ import annotations

import os
import struct

from virtomate.tuples import NamedTuple

# Number of snapshots and offset of their table, in the header
_TABLE = struct.Struct(">60xIQ")
# Offset and size of the L1 table, lengths of ID and name, time, clock, size of the memory, length of the extra data
_ENTRY = struct.Struct(">QIHHIIQII")
# In the extra data: size of the memory again, size of the disk
_DISK_BYTES = struct.Struct(">8xQ")
# QEMU's limits: 65,536 snapshots, 1 KiB of extra data each
_MAX_TABLE_BYTES = 64 * 1024 * 1024


class InternalSnapshot(NamedTuple):
    """An internal snapshot.

    Attributes:
        capacity: Size of the disk in bytes at that moment, None where the image does not say.
    """

    name: str
    capacity: int | None


def read_snapshots(descriptor: int) -> tuple[InternalSnapshot, ...]:
    """Return the internal snapshots of an open qcow2 image.

    Raises:
        OSError: The file cannot be read.
        ValueError: The table is damaged.
    """
    try:
        count, offset = _TABLE.unpack(os.pread(descriptor, _TABLE.size, 0))
        table = _Table(descriptor, offset)
        return tuple(table.next() for _ in range(count))
    except struct.error as error:
        raise ValueError("a table of snapshots that is cut short") from error


class _Table:
    """The table of snapshots, read from front to back."""

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._begin = self._offset = offset

    def next(self) -> InternalSnapshot:
        """Return the next snapshot; entries are padded to eight bytes."""
        fields = _ENTRY.unpack(self._read(_ENTRY.size))
        id_length, name_length, extra_length = fields[2], fields[3], fields[-1]
        extra = self._read(extra_length)
        name = self._read(id_length + name_length)[id_length:]
        self._offset += -(self._offset - self._begin) % 8
        capacity = _DISK_BYTES.unpack_from(extra)[0] if extra_length >= _DISK_BYTES.size else None
        return InternalSnapshot(os.fsdecode(name), capacity)

    def _read(self, length: int) -> bytes:
        if self._offset + length - self._begin > _MAX_TABLE_BYTES:
            raise ValueError("a table of snapshots that is too long")
        data = os.pread(self._descriptor, length, self._offset)
        self._offset += length
        if len(data) < length:
            raise ValueError("a table of snapshots that is cut short")
        return data
