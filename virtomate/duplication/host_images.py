"""Images that can be seen from here: read without opening anything else, and locked with QEMU's locks.

A definition can name any path: a kernel at `/proc/kmsg`, a disk at a pipe or a terminal. Only regular files and block
devices are opened, and none in a file system that the kernel makes up.

Each QEMU, qemu-nbd, qemu-img and clone of ours that has an image open holds shared locks on some of its bytes: one for
each operation that is performed, and one for each operation that is forbidden to others. A program with exclusive locks
on all of these bytes is alone with the image. The locks belong to the open file, so closing the file releases them. A
loop device takes none of these locks.

Source: https://gitlab.com/qemu-project/qemu/-/blob/master/block/file-posix.c (RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE)
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from virtomate.duplication.image_headers import HEADER_BYTES, LONG_HEADER_BYTES, ImageLinks, read_links
from virtomate.errors import IllegalStateError

if TYPE_CHECKING:
    from collections.abc import Iterator

# should a pipe or a terminal take the place of the file meanwhile
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# File systems without files of anybody's: https://docs.kernel.org/filesystems/
_MADE_UP = frozenset(
    {
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl"),
        *("mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)

# fcntl(2): struct flock on 64-bit Linux
_FLOCK = struct.Struct("hhqqi4x")
# the bytes for operations that are performed, and for those that are forbidden; QEMU has used five of each so far
_RANGES = ((100, 64), (200, 64))
_TAKEN = frozenset({errno.EAGAIN, errno.EACCES})
# the bytes for "reads" and "writes", and the byte for "lets nobody else write"
_READS, _WRITES, _FORBIDS_WRITING = 100, 101, 201

_BLOCK_DEVICES = "/sys/block"
_MOUNTS = "/proc/self/mountinfo"
_SHUT_DOWN = "Shut the guest down, or end the program (qemu-nbd, qemu-img): fuser shows which one it is."


def made_up_devices() -> frozenset[int]:
    """Return the device numbers of mounted file systems that the kernel makes up (proc_pid_mountinfo(5))."""
    devices = set()
    # a mount point may have a carriage return in its name
    with suppress(OSError), open(_MOUNTS, encoding="utf-8", errors="replace", newline="\n") as mounts:
        for line in mounts:
            fields = line.split(" ")
            if fields[fields.index("-") + 1] in _MADE_UP:
                major, _, minor = fields[2].partition(":")
                devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def may_be_image(status: os.stat_result, made_up: frozenset[int] = frozenset()) -> bool:
    """Return whether a file with this status, outside of made-up file systems, can be an image."""
    return (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)) and status.st_dev not in made_up


def read_links_here(path: str, made_up: frozenset[int]) -> ImageLinks | None:
    """Return the other files that an image needs; None for a file that is no image.

    Raises:
        OSError: The image cannot be read.
        ValueError: No file can have this path.
    """
    head = read_head_here(path, made_up)
    if head is None:
        return None
    links = read_links(head)
    if links.needs_more and (longer := read_head_here(path, made_up, LONG_HEADER_BYTES)) is not None:
        return read_links(longer)
    return links


def read_head_here(path: str, made_up: frozenset[int], length: int = HEADER_BYTES) -> bytes | None:
    """Return the first bytes of an image; for the rest see `read_links_here`."""
    if not may_be_image(os.stat(path), made_up):
        return None
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        return _read(descriptor, length) if may_be_image(os.fstat(descriptor), made_up) else None
    finally:
        os.close(descriptor)


def _read(descriptor: int, length: int) -> bytes:
    head = b""
    while len(head) < length and (piece := os.pread(descriptor, length - len(head), len(head))):
        head += piece
    return head


def forbid_writing(descriptor: int, path: str) -> None:
    """Hold QEMU's shared lock on an image until its descriptor is closed, so that no QEMU opens the image for writing.

    Nothing is locked on a file system without such locks.

    Raises:
        IllegalStateError: A QEMU has the image open for writing, or somebody is about to delete it.
    """
    try:
        for byte in (_READS, _FORBIDS_WRITING):
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITES, 1, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question)
    except OSError as error:
        if error.errno not in _TAKEN:
            return
        raise IllegalStateError(
            f"'{path}' is locked by another program", hint="See what that does with it, and try again afterwards."
        ) from error
    if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
        raise IllegalStateError(f"'{path}' is open for writing in a running guest or in another program", _SHUT_DOWN)


@contextmanager
def alone_with(path: str) -> Iterator[int | None]:
    """Hold QEMU's exclusive lock on an image, if the file can be seen and opened here; a link is not followed.

    A file that can be read but not written cannot be locked; then no other program had the file open at this moment.

    Yields:
        The descriptor of the locked file; None where nothing could be locked.

    Raises:
        IllegalStateError: Another program has the file open.
    """
    descriptor = _open(path)
    if descriptor is None:
        yield None
        return
    try:
        yield descriptor if _lock(descriptor, path) else None
    finally:
        os.close(descriptor)


def _open(path: str) -> int | None:
    for access in (os.O_RDWR, os.O_RDONLY):
        with suppress(OSError, ValueError):
            if not may_be_image(os.lstat(path)):
                return None
            descriptor = os.open(path, access | os.O_NOFOLLOW | _FLAGS)
            if may_be_image(os.fstat(descriptor)):
                return descriptor
            os.close(descriptor)
    return None


def _lock(descriptor: int, path: str) -> bool:
    """Take the lock; return False where the file system has no locks, or the file cannot be written."""
    is_writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    # a file that is open for reading alone can only be asked for locks
    command = fcntl.F_OFD_SETLK if is_writable else fcntl.F_OFD_GETLK
    for start, length in _RANGES:
        try:
            answer = fcntl.fcntl(descriptor, command, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
        except OSError as error:
            if error.errno in _TAKEN:
                raise _taken(path) from error
            return False
        if not is_writable and _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
            raise _taken(path)
    return is_writable


def _taken(path: str) -> IllegalStateError:
    return IllegalStateError(f"'{path}' is open in a running guest or in another program", _SHUT_DOWN)


def loop_device_over(path: str) -> str | None:
    """Return a loop device with its content in a file, None where there is none.

    Source: Documentation/ABI/testing/sysfs-block of Linux (loop/backing_file).
    """
    try:
        wanted = os.stat(path)
        devices = sorted(name for name in os.listdir(_BLOCK_DEVICES) if name.startswith("loop"))
    except (OSError, ValueError):
        return None
    for device in devices:
        # the device was taken down meanwhile, or its file was deleted
        with suppress(OSError, ValueError), open(f"{_BLOCK_DEVICES}/{device}/loop/backing_file", "rb") as link:
            if os.path.samestat(os.stat(link.read().rstrip(b"\n")), wanted):
                return f"/dev/{device}"
    return None
