"""QEMU's locks on an image: the shared one of who reads it, and the exclusive one of who is alone with it.

Every QEMU, qemu-nbd, qemu-img and linker of ours that has an image open holds shared locks on some of its bytes: one
for each thing that it does with the image, and one for each thing that it lets nobody else do. Whoever holds exclusive
locks on all of them is alone. The locks belong to the open file, so that closing it gives them back, whatever happens.

Source: https://gitlab.com/qemu-project/qemu/-/blob/master/block/file-posix.c (RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE)
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.errors import IllegalStateError

if TYPE_CHECKING:
    from collections.abc import Iterator

# fcntl(2): struct flock on 64-bit Linux
_FLOCK = struct.Struct("hhqqi4x")
# the bytes for what is done with an image, and for what others may not do; QEMU has used five of each so far
_RANGES = ((100, 64), (200, 64))
_TAKEN = frozenset({errno.EAGAIN, errno.EACCES})
# the bytes for "reads" and "writes", and the one for "lets nobody else write"
_READS = 100
_WRITES = 101
_FORBIDS_WRITING = 201


def forbid_writing(descriptor: int, path: str) -> None:
    """Hold QEMU's shared lock on an image until its descriptor is closed, so that no QEMU opens it for writing.

    A file system without such locks goes without.

    Raises:
        IllegalStateError: A QEMU has it open for writing, or somebody is about to delete it.
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
        raise IllegalStateError(
            f"'{path}' is open for writing in a running guest or in another program",
            hint="Shut the guest down, or end the program (qemu-nbd, qemu-img): fuser shows which one it is.",
        )


@contextmanager
def alone_with(path: str) -> Iterator[int | None]:
    """Hold QEMU's exclusive lock on an image, if its file can be seen and opened here.

    A symbolic link is not followed. Where the file may be read but not written, nothing can be held, and that nobody
    has it open is all that is made sure of.

    Args:
        path: Path of a regular file or a block device.

    Yields:
        The descriptor of the file that is locked, which tells which file that is; None where nothing could be locked.

    Raises:
        IllegalStateError: Somebody has it open.
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
    try:
        if not _may_be_image(os.lstat(path)):
            return None
        for access in (os.O_RDWR, os.O_RDONLY):
            try:
                descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except PermissionError:
                continue
            except OSError as error:
                if error.errno in {errno.EROFS, errno.ETXTBSY}:
                    continue
                raise
            if _may_be_image(os.fstat(descriptor)):
                return descriptor
            os.close(descriptor)
            return None
    except (OSError, ValueError):
        pass
    return None


def _may_be_image(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _lock(descriptor: int, path: str) -> bool:
    """Take the lock; False where it cannot be held, since the file system has none or the file is not to be written."""
    for start, length in _RANGES:
        wish = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wish)
        except OSError as error:
            if error.errno in _TAKEN:
                raise _taken(path) from error
            if error.errno != errno.EBADF:
                return False
            # it is open for reading alone, which is enough to ask
            if _is_locked(descriptor, wish):
                raise _taken(path) from error
            continue
    return _is_writable(descriptor)


def _is_locked(descriptor: int, wish: bytes) -> bool:
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wish)
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _is_writable(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _taken(path: str) -> IllegalStateError:
    return IllegalStateError(
        f"'{path}' is open in a running guest or in another program",
        hint="Shut the guest down, or end the program (qemu-nbd, qemu-img): fuser shows which one it is.",
    )
