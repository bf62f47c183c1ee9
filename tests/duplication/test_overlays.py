"""Overlays that hold nothing of their own, told by the images that virtomate and QEMU make."""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.lab import images
from virtomate.duplication.overlays import holds_data, holds_nothing, read_here
from virtomate.duplication.transfers.link import overlay_image

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
CAPACITY = 5 * MIB - 100


def is_empty(path: Path, capacity: int = CAPACITY) -> bool:
    """Whether an image holds nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return holds_nothing(partial(read_here, descriptor), capacity)
    finally:
        os.close(descriptor)


@pytest.fixture(params=[True, False], ids=["subclusters", "plain"])
def overlay(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A new overlay on a raw image whose length is no multiple of a sector."""
    base, path = tmp_path / "base.raw", tmp_path / "overlay.qcow2"
    base.write_bytes(bytes(CAPACITY))
    image = overlay_image(CAPACITY, str(base), "raw", "token", has_subclusters=request.param)
    with path.open("wb") as file:
        file.truncate(image.size)
        for offset, data in image.pieces:
            file.seek(offset)
            file.write(data)
    return path


def test_new_overlay_holds_nothing(overlay: Path) -> None:
    """Also when QEMU has had it open for writing, and has written nothing."""
    assert is_empty(overlay)
    images.qemu_io(overlay, "qcow2", "read 0 64k", "flush")
    assert is_empty(overlay)


@pytest.mark.parametrize("command", ["write 0 512", "write -z 1M 64k", "discard 0 1M", "truncate 8M"])
def test_whatever_a_guest_does_counts(overlay: Path, command: str) -> None:
    """Zeroes and discarded blocks hide what the base has there, and so does another size."""
    images.qemu_io(overlay, "qcow2", command)

    assert not is_empty(overlay)


@pytest.mark.parametrize("words", [("snapshot", "-c", "s"), ("bitmap", "--add", "{}", "b")], ids=["snapshot", "bitmap"])
def test_what_is_inside_counts(overlay: Path, words: tuple[str, ...]) -> None:
    """An overlay with a snapshot or a bitmap is more than nothing."""
    command = [word.format(overlay) for word in words]
    images.qemu_img(*command, *(() if words[0] == "bitmap" else (overlay,)))

    assert not is_empty(overlay)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"QFI\0"), (4, struct.pack(">I", 2)), (32, struct.pack(">I", 1)), (72, bytes([0] * 7 + [1]))],
)
def test_other_images_do_not_count_as_empty(overlay: Path, offset: int, value: bytes) -> None:
    """Another format or version, an encrypted image and one that was not closed properly."""
    with overlay.open("r+b") as image:
        image.seek(offset)
        image.write(value)

    assert not is_empty(overlay)


def test_capacity_must_be_that_of_the_base(overlay: Path) -> None:
    """A base that was resized since is another disk."""
    assert not is_empty(overlay, CAPACITY + MIB)


@pytest.mark.parametrize("share", [0, 0.0001, 0.75], ids=["nothing", "half a header", "no table"])
def test_cut_image_is_not_empty(overlay: Path, share: float) -> None:
    """What is not there says nothing; the table is in the last quarter of a new overlay."""
    os.truncate(overlay, int(overlay.stat().st_size * share))

    assert not is_empty(overlay)


def test_data_of_an_overlay(overlay: Path) -> None:
    """An overlay holds data as soon as somebody has written to it; a part of an overlay, or no overlay, holds none."""

    def has_data(path: Path) -> bool:
        content = path.read_bytes()
        return holds_data(lambda offset, length: content[offset : offset + length])

    assert not has_data(overlay)
    images.qemu_io(overlay, "qcow2", "write -P 1 0 4k")
    assert has_data(overlay)
    begun = overlay.with_name("begun")
    begun.write_bytes(overlay.read_bytes()[:100])
    assert not has_data(begun)
    begun.write_bytes(b"QFI\xfa" + bytes(1000))
    assert not has_data(begun)
