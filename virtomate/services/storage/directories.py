"""Directories that are in no storage pool, or in a pool under another spelling."""

from __future__ import annotations

import os
import posixpath

from virtomate.errors import UnsupportedError
from virtomate.paths import normalise

# To read a directory, libvirt opens every file in it. To open a device may do something: a watchdog starts, a tape
# rewinds.
_DEVICES = ("/dev", "/proc", "/sys")
_FILES_AMONG_DEVICES = ("/dev/shm", "/dev/hugepages")  # noqa: S108 - nothing is made there


def directory_identity(directory: str) -> tuple[int, int] | None:
    """Return the device and inode number of a directory here, None where there is no such directory."""
    try:
        status = os.stat(directory)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def refuse_devices(directory: str) -> None:
    """Raise UnsupportedError for a directory of devices, over which no pool can be started."""
    place = normalise(directory)
    if _lies_in(place, _DEVICES) and not _lies_in(place, _FILES_AMONG_DEVICES):
        raise UnsupportedError(f"'{place}' is a directory of devices, and no storage pool is started over such a one")


def _lies_in(place: str, directories: tuple[str, ...]) -> bool:
    return any(posixpath.commonpath((place, directory)) == directory for directory in directories)
