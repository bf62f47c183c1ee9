"""Directories that are in no storage pool, or in a pool under another spelling."""

from __future__ import annotations

import os

from virtomate.errors import UnsupportedError
from virtomate.paths import is_among_devices, normalise


def directory_identity(directory: str) -> tuple[int, int] | None:
    """Return the device and inode number of a directory here, None where there is no such directory."""
    try:
        status = os.stat(directory)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def refuse_devices(directory: str, *, is_local: bool) -> None:
    """Raise UnsupportedError for a directory over which no pool can be started: one of devices, or a relative path.

    To read a directory, libvirt opens every file in it. To open a device may do something: a watchdog starts, a tape
    rewinds.

    Where the directories of the daemon can be seen here, a link to a directory of devices is refused, too.
    """
    place = normalise(directory)
    if not place.startswith("/"):
        raise UnsupportedError(f"'{place}' does not begin with a slash, and a storage pool needs the whole path")
    for path in (place, os.path.realpath(place)) if is_local else (place,):
        if is_among_devices(path):
            raise UnsupportedError(
                f"'{place}' is a directory of devices, and no storage pool is started over such a directory"
            )
