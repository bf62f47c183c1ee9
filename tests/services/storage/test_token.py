"""Tokens on files: put, read, and where they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.duplication.volumes import described
from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.image_headers import HEADER_BYTES
from virtomate.duplication.transfers.link import overlay_image
from virtomate.services.storage.artifacts.looking import ATTRIBUTE, put_token, read_attribute, read_header_token

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "11111111-2222-4333-8444-555555555555:0123456789abcdef"


def write_overlay(path: Path, base: Path, capacity: int) -> None:
    """Write an overlay as a linked clone gets it."""
    image = overlay_image(capacity, str(base), "raw", TOKEN, has_subclusters=True)
    with path.open("wb") as file:
        file.truncate(image.size)
        for offset, data in image.pieces:
            file.seek(offset)
            file.write(data)


def test_token_is_on_the_file_and_the_file_is_still_recognised(tmp_path: Path) -> None:
    """To put a token on a file changes its change time, which the file is known by: the new one is returned."""
    path = tmp_path / "a.raw"
    path.touch()
    before = described(path)

    after = put_token(before, TOKEN)

    assert after is not None
    assert open_visible(before, os.O_RDONLY) is None or after.changed == before.changed
    descriptor = open_visible(after, os.O_RDONLY)
    assert descriptor is not None
    assert read_attribute(descriptor) == TOKEN
    os.close(descriptor)


def test_no_token_is_put_on_another_file(tmp_path: Path) -> None:
    """What is not the file that libvirt tells of, or not there, gets none."""
    path = tmp_path / "a.raw"
    path.touch()

    assert put_token(described(path)._replace(physical=1), TOKEN) is None
    assert put_token(described(path)._replace(path=str(tmp_path / "b.raw")), TOKEN) is None
    assert os.listxattr(path) == []


def test_copy_with_attributes_takes_the_token_along(tmp_path: Path) -> None:
    """Which is why inode and birth time are compared as well."""
    path = tmp_path / "a.raw"
    path.touch()
    put_token(described(path), TOKEN)

    shutil.copy2(path, tmp_path / "b.raw")

    assert os.getxattr(tmp_path / "b.raw", ATTRIBUTE) == TOKEN.encode()


def test_overlay_keeps_its_token_whatever_qemu_does_with_it(tmp_path: Path) -> None:
    """QEMU rewrites the header with extensions that it does not know; only a conversion makes another file."""
    base, overlay = tmp_path / "base.raw", tmp_path / "over.qcow2"
    capacity = 8 * 1024 * 1024
    base.touch()
    os.truncate(base, capacity)
    write_overlay(overlay, base, capacity)
    for words in (
        ["qemu-io", "-c", "write -P 7 1M 64k", overlay],
        ["qemu-img", "snapshot", "-c", "one", overlay],
        ["qemu-img", "bitmap", "--add", overlay, "b"],
        ["qemu-img", "resize", "-q", overlay, "+1M"],
        ["qemu-img", "amend", "-o", "lazy_refcounts=on", overlay],
        ["qemu-img", "rebase", "-u", "-F", "raw", "-b", base, overlay],
        ["qemu-img", "check", "-q", "-r", "all", overlay],
        ["qemu-img", "rebase", "-b", "", overlay],
    ):
        subprocess.run(list(map(str, words)), check=True, capture_output=True)
        with overlay.open("rb") as file:
            assert read_header_token(file.read(HEADER_BYTES)) == TOKEN, words

    subprocess.run(["qemu-img", "convert", "-O", "qcow2", overlay, tmp_path / "flat"], check=True)
    assert read_header_token((tmp_path / "flat").read_bytes()[:HEADER_BYTES]) is None


def test_what_is_no_overlay_has_no_header_token() -> None:
    """Whatever a guest wrote at the beginning of its raw disk."""
    for head in (b"", b"QFI\xfb", bytes(HEADER_BYTES), b"QFI\xfb\0\0\0\3" + bytes(200)):
        assert read_header_token(head) is None
