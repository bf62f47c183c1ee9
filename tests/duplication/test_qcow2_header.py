"""What the header of an image tells; the images are qemu-img's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.images import qemu_img
from virtomate.duplication.image_headers import (
    HEADER_BYTES,
    Qcow2Header,
    detect_format,
    is_cut_short,
    read_qcow2_header,
    why_incomplete,
)

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = Qcow2Header(
    has_backing_file=False,
    is_encrypted=False,
    snapshot_count=0,
    is_dirty=False,
    is_corrupt=False,
    has_data_file=False,
    has_bitmaps=False,
)
BACKED = PLAIN._replace(has_backing_file=True, backing_format="raw")
ENCRYPTION_OFFSET = 32
INCOMPATIBLE_OFFSET = 72
LUKS = 2


def head(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("compat=0.10", PLAIN),
        ("compat=1.1", PLAIN),
        ("compat=1.1,lazy_refcounts=on", PLAIN),
        ("compat=1.1,extended_l2=on,cluster_size=128k", PLAIN._replace(has_subclusters=True)),
        ("compat=1.1,cluster_size=2M", PLAIN),
        ("compat=1.1,data_file=data.raw", PLAIN._replace(has_data_file=True)),
        (
            "compat=1.1,backing_file=base.raw,backing_fmt=raw",
            PLAIN._replace(has_backing_file=True, backing_format="raw"),
        ),
        (
            "compat=0.10,backing_file=base.raw,backing_fmt=raw",
            PLAIN._replace(has_backing_file=True, backing_format="raw"),
        ),
    ],
)
def test_new_image(tmp_path: Path, options: str, expected: Qcow2Header) -> None:
    """A new image of each version and with each feature is read as what it was made."""
    (tmp_path / "base.raw").write_bytes(bytes(1024 * 1024))
    image = tmp_path / "image"
    options = options.replace("data.raw", str(tmp_path / "data.raw")).replace("base.raw", str(tmp_path / "base.raw"))
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "1M")

    header = read_qcow2_header(head(image))

    backing_file = str(tmp_path / "base.raw") if expected.has_backing_file else None
    assert header == expected._replace(backing_file=backing_file)
    assert not expected.needs_byte_copy


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_internal_snapshots(tmp_path: Path, compat: str) -> None:
    """Snapshots within the image are counted, and only a copy of the bytes keeps them."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", image, "1M")
    qemu_img("snapshot", "-c", "one", image)
    qemu_img("snapshot", "-c", "two", image)

    header = read_qcow2_header(head(image))

    assert header is not None
    assert header.snapshot_count == 2
    assert header.needs_byte_copy


def test_bitmaps(tmp_path: Path) -> None:
    """A persistent bitmap is seen, and only a copy of the bytes keeps it."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_img("bitmap", "--add", image, "b")

    header = read_qcow2_header(head(image))

    assert header == PLAIN._replace(has_bitmaps=True)
    assert header is not None
    assert header.needs_byte_copy


def test_encryption(tmp_path: Path) -> None:
    """An encrypted image is seen, and only a copy of the bytes can duplicate it without its secret."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    with image.open("r+b") as file:
        file.seek(ENCRYPTION_OFFSET)
        file.write(LUKS.to_bytes(4, "big"))

    header = read_qcow2_header(head(image))

    assert header == PLAIN._replace(is_encrypted=True)
    assert header is not None
    assert header.needs_byte_copy


@pytest.mark.parametrize(
    ("bits", "expected", "needs_byte_copy"),
    [
        (1, PLAIN._replace(is_dirty=True), True),
        (2, PLAIN._replace(is_corrupt=True), False),
        (4, PLAIN._replace(has_data_file=True), False),
        (3, PLAIN._replace(is_dirty=True, is_corrupt=True), True),
        (1 << 3 | 1 << 4, PLAIN._replace(has_subclusters=True), False),
    ],
)
def test_incompatible_features(tmp_path: Path, bits: int, expected: Qcow2Header, needs_byte_copy: bool) -> None:
    """The bits that say dirty, corrupt and external data are each told apart."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    with image.open("r+b") as file:
        file.seek(INCOMPATIBLE_OFFSET)
        file.write(bits.to_bytes(8, "big"))

    header = read_qcow2_header(head(image))

    assert header == expected
    assert expected.needs_byte_copy is needs_byte_copy


@pytest.mark.parametrize("format_", ["raw", "vmdk", "qed", "vdi", "vpc"])
def test_other_format(tmp_path: Path, format_: str) -> None:
    """What is no qcow2 has no header of one."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", format_, image, "1M")

    assert read_qcow2_header(head(image)) is None


@pytest.mark.parametrize("length", [0, 3, 4, 71])
def test_truncated_header(tmp_path: Path, length: int) -> None:
    """A header that is cut off says nothing."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")

    assert read_qcow2_header(head(image)[:length]) is None


def test_truncated_header_of_version_3(tmp_path: Path) -> None:
    """A version 3 header that ends before its features is no header: it could hide that data lie elsewhere."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=1.1", image, "1M")

    assert read_qcow2_header(head(image)[:80]) is None


def test_version_2_header_needs_no_features(tmp_path: Path) -> None:
    """A version 2 header is 72 bytes; what comes after it means nothing."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", image, "1M")
    data = head(image)[:INCOMPATIBLE_OFFSET]

    assert read_qcow2_header(data) == PLAIN
    assert read_qcow2_header(data + b"\xff" * 32) == PLAIN


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("raw", ()),
        ("qcow2", ()),
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow", ()),
        ("qed", ()),
        ("vmdk", ()),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vdi", ()),
        ("vpc", ()),
        ("vhdx", ()),
        ("luks", ("--object", "secret,id=s,data=x", "-o", "key-secret=s,iter-time=10")),
    ],
)
def test_formats(tmp_path: Path, format_: str, options: tuple[str, ...]) -> None:
    """An image is known by its beginning, and one that needs no other file is known to be whole."""
    qemu_img("create", "-f", format_, *options, tmp_path / "image", "1M")
    data = head(tmp_path / "image")

    assert detect_format(data) == format_
    assert not is_cut_short(data, format_)
    assert why_incomplete(data, format_) is None


@pytest.mark.parametrize("format_", ["qcow2", "qcow", "qed", "vmdk"])
def test_overlays_are_not_whole(tmp_path: Path, format_: str) -> None:
    """An image that rests on another one is told from one that does not."""
    qemu_img("create", "-f", "vmdk", tmp_path / "base", "1M")
    qemu_img("create", "-f", format_, "-b", tmp_path / "base", "-F", "vmdk", tmp_path / "image")

    assert why_incomplete(head(tmp_path / "image"), format_) == "rests on a backing file"


@pytest.mark.parametrize("data", [b"QFI\xfb", b"QFI\xfb\0\0\0\3" + bytes(60), b"QED\0", b"KDMV", b"conectix"])
def test_fragments_of_images_are_not_whole(data: bytes) -> None:
    """Some of these make libvirt take a pool out of service."""
    assert is_cut_short(data, detect_format(data))


@pytest.mark.parametrize("data", [b"", b"QFI", b"<html>", bytes(4096), b"MZ" + bytes(510), b"\x1f\x8b\x08"])
def test_what_is_no_image_is_raw(data: bytes) -> None:
    """Nothing is read into what has no mark of its own."""
    assert detect_format(data) == "raw"
    assert not is_cut_short(data, "raw")
    assert why_incomplete(data, "raw") is None
