"""What the header of a qcow2 image tells.

Source: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 104

_VERSIONS = (2, 3)
_MAGIC = b"QFI\xfb"
_VERSION_2_FIELDS = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3_FIELDS = struct.Struct(">QQQII")

_INCOMPATIBLE_DIRTY = 1 << 0
_INCOMPATIBLE_CORRUPT = 1 << 1
_INCOMPATIBLE_DATA_FILE = 1 << 2
_AUTOCLEAR_BITMAPS = 1 << 0


@dataclass(frozen=True)
class Qcow2Header:
    """The parts of a header that decide how an image may be duplicated."""

    version: int
    has_backing_file: bool
    is_encrypted: bool
    snapshot_count: int
    is_dirty: bool
    is_corrupt: bool
    has_data_file: bool
    has_bitmaps: bool

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
    if version < _VERSIONS[0] or (version > _VERSIONS[0] and len(data) < HEADER_BYTES):
        return None
    if version > _VERSIONS[0]:
        incompatible, _, autoclear, _, _ = _VERSION_3_FIELDS.unpack_from(data, _VERSION_2_FIELDS.size)
    return Qcow2Header(
        version=version,
        has_backing_file=backing_offset != 0,
        is_encrypted=encryption != 0,
        snapshot_count=snapshots,
        is_dirty=bool(incompatible & _INCOMPATIBLE_DIRTY),
        is_corrupt=bool(incompatible & _INCOMPATIBLE_CORRUPT),
        has_data_file=bool(incompatible & _INCOMPATIBLE_DATA_FILE),
        has_bitmaps=bool(autoclear & _AUTOCLEAR_BITMAPS),
    )
