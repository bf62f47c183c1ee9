"""What the first bytes of an image tell: its format, and of a qcow2 what is in the header.

Source: https://www.qemu.org/docs/master/interop/qcow2.html, and the same for qed; the other formats' magic numbers are
those that libvirt looks for.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

# The header itself, and room for its extensions, which begin behind it.
HEADER_BYTES = 4096

_VERSION_3_BYTES = 104

# No image of a known format is shorter than a sector.
_SMALLEST_IMAGE_BYTES = 512

_VERSIONS = (2, 3)
_MAGIC = b"QFI\xfb"
_VERSION_2_FIELDS = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3_FIELDS = struct.Struct(">QQQII")

_LENGTH = struct.Struct(">I")
_EXTENSION = struct.Struct(">II")
_END_OF_EXTENSIONS = 0
_BACKING_FORMAT = 0xE2792ACA
# Of a private type, for the token on an overlay that we made. QEMU keeps extensions that it does not know whenever it
# writes a header anew (tried with 7.2: write, snapshot, resize, bitmap, amend, rebase, check -r, commit).
_TOKEN = 0x76746D74

_INCOMPATIBLE_DIRTY = 1 << 0
_INCOMPATIBLE_CORRUPT = 1 << 1
_INCOMPATIBLE_DATA_FILE = 1 << 2
_AUTOCLEAR_BITMAPS = 1 << 0


# Format, offset of the magic number, the number itself.
_MAGICS = (
    ("qed", 0, b"QED\0"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("vpc", 0, b"conectix"),
    ("vhdx", 0, b"vhdxfile"),
    ("luks", 0, b"LUKS\xba\xbe"),
)
# The fields of a qcow of version 1 and of a qed that tell of a backing file.
_QCOW_BACKING_OFFSET = struct.Struct(">8xQ")
_QED_FEATURES = struct.Struct("<16xQ")
_QED_HAS_BACKING_FILE = 1 << 0


@dataclass(frozen=True)
class Qcow2Header:
    """The parts of a header that decide how an image may be duplicated.

    Attributes:
        backing_format: What the image below is, by the header; None where that was never written down.
        backing_file: How the header names the image below; None where there is none, or where that is not in what was
            read.
        token: What proves whose an overlay is, None where there is no such extension.
    """

    has_backing_file: bool
    is_encrypted: bool
    snapshot_count: int
    is_dirty: bool
    is_corrupt: bool
    has_data_file: bool
    has_bitmaps: bool
    backing_format: str | None = None
    backing_file: str | None = None
    token: str | None = None

    @property
    def needs_byte_copy(self) -> bool:
        """Whether a conversion by qemu-img would lose something that a copy of the bytes keeps."""
        return self.snapshot_count > 0 or self.has_bitmaps or self.is_encrypted or self.is_dirty


def detect_format(data: bytes) -> str:
    """The format of an image by its first bytes; what begins like no known format is raw.

    Args:
        data: The first `HEADER_BYTES` of the image, fewer where it is shorter.
    """
    if data[:4] == _MAGIC:
        return "qcow" if data[4:8] == b"\0\0\0\1" else "qcow2"
    return next((name for name, offset, magic in _MAGICS if data.startswith(magic, offset)), "raw")


def is_cut_short(data: bytes, format_: str) -> bool:
    """Whether an image ends in the middle of its header; for the arguments see `why_incomplete`."""
    if format_ == "raw" or (format_ == "vmdk" and data.startswith(b"#")):
        return False
    return len(data) < _SMALLEST_IMAGE_BYTES or (format_ == "qcow2" and read_qcow2_header(data) is None)


def why_incomplete(data: bytes, format_: str) -> str | None:
    """Why an image that is not cut short needs other files, as the end of a sentence that begins with it, or None.

    Args:
        data: The first `HEADER_BYTES` of the image, fewer where it is shorter.
        format_: What `detect_format` says of it.
    """
    if format_ == "vmdk" and data.startswith(b"#"):
        return "only describes a disk, whose data is in other files"
    header = read_qcow2_header(data) if format_ == "qcow2" else None
    if header is not None and header.has_data_file:
        return "keeps its data in an external file"
    has_backing_file = (
        (header is not None and header.has_backing_file)
        or (format_ == "qcow" and _QCOW_BACKING_OFFSET.unpack_from(data)[0] != 0)
        or (format_ == "qed" and bool(_QED_FEATURES.unpack_from(data)[0] & _QED_HAS_BACKING_FILE))
        or (format_ == "vmdk" and b"parentFileNameHint" in data)
    )
    return "rests on a backing file" if has_backing_file else None


def read_qcow2_header(data: bytes) -> Qcow2Header | None:
    """Read the first bytes of an image; None where they are no qcow2 header."""
    if len(data) < _VERSION_2_FIELDS.size or data[:4] != _MAGIC:
        return None
    fields = _VERSION_2_FIELDS.unpack_from(data)
    version, backing_offset, backing_length, encryption, snapshots = (
        fields[1],
        fields[2],
        fields[3],
        fields[6],
        fields[11],
    )
    backing_file = data[backing_offset : backing_offset + backing_length] if backing_offset else b""
    incompatible = autoclear = 0
    if version < _VERSIONS[0] or (version > _VERSIONS[0] and len(data) < _VERSION_3_BYTES):
        return None
    if version > _VERSIONS[0]:
        incompatible, _, autoclear, _, _ = _VERSION_3_FIELDS.unpack_from(data, _VERSION_2_FIELDS.size)
    extensions = _extensions(data, version)
    return Qcow2Header(
        has_backing_file=backing_offset != 0,
        is_encrypted=encryption != 0,
        snapshot_count=snapshots,
        is_dirty=bool(incompatible & _INCOMPATIBLE_DIRTY),
        is_corrupt=bool(incompatible & _INCOMPATIBLE_CORRUPT),
        has_data_file=bool(incompatible & _INCOMPATIBLE_DATA_FILE),
        has_bitmaps=bool(autoclear & _AUTOCLEAR_BITMAPS),
        backing_format=_decoded(extensions.get(_BACKING_FORMAT)),
        backing_file=os.fsdecode(backing_file) if backing_file else None,
        token=_decoded(extensions.get(_TOKEN)),
    )


def header_extensions(backing_format: str, token: str) -> bytes:
    """The header extensions of an overlay that we make, as they stand in its header."""
    texts = ((_BACKING_FORMAT, backing_format), (_TOKEN, token), (_END_OF_EXTENSIONS, ""))
    return b"".join(_EXTENSION.pack(kind, len(text.encode())) + _padded(text.encode()) for kind, text in texts)


def _extensions(data: bytes, version: int) -> dict[int, bytes]:
    """The header extensions by their type."""
    extensions: dict[int, bytes] = {}
    offset = _VERSION_2_FIELDS.size
    if version > _VERSIONS[0]:
        (offset,) = _LENGTH.unpack_from(data, _VERSION_3_BYTES - _LENGTH.size)
    while offset + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, offset)
        offset += _EXTENSION.size
        if kind == _END_OF_EXTENSIONS:
            break
        extensions[kind] = data[offset : offset + length]
        offset += -(-length // 8) * 8
    return extensions


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _decoded(data: bytes | None) -> str | None:
    return None if data is None else data.decode("ascii", errors="replace")
