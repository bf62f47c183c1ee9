"""Processes of the lab as the kernel knows them: which one runs a domain, and whether it has something to read."""

import ctypes
import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PIDFD_GETFD = 438


def qemu_of(domain: Any) -> int:
    """Return the QEMU of a running domain, which is a process in a namespace below ours."""
    words = f"-uuid\0{domain.UUIDString()}\0".encode()
    for place in Path("/proc").glob("[0-9]*"):
        # The process is gone where it has ended meanwhile.
        with suppress(OSError):
            if words in (place / "cmdline").read_bytes():
                return int(place.name)
    raise RuntimeError(f"domain '{domain.name()}' has no QEMU")


def has_unread(process: int) -> bool:
    """Tell whether somebody has sent a process something that it has not read, to any of its sockets. Needs root."""
    return any(_count_unread(process, number) for number in _sockets(process))


def _sockets(process: int) -> Iterator[int]:
    for path in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):
            if str(path.readlink()).startswith("socket:"):
                yield int(path.name)


def _count_unread(process: int, number: int) -> int:
    with _copied(process, number) as descriptor:
        answer = bytearray(struct.calcsize("i"))
        # A socket that listens has nothing to read.
        with suppress(OSError):
            fcntl.ioctl(descriptor, termios.FIONREAD, answer)
        return int(struct.unpack("i", answer)[0])


@contextmanager
def _copied(process: int, number: int) -> Iterator[int]:
    """Have a descriptor of another process for the time of the block (pidfd_getfd(2))."""
    pidfd = os.pidfd_open(process)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, number, 0)
        if copy < 0:
            raise OSError(ctypes.get_errno(), f"cannot copy descriptor {number} of process {process}")
        try:
            yield copy
        finally:
            os.close(copy)
    finally:
        os.close(pidfd)
