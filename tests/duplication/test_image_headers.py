"""Which files an image needs; the images are qemu-img's own where it makes such."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.images import qemu_img
from virtomate.duplication.image_headers import (
    HEADER_BYTES,
    LONG_HEADER_BYTES,
    ImageLinks,
    header_digest,
    read_links,
)

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["base", "a b/../base", "json:{}", "nbd://host/base", "bäse", "x" * 1023]


def links_of(path: Path, length: int = LONG_HEADER_BYTES) -> ImageLinks:
    """What the first bytes of a file say."""
    with path.open("rb") as file:
        return read_links(file.read(length))


def qcow2(name: bytes = b"", *, version: int = 3, incompatible: int = 0, extensions: bytes = b"") -> bytes:
    """A header with extensions and then the name of a backing file."""
    fixed = 104 if version > 2 else 72
    extensions += bytes(8)
    offset = fixed + len(extensions) if name else 0
    fields = struct.pack(">4sIQI", b"QFI\xfb", version, offset, len(name)).ljust(72, b"\0")
    if version > 2:
        fields += struct.pack(">QQQII", incompatible, 0, 0, 4, fixed)
    return (fields + extensions + name).ljust(1024, b"\0")


def extension(kind: int, content: bytes) -> bytes:
    """A header extension, padded."""
    return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)


def qed(name: bytes, features: int = 1) -> bytes:
    """The header of a qed with the name of a backing file."""
    fields = struct.pack("<4sIIIQQQQQII", b"QED\0", 65536, 4, 1, features, 0, 0, 65536, 1, 64, len(name))
    return fields + name


@pytest.mark.parametrize("format_", ["qcow", "qcow2", "qed", "vmdk"])
def test_overlay_of_qemu(tmp_path: Path, format_: str) -> None:
    """An overlay of each format that qemu-img makes names its base, and the base none."""
    base_format = "vmdk" if format_ == "vmdk" else "raw"
    base = tmp_path / "b a s e"
    qemu_img("create", "-q", "-f", base_format, base, "1M")
    qemu_img("create", "-q", "-f", format_, "-b", base, "-F", base_format, tmp_path / "overlay")

    for length in (HEADER_BYTES, LONG_HEADER_BYTES):
        links = links_of(tmp_path / "overlay", length)
        if not links.needs_more:
            assert links == ImageLinks(format_, str(base), "raw" if format_ == "qcow2" else None)
    assert not links.needs_more
    assert links_of(base) == ImageLinks(base_format)


@pytest.mark.parametrize("options", ["compat=0.10", "compat=1.1", "compat=1.1,extended_l2=on", "cluster_size=2M"])
def test_qcow2_of_qemu(tmp_path: Path, options: str) -> None:
    """Whatever the features of a qcow2, its base and the format of that are found in the short head."""
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "base", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, "-b", "base", "-F", "qcow2", tmp_path / "overlay")

    assert links_of(tmp_path / "overlay", HEADER_BYTES) == ImageLinks("qcow2", "base", "qcow2")


def test_external_data_file(tmp_path: Path) -> None:
    """A qcow2 whose data is in another file names that."""
    data = tmp_path / "data"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", tmp_path / "image", "1M")

    assert links_of(tmp_path / "image") == ImageLinks("qcow2", data=(str(data),))


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "monolithicFlat"])
def test_extents_of_vmdk(tmp_path: Path, subformat: str) -> None:
    """A descriptor names the files with the data, and these name none."""
    qemu_img("create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", tmp_path / "disk.vmdk", "3G")
    extents = sorted(path.name for path in tmp_path.iterdir() if path.name != "disk.vmdk")

    links = links_of(tmp_path / "disk.vmdk")

    assert extents
    assert links == ImageLinks("vmdk", data=tuple(extents))
    assert links_of(tmp_path / extents[0]).data == ()


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_vmdk_in_one_file(tmp_path: Path, subformat: str) -> None:
    """The extent in a descriptor that is in the image is the image itself."""
    qemu_img("create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", tmp_path / "disk.vmdk", "1M")

    assert links_of(tmp_path / "disk.vmdk") == ImageLinks("vmdk")


DESCRIPTOR = b"""# Disk DescriptorFile
version=1
CID=1
parentCID=2
parentFileNameHint="the base.vmdk"
# Extent description
RW 2 FLAT "one.vmdk" 0
 RDONLY 2 SPARSE "a b.vmdk"
RW 2 ZERO
NOACCESS 2 VMFS "one.vmdk" 5
"""


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"OOOM\0\0\0\2" + b"/base\0/rest".ljust(1040, b"\0"), ImageLinks("cow", "/base")),
        (b"OOOM\0\0\0\2" + bytes(1040), ImageLinks("cow")),
        (DESCRIPTOR, ImageLinks("vmdk", "the base.vmdk", data=("one.vmdk", "a b.vmdk"))),
        (DESCRIPTOR.replace(b"\n", b"\r\n"), ImageLinks("vmdk", "the base.vmdk", data=("one.vmdk", "a b.vmdk"))),
        (b'#!/bin/sh\n# no image\nRW 2 FLAT "one" 0\n', ImageLinks()),
        (b"# another comment\n\nversion=1\n", ImageLinks("vmdk")),
        (b"", ImageLinks()),
        (bytes(4096), ImageLinks()),
        (b"#" * 4096, ImageLinks()),
        (qcow2(), ImageLinks("qcow2")),
        (qcow2(version=2), ImageLinks("qcow2")),
        # the bit decides whether the name of a data file is one
        (qcow2(extensions=extension(0x44415441, b"data")), ImageLinks("qcow2")),
        (
            qcow2(
                b"base", incompatible=4, extensions=extension(0x6803F857, b"x" * 48) + extension(0x44415441, b"data")
            ),
            ImageLinks("qcow2", "base", data=("data",)),
        ),
        # only extensions with names of files or formats are read
        (
            qcow2(incompatible=4, extensions=extension(0x76746D74, bytes(2000)) + extension(0x44415441, b"data")),
            ImageLinks("qcow2", data=("data",)),
        ),
        (b"\x7fELF".ljust(512, b"\0"), ImageLinks()),
    ],
)
def test_headers(head: bytes, expected: ImageLinks) -> None:
    """What qemu-img does not make is read as well."""
    assert read_links(head) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format_", ["qcow2", "qcow", "qed"])
def test_names(format_: str, name: str) -> None:
    """A name is given as it stands there."""
    encoded = name.encode()
    head = {
        "qcow2": qcow2(encoded),
        "qcow": struct.pack(">4sIQI", b"QFI\xfb", 1, 48, len(encoded)).ljust(48, b"\0") + encoded,
        "qed": qed(encoded),
    }[format_]

    assert read_links(head) == ImageLinks(format_, name)


MALFORMED = ImageLinks("qcow2", is_malformed=True)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (qcow2(b"x" * 1024), MALFORMED),
        (qcow2(b"a\0b"), MALFORMED),
        (qcow2(b"base")[:20], MALFORMED),
        (qcow2(b"base")[:80], MALFORMED),
        (qcow2(b"base")[:50] + b"\xff" * 60, MALFORMED),
        (qcow2(b"base", version=9), MALFORMED._replace(backing="base")),
        (qcow2(b"base", incompatible=4), MALFORMED._replace(backing="base")),
        (struct.pack(">4sIQI", b"QFI\xfb", 2, 112, 0).ljust(512, b"\0"), MALFORMED),
        (qed(b""), ImageLinks("qed", is_malformed=True)),
        (b"QED\0", ImageLinks("qed", is_malformed=True)),
        (b"KDMV", ImageLinks("vmdk", is_malformed=True)),
        (b"OOOM\0\0\0\2" + b"x" * 1024, ImageLinks("cow", is_malformed=True)),
        (DESCRIPTOR.replace(b"the base.vmdk", b""), ImageLinks("vmdk", is_malformed=True)),
    ],
)
def test_malformed(head: bytes, expected: ImageLinks) -> None:
    """What makes no sense is told, with what had been found by then."""
    assert read_links(head)._replace(needs_more=False) == expected


def test_more_is_asked_for() -> None:
    """Where a name is further behind, that is told; where the file ends before, no more is to be had."""
    head = qcow2(b"base", extensions=extension(0x11111111, bytes(8000)))

    assert read_links(head[:HEADER_BYTES]).needs_more
    assert read_links(head) == ImageLinks("qcow2", "base")
    assert read_links((DESCRIPTOR + b"#" * HEADER_BYTES)[:HEADER_BYTES]).needs_more


@given(
    st.sampled_from(
        [b"QFI\xfb\0\0\0\1", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3", b"QED\0", b"KDMV", b"OOOM", DESCRIPTOR[:30]]
    ),
    st.binary(max_size=200),
)
def test_nothing_is_raised(magic: bytes, rest: bytes) -> None:
    """Whatever comes after the magic number, the answer is a record."""
    for head in (magic + rest, magic + rest + bytes(LONG_HEADER_BYTES)):
        assert isinstance(read_links(head), ImageLinks)


def test_digest_of_the_header() -> None:
    """Only the header counts, and the digest is the one that the records of earlier clones have."""
    head = bytes(range(256)) * 32

    assert header_digest(head) == header_digest(head[:HEADER_BYTES]) == "d1d317232022edde367f50e7"
    assert header_digest(head[1:]) != header_digest(head)
