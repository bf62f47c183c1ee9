"""Whether an overlay still holds nothing of its own.

QEMU writes to the first table of a qcow2 before it can write anything else into it, so an overlay with an empty first
table reads as its base does. An overlay of another size than its base, and one with snapshots or bitmaps, does not
count as empty.

Source: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.image_headers import HEADER_BYTES, read_qcow2_header
from virtomate.hypervisor.storage import get_volume, open_download

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection

_SECTOR_BYTES = 512
_VERSION = 3
# magic number, version, size, encryption, length and offset of the first table, snapshots, three sets of features
_FIELDS = struct.Struct(">4sI16xQIIQ12xI8xQQQ")
_SUBCLUSTERS = 1 << 4
_ENTRY_BYTES = 8


def holds_nothing(read: Callable[[int, int], bytes], capacity: int) -> bool:
    """Return whether an image is a qcow2 overlay of version 1.1 that reads as its base does.

    Args:
        read: Returns bytes of the image, by offset and length.
        capacity: Size of the base in bytes, as a guest sees it.
    """
    head = read(0, _FIELDS.size)
    if len(head) < _FIELDS.size:
        return False
    magic, version, size, encryption, length, offset, snapshots, incompatible, _, autoclear = _FIELDS.unpack(head)
    if (magic, version, encryption, snapshots, autoclear) != (b"QFI\xfb", _VERSION, 0, 0, 0):
        return False
    if incompatible & ~_SUBCLUSTERS or size != -(-capacity // _SECTOR_BYTES) * _SECTOR_BYTES:
        return False
    # a length of nothing would be the rest of the image
    table = read(offset, length * _ENTRY_BYTES) if length else b""
    return len(table) == length * _ENTRY_BYTES and not any(table)


def holds_data(read: Callable[[int, int], bytes]) -> bool:
    """Return whether somebody has written to an image after it was made as an empty overlay.

    Args:
        read: Returns bytes of the image, by offset and length; an image that is not complete holds nothing.
    """
    head = read(0, _FIELDS.size)
    if len(head) < _FIELDS.size:
        return False
    magic, version, _, _, length, offset, snapshots, *_ = _FIELDS.unpack(head)
    if (magic, version) != (b"QFI\xfb", _VERSION):
        return False
    return snapshots > 0 or (length > 0 and any(read(offset, length * _ENTRY_BYTES)))


def read_here(descriptor: int, offset: int, length: int) -> bytes:
    """Return bytes of an open image, for `holds_nothing`."""
    return os.pread(descriptor, length, offset)


def is_empty_overlay(connection: Connection, overlay: VolumeDescription, base: VolumeDescription) -> bool:
    """Return whether a volume is an overlay that holds nothing, and names another one as its base by its path."""
    descriptor = open_visible(overlay, os.O_RDONLY)
    if descriptor is None:
        return _rests_alone(partial(_read_there, connection, overlay), base)
    try:
        return _rests_alone(partial(read_here, descriptor), base)
    finally:
        os.close(descriptor)


def _rests_alone(read: Callable[[int, int], bytes], base: VolumeDescription) -> bool:
    header = read_qcow2_header(read(0, HEADER_BYTES))
    return header is not None and header.backing_file == base.path and holds_nothing(read, base.capacity)


def is_written_overlay(connection: Connection, overlay: VolumeDescription) -> bool:
    """Return whether somebody has written to a volume after it was made as an empty overlay."""
    return holds_data(partial(_read_there, connection, overlay))


def _read_there(connection: Connection, overlay: VolumeDescription, offset: int, length: int) -> bytes:
    volume = get_volume(connection, overlay.pool, overlay.name)
    with open_download(connection, volume, offset, length) as stream:
        return b"".join(piece if isinstance(piece, bytes) else bytes(piece) for piece in stream.receive(length))
