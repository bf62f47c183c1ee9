"""Evidence that a volume is the very one that cloning made.

libvirt identifies a volume of a directory pool by its path alone, so a file that somebody put in its place since looks
the same to it. Where the file can be seen from here, its inode and time of birth tell them apart; where it cannot, the
change time that libvirt reports can only rule out a file that has not been touched since before ours was made.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from virtomate.records import Evidence

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_STATX_BUFFER_BYTES = 256
# offsets of stx_mask, and of stx_btime: seconds (64 bits), nanoseconds (32 bits); statx(2), <linux/stat.h>
_STX_MASK = 0
_STX_BTIME = 80

_NANOSECONDS = 1_000_000_000


def observe(volume: VolumeDescription) -> Evidence:
    """What identifies a volume now."""
    status = _visible_status(volume)
    if status is None:
        return Evidence(volume.changed)
    return Evidence(volume.changed, inode=status.st_ino, born=_birth_time(volume.path))


def is_same(evidence: Evidence, volume: VolumeDescription) -> bool:
    """Whether a volume may be the one that the evidence was taken from.

    Where the file was seen when it was made and is seen now, inode and birth time decide. Otherwise a file whose last
    change is older than the making of ours is certainly another one.
    """
    now = observe(volume)
    if evidence.inode is not None and now.inode is not None:
        return (evidence.inode, evidence.born) == (now.inode, now.born)
    return is_younger(volume, timestamp(evidence.changed))


def is_younger(volume: VolumeDescription, seconds: float) -> bool:
    """Whether the file may have come into being after a moment, in seconds since 1970.

    Its birth time decides where it can be seen, else the time of its last change, which is never before its birth.
    """
    if _visible_status(volume) is not None and (born := _birth_time(volume.path)) is not None:
        return born >= seconds * _NANOSECONDS
    return timestamp(volume.changed) >= seconds


def timestamp(value: str | None) -> float:
    """A time as libvirt writes it, seconds and nanoseconds with a dot between, in seconds; 0 where it is absent."""
    if not value:
        return 0.0
    seconds, _, nanoseconds = value.partition(".")
    return int(seconds) + int(nanoseconds or 0) / _NANOSECONDS


def _visible_status(volume: VolumeDescription) -> os.stat_result | None:
    """The file's status if the path leads to the same file here as at the daemon's, else None.

    The path alone proves nothing: the daemon may be in a container or on another host. Its change time does, to the
    nanosecond, since no two files share it by accident.
    """
    try:
        status = os.lstat(volume.path)
    except OSError:
        return None
    seconds, nanoseconds = divmod(status.st_ctime_ns, _NANOSECONDS)
    return status if _parts(volume.changed) == (seconds, nanoseconds) else None


def _parts(value: str | None) -> tuple[int, int]:
    seconds, _, nanoseconds = (value or "0").partition(".")
    return int(seconds), int(nanoseconds or 0)


def _birth_time(path: str) -> int | None:
    """When a file came into being, in nanoseconds since 1970; None where the file system does not keep it.

    Python has no call for this: os.stat knows nothing of a birth time on Linux.
    """
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        return None
    buffer = ctypes.create_string_buffer(_STATX_BUFFER_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer) != 0:
        return None
    mask = ctypes.c_uint32.from_buffer(buffer, _STX_MASK).value
    if not mask & _STATX_BTIME:
        return None
    seconds = ctypes.c_int64.from_buffer(buffer, _STX_BTIME).value
    nanoseconds = ctypes.c_uint32.from_buffer(buffer, _STX_BTIME + 8).value
    return seconds * _NANOSECONDS + nanoseconds
