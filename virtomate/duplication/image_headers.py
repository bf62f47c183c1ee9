"""The first bytes of an image: the format, the header of a qcow2, and the names of other files that the image needs.

The first bytes decide the format, and the file's name never does. The writer of these bytes may have meant harm: a
guest can write anything to the beginning of a raw disk.

Sources: https://www.qemu.org/docs/master/interop/qcow2.html, and the pages beside that one for qed and vmdk; for qcow
of version 1, cow and other formats' magic numbers, libvirt's src/storage_file/storage_file_probe.c.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Enough for nearly all images, and enough for the others: longer headers name nothing in practice.
HEADER_BYTES = 4096
LONG_HEADER_BYTES = 64 * 1024
_DIGEST_BYTES = 12

# No image of a known format is shorter than a sector.
_SECTOR_BYTES = 512
# QEMU has buffers of 1,024 bytes for the names of images.
LONGEST_NAME = 1023

_QCOW_MAGIC = b"QFI\xfb"
_QCOW_VERSION_1 = b"\0\0\0\1"
# magic number, version, offset and length of the name of the backing file
_QCOW_FIELDS = struct.Struct(">4sIQI")
_QCOW2_VERSIONS = (2, 3)
# the same, then the encryption method and the number of snapshots
_QCOW2_FIELDS = struct.Struct(">4sIQI12xI24xI8x")
# incompatible and autoclear features, length of the header
_QCOW2_FEATURES = struct.Struct(">Q8xQ4xI")
_QCOW2_FEATURES_OFFSET = 72
_QCOW2_VERSION_3_BYTES = 104
_QCOW2_EXTENSION = struct.Struct(">II")

_DIRTY = 1 << 0
_CORRUPT = 1 << 1
_DATA_FILE = 1 << 2
_EXTENDED_L2 = 1 << 4
_AUTOCLEAR_BITMAPS = 1 << 0

_END_OF_EXTENSIONS = 0
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE_NAME = 0x44415441
# A private type for the token on an overlay of ours. A QEMU that writes a header anew keeps extensions of unknown types
# (tried with 7.2: write, snapshot, resize, bitmap, amend, rebase, check -r, commit).
_TOKEN = 0x76746D74
_HEADER_TEXTS = frozenset({_BACKING_FORMAT, _TOKEN})
_LINK_TEXTS = frozenset({_BACKING_FORMAT, _DATA_FILE_NAME})
# In any format, the name of the backing file: a field, and no extension.
_BACKING_FILE = -1
# What is said of another file: the type of the extension of a qcow2 that says the same, and the name or format.
_Finding: TypeAlias = tuple[int, str]

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
        backing_file: Name of the image below; None without such an image, or for a name beyond the bytes read.
        token: The token on an overlay of ours, None for any other image.
        has_subclusters: Whether parts of a cluster can be in the image, and the others below.
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
    has_subclusters: bool = False

    @property
    def needs_byte_copy(self) -> bool:
        """Whether a conversion by qemu-img would lose something that a copy of the bytes keeps."""
        return self.snapshot_count > 0 or self.has_bitmaps or self.is_encrypted or self.is_dirty


class ImageLinks(NamedTuple):
    """The other files that an image needs, under the names in the image.

    Attributes:
        format: Format by the first bytes; `raw` also stands for formats that need no other file.
        backing: Name of the image below.
        data: The files with the image's data.
        is_malformed: Whether the image begins like an image of this format, and goes on with nonsense.
        needs_more: Whether more of the image would have to be read.
    """

    format: str = "raw"
    backing: str | None = None
    backing_format: str | None = None
    data: tuple[str, ...] = ()
    is_malformed: bool = False
    needs_more: bool = False


class _BeyondError(Exception):
    """A part of the header is not in the bytes that were read."""


def detect_format(data: bytes) -> str:
    """Return the format of an image by its first `HEADER_BYTES`; an image with an unknown beginning is raw."""
    if data.startswith(_QCOW_MAGIC):
        return "qcow" if data.startswith(_QCOW_VERSION_1, len(_QCOW_MAGIC)) else "qcow2"
    return next((name for name, offset, magic in _MAGICS if data.startswith(magic, offset)), "raw")


def is_cut_short(data: bytes, format_: str) -> bool:
    """Return whether an image ends in the middle of its header, by its first `HEADER_BYTES`."""
    if format_ == "raw" or (format_ == "vmdk" and data.startswith(b"#")):
        return False
    return len(data) < _SECTOR_BYTES or (format_ == "qcow2" and read_qcow2_header(data) is None)


def why_incomplete(data: bytes, format_: str) -> str | None:
    """Return why an image that is not cut short needs other files, as the end of a sentence about it, or None."""
    if format_ == "vmdk" and data.startswith(b"#"):
        return "only describes a disk, whose data is in other files"
    header = read_qcow2_header(data) if format_ == "qcow2" else None
    if header is not None and header.has_data_file:
        return "keeps its data in an external file"
    has_backing_file = (
        (header is not None and header.has_backing_file)
        or (format_ == "qcow" and _QCOW_FIELDS.unpack_from(data)[2] != 0)
        or (format_ == "qed" and bool(_QED_FEATURES.unpack_from(data)[0] & _QED_HAS_BACKING_FILE))
        or (format_ == "vmdk" and _VMDK_PARENT in data)
    )
    return "rests on a backing file" if has_backing_file else None


def read_qcow2_header(data: bytes) -> Qcow2Header | None:
    """Return the header at the beginning of an image; None where these bytes are no qcow2 header."""
    if len(data) < _QCOW2_FIELDS.size or not data.startswith(_QCOW_MAGIC):
        return None
    _, version, backing_offset, backing_length, encryption, snapshots = _QCOW2_FIELDS.unpack_from(data)
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
        has_subclusters=bool(incompatible & _EXTENDED_L2),
    )


def header_digest(head: bytes) -> str:
    """Return a digest of the header of a qcow2, by the image's first `HEADER_BYTES`.

    A write to the image that needs new tables, a snapshot or a new name of the backing file changes the header, even
    where somebody has set the file's times back.
    """
    # hashlib loads OpenSSL, for which a linked clone would wait
    try:
        from _blake2 import blake2b  # noqa: PLC0415 - few clones are linked
    except ImportError:
        from hashlib import blake2b  # noqa: PLC0415 - as above

    return blake2b(head[:HEADER_BYTES], digest_size=_DIGEST_BYTES).hexdigest()


def header_extensions(backing_format: str, token: str) -> bytes:
    """Return the header extensions of an overlay of ours."""
    texts = ((_BACKING_FORMAT, backing_format), (_TOKEN, token), (_END_OF_EXTENSIONS, ""))
    encoded = ((kind, text.encode()) for kind, text in texts)
    return b"".join(_QCOW2_EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in encoded)


def read_links(head: bytes) -> ImageLinks:
    """Read the first bytes of an image, `LONG_HEADER_BYTES` at most; whatever the bytes, nothing is raised."""
    format_, read = _reader_of(head)
    findings: list[_Finding] = []
    is_malformed = needs_more = False
    try:
        for finding in () if read is None else read(head):
            findings.append(finding)  # noqa: PERF402 - what comes before an error counts
    except _BeyondError:
        is_malformed = needs_more = True
    except (struct.error, ValueError):
        is_malformed = True
    last = dict(findings)
    return ImageLinks(
        format=format_,
        backing=last.get(_BACKING_FILE),
        backing_format=last.get(_BACKING_FORMAT),
        data=tuple(dict.fromkeys(name for kind, name in findings if kind == _DATA_FILE_NAME)),
        is_malformed=is_malformed,
        needs_more=needs_more,
    )


def _reader_of(head: bytes) -> tuple[str, Callable[[bytes], Iterator[_Finding]] | None]:
    if _is_vmdk_descriptor(head):
        return "vmdk", _read_vmdk_descriptor
    if head.startswith(_QCOW_MAGIC):
        return ("qcow", _read_qcow) if detect_format(head) == "qcow" else ("qcow2", _read_qcow2)
    readers = {b"QED\0": ("qed", _read_qed), b"KDMV": ("vmdk", _read_sparse_vmdk), b"OOOM": ("cow", _read_cow)}
    return readers.get(head[:4], ("raw", None))


def _read_qcow(head: bytes) -> Iterator[_Finding]:
    _, _, offset, length = _QCOW_FIELDS.unpack_from(head)
    if offset:
        yield _BACKING_FILE, _checked(_part(head, offset, length))


def _read_qcow2(head: bytes) -> Iterator[_Finding]:
    yield from _read_qcow(head)
    _, version, offset, _ = _QCOW_FIELDS.unpack_from(head)
    if version not in _QCOW2_VERSIONS:
        raise ValueError("an unknown version")
    lacks_data = has_data_file = bool(_qcow2_features(head, version)[0] & _DATA_FILE)
    for kind, name in _qcow2_extensions(head, version, offset, _LINK_TEXTS):
        if kind == _BACKING_FORMAT or (kind == _DATA_FILE_NAME and has_data_file):
            yield kind, _checked(name)
            lacks_data = lacks_data and kind != _DATA_FILE_NAME
    if lacks_data:
        raise ValueError("data in a file without a name")


def _qcow2_features(data: bytes, version: int) -> tuple[int, int, int]:
    """Return the incompatible features, the autoclear features, and the offset of the header extensions."""
    if version <= _QCOW2_VERSIONS[0]:
        return 0, 0, _QCOW2_FIELDS.size
    return _QCOW2_FEATURES.unpack_from(data, _QCOW2_FEATURES_OFFSET)


def _qcow2_extensions(
    data: bytes, version: int, backing_offset: int, wanted: frozenset[int]
) -> Iterator[tuple[int, bytes]]:
    """Yield header extensions of the wanted types; the extensions end before the name of the backing file.

    Raises:
        _BeyondError: More extensions are not in the bytes that were read.
        ValueError: A wanted extension is too long.
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
        # an extension is padded to eight bytes
        offset += -(-length // 8) * 8


def _read_qed(head: bytes) -> Iterator[_Finding]:
    (features,) = _QED_FEATURES.unpack_from(head)
    if features & _QED_HAS_BACKING_FILE:
        yield _BACKING_FILE, _checked(_part(head, *_QED_BACKING_FILE.unpack_from(head)))


def _read_cow(head: bytes) -> Iterator[_Finding]:
    name = head[_COW_NAME].partition(b"\0")[0]
    if name:
        yield _BACKING_FILE, _checked(name)


def _read_sparse_vmdk(head: bytes) -> Iterator[_Finding]:
    """Read an image with a descriptor inside; the extent in that descriptor is the image itself."""
    offset, size = _VMDK_DESCRIPTOR.unpack_from(head)
    # an extent without a descriptor belongs to another image, which has the descriptor
    if offset:
        start, end = offset * _SECTOR_BYTES, (offset + size) * _SECTOR_BYTES
        parents = tuple(_read_vmdk_parent(head[start:end].partition(b"\0")[0]))
        yield from parents
        if end > len(head) and not parents:
            raise _BeyondError


def _read_vmdk_descriptor(head: bytes) -> Iterator[_Finding]:
    descriptor = head.partition(b"\0")[0]
    yield from _read_vmdk_parent(descriptor)
    for line in descriptor.splitlines():
        if line.lstrip().startswith(_VMDK_EXTENT):
            _, quote, rest = line.partition(b'"')
            name, closing, _ = rest.partition(b'"')
            if quote and closing:
                yield _DATA_FILE_NAME, _checked(name)
    if len(descriptor) == len(head) and len(head) in {HEADER_BYTES, LONG_HEADER_BYTES}:
        raise _BeyondError


def _read_vmdk_parent(descriptor: bytes) -> Iterator[_Finding]:
    _, hint, rest = descriptor.partition(_VMDK_PARENT)
    name = rest.partition(b"\n")[0].lstrip(b" \t=")
    if hint and name.startswith(b'"'):
        yield _BACKING_FILE, _checked(name[1:].partition(b'"')[0])


def _is_vmdk_descriptor(head: bytes) -> bool:
    """Return whether QEMU takes the bytes for a descriptor: after comments and blank lines comes the version."""
    if not head.startswith((b"#", b"version=", b" ", b"\n", b"\r")):
        return False
    for line in head.splitlines():
        if line.strip() and not line.startswith(b"#"):
            return line.startswith(b"version=")
    return False


def _part(head: bytes, offset: int, length: int) -> bytes:
    if length > LONGEST_NAME:
        raise ValueError("a name that is too long")
    if offset + length > len(head):
        raise _BeyondError
    return head[offset : offset + length]


def _checked(name: bytes) -> str:
    if not name or b"\0" in name or len(name) > LONGEST_NAME:
        raise ValueError("a name that no file can have")
    return os.fsdecode(name)


def _decoded(data: bytes | None) -> str | None:
    return None if data is None else data.decode("ascii", errors="replace")
