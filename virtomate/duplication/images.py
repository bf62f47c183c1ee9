"""What the header of a qcow2 image tells.

Source: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# The header itself, and room for its extensions, which begin behind it.
HEADER_BYTES = 4096

_VERSION_3_BYTES = 104

_VERSIONS = (2, 3)
_MAGIC = b"QFI\xfb"
_VERSION_2_FIELDS = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3_FIELDS = struct.Struct(">QQQII")

_LENGTH = struct.Struct(">I")
_EXTENSION = struct.Struct(">II")
_END_OF_EXTENSIONS = 0
_BACKING_FORMAT = 0xE2792ACA

_INCOMPATIBLE_DIRTY = 1 << 0
_INCOMPATIBLE_CORRUPT = 1 << 1
_INCOMPATIBLE_DATA_FILE = 1 << 2
_AUTOCLEAR_BITMAPS = 1 << 0


@dataclass(frozen=True)
class Qcow2Header:
    """The parts of a header that decide how an image may be duplicated.

    Attributes:
        backing_format: What the image below is, by the header; None where that was never written down.
    """

    has_backing_file: bool
    is_encrypted: bool
    snapshot_count: int
    is_dirty: bool
    is_corrupt: bool
    has_data_file: bool
    has_bitmaps: bool
    backing_format: str | None = None

    @property
    def needs_byte_copy(self) -> bool:
        """Whether a conversion by qemu-img would lose something that a copy of the bytes keeps."""
        return self.snapshot_count > 0 or self.has_bitmaps or self.is_encrypted or self.is_dirty


def read_qcow2_header(data: bytes) -> Qcow2Header | None:
    """Read the first bytes of an image; None where they are no qcow2 header."""
    if len(data) < _VERSION_2_FIELDS.size or data[:4] != _MAGIC:
        return None
    fields = _VERSION_2_FIELDS.unpack_from(data)
    version, backing_offset, encryption, snapshots = fields[1], fields[2], fields[6], fields[11]
    incompatible = autoclear = 0
    if version < _VERSIONS[0] or (version > _VERSIONS[0] and len(data) < _VERSION_3_BYTES):
        return None
    if version > _VERSIONS[0]:
        incompatible, _, autoclear, _, _ = _VERSION_3_FIELDS.unpack_from(data, _VERSION_2_FIELDS.size)
    return Qcow2Header(
        has_backing_file=backing_offset != 0,
        is_encrypted=encryption != 0,
        snapshot_count=snapshots,
        is_dirty=bool(incompatible & _INCOMPATIBLE_DIRTY),
        is_corrupt=bool(incompatible & _INCOMPATIBLE_CORRUPT),
        has_data_file=bool(incompatible & _INCOMPATIBLE_DATA_FILE),
        has_bitmaps=bool(autoclear & _AUTOCLEAR_BITMAPS),
        backing_format=_backing_format(data, version),
    )


def _backing_format(data: bytes, version: int) -> str | None:
    """The header extension that names the format of the image below."""
    offset = _VERSION_2_FIELDS.size
    if version > _VERSIONS[0]:
        (offset,) = _LENGTH.unpack_from(data, _VERSION_3_BYTES - _LENGTH.size)
    while offset + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, offset)
        offset += _EXTENSION.size
        if kind == _END_OF_EXTENSIONS:
            break
        if kind == _BACKING_FORMAT:
            return data[offset : offset + length].decode("ascii", errors="replace")
        # each is padded to eight bytes
        offset += -(-length // 8) * 8
    return None
