"""Block devices that can be seen from here.

A node in `/dev` proves nothing: the daemon may have a `/dev` of its own, or be on another host. The times of the node,
to the nanosecond, and the size of the device prove that both see the same node: libvirt reports them as of the last
refresh of the pool, and the kernel changes the times of a node whose device is written through the node.

Sources: open(2) about O_EXCL, <linux/fs.h>, Documentation/ABI/stable/sysfs-block and Documentation/block/stat.rst of
Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.duplication.host_images import forbid_writing
from virtomate.duplication.hostfs import nanoseconds, write
from virtomate.errors import IllegalStateError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.volume import VolumeDescription

_BLKZEROOUT = 0x127F
UNIT_BYTES = 4096
_ZERO_UNIT = bytes(UNIT_BYTES)
_ZEROES = bytes(1024 * 1024)
_SECTOR_BYTES = 512
_SECTORS_WRITTEN = 6
# Another run that looks at the same moment has the device for itself, too.
_EXCLUSIVE_SECONDS = 1


class SeenDevice(NamedTuple):
    """A block device that is open here.

    Attributes:
        sectors_written: How many sectors were written since the host knows the device; None where that is not told.
    """

    descriptor: int
    sectors_written: int | None


def open_device(volume: VolumeDescription, flags: int) -> int | None:
    """Open the device of a volume here; None where that fails, or nothing proves that the device is the daemon's.

    A device in no storage pool has no times; the caller has compared what there is. A device that is written to must be
    nobody else's.
    """
    if flags & os.O_ACCMODE != os.O_RDONLY:
        flags |= os.O_EXCL
    try:
        descriptor = os.open(volume.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    with suppress(OSError):
        status = os.fstat(descriptor)
        is_known = volume.changed is None and not volume.pool
        is_same = is_known or (status.st_ctime_ns, status.st_mtime_ns) == (
            nanoseconds(volume.changed),
            nanoseconds(volume.modified),
        )
        if stat.S_ISBLK(status.st_mode) and is_same and size_of(descriptor) == volume.physical:
            return descriptor
    os.close(descriptor)
    return None


def size_of(descriptor: int) -> int:
    """Return the size of an open device in bytes."""
    return os.lseek(descriptor, 0, os.SEEK_END)


def device_bytes(number: int) -> int:
    """Return the size of the device with a number, which need not be opened for that; 0 for none."""
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/size", encoding="ascii") as file:
            return int(file.read()) * _SECTOR_BYTES
    except (OSError, ValueError):
        return 0


def find_device_obstacle(volume: VolumeDescription) -> str | None:
    """Return why the device of a volume cannot be read here; None for no obstacle."""
    try:
        if not stat.S_ISBLK(os.stat(volume.path).st_mode):
            return "its path leads to no block device here"
    except (OSError, ValueError) as error:
        return f"its device cannot be seen here ({error.strerror if isinstance(error, OSError) else error})"
    if not os.access(volume.path, os.R_OK):
        return "its device cannot be read here"
    if (descriptor := open_device(volume, os.O_RDONLY)) is None:
        return "nothing proves that the device with its path here is the one that libvirt tells of"
    os.close(descriptor)
    return None


def refuse_used_device(volume: VolumeDescription) -> None:
    """Raise IllegalStateError for a device that a file system, LVM or the like on this host uses."""
    if is_used_device(volume.path):
        raise IllegalStateError(
            f"'{volume.path}' is mounted or otherwise in use on this host",
            hint="Unmount it first: a copy of a mounted file system is damaged.",
        )


def is_used_device(path: str) -> bool:
    """Return whether a file system, LVM or the like on this host uses a device.

    A guest, or a program that reads the device, has it not for itself.
    """
    for _ in backoff(_EXCLUSIVE_SECONDS):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.EBUSY:
                continue
        else:
            os.close(descriptor)
        return False
    return True


def watch_device(volume: VolumeDescription) -> SeenDevice | None:
    """Open the device of a volume with QEMU's shared lock, and count what was written to it; None where not seen.

    Raises:
        IllegalStateError: A guest has the device open for writing.
    """
    descriptor = open_device(volume, os.O_RDONLY)
    if descriptor is None:
        return None
    try:
        forbid_writing(descriptor, volume.path)
        return SeenDevice(descriptor, _sectors_written(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def is_unwritten(device: SeenDevice) -> bool:
    """Return whether nothing was written to a device since it was opened, as far as this host knows."""
    return device.sectors_written is None or _sectors_written(device.descriptor) == device.sectors_written


def _sectors_written(descriptor: int) -> int | None:
    """Return how many sectors of a device were written; what waits in memory is written before."""
    try:
        os.fsync(descriptor)
        number = os.fstat(descriptor).st_rdev
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat", encoding="ascii") as file:
            return int(file.read().split()[_SECTORS_WRITTEN])
    except (OSError, ValueError, IndexError):
        return None


def zero_range(descriptor: int, begin: int, end: int) -> None:
    """Have a part of a device read as zeroes, whatever was there before."""
    sector = min(-(-begin // _SECTOR_BYTES) * _SECTOR_BYTES, end)
    write(descriptor, _ZEROES[: sector - begin], begin)
    begin = sector
    with suppress(OSError):
        # the device itself may be able to do that without a transfer; the kernel wants whole sectors
        fcntl.ioctl(descriptor, _BLKZEROOUT, struct.pack("QQ", begin, end - begin))
        return
    while begin < end:
        length = min(len(_ZEROES), end - begin)
        write(descriptor, _ZEROES[:length], begin)
        begin += length


def runs_of_data(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the parts that are not all zeroes, in units of 4 KiB."""
    begin: int | None = None
    for offset in range(0, len(data), UNIT_BYTES):
        # no part of the data is copied for that
        if data.startswith(_ZERO_UNIT[: len(data) - offset], offset):
            if begin is not None:
                yield begin, offset
                begin = None
        elif begin is None:
            begin = offset
    if begin is not None:
        yield begin, len(data)


def without_zeroes(pieces: Iterator[bytes | int]) -> Iterator[bytes | int]:
    """Yield content in order with a number for a length of zeroes: a device has no holes."""
    for piece in pieces:
        if isinstance(piece, int):
            yield piece
            continue
        position = 0
        for begin, end in runs_of_data(piece):
            if begin > position:
                yield begin - position
            yield piece[begin:end]
            position = end
        if position < len(piece):
            yield len(piece) - position
