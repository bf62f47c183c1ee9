"""Overlays that hold nothing any more, made so in the file that they are in.

The file stays the same: its owner, mode, labels, token and inode number. Whatever ends the work, the overlay is the old
one or an empty one: new tables are written behind everything that the old header reaches, and one write of the header
changes from the old tables to the new ones. Then all else is free, and the same is done a second time, with tables at
the place that they have in a new overlay, so that the file can be cut behind them.

Source: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Protocol

from virtomate.duplication import hostfs
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.image_headers import LONG_HEADER_BYTES, read_qcow2_header
from virtomate.errors import IllegalStateError, UnsupportedError
from virtomate.hypervisor.storage import cut_volume, read_part, write_part
from virtomate.tuples import NamedTuple
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume

# Version, and offset and length of the name of the backing file; bits of the cluster size, capacity, encryption; length
# and offset of the first table; offset and clusters of the refcount table; number and offset of snapshots.
_FIELDS = struct.Struct(">4sIQIIQIIQQIIQ")
# incompatible, compatible and autoclear features, order of reference counts, length of the header
_MORE_FIELDS = struct.Struct(">QQQII")
_VERSION_3 = 3
_EXTENSION = struct.Struct(">II")
_BITMAPS = 0x23852875

_UNCLEAN = 0b11
_EXTENDED_L2 = 1 << 4
# unclean, the compression's type, subclusters
_KNOWN_FEATURES = _UNCLEAN | 1 << 3 | _EXTENDED_L2
_CLUSTER_BITS = range(9, 22)
_REFCOUNT_ORDER = 4
_REFCOUNT = struct.Struct(">H")
_ENTRY = struct.Struct(">Q")


class ImageFile(Protocol):
    """The file of an image, which nobody else has open."""

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, fewer at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; before the next call they are on the disk, as far as that can be had."""

    def cut(self, size: int) -> None:
        """End the file at this size."""


class _Header(NamedTuple):
    """The fields of a header, by their names in the specification."""

    magic: bytes
    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    size: int
    encryption: int
    l1_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshot_count: int
    snapshots_offset: int


class _Features(NamedTuple):
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = _REFCOUNT_ORDER
    header_length: int = _FIELDS.size


class _Tables(NamedTuple):
    """Tables of an image that holds nothing; all begin at the cluster `first`, and end before the cluster `end`.

    Attributes:
        refcount_clusters: Clusters of the refcount table.
        l1: The cluster in which the first table begins.
        data: What the clusters hold.
    """

    first: int
    end: int
    refcount_clusters: int
    l1: int
    data: bytes


class Overlay:
    """An overlay that can be emptied, by the first bytes of its file.

    Raises:
        UnsupportedError: The file is not an overlay that can be emptied.
        IllegalStateError: The overlay has snapshots inside.
    """

    def __init__(self, path: str, head: bytes) -> None:
        known = read_qcow2_header(head)
        if known is None or not known.has_backing_file or len(head) < _FIELDS.size + _MORE_FIELDS.size:
            raise UnsupportedError(f"'{path}' is not a qcow2 image that rests on another image")
        self._head = head
        self._header = _Header(*_FIELDS.unpack_from(head))
        is_new = self._header.version >= _VERSION_3
        self._features = _Features(*_MORE_FIELDS.unpack_from(head, _FIELDS.size)) if is_new else _Features()
        if known.snapshot_count:
            raise IllegalStateError(
                f"'{path}' has {counted(known.snapshot_count, 'snapshot')} inside, which would be lost"
            )
        if known.is_encrypted or self._is_strange:
            raise UnsupportedError(f"'{path}' is encrypted, or has features of qcow2 that virtomate does not know")

    @property
    def _is_strange(self) -> bool:
        header, features = self._header, self._features
        return (
            bool(features.incompatible & ~_KNOWN_FEATURES)
            or header.cluster_bits not in _CLUSTER_BITS
            or features.refcount_order != _REFCOUNT_ORDER
            or not features.header_length <= header.backing_offset <= self._end_of_header <= len(self._head)
            or self._end_of_header > self._cluster
        )

    @property
    def _end_of_header(self) -> int:
        return self._header.backing_offset + self._header.backing_length

    @property
    def _cluster(self) -> int:
        return 1 << self._header.cluster_bits

    def is_empty(self, file: ImageFile, length: int) -> bool:
        """Return whether a file of this length is as `empty` leaves it."""
        tables = self._tables(1)
        is_new = self._new_head(tables) == self._head[: self._end_of_header] and length == tables.end * self._cluster
        return is_new and file.read(self._cluster, len(tables.data)) == tables.data

    def empty(self, file: ImageFile, length: int) -> None:
        """Make the overlay in a file of this length hold nothing."""
        last = self._tables(1)
        behind = max(-(-length // self._cluster), last.end)
        for tables in (self._tables(behind), last):
            file.write(tables.first * self._cluster, tables.data)
            file.write(0, self._new_head(tables))
        file.cut(last.end * self._cluster)

    def _tables(self, first: int) -> _Tables:
        """Lay out the tables from a cluster on."""
        cluster = self._cluster
        l2_entries = cluster // (16 if self._features.incompatible & _EXTENDED_L2 else 8)
        l1_size = -(-self._header.size // (cluster * l2_entries))
        l1_clusters = max(1, -(-l1_size * 8 // cluster))
        per_block = cluster // _REFCOUNT.size
        count = 0
        # the tables count themselves, and more clusters may need more tables
        while True:
            last = first + max(count, 1) - 1
            blocks = sorted({0, *range(first // per_block, last // per_block + 1)})
            table_clusters = -(-(blocks[-1] + 1) * _ENTRY.size // cluster)
            needed = table_clusters + len(blocks) + l1_clusters
            if needed == count:
                break
            count = needed
        data = bytearray(count * cluster)
        used = (0, *range(first, first + count))
        for number, block in enumerate(blocks):
            place = table_clusters + number
            _ENTRY.pack_into(data, block * _ENTRY.size, (first + place) * cluster)
            for index in used:
                if index // per_block == block:
                    _REFCOUNT.pack_into(data, place * cluster + index % per_block * _REFCOUNT.size, 1)
        l1 = first + table_clusters + len(blocks)
        return _Tables(first, first + count, table_clusters, l1, bytes(data))

    def _new_head(self, tables: _Tables) -> bytes:
        """Return the header that leads to these tables, with the name of the backing file at its end."""
        cluster, features = self._cluster, self._features
        l2_entries = cluster // (16 if features.incompatible & _EXTENDED_L2 else 8)
        header = self._header._replace(
            l1_size=-(-self._header.size // (cluster * l2_entries)),
            l1_offset=tables.l1 * cluster,
            refcount_table_offset=tables.first * cluster,
            refcount_table_clusters=tables.refcount_clusters,
            snapshot_count=0,
            snapshots_offset=0,
        )
        head = bytearray(self._head[: self._end_of_header])
        _FIELDS.pack_into(head, 0, *header)
        if header.version >= _VERSION_3:
            clean = features._replace(incompatible=features.incompatible & ~_UNCLEAN, autoclear=0)
            _MORE_FIELDS.pack_into(head, _FIELDS.size, *clean)
        extensions = b"".join(self._extensions())
        space = header.backing_offset - features.header_length
        head[features.header_length : header.backing_offset] = extensions.ljust(space, b"\0")
        return bytes(head)

    def _extensions(self) -> Iterator[bytes]:
        """Yield the extensions of the header, without bitmaps, which are gone with everything else."""
        offset, end = self._features.header_length, self._header.backing_offset
        while offset + _EXTENSION.size <= end:
            kind, length = _EXTENSION.unpack_from(self._head, offset)
            whole = _EXTENSION.size + -(-length // 8) * 8
            if kind != _BITMAPS:
                yield self._head[offset : min(offset + whole, end)]
            if kind == 0:
                return
            offset += whole


def read_overlay(path: str, file: ImageFile) -> Overlay:
    """Return the overlay in a file, see `Overlay`."""
    return Overlay(path, file.read(0, LONG_HEADER_BYTES))


class HostFile:
    """The file of an image that is open here."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, fewer at the end of the file."""
        return os.pread(self._descriptor, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes, and wait until they are on the disk; raise HypervisorError or NoSpaceError."""
        try:
            hostfs.write(self._descriptor, data, offset)
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise write_failure(error, self._path) from error

    def cut(self, size: int) -> None:
        """End the file at this size."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise write_failure(error, self._path) from error


class VolumeFile:
    """The file of an image that is reached over the connection; libvirt does not say when bytes are on the disk."""

    def __init__(self, connection: Connection, volume: Volume) -> None:
        self._connection = connection
        self._volume = volume

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, fewer at the end of the file."""
        return read_part(self._connection, self._volume, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; raise HypervisorError."""
        write_part(self._connection, self._volume, offset, data)

    def cut(self, size: int) -> None:
        """End the file at this size."""
        cut_volume(self._connection, self._volume, size)
