"""Overlays that are made empty in place, as QEMU's own tools see them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import images
from tests.lab.images import KIB, MIB
from virtomate.duplication.emptying import read_overlay
from virtomate.duplication.transfers.link import overlay_image
from virtomate.errors import IllegalStateError, UnsupportedError

SIZE = 64 * MIB
# As qemu-img makes overlays, by their options: clusters small and large, the old version, subclusters.
KINDS = {
    "plain": "compat=1.1",
    "old": "compat=0.10",
    "smallest clusters": "cluster_size=512",
    "largest clusters": "cluster_size=2M",
    "subclusters": "extended_l2=on,cluster_size=128k",
    "lazy": "lazy_refcounts=on",
}


class StoppedError(Exception):
    """The work ends here, as if it were killed."""


class File:
    """A file, and a kill before its last step.

    Args:
        steps: How many steps are done.
    """

    def __init__(self, path: Path, steps: int | None = None) -> None:
        self._path = path
        self._left = steps

    def _step(self) -> None:
        if self._left == 0:
            raise StoppedError
        if self._left is not None:
            self._left -= 1

    def read(self, offset: int, length: int) -> bytes:
        """Read."""
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write."""
        self._step()
        with self._path.open("r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    def cut(self, size: int) -> None:
        """End the file."""
        self._step()
        os.truncate(self._path, size)


def empty(path: Path, steps: int | None = None) -> None:
    """Make an overlay empty, all of it or some steps."""
    file = File(path, steps)
    read_overlay(str(path), file).empty(file, path.stat().st_size)


def is_empty(path: Path) -> bool:
    """Whether an overlay needs nothing."""
    file = File(path)
    return read_overlay(str(path), file).is_empty(file, path.stat().st_size)


def make_used(directory: Path, kind: str) -> tuple[Path, Path]:
    """Make a base with data and an overlay into which a guest wrote; return both paths."""
    base, overlay = directory / "base.qcow2", directory / "overlay.qcow2"
    images.make_qcow2(base, SIZE, data_bytes=4 * MIB)
    words = ("create", "-q", "-f", "qcow2", "-o", KINDS[kind], "-b", base, "-F", "qcow2", overlay)
    images.qemu_img(*words)
    images.qemu_io(overlay, "qcow2", "write -P 7 1M 3M", "write -P 8 60M 64k", "discard 2M 1M")
    return base, overlay


def check(path: Path) -> None:
    """See that QEMU finds no error in an image; clusters that nothing refers to are none."""
    found = subprocess.run(("qemu-img", "check", "-q", "-f", "qcow2", path), check=False, capture_output=True)
    assert found.returncode in {0, 3}, found


@pytest.mark.parametrize("kind", KINDS)
def test_overlay_is_empty_and_can_be_used(tmp_path: Path, kind: str) -> None:
    """It reads as its base does, is small, has its options, and takes what a guest writes then."""
    base, overlay = make_used(tmp_path, kind)
    before = overlay.stat()
    assert not is_empty(overlay)

    empty(overlay)

    images.qemu_img("check", "-f", "qcow2", overlay)
    assert images.same_content(overlay, "qcow2", base, "qcow2")
    after = overlay.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert is_empty(overlay)
    fresh = tmp_path / "fresh.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", KINDS[kind], "-b", base, "-F", "qcow2", fresh)
    assert after.st_size <= fresh.stat().st_size + 4 * 2 * MIB
    images.qemu_io(overlay, "qcow2", "write -P 9 0 8M", "write -P 9 50M 8M")
    images.qemu_img("check", "-f", "qcow2", overlay)
    images.qemu_io(overlay, "qcow2", "read -P 9 0 8M", "read -P 9 50M 8M")


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("kind", ["old", "subclusters"])
def test_killed_work_leaves_the_old_overlay_or_an_empty_one(tmp_path: Path, kind: str, steps: int) -> None:
    """After any step the image is whole, and the next attempt completes the work, also when a guest wrote meanwhile."""
    base, overlay = make_used(tmp_path, kind)
    old = tmp_path / "old.qcow2"
    shutil.copy(overlay, old)

    with pytest.raises(StoppedError):
        empty(overlay, steps)

    check(overlay)
    like = base if steps > 1 else old
    assert images.same_content(overlay, "qcow2", like, "qcow2")
    images.qemu_io(overlay, "qcow2", "write -P 9 0 5M", "write -P 9 40M 5M")
    check(overlay)
    images.qemu_io(overlay, "qcow2", "read -P 9 0 5M", "read -P 9 40M 5M")
    empty(overlay)
    images.qemu_img("check", "-f", "qcow2", overlay)
    assert images.same_content(overlay, "qcow2", base, "qcow2")


def test_new_overlay_of_ours_is_empty(tmp_path: Path) -> None:
    """A clone that was never started needs no work, and afterwards the overlay has the same bytes as at first."""
    base = tmp_path / "base.qcow2"
    images.make_qcow2(base, SIZE)
    overlay = tmp_path / "overlay.qcow2"
    image = overlay_image(SIZE, str(base), "qcow2", "u:r", has_subclusters=True)
    overlay.touch()
    os.truncate(overlay, image.size)
    for offset, data in image.pieces:
        damage(overlay, offset, data)
    first = overlay.read_bytes()
    assert is_empty(overlay)
    images.qemu_io(overlay, "qcow2", "write -P 7 0 3M")
    assert not is_empty(overlay)

    empty(overlay)

    assert overlay.read_bytes() == first


def test_far_data_needs_more_tables(tmp_path: Path) -> None:
    """An old overlay that is longer than one block of reference counts describes."""
    base, overlay = make_used(tmp_path, "smallest clusters")
    images.qemu_io(overlay, "qcow2", "write -P 7 0 40M")
    assert overlay.stat().st_size > 512 * 256 * 4
    for steps in (2, 3):
        with pytest.raises(StoppedError):
            empty(overlay, steps)
        images.qemu_img("check", "-f", "qcow2", overlay)
        assert images.same_content(overlay, "qcow2", base, "qcow2")


def test_bitmaps_are_gone(tmp_path: Path) -> None:
    """They told what had changed in the old overlay."""
    _, overlay = make_used(tmp_path, "plain")
    images.qemu_img("bitmap", "--add", "-f", "qcow2", overlay, "b")

    empty(overlay)

    assert b"granularity" not in images.qemu_img("info", "-f", "qcow2", overlay)
    images.qemu_img("check", "-f", "qcow2", overlay)


def damage(path: Path, offset: int, data: bytes) -> None:
    """Write over a part of a file."""
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, offset)


def broken() -> Iterator[tuple[str, int, bytes]]:
    """What may be wrong with a header, with the offset and the bytes."""
    yield "no image", 0, b"x"
    yield "no base", 8, bytes(8)
    yield "encryption", 32, b"\0\0\0\2"
    yield "external data", 79, b"\4"
    yield "unknown feature", 79, b"\x40"
    yield "huge clusters", 20, b"\0\0\0\x40"
    yield "reference counts of 64 bits", 96, b"\0\0\0\6"
    yield "name outside the first cluster", 8, b"\0\0\0\0\0\x10\0\0"
    yield "header longer than where the name is", 100, b"\0\1\0\0"


@pytest.mark.parametrize(("offset", "data"), [pytest.param(*rest, id=name) for name, *rest in broken()])
def test_refused(tmp_path: Path, offset: int, data: bytes) -> None:
    """Nothing is written to a file that is not certainly an overlay that can be emptied."""
    _, overlay = make_used(tmp_path, "plain")
    damage(overlay, offset, data)
    before = overlay.read_bytes()

    with pytest.raises(UnsupportedError, match=str(overlay)):
        empty(overlay)

    assert overlay.read_bytes() == before


def test_snapshots_refuse(tmp_path: Path) -> None:
    """They would be lost."""
    _, overlay = make_used(tmp_path, "plain")
    images.qemu_img("snapshot", "-c", "s", overlay)

    with pytest.raises(IllegalStateError, match="has 1 snapshot inside"):
        empty(overlay)


def test_no_image_at_all(tmp_path: Path) -> None:
    """A short file is refused, too."""
    path = tmp_path / "short"
    path.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(40 * KIB // KIB))

    with pytest.raises(UnsupportedError):
        empty(path)
