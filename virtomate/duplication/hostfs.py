"""Files of the daemon that can be seen from here.

A path that exists here proves nothing: the daemon may be in a container, in another mount namespace, or behind a
forwarded socket. A file's times, to the nanosecond, and its length prove that both see the same file: libvirt reports
them, and two files with one path do not share them by accident. Calls that Python lacks go to the C library.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from virtomate.errors import IllegalStateError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.definition.volume import VolumeDescription

NANOSECONDS = 1_000_000_000

# statx(2) and <linux/stat.h>: offsets of stx_mask, and of stx_btime (64 bits of seconds, 32 of nanoseconds)
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_STATX_BUFFER_BYTES = 256
_STX_MASK = 0
_STX_BTIME = 80

# ioctl_ficlone(2), ioctl_iflags(2)
_FICLONE = 0x40049409
_NO_REFLINKS = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS})
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_NOCOW_FL = 0x00800000

_BTRFS_IOC_FS_INFO = 0x8400941F
_BTRFS_FS_INFO_BYTES = 1024
_BTRFS_FSID = slice(16, 32)

# fallocate(2)
_KEEP_SIZE = 1
_PUNCH_HOLE = 2

# statfs(2), <linux/magic.h>: bcachefs, Btrfs, CIFS, Ceph, FUSE, NFS, overlayfs, SMB2, ZFS; f_type is the first field
_STATFS_BUFFER_BYTES = 256
_MAGIC_MASK = 0xFFFFFFFF
_UNRESERVING = frozenset(
    (0xCA451A4E, 0x9123683E, 0xFF534D42, 0x00C36400, 0x65735546, 0x6969, 0x794C7630, 0xFE534D42, 0x2FC12FC1)
)

# Of these, the file systems that write changed data to another place, and may compress it: bcachefs, Btrfs, ZFS.
_COPYING_ON_WRITE = frozenset((0xCA451A4E, 0x9123683E, 0x2FC12FC1))

# File systems that may number a file anew with each mount: 9P, CIFS, FUSE, SMB2, vboxsf.
_WITHOUT_INODES = frozenset((0x01021997, 0xFF534D42, 0x65735546, 0xFE534D42, 0x786F4256))

# sync_file_range(2): WRITE alone, and with WAIT_BEFORE and WAIT_AFTER
_SYNC_WRITE = 2
_SYNC_WRITE_AND_WAIT = 1 | 2 | 4
# The C library (0), the file system or a filter of system calls has no such call; no errors of writing.
_NO_SYNC = frozenset({0, errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EPERM})


def visible_status(volume: VolumeDescription) -> os.stat_result | None:
    """Return the status of the volume's file if the path leads to that very file here, else None."""
    with suppress(OSError, ValueError):
        status = os.lstat(volume.path)
        return status if _is_of(status, volume) else None
    return None


def with_identity(volume: VolumeDescription) -> VolumeDescription:
    """Return the volume with its inode number and birth time, if its file can be seen here and keeps them."""
    status = visible_status(volume)
    if status is None or _magic(volume.path) in _WITHOUT_INODES:
        return volume
    return volume._replace(inode=status.st_ino, birth_time=birth_time(volume.path))


def find_obstacle(volume: VolumeDescription) -> str | None:
    """Return why a copy of the volume, with the original's owner, cannot be written here; None for no obstacle."""
    try:
        status = os.lstat(volume.path)
    except (OSError, ValueError) as error:
        return f"its file cannot be seen here ({error.strerror if isinstance(error, OSError) else error})"
    if not _is_of(status, volume):
        return "its file cannot be seen here: its path leads to a file that is not the file that libvirt tells of"
    if not os.access(volume.path, os.R_OK):
        return "its file cannot be read here"
    if os.geteuid() not in {0, status.st_uid}:
        return "a copy gets the same owner, another user, and cannot be written here"
    return None


def can_be_copied_here(path: str) -> bool:
    """Return whether the file at a path can be read here, and a copy be written; the file may not be the daemon's."""
    with suppress(OSError, ValueError):
        status = os.lstat(path)
        return stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK) and os.geteuid() in {0, status.st_uid}
    return False


def open_visible(volume: VolumeDescription, flags: int, *, follow_link: bool = False) -> int | None:
    """Open the volume's file, and compare the open file with libvirt's report; None where that fails."""
    try:
        descriptor = os.open(volume.path, flags | os.O_CLOEXEC | (0 if follow_link else os.O_NOFOLLOW))
    except (OSError, ValueError):
        return None
    if _is_of(os.fstat(descriptor), volume):
        return descriptor
    os.close(descriptor)
    return None


def refuse_link(path: str) -> None:
    """Raise IllegalStateError for a symbolic link where a file was before: somebody else writes to the directory."""
    if os.path.islink(path):
        raise IllegalStateError(
            f"'{path}' has become a symbolic link meanwhile, and is not followed",
            hint="Find out who can write to its directory, and why they did.",
        )


def file_system(directory: str) -> bytes | int | None:
    """Return what identifies a directory's file system here; None where the directory cannot be opened.

    The subvolumes of one Btrfs share data but not device numbers, so a Btrfs is identified by its UUID
    (BTRFS_IOC_FS_INFO in <linux/btrfs.h>).
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        answer = bytearray(_BTRFS_FS_INFO_BYTES)
        with suppress(OSError):
            fcntl.ioctl(descriptor, _BTRFS_IOC_FS_INFO, answer)
            return bytes(answer[_BTRFS_FSID])
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def is_reserving(directory: str) -> bool | None:
    """Return whether space that is allocated beforehand is certainly there later; None where that cannot be told here.

    A file system that writes to another place than before (copy on write), or that another host keeps, promises
    nothing. The magic numbers are those of statfs(2).
    """
    magic = _magic(directory)
    return None if magic is None else magic not in _UNRESERVING


def copies_on_write(descriptor: int) -> bool:
    """Return whether the file system writes changed data of an open file to another place.

    Such a file system does not compress what was allocated beforehand.
    """
    if _magic(f"/proc/self/fd/{descriptor}") not in _COPYING_ON_WRITE:
        return False
    with suppress(OSError):
        return not _flags(descriptor) & _FS_NOCOW_FL
    return True


def _magic(path: str) -> int | None:
    """Return the magic number of a path's file system (statfs(2)), None where that cannot be told here."""
    import ctypes  # noqa: PLC0415 - see _call_libc

    answer = ctypes.create_string_buffer(_STATFS_BUFFER_BYTES)
    if _call_libc("statfs", os.fsencode(path), answer) != 0:
        return None
    (magic,) = struct.unpack_from("=Q", answer)
    return int(magic & _MAGIC_MASK)


def punch_holes(descriptor: int) -> None:
    """Give back all space of a file that holds no data; the file reads as before, and has its length.

    Where the file system cannot do that, nothing happens. What is allocated and unwritten counts as a hole only when
    all that was written is on the disk, and nothing that was read is in the page cache.
    """
    from ctypes import c_int64  # noqa: PLC0415 - see _call_libc

    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    size = os.fstat(descriptor).st_size
    offset, mode = 0, _PUNCH_HOLE | _KEEP_SIZE
    for begin, end in (*data_extents(descriptor, 0, size), (size, size)):
        length = begin - offset
        if length > 0 and _call_libc("fallocate", descriptor, mode, c_int64(offset), c_int64(length)) != 0:
            return
        offset = end


def birth_time(path: str) -> int | None:
    """Return the birth time of a file, in nanoseconds since 1970; None where the file system does not keep it."""
    import ctypes  # noqa: PLC0415 - see _call_libc

    answer = ctypes.create_string_buffer(_STATX_BUFFER_BYTES)
    if _call_libc("statx", _AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, answer) != 0:
        return None
    (mask,) = struct.unpack_from("=I", answer, _STX_MASK)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _STX_BTIME)
    return int(seconds * NANOSECONDS + nanoseconds) if mask & _STATX_BTIME else None


def reflink(target: int, source: int, path: str) -> None:
    """Let an empty file share all data of another file, or raise UnsupportedError."""
    match_copy_on_write(target, source)
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in {*_NO_REFLINKS, errno.EXDEV, errno.EINVAL}:
            raise
        raise _unsupported(path, error) from error


def require_reflinks(directory: str, path: str) -> bool:
    """Try with a nameless file whether a directory allows reflinks; return False where that cannot be tried.

    Raises:
        UnsupportedError: The directory certainly allows no reflink of `path`.
    """
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    except (OSError, ValueError):
        return False
    try:
        # an empty file onto itself: nothing is done where reflinks are possible
        fcntl.ioctl(descriptor, _FICLONE, descriptor)
    except OSError as error:
        if error.errno in _NO_REFLINKS:
            raise _unsupported(path, error) from error
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _unsupported(path: str, error: OSError) -> UnsupportedError:
    return UnsupportedError(
        f"'{path}' cannot be reflinked: its file system does not support reflinks ({os.strerror(error.errno or 0)})",
        hint="Use --mode copy or --mode linked, or keep the volumes on Btrfs, or on XFS made with reflink=1.",
    )


def match_copy_on_write(target: int, source: int) -> None:
    """Give an empty file the no-COW attribute of another: libvirt sets it in Btrfs pools, and Btrfs reflinks equals."""
    with suppress(OSError):
        wanted = _flags(source) & _FS_NOCOW_FL
        flags = _flags(target)
        if flags & _FS_NOCOW_FL != wanted:
            flags = flags & ~_FS_NOCOW_FL | wanted
            fcntl.ioctl(target, _FS_IOC_SETFLAGS, struct.pack("l", flags))


def data_extents(descriptor: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file between two offsets that hold data, each as its begin and its end."""
    offset = begin
    while offset < end:
        try:
            data = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if data >= end:
            return
        hole = min(os.lseek(descriptor, data, os.SEEK_HOLE), end)
        yield data, hole
        offset = hole


def write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of the data at an offset."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def is_cached(descriptor: int, offset: int) -> bool:
    """Return whether the page at an offset is in the page cache; True where that is unknown."""
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def write_back(descriptor: int, offset: int, length: int, *, wait: bool) -> None:
    """Have the kernel begin to write a range to the disk, and perhaps wait for the end; fdatasync makes the range safe.

    A file system or C library without this call just writes later.

    Raises:
        OSError: What was waited for could not be written. The kernel tells that once, and not again at fdatasync.
    """
    import ctypes  # noqa: PLC0415 - see _call_libc

    flags = _SYNC_WRITE_AND_WAIT if wait else _SYNC_WRITE
    ctypes.set_errno(0)
    if _call_libc("sync_file_range", descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), flags) != 0 and wait:
        number = ctypes.get_errno()
        if number not in _NO_SYNC:
            raise OSError(number, os.strerror(number))


def _call_libc(name: str, *arguments: object) -> int:
    """Call a function of the C library and return its result; -1 also where the library lacks the function.

    A Python integer is passed as a C int.
    """
    function = _libc_function(name)
    return -1 if function is None else int(function(*arguments))


@cache
def _libc_function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library, once: the look-up takes as long as some calls."""
    import ctypes  # noqa: PLC0415 - commands that only look at definitions do not need it

    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


def _flags(descriptor: int) -> int:
    (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, struct.pack("l", 0)))
    return int(flags)


def _is_of(status: os.stat_result, volume: VolumeDescription) -> bool:
    is_alike = stat.S_ISREG(status.st_mode) and status.st_size == volume.physical
    return (
        # libvirt tells no size of a directory
        (stat.S_ISDIR(status.st_mode) if volume.is_directory else is_alike)
        and status.st_ctime_ns == nanoseconds(volume.changed)
        and status.st_mtime_ns == nanoseconds(volume.modified)
    )


def nanoseconds(time: str | None) -> int:
    """Return a time of libvirt's, `SECONDS.NANOSECONDS`, in nanoseconds; 0 for None."""
    seconds, _, nanoseconds = (time or "0").partition(".")
    return int(seconds) * NANOSECONDS + int(nanoseconds or 0)
