"""Which file a path, or a volume named by its pool, leads to.

Where files can be seen from here, device and inode tell: one file may have many paths. Elsewhere there is the path in
its shortest spelling, and libvirt knows which directories its pools are over.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import TYPE_CHECKING

from virtomate.paths import normalise
from virtomate.services.storage.file_pools import FILE_POOLS
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

    from virtomate.services.storage.backend import VolumeKey
    from virtomate.services.storage.pools import PoolIndex

Key = tuple["Hashable", ...]

# what an operating system says of a path that certainly leads nowhere
_NOWHERE = frozenset({errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


class Whereabouts(NamedTuple):
    """Where a path or a volume leads to.

    Attributes:
        path: The path, None for a volume of a pool that has no directory.
        keys: What tells its file from others; two that share a key are the same file.
        status: What the operating system says of the file, where it is seen from here.
        is_settled: Whether it is known which file that is, or that there is none.
        base_names: What the file may be called, in whatever directory, where that is not known.
        obstacle: What keeps us from looking at it.
    """

    path: str | None
    keys: frozenset[Key]
    status: os.stat_result | None = None
    is_settled: bool = True
    base_names: frozenset[str] = frozenset()
    obstacle: str | None = None


class Locator:
    """Finds out where paths and volumes lead to, each once."""

    def __init__(self, pools: PoolIndex, *, is_local: bool) -> None:
        self.pools = pools
        self.is_local = is_local
        self._unseen: set[str] = set()
        self._found: dict[str, Whereabouts] = {}

    def forget(self, directory: str) -> None:
        """Do not take files of a directory for the daemon's any more: it shows others here."""
        self._unseen.add(directory)
        self._found.clear()

    def is_seen(self, directory: str) -> bool:
        """Return whether the daemon's files in a directory can be seen from here, as far as is known."""
        return self.is_local and directory not in self._unseen

    def of_path(self, path: str) -> Whereabouts:
        """Return where a path leads to."""
        if path not in self._found:
            is_seen = self.is_seen(posixpath.dirname(normalise(path)))
            self._found[path] = _look_at(path) if is_seen else self._look_up(path)
        return self._found[path]

    def of_volume(self, volume: VolumeKey) -> Whereabouts:
        """Return where a volume is that is named by its pool and its name."""
        path = self.pools.path_of(*volume)
        if path is None:
            return Whereabouts(None, frozenset({volume_key(volume)}))
        found = self.of_path(path)
        return found._replace(keys=found.keys | {volume_key(volume)})

    def _look_up(self, path: str) -> Whereabouts:
        path = normalise(path)
        directory, name = posixpath.split(path)
        known = self.pools.covering(directory)
        if known is not None and known.is_active and known.description.type in FILE_POOLS:
            return Whereabouts(path, _keys(path))
        obstacle = "it is in no active storage pool"
        return Whereabouts(path, _keys(path), None, is_settled=False, base_names=frozenset({name}), obstacle=obstacle)


def _look_at(path: str) -> Whereabouts:
    try:
        status = os.stat(path)  # noqa: PTH116 - no path object is needed for a thousand of them
    except OSError as error:
        if _is_nowhere(path, error):
            return Whereabouts(path, _keys(path))
        names = frozenset({posixpath.basename(path), posixpath.basename(os.path.realpath(path))})
        # what is not there is not in the way
        obstacle = None if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
        return Whereabouts(path, _keys(path), None, is_settled=False, base_names=names, obstacle=obstacle)
    except ValueError:
        # no path has a NUL in it
        return Whereabouts(path, _keys(path))
    if stat.S_ISBLK(status.st_mode):
        # a device may have several nodes
        return Whereabouts(path, _keys(path) | {("device", status.st_rdev)}, status)
    return Whereabouts(path, _keys(path) | {("file", status.st_dev, status.st_ino)}, status)


def volume_key(volume: VolumeKey) -> Key:
    """Return what tells a volume from other files by its pool and its name."""
    return ("volume", *volume)


def _keys(path: str) -> frozenset[Key]:
    return frozenset({("path", normalise(path))})


def _is_nowhere(path: str, error: OSError) -> bool:
    """Return whether the file certainly does not exist; its file system may not be mounted."""
    if error.errno != errno.ENOENT:
        return error.errno in _NOWHERE
    directory = posixpath.dirname(os.path.realpath(path))
    try:
        with os.scandir(directory) as entries:
            # where a file system can be mounted, there usually is an empty directory
            return next(entries, None) is not None
    except OSError:
        return False
