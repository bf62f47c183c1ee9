"""Images are read where they can be seen, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.lab.images import qemu_img
from virtomate.duplication.host_images import made_up_devices, read_links_here
from virtomate.duplication.image_headers import ImageLinks

MADE_UP = made_up_devices()


def test_image_is_read(tmp_path: Path) -> None:
    """An image tells what it rests on, also through a link."""
    base, overlay, link = tmp_path / "base", tmp_path / "overlay", tmp_path / "link"
    qemu_img("create", "-q", "-f", "raw", base, "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
    link.symlink_to(overlay)

    assert read_links_here(str(link), MADE_UP) == ImageLinks("qcow2", str(base), "raw")
    assert read_links_here(str(base), MADE_UP) == ImageLinks()


def test_more_is_read_where_that_is_needed(tmp_path: Path) -> None:
    """A descriptor may be longer than what is read at first."""
    image = tmp_path / "image"
    image.write_text("# Disk DescriptorFile\nversion=1\n" + "#\n" * 5000 + 'RW 2 FLAT "flat" 0\n', encoding="utf-8")

    assert read_links_here(str(image), MADE_UP) == ImageLinks("vmdk", data=("flat",))


def test_mount_point_with_a_carriage_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel escapes blanks and line feeds in the names of mount points, and no carriage returns."""
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(b"30 1 0:26 / /a\rb rw - ext4 /dev/a rw\n31 1 0:27 / /proc rw shared:1 - proc proc rw\n")
    monkeypatch.setattr("virtomate.duplication.host_images._MOUNTS", str(mounts))

    assert made_up_devices() == {os.makedev(0, 27)}


@pytest.mark.parametrize(
    "path", ["/proc/kmsg", "/proc/self/status", "/sys/kernel/uevent_seqnum", "/dev/null", "/dev/tty", "/"]
)
def test_nothing_else_is_opened(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no image is not even opened, be it a file of the kernel's, a terminal or a directory."""
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments))

    assert read_links_here(path, MADE_UP) is None
    assert opened == []


def test_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is none either, not even one that takes the place of a file at the last moment."""
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.touch()
    assert read_links_here(str(pipe), MADE_UP) is None

    status = file.stat()
    monkeypatch.setattr(os, "stat", lambda _: status)
    answers: list[ImageLinks | None] = []
    thread = threading.Thread(target=lambda: answers.append(read_links_here(str(pipe), MADE_UP)), daemon=True)
    thread.start()
    thread.join(30)

    assert answers == [None]


@pytest.mark.parametrize(
    ("path", "number"), [("missing", errno.ENOENT), ("file/below", errno.ENOTDIR), ("x" * 300, errno.ENAMETOOLONG)]
)
def test_unreadable(tmp_path: Path, path: str, number: int) -> None:
    """Why an image cannot be read is told as the system tells it."""
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match=r".") as raised:
        read_links_here(str(tmp_path / path), MADE_UP)

    assert raised.value.errno == number


def test_made_up_file_systems() -> None:
    """The file systems of the kernel are known by their devices, and the one with our files is none of them."""
    assert Path("/proc").stat().st_dev in MADE_UP
    assert Path("/sys").stat().st_dev in MADE_UP
    assert Path(__file__).stat().st_dev not in MADE_UP
    assert Path("/proc/self/status").is_file(), "or the file system would not have to be looked at"
