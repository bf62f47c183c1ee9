"""The space of a file system as it shows here, and the quota of a directory.

A file system reports the quota of a directory as if the quota were the file system's size: so do XFS and ext4 with a
project quota, ZFS with that of a dataset, and Gluster. A quota of a user, of a group, or of a subvolume of Btrfs does
not show: only a write tells of such a quota.
"""

from __future__ import annotations

import errno
import os
import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import file_system
from virtomate.errors import HypervisorError, NoSpaceError, QuotaError, lack_of_room
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class FileSystemSpace(NamedTuple):
    """The space on a file system, in bytes.

    A reserve for root, as on ext4, is neither taken nor available: QEMU does not get the reserve, and root only a part.

    Attributes:
        capacity: Size of the file system, or of a quota that the directory has.
        taken: What files take of that size.
        available: What is left for new files in the directory.
        whole: What is left of the whole file system, as far as that can be seen here.
        has_quota: Whether a quota of the directory is smaller than the file system.
        free_files: How many files can be made; None where the file system has no such limit.
    """

    file_system: bytes | int
    capacity: int
    taken: int
    available: int
    whole: int
    has_quota: bool
    free_files: int | None


def file_system_space(directory: str) -> FileSystemSpace | None:
    """Return the space on a directory's file system; None where the directory cannot be seen here."""
    try:
        figures = os.statvfs(directory)
        # allowed also without permission to list the directory
        device = os.stat(directory).st_dev
    except (OSError, ValueError):
        return None
    above = _figures_above(directory, device, figures)
    left, whole = _left(figures), _left(above)
    has_quota = above.f_blocks > figures.f_blocks
    return FileSystemSpace(
        file_system=device if (known := file_system(directory)) is None else known,
        capacity=figures.f_blocks * figures.f_frsize,
        taken=(figures.f_blocks - figures.f_bfree) * figures.f_frsize,
        # some file systems report what is left of a quota although the file system has less
        available=min(left, whole),
        whole=whole if has_quota else left,
        has_quota=has_quota,
        free_files=figures.f_favail if figures.f_files else None,
    )


def write_failure(error: OSError, path: str) -> HypervisorError | NoSpaceError:
    """Return the error for a file that could not be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    message = f"cannot write '{path}': {reason}"
    if error.errno == errno.EFBIG:
        return NoSpaceError(message, hint="Its file system, or a limit (ulimit -f), allows no file of that length.")
    return lack_of_room(message, "its file system") or HypervisorError(message)


def naming_quota(error: NoSpaceError, directory: str) -> QuotaError | None:
    """Return the error with the quota that it is about and does not name, as of XFS's for a project; else None."""
    space = None if isinstance(error, QuotaError) else file_system_space(directory)
    if space is None or not space.has_quota or space.available == space.whole:
        return None
    return QuotaError(f"{error.message} (the quota of '{directory}' is used up)")


def _left(figures: os.statvfs_result) -> int:
    return figures.f_bavail * figures.f_frsize


def _figures_above(directory: str, device: int, figures: os.statvfs_result) -> os.statvfs_result:
    """Return the figures of the highest directory of the same file system, which is seldom in the same project."""
    for above in _directories_above(directory):
        with suppress(OSError, ValueError):
            if os.stat(above).st_dev != device:
                break
            figures = max(figures, os.statvfs(above), key=lambda found: found.f_blocks)
    return figures


def _directories_above(directory: str) -> Iterator[str]:
    directory = os.path.realpath(directory)
    while directory != "/":
        directory = posixpath.dirname(directory)
        yield directory
