"""What the first bytes of an image tell: its format, what a qcow2 header says, and which other files it needs.

The first bytes decide what an image is, and never its name. Whoever wrote them may have meant no good: a guest can
write anything to the beginning of a raw disk.

Sources: https://www.qemu.org/docs/master/interop/qcow2.html, and the same for qed and vmdk; for qcow of version 1, cow
and the other formats' magic numbers, what libvirt reads (src/storage_file/storage_file_probe.c).
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Enough for nearly all images, and what is read of the others: longer headers name nothing in practice.
HEADER_BYTES = 4096
LONG_HEADER_BYTES = 64 * 1024

# No image of a known format is shorter than a sector.
_SECTOR_BYTES = 512
# QEMU has buffers of 1,024 bytes for the names of images.
_LONGEST_NAME = 1023

_QCOW_MAGIC = b"QFI\xfb"
_QCOW_FIELDS = struct.Struct(">4sIQI")
_QCOW2_VERSIONS = (2, 3)
_QCOW2_FIELDS = struct.Struct(">4sIQIIQIIQQIIQ")
_QCOW2_FEATURES = struct.Struct(">QQQII")
_QCOW2_FEATURES_OFFSET = 72
_QCOW2_VERSION_3_BYTES = 104
_QCOW2_EXTENSION = struct.Struct(">II")

_DIRTY = 1 << 0
_CORRUPT = 1 << 1
_DATA_FILE = 1 << 2
_AUTOCLEAR_BITMAPS = 1 << 0

_END_OF_EXTENSIONS = 0
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE_NAME = 0x44415441
# A private type for the token on an overlay of ours. QEMU keeps extensions that it does not know whenever it writes a
# header anew (tried with 7.2: write, snapshot, resize, bitmap, amend, rebase, check -r, commit).
_TOKEN = 0x76746D74
_HEADER_TEXTS = frozenset({_BACKING_FORMAT, _TOKEN})
_LINK_TEXTS = frozenset({_BACKING_FORMAT, _DATA_FILE_NAME})

_QED_FEATURES = struct.Struct("<16xQ")
_QED_HAS_BACKING_FILE = 1 << 0
_QED_BACKING_FILE = struct.Struct("<56xII")

_COW_NAME = slice(8, 8 + 1024)

_VMDK_DESCRIPTOR = struct.Struct("<28xQQ")
_VMDK_PARENT = b"parentFileNameHint"
_VMDK_EXTENT = (b"RW", b"RDONLY", b"NOACCESS")

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


class Qcow2Header(NamedTuple):
    """The parts of a header that decide how an image may be duplicated.

    Attributes:
        backing_format: Format of the image below, by the header; None where the header does not say.
        backing_file: How the header names the image below; None where there is none, or where the name is not in the
            bytes that were read.
        token: What proves whose an overlay is, None where the header has no such extension.
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


class ImageLinks(NamedTuple):
    """What an image says of other files, with the names as it has them.

    Attributes:
        format: Format by the first bytes; `raw` also stands for formats that need no other file.
        backing: Name of the image below.
        backing_format: Format of the image below, where the image says so.
        data: The files that its data is in.
        is_malformed: Whether it begins like an image of its format, and what then comes makes no sense.
        needs_more: Whether more of it would have to be read in order to tell.
    """

    format: str = "raw"
    backing: str | None = None
    backing_format: str | None = None
    data: tuple[str, ...] = ()
    is_malformed: bool = False
    needs_more: bool = False


@dataclass
class _Findings:
    """What has been found so far, which counts even if the rest makes no sense."""

    backing: str | None = None
    backing_format: str | None = None
    data: list[str] = field(default_factory=list)


class _BeyondError(Exception):
    """Something is not in what was read."""


def detect_format(data: bytes) -> str:
    """The format of an image by its first bytes; what begins like no known format is raw.

    Args:
        data: The first `HEADER_BYTES` of the image, fewer where it is shorter.
    """
    if data[:4] == _QCOW_MAGIC:
        return "qcow" if data[4:8] == b"\0\0\0\1" else "qcow2"
    return next((name for name, offset, magic in _MAGICS if data.startswith(magic, offset)), "raw")


def is_cut_short(data: bytes, format_: str) -> bool:
    """Whether an image ends in the middle of its header; for the arguments see `why_incomplete`."""
    if format_ == "raw" or (format_ == "vmdk" and data.startswith(b"#")):
        return False
    return len(data) < _SECTOR_BYTES or (format_ == "qcow2" and read_qcow2_header(data) is None)


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
        or (format_ == "qcow" and _QCOW_FIELDS.unpack_from(data)[2] != 0)
        or (format_ == "qed" and bool(_QED_FEATURES.unpack_from(data)[0] & _QED_HAS_BACKING_FILE))
        or (format_ == "vmdk" and b"parentFileNameHint" in data)
    )
    return "rests on a backing file" if has_backing_file else None


def read_qcow2_header(data: bytes) -> Qcow2Header | None:
    """Return what the first bytes of an image say; None where they are no qcow2 header."""
    if len(data) < _QCOW2_FIELDS.size or data[:4] != _QCOW_MAGIC:
        return None
    _, version, backing_offset, backing_length, _, _, encryption, _, _, _, _, snapshots, _ = _QCOW2_FIELDS.unpack_from(
        data
    )
    if version < _QCOW2_VERSIONS[0] or (version > _QCOW2_VERSIONS[0] and len(data) < _QCOW2_VERSION_3_BYTES):
        return None
    incompatible, autoclear, _ = _qcow2_features(data, version)
    extensions: dict[int, bytes] = {}
    with suppress(_BeyondError, ValueError):
        for kind, text in _qcow2_extensions(data, version, backing_offset, _HEADER_TEXTS):
            extensions[kind] = text  # noqa: PERF403 - what comes before an error counts
    backing_file = data[backing_offset : backing_offset + backing_length] if backing_offset else b""
    return Qcow2Header(
        has_backing_file=backing_offset != 0,
        is_encrypted=encryption != 0,
        snapshot_count=snapshots,
        is_dirty=bool(incompatible & _DIRTY),
        is_corrupt=bool(incompatible & _CORRUPT),
        has_data_file=bool(incompatible & _DATA_FILE),
        has_bitmaps=bool(autoclear & _AUTOCLEAR_BITMAPS),
        backing_format=_decoded(extensions.get(_BACKING_FORMAT)),
        backing_file=os.fsdecode(backing_file) if backing_file else None,
        token=_decoded(extensions.get(_TOKEN)),
    )


def header_extensions(backing_format: str, token: str) -> bytes:
    """The header extensions of an overlay that we make, as they stand in its header."""
    texts = ((_BACKING_FORMAT, backing_format), (_TOKEN, token), (_END_OF_EXTENSIONS, ""))
    encoded = ((kind, text.encode()) for kind, text in texts)
    return b"".join(_QCOW2_EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in encoded)


def read_links(head: bytes) -> ImageLinks:
    """Read the first bytes of an image, `LONG_HEADER_BYTES` at most; nothing is raised, whatever they are."""
    format_, read = _reader_of(head)
    found = _Findings()
    is_malformed = needs_more = False
    try:
        if read is not None:
            read(head, found)
    except _BeyondError:
        is_malformed = needs_more = True
    except (struct.error, ValueError):
        is_malformed = True
    return ImageLinks(
        format=format_,
        backing=found.backing,
        backing_format=found.backing_format,
        data=tuple(dict.fromkeys(found.data)),
        is_malformed=is_malformed,
        needs_more=needs_more,
    )


def _reader_of(head: bytes) -> tuple[str, Callable[[bytes, _Findings], None] | None]:
    if head.startswith(_QCOW_MAGIC):
        return ("qcow", _read_qcow) if head[4:8] == b"\0\0\0\1" else ("qcow2", _read_qcow2)
    if head.startswith(b"QED\0"):
        return "qed", _read_qed
    if head.startswith(b"KDMV"):
        return "vmdk", _read_sparse_vmdk
    if head.startswith(b"OOOM"):
        return "cow", _read_cow
    if _is_vmdk_descriptor(head):
        return "vmdk", _read_vmdk_descriptor
    return "raw", None


def _read_qcow(head: bytes, found: _Findings) -> None:
    _, _, offset, length = _QCOW_FIELDS.unpack_from(head)
    if offset:
        found.backing = _name(head, offset, length)


def _read_qcow2(head: bytes, found: _Findings) -> None:
    _read_qcow(head, found)
    _, version, offset, _ = _QCOW_FIELDS.unpack_from(head)
    if version not in _QCOW2_VERSIONS:
        raise ValueError("a version that nobody knows")
    has_data_file = bool(_qcow2_features(head, version)[0] & _DATA_FILE)
    for kind, name in _qcow2_extensions(head, version, offset, _LINK_TEXTS):
        if kind == _BACKING_FORMAT:
            found.backing_format = _checked(name)
        elif kind == _DATA_FILE_NAME and has_data_file:
            found.data.append(_checked(name))
    if has_data_file and not found.data:
        raise ValueError("data in a file that is not named")


def _qcow2_features(data: bytes, version: int) -> tuple[int, int, int]:
    """Return the incompatible and the autoclear features, and where the header extensions begin."""
    if version <= _QCOW2_VERSIONS[0]:
        return 0, 0, _QCOW2_FIELDS.size
    incompatible, _, autoclear, _, length = _QCOW2_FEATURES.unpack_from(data, _QCOW2_FEATURES_OFFSET)
    return incompatible, autoclear, length


def _qcow2_extensions(
    data: bytes, version: int, backing_offset: int, wanted: frozenset[int]
) -> Iterator[tuple[int, bytes]]:
    """Yield header extensions of the wanted types; they end where the name of the backing file begins, if there is one.

    Raises:
        _BeyondError: More of them are not in what was read.
        ValueError: A wanted one is too long.
    """
    offset = _qcow2_features(data, version)[2]
    end = backing_offset or LONG_HEADER_BYTES
    while offset + _QCOW2_EXTENSION.size <= end:
        if offset + _QCOW2_EXTENSION.size > len(data):
            raise _BeyondError
        kind, length = _QCOW2_EXTENSION.unpack_from(data, offset)
        offset += _QCOW2_EXTENSION.size
        if kind == _END_OF_EXTENSIONS:
            return
        if kind in wanted:
            yield kind, _part(data, offset, length)
        # each is padded to eight bytes
        offset += -(-length // 8) * 8


def _read_qed(head: bytes, found: _Findings) -> None:
    (features,) = _QED_FEATURES.unpack_from(head)
    if features & _QED_HAS_BACKING_FILE:
        found.backing = _name(head, *_QED_BACKING_FILE.unpack_from(head))


def _read_cow(head: bytes, found: _Findings) -> None:
    name = head[_COW_NAME].partition(b"\0")[0]
    if name:
        found.backing = _checked(name)


def _read_sparse_vmdk(head: bytes, found: _Findings) -> None:
    """An image with its descriptor in it; the extent that this names is the image itself."""
    offset, size = _VMDK_DESCRIPTOR.unpack_from(head)
    # without one it is an extent of another image, which has the descriptor
    if offset:
        start, end = offset * _SECTOR_BYTES, (offset + size) * _SECTOR_BYTES
        _read_vmdk_parent(head[start:end].partition(b"\0")[0], found)
        if end > len(head) and found.backing is None:
            raise _BeyondError


def _read_vmdk_descriptor(head: bytes, found: _Findings) -> None:
    descriptor = head.partition(b"\0")[0]
    _read_vmdk_parent(descriptor, found)
    for line in descriptor.splitlines():
        if line.lstrip().startswith(_VMDK_EXTENT):
            _, quote, rest = line.partition(b'"')
            name, closing, _ = rest.partition(b'"')
            if quote and closing:
                found.data.append(_checked(name))
    if len(descriptor) == len(head) and len(head) in {HEADER_BYTES, LONG_HEADER_BYTES}:
        raise _BeyondError


def _read_vmdk_parent(descriptor: bytes, found: _Findings) -> None:
    _, hint, rest = descriptor.partition(_VMDK_PARENT)
    name = rest.partition(b"\n")[0].lstrip(b" \t=")
    if hint and name.startswith(b'"'):
        found.backing = _checked(name[1:].partition(b'"')[0])


def _is_vmdk_descriptor(head: bytes) -> bool:
    """Whether QEMU takes it for one: after comments and blank lines comes the version."""
    if not head.startswith((b"#", b"version=", b" ", b"\n", b"\r")):
        return False
    for line in head.splitlines():
        if line.strip() and not line.startswith(b"#"):
            return line.startswith(b"version=")
    return False


def _name(head: bytes, offset: int, length: int) -> str:
    return _checked(_part(head, offset, length))


def _part(head: bytes, offset: int, length: int) -> bytes:
    if length > _LONGEST_NAME:
        raise ValueError("a name that is too long")
    if offset + length > len(head):
        raise _BeyondError
    return head[offset : offset + length]


def _checked(name: bytes) -> str:
    if not name or b"\0" in name or len(name) > _LONGEST_NAME:
        raise ValueError("a name that is no name")
    return os.fsdecode(name)


def _decoded(data: bytes | None) -> str | None:
    return None if data is None else data.decode("ascii", errors="replace")
