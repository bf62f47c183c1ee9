"""Which other files an image needs, by its first bytes, for every format with a way to say so.

The first bytes decide what an image is, and never its name. Whoever wrote them may have meant no good: a guest can
write anything to the beginning of a raw disk.

Sources: https://www.qemu.org/docs/master/interop/qcow2.html, and the same for qed and vmdk; for qcow of version 1 and
cow, what libvirt reads (src/storage_file/storage_file_probe.c).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What is enough for nearly all images, and what is read of the others: more than that names nothing in practice.
SHORT_HEAD_BYTES = 4096
HEAD_BYTES = 64 * 1024

# QEMU takes no longer names: the buffers for them have 1,024 bytes
_LONGEST_NAME = 1023

_QCOW2_FIELDS = struct.Struct(">4sIQI")
_QCOW2_VERSIONS = (2, 3)
_QCOW2_EXTENSIONS_OF_VERSION_2 = 72
_QCOW2_INCOMPATIBLE = struct.Struct(">Q")
_QCOW2_INCOMPATIBLE_OFFSET = 72
_QCOW2_HAS_DATA_FILE = 1 << 2
_QCOW2_HEADER_LENGTH = struct.Struct(">I")
_QCOW2_HEADER_LENGTH_OFFSET = 100
_QCOW2_EXTENSION = struct.Struct(">II")
_QCOW2_END_OF_EXTENSIONS = 0
_QCOW2_BACKING_FORMAT = 0xE2792ACA
_QCOW2_DATA_FILE = 0x44415441

_QED_FEATURES = struct.Struct("<Q")
_QED_FEATURES_OFFSET = 16
_QED_HAS_BACKING_FILE = 1 << 0
_QED_BACKING_FILE = struct.Struct("<II")
_QED_BACKING_FILE_OFFSET = 56

_COW_NAME = slice(8, 8 + 1024)

_VMDK_DESCRIPTOR = struct.Struct("<QQ")
_VMDK_DESCRIPTOR_OFFSET = 28
_VMDK_SECTOR_BYTES = 512
_VMDK_PARENT = b"parentFileNameHint"
_VMDK_EXTENT = (b"RW", b"RDONLY", b"NOACCESS")


@dataclass(frozen=True)
class ImageLinks:
    """What an image says of other files, with the names as it has them.

    Attributes:
        format: What it is by its first bytes; `raw` also stands for formats that need no other file.
        backing: What is below it.
        backing_format: What the image below is, where it says so.
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


def read_links(head: bytes) -> ImageLinks:
    """Read the first bytes of an image, `HEAD_BYTES` at most; nothing is raised, whatever they are."""
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
    if head.startswith(b"QFI\xfb"):
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
    _, _, offset, length = _QCOW2_FIELDS.unpack_from(head)
    if offset:
        found.backing = _name(head, offset, length)


def _read_qcow2(head: bytes, found: _Findings) -> None:
    _, version, offset, length = _QCOW2_FIELDS.unpack_from(head)
    if offset:
        found.backing = _name(head, offset, length)
    if version not in _QCOW2_VERSIONS:
        raise ValueError("a version that nobody knows")
    has_data_file = False
    extensions_offset = _QCOW2_EXTENSIONS_OF_VERSION_2
    if version > _QCOW2_VERSIONS[0]:
        (incompatible,) = _QCOW2_INCOMPATIBLE.unpack_from(head, _QCOW2_INCOMPATIBLE_OFFSET)
        (extensions_offset,) = _QCOW2_HEADER_LENGTH.unpack_from(head, _QCOW2_HEADER_LENGTH_OFFSET)
        has_data_file = bool(incompatible & _QCOW2_HAS_DATA_FILE)
    for kind, text in _qcow2_extensions(head, extensions_offset, offset):
        if kind == _QCOW2_BACKING_FORMAT:
            found.backing_format = text
        elif has_data_file:
            found.data.append(text)
    if has_data_file and not found.data:
        raise ValueError("data in a file that is not named")


def _qcow2_extensions(head: bytes, offset: int, end: int) -> Iterator[tuple[int, str]]:
    """The header extensions of interest, which end where the name of the backing file begins, if there is one."""
    end = end or HEAD_BYTES
    while offset + _QCOW2_EXTENSION.size <= end:
        if offset + _QCOW2_EXTENSION.size > len(head):
            raise _BeyondError
        kind, length = _QCOW2_EXTENSION.unpack_from(head, offset)
        offset += _QCOW2_EXTENSION.size
        if kind == _QCOW2_END_OF_EXTENSIONS:
            return
        if kind in {_QCOW2_BACKING_FORMAT, _QCOW2_DATA_FILE}:
            yield kind, _name(head, offset, length)
        # each is padded to eight bytes
        offset += -(-length // 8) * 8


def _read_qed(head: bytes, found: _Findings) -> None:
    (features,) = _QED_FEATURES.unpack_from(head, _QED_FEATURES_OFFSET)
    if features & _QED_HAS_BACKING_FILE:
        found.backing = _name(head, *_QED_BACKING_FILE.unpack_from(head, _QED_BACKING_FILE_OFFSET))


def _read_cow(head: bytes, found: _Findings) -> None:
    name = head[_COW_NAME].partition(b"\0")[0]
    if name:
        found.backing = _checked(name)


def _read_sparse_vmdk(head: bytes, found: _Findings) -> None:
    """An image with its descriptor in it; the extent that this names is the image itself."""
    offset, size = _VMDK_DESCRIPTOR.unpack_from(head, _VMDK_DESCRIPTOR_OFFSET)
    # without one it is an extent of another image, which has the descriptor
    if offset:
        start, end = offset * _VMDK_SECTOR_BYTES, (offset + size) * _VMDK_SECTOR_BYTES
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
    if len(descriptor) == len(head) and len(head) in {SHORT_HEAD_BYTES, HEAD_BYTES}:
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
    if length > _LONGEST_NAME:
        raise ValueError("a name that is too long")
    if offset + length > len(head):
        raise _BeyondError
    return _checked(head[offset : offset + length])


def _checked(name: bytes) -> str:
    if not name or b"\0" in name or len(name) > _LONGEST_NAME:
        raise ValueError("a name that is no name")
    return os.fsdecode(name)
