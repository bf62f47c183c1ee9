"""QEMU's programs and our lock keep each other out; the programs are real."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.lab.images import qemu_img
from tests.lab.programs import require_program
from virtomate.duplication.host_images import alone_with, forbid_writing
from virtomate.errors import IllegalStateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image."""
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    return path


@contextmanager
def exported(image: Path, at: Path, *options: str) -> Iterator[None]:
    """The image, open in a qemu-nbd."""
    words = [require_program("qemu-nbd", "qemu-utils"), "-f", "qcow2", "-t", "-k", str(at), *options, str(image)]
    with subprocess.Popen(words) as server:
        try:
            # it listens before it opens the image, and greets afterwards
            while not _is_greeted(at):
                assert server.poll() is None
                time.sleep(0.01)
            yield
        finally:
            server.kill()


def _is_greeted(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(path))
        return client.recv(8) == b"NBDMAGIC"
    return False


@pytest.mark.parametrize("options", [(), ("-r",), ("-r", "--shared=2")])
def test_open_image_is_refused(image: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """An image that qemu-nbd has open is not had alone, whatever that does with it; afterwards it is."""
    with (
        exported(image, tmp_path / "socket", *options),
        pytest.raises(IllegalStateError, match="is open in"),
        alone_with(str(image)),
    ):
        pass

    with alone_with(str(image)) as descriptor:
        assert descriptor is not None
        assert os.fstat(descriptor).st_ino == image.stat().st_ino


@pytest.mark.parametrize("options", [(), ("-r",)])
def test_nobody_opens_it_meanwhile(image: Path, options: tuple[str, ...]) -> None:
    """A qemu-io finds the image locked, even for reading, and open again afterwards."""
    words = [require_program("qemu-io", "qemu-utils"), *options, "-f", "qcow2", "-c", "read 0 512", str(image)]

    with alone_with(str(image)):
        refused = subprocess.run(words, capture_output=True, text=True, check=False)
    allowed = subprocess.run(words, capture_output=True, text=True, check=False)

    assert "lock" in refused.stderr
    assert "read 512/512" not in refused.stdout
    assert "read 512/512" in allowed.stdout


def test_linker_and_deleter_exclude_each_other(image: Path) -> None:
    """Whoever links to an image holds the lock that lets nobody write, and that is not had alone then."""
    with image.open("rb") as file:
        forbid_writing(file.fileno(), str(image))
        with pytest.raises(IllegalStateError, match="is open in"), alone_with(str(image)):
            pass
    with alone_with(str(image)), image.open("rb") as file, pytest.raises(IllegalStateError):
        forbid_writing(file.fileno(), str(image))
    with alone_with(str(image)), pytest.raises(IllegalStateError), alone_with(str(image)):
        pass


@pytest.mark.parametrize("byte", [100, 101, 103, 104, 200, 201, 204])
def test_every_lock_of_qemu_counts(image: Path, byte: int) -> None:
    """Whichever of its locks a QEMU holds, that is enough."""
    with image.open("rb") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        with pytest.raises(IllegalStateError, match="is open in"), alone_with(str(image)):
            pass


def test_lock_is_given_back_after_an_error(image: Path) -> None:
    """Whatever ends the work, the lock ends with it."""
    with suppress(KeyError), alone_with(str(image)):
        raise KeyError

    with alone_with(str(image)) as descriptor:
        assert descriptor is not None


def test_file_is_not_touched(image: Path) -> None:
    """The lock leaves no trace."""
    before = image.stat()

    with alone_with(str(image)):
        pass

    assert image.stat() == before


def test_what_can_only_be_read(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held of a file that may not be written, but whether somebody has it open is seen all the same."""
    real_open = os.open

    def open_(path: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError
        return real_open(path, flags)

    with exported(image, tmp_path / "socket"):
        monkeypatch.setattr(os, "open", open_)
        with pytest.raises(IllegalStateError, match="is open in"), alone_with(str(image)):
            pass
    with alone_with(str(image)) as descriptor:
        assert descriptor is None


@pytest.mark.parametrize("kind", ["missing", "link", "pipe", "directory", "nul", "proc"])
def test_what_is_no_image(tmp_path: Path, image: Path, kind: str) -> None:
    """What is no file is not waited for, and nothing is held."""
    path = tmp_path / kind
    if kind == "link":
        path.symlink_to(image)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()

    with alone_with("/p/\0" if kind == "nul" else str(path)) as descriptor:
        assert descriptor is None


def test_file_system_without_locks(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system knows no such locks, nothing is held, and nothing is in the way."""
    ask = fcntl.fcntl

    def refuse(descriptor: int, command: int, *arguments: bytes) -> int | bytes:
        if command in {fcntl.F_OFD_SETLK, fcntl.F_OFD_GETLK}:
            raise OSError(95, "Operation not supported")
        return ask(descriptor, command, *arguments)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with alone_with(str(image)) as descriptor:
        assert descriptor is None
