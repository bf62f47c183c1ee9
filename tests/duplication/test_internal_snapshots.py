"""The snapshots inside of a qcow2 image, as qemu-img makes them, and damaged tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab.images import MIB, make_qcow2, qemu_img
from virtomate.duplication.internal_snapshots import InternalSnapshot, read_snapshots

if TYPE_CHECKING:
    from pathlib import Path


def snapshots_of(path: Path) -> tuple[InternalSnapshot, ...]:
    """Return the snapshots of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_snapshots(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_snapshots(tmp_path: Path, compat: str) -> None:
    """Each has its name and the size that the disk had."""
    path = make_qcow2(tmp_path / "image", 4 * MIB, compat=compat, snapshots=["a,b=c", "日本", "x" * 255])
    if compat == "1.1":
        # of the older version, only images without snapshots can be resized
        qemu_img("resize", "-q", path, "8M")
        qemu_img("snapshot", "-c", "later", path)

    found = snapshots_of(path)
    assert [snapshot.name for snapshot in found][:3] == ["a,b=c", "日本", "x" * 255]
    assert {snapshot.capacity for snapshot in found[:3]} == {4 * MIB}
    assert found[3:] == ((InternalSnapshot("later", 8 * MIB),) if compat == "1.1" else ())


def test_none(tmp_path: Path) -> None:
    """An image without snapshots has no table."""
    assert snapshots_of(make_qcow2(tmp_path / "image", MIB)) == ()


@pytest.mark.parametrize("change", ["short", "long", "far", "no header"])
def test_damaged_table(tmp_path: Path, change: str) -> None:
    """Whatever the bytes, there is one kind of error."""
    path = make_qcow2(tmp_path / "image", MIB, snapshots=["one"])
    image = bytearray(path.read_bytes())
    table = int.from_bytes(image[64:72], "big")
    if change == "short":
        del image[table + 20 :]
    elif change == "long":
        image[table + 36 : table + 40] = b"\xff" * 4
    elif change == "far":
        image[64:72] = b"\x7f" + b"\xff" * 7
    else:
        del image[70:]
    path.write_bytes(image)
    with pytest.raises((ValueError, OSError)):
        snapshots_of(path)
