"""QEMU's locks on an image: the shared lock of a reader, and the exclusive lock of a program that is alone with it.

Each QEMU, qemu-nbd, qemu-img and clone of ours that has an image open holds shared locks on some of its bytes: one for
each operation that it performs, and one for each operation that it forbids to others. A program with exclusive locks on
all of these bytes is alone. The locks belong to the open file, so closing the file always releases them.

Source: https://gitlab.com/qemu-project/qemu/-/blob/master/block/file-posix.c (RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE)
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.duplication.host_images import may_be_image
from virtomate.errors import IllegalStateError

if TYPE_CHECKING:
    from collections.abc import Iterator

# fcntl(2): struct flock on 64-bit Linux
_FLOCK = struct.Struct("hhqqi4x")
# the bytes for operations that are performed, and for those that are forbidden; QEMU has used five of each so far
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
    """Hold QEMU's exclusive lock on an image, if its file can be seen and opened here; a link is not followed.

    A file that can be read but not written cannot be locked; then no other program had it open at this moment.

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
    try:
        if not may_be_image(os.lstat(path)):
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
            if may_be_image(os.fstat(descriptor)):
                return descriptor
            os.close(descriptor)
            return None
    except (OSError, ValueError):
        pass
    return None


def _lock(descriptor: int, path: str) -> bool:
    """Take the lock; return False where the file system has no locks, or the file cannot be written."""
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
