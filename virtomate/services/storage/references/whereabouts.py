"""Which file a path, or a volume named by its pool, leads to.

If files can be seen from here, device and inode identify them: one file may have many paths. Otherwise the path in its
shortest spelling does, and libvirt knows which directories its pools are over.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication.hostfs import visible_status
from virtomate.errors import NotFoundError, OversizeError, VirtomateError
from virtomate.paths import (
    is_among_devices,
    is_nameless_device,
    is_url,
    logical_volume_key,
    logical_volume_path,
    normalise,
)
from virtomate.services.storage.file_pools import FILE_POOLS
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage.backend import VolumeKey
    from virtomate.services.storage.pools import PoolEntry, PoolIndex

Key = tuple["Hashable", ...]

# Stands for the names of all devices: no file has a name with a slash.
ANY_DEVICE = "/dev/"
# Pools whose volumes are block devices, in a directory of their own.
_DEVICE_POOLS = frozenset({"logical"})
# How many files are compared with libvirt's description before a directory is taken for another one.
_SAMPLES = 3
# Errors of the operating system for a path that certainly leads nowhere.
_NOWHERE = frozenset({errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


class Whereabouts(NamedTuple):
    """Where a path or a volume leads to.

    Attributes:
        path: The path, None for a volume of a pool that has no directory.
        keys: The identities of the file; two files that share a key are the same file.
        status: The status of the file, if it is seen from here.
        is_settled: Whether it is known which file that is, or that there is none.
        base_names: The possible names of the file in any directory, if that is not known.
        obstacle: Why the file cannot be looked at.
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

    def is_seen(self, directory: str) -> bool:
        """Return whether the daemon's files in a directory can be seen from here, as far as is known."""
        return self.is_local and directory not in self._unseen

    def of_path(self, path: str) -> Whereabouts:
        """Return where a path leads to."""
        if is_url(path):
            return Whereabouts(path, frozenset({("network", path)}), is_settled=False)
        if path not in self._found:
            is_seen = self.is_seen(posixpath.dirname(normalise(path)))
            self._found[path] = _look_at(path) if is_seen else self._look_up(normalise(path))
        return self._found[path]

    def looked_at(self) -> tuple[Whereabouts, ...]:
        """Return where all paths lead to that have been looked at so far."""
        return tuple(self._found.values())

    def of_volume(self, volume: VolumeKey) -> Whereabouts:
        """Return where a volume is that is named by its pool and its name."""
        keys = frozenset({volume_key(volume)})
        path = self.pools.path_of(*volume)
        if path is None:
            return Whereabouts(None, keys)
        found = self.of_path(path)
        return found._replace(keys=found.keys | keys)

    def _look_up(self, path: str) -> Whereabouts:
        directory, name = posixpath.split(path)
        known = self.pools.covering(directory)
        if known is not None and known.is_active and known.description.type in FILE_POOLS:
            return Whereabouts(path, _keys(path))
        obstacle = "it is a block device" if is_among_devices(path) else "it is in no active storage pool"
        found = _unsettled(path, {name}, obstacle)
        # libvirt does not tell that these are one device, and there is no other way to see that
        if (other := logical_volume_path(path)) is not None:
            found = found._replace(keys=found.keys | _keys(other))
        if (key := logical_volume_key(path)) is not None:
            found = found._replace(keys=found.keys | {device_key(key)})
        if is_nameless_device(path):
            found = found._replace(base_names=found.base_names | {ANY_DEVICE})
        return found

    def list_files(self, known: PoolEntry) -> list[str] | None:
        """Return the paths of a pool's files if they are seen here, else None.

        A directory of the same name need not be the daemon's: the daemon may run in a container, or behind a forwarded
        socket. Then the directory is not taken for the daemon's any more. All files that libvirt knows to be in an
        active pool must be there, and be as libvirt describes them. Of an inactive pool libvirt knows nothing, and a
        pool with more files than libvirt lists is judged by a few of them.
        """
        directory = known.description.path
        if directory is None or not has_directory(known) or not self.is_seen(directory):
            return None
        try:
            paths = known.backend.list_paths(directory)
        except OSError:
            return None
        is_checked = known.description.type in FILE_POOLS and known.is_active
        if is_checked and not self._are_of_daemon(known.pool, directory, set(paths)):
            self._unseen.add(directory)
            self._found.clear()
            return None
        return paths

    def _are_of_daemon(self, pool: Pool, directory: str, here: set[str]) -> bool:
        try:
            there = _volume_paths(pool, directory)
            if there - here:
                # libvirt may not have refreshed the pool for a while
                is_fresh = pool.refresh()
                there = _volume_paths(pool, directory) if is_in_service(pool) else set()
                if there - here and (is_fresh or not there & here):
                    return False
        except OversizeError:
            # an empty directory is not that of a pool with so many files
            return bool(here) and self._tells_the_same(pool, here)
        return self._tells_the_same(pool, there & here)

    def _tells_the_same(self, pool: Pool, common: set[str]) -> bool:
        """Compare a few files with libvirt's description, those first that have not been written for long."""
        found = ((self.of_path(path).status, path) for path in common)
        oldest = sorted((status.st_mtime_ns, path) for status, path in found if status is not None)
        samples = [path for _, path in oldest[:_SAMPLES] if not os.path.islink(path)]
        for path in samples:
            try:
                volume = pool.find_volume(posixpath.basename(path))
                if volume is not None and visible_status(describe_volume(pool.name, volume.document())):
                    return True
            except VirtomateError:
                # a broken volume proves nothing, and a broken connection will show soon enough
                continue
        return not samples


def has_directory(known: PoolEntry) -> bool:
    """Return whether everything in a pool's directory is a volume of the pool."""
    return known.description.path is not None and known.description.type in FILE_POOLS | _DEVICE_POOLS


def is_in_service(pool: Pool) -> bool:
    """Return whether a pool is active; libvirt stops a pool whose directory is gone."""
    try:
        return pool.is_active()
    except NotFoundError:
        return False


def volume_key(volume: VolumeKey) -> Key:
    """Return the identity of a volume by its pool and its name."""
    return ("volume", *volume)


def device_key(key: str) -> Key:
    """Return the identity of a device by libvirt's key of the volume."""
    return ("key", key)


def _volume_paths(pool: Pool, directory: str) -> set[str]:
    return {posixpath.join(directory, volume.name) for volume in pool.list_volumes()}


def _look_at(path: str) -> Whereabouts:
    try:
        status = os.stat(path)
    except OSError as error:
        if _is_nowhere(path, error):
            return Whereabouts(path, _keys(path))
        # a file that is not there cannot be unreadable
        obstacle = None if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
        return _unsettled(path, {posixpath.basename(path), posixpath.basename(os.path.realpath(path))}, obstacle)
    except ValueError:
        # no path has a NUL in it
        return Whereabouts(path, _keys(path))
    # a device may have several nodes
    is_device = stat.S_ISBLK(status.st_mode)
    key = ("device", status.st_rdev) if is_device else ("file", status.st_dev, status.st_ino)
    return Whereabouts(path, _keys(path) | {key}, status)


def _unsettled(path: str, names: set[str], obstacle: str | None) -> Whereabouts:
    return Whereabouts(path, _keys(path), is_settled=False, base_names=frozenset(names), obstacle=obstacle)


def _keys(path: str) -> frozenset[Key]:
    return frozenset({("path", normalise(path))})


def _is_nowhere(path: str, error: OSError) -> bool:
    """Return whether the file certainly does not exist; its file system may not be mounted."""
    if error.errno != errno.ENOENT:
        return error.errno in _NOWHERE
    try:
        with os.scandir(posixpath.dirname(os.path.realpath(path))) as entries:
            # where a file system can be mounted, there usually is an empty directory
            return next(entries, None) is not None
    except OSError:
        return False
