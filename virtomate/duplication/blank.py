"""Images in which nobody has written anything yet, whatever space they take.

libvirt reserves the space of a new volume while it creates the volume: zeroes, and the tables of a qcow2 that lead to
zeroes. Source: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import data_extents
from virtomate.duplication.image_headers import HEADER_BYTES, detect_format, read_qcow2_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.duplication.image_headers import Qcow2Header

# cluster bits, entries and offset of the upper table
_TABLES = struct.Struct(">20xI12xIQ")
_FEATURES_OFFSET = 72
_EXTENDED_ENTRIES = 1 << 4
_ENTRY_BYTES = 8
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_CLUSTER_BITS = range(9, 22)
_PIECE_BYTES = 1024 * 1024


class _WrittenError(Exception):
    """Somebody has written to the image, or nobody can tell."""


def is_blank(descriptor: int) -> bool:
    """Return whether an image, raw or qcow2, certainly reads as zeroes from its begin to its end."""
    try:
        head = os.pread(descriptor, HEADER_BYTES, 0)
        size = os.fstat(descriptor).st_size
        if detect_format(head) == "raw":
            return _is_zero(descriptor, 0, size)
        return all(_is_zero(descriptor, *run) for run in _data_runs(descriptor, head))
    except (OSError, _WrittenError):
        return False


def _is_zero(descriptor: int, begin: int, end: int) -> bool:
    for data, hole in data_extents(descriptor, begin, end):
        for offset in range(data, hole, _PIECE_BYTES):
            if os.pread(descriptor, min(_PIECE_BYTES, hole - offset), offset).strip(b"\0"):
                return False
    return True


def _data_runs(descriptor: int, head: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a qcow2 keeps what its guest sees, each as a begin and an end; neighbours are joined."""
    header = read_qcow2_header(head)
    if header is None or _holds_more(header):
        raise _WrittenError
    bits, count, table = _TABLES.unpack_from(head)
    if bits not in _CLUSTER_BITS:
        raise _WrittenError
    has_features = head[7] > 2  # noqa: PLR2004 - the version from which on there are features
    features = head[_FEATURES_OFFSET + _ENTRY_BYTES - 1] if has_features else 0
    step = 2 if features & _EXTENDED_ENTRIES else 1
    cluster = 1 << bits
    begin = end = 0
    for lower in _entries(descriptor, table, count):
        for entry in _entries(descriptor, lower & _OFFSET, cluster // _ENTRY_BYTES)[::step] if lower else ():
            if entry & _COMPRESSED:
                raise _WrittenError
            offset = entry & _OFFSET
            if offset == 0:
                continue
            if offset != end:
                yield begin, end
                begin = offset
            end = offset + cluster
    yield begin, end


def _holds_more(header: Qcow2Header) -> bool:
    has_others = header.has_backing_file or header.has_data_file or header.has_bitmaps
    return has_others or header.is_encrypted or header.is_corrupt or header.snapshot_count > 0


def _entries(descriptor: int, offset: int, count: int) -> tuple[int, ...]:
    data = os.pread(descriptor, count * _ENTRY_BYTES, offset)
    if len(data) < count * _ENTRY_BYTES:
        raise _WrittenError
    return struct.unpack(f">{count}Q", data)
