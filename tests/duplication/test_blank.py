"""Whether anybody has written to an image; the images are qemu-img's own."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.images import MIB, qemu_img
from tests.lab.programs import require_program
from virtomate.duplication.blank import is_blank

if TYPE_CHECKING:
    from pathlib import Path

LAYOUTS = [
    "compat=0.10",
    "compat=1.1",
    "compat=1.1,preallocation=metadata",
    "compat=0.10,preallocation=falloc",
    "compat=1.1,preallocation=falloc",
    "compat=1.1,preallocation=full",
    "compat=1.1,preallocation=falloc,extended_l2=on,cluster_size=128k",
    "compat=1.1,preallocation=falloc,lazy_refcounts=on,cluster_size=512",
]


def blank(path: Path) -> bool:
    """Ask of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return is_blank(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, format_: str, command: str) -> None:
    """Write as a guest does."""
    subprocess.run([require_program("qemu-io", "qemu-utils"), "-f", format_, "-c", command, path], check=True)


@pytest.mark.parametrize("options", LAYOUTS)
def test_qcow2(tmp_path: Path, options: str) -> None:
    """Tables and reserved space are nothing that was written; one byte of a guest is."""
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", options, path, "33M")
    assert blank(path)

    write(path, "qcow2", "write -P 1 32M 1")

    assert not blank(path)


@pytest.mark.parametrize("preallocation", ["off", "falloc", "full"])
def test_raw(tmp_path: Path, preallocation: str) -> None:
    """Zeroes are nothing, reserved or written; one byte is something."""
    path = tmp_path / "image.raw"
    qemu_img("create", "-f", "raw", "-o", f"preallocation={preallocation}", path, "3M")
    assert blank(path)

    write(path, "raw", f"write -P 1 {3 * MIB - 1} 1")

    assert not blank(path)


def test_compressed(tmp_path: Path) -> None:
    """A compressed cluster is something."""
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", path, "3M")

    write(path, "qcow2", "write -c -P 0 0 64k")

    assert not blank(path)


@pytest.mark.parametrize("more", [("snapshot", "-c", "before"), ("bitmap", "--add")])
def test_more_than_a_disk(tmp_path: Path, more: tuple[str, ...]) -> None:
    """An image that somebody has given a snapshot or a bitmap is somebody's."""
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", path, "3M")
    qemu_img(*more, path, *(["name"] if more[0] == "bitmap" else []))

    assert not blank(path)


@pytest.mark.parametrize(
    "content", [b"QFI\xfb" + bytes(100), b"KDMV" + bytes(600), b"QFI\xfb\0\0\0\x03" + b"\xff" * 600]
)
def test_nonsense(tmp_path: Path, content: bytes) -> None:
    """Of what cannot be read, nobody can tell."""
    path = tmp_path / "image"
    path.write_bytes(content)

    assert not blank(path)
