"""What is in the directories of pools, where it can be made sure that the daemon has the same files there."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication.hostfs import visible_status
from virtomate.errors import NotFoundError, VirtomateError
from virtomate.services.storage.file_pools import FILE_POOLS

if TYPE_CHECKING:
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage.pools import PoolEntry
    from virtomate.services.storage.references.whereabouts import Locator

# Pools of which the volumes are block devices, in a directory of their own.
_DEVICE_POOLS = frozenset({"logical"})
# How many files are compared with what libvirt says of them, before a directory is taken for another one.
_SAMPLES = 3


def has_directory(known: PoolEntry) -> bool:
    """Return whether everything in a pool's directory is a volume of the pool."""
    return known.description.path is not None and known.description.type in FILE_POOLS | _DEVICE_POOLS


def list_files(known: PoolEntry, locator: Locator) -> list[str] | None:
    """Return the paths of a pool's files as they are seen here; None, and tell the locator, where they are not.

    A directory of the same name need not be the daemon's: that may run in a container, or behind a forwarded socket.
    What libvirt knows to be in an active pool has to be there, and what it says of a file has to be true of it. Of an
    inactive pool libvirt knows nothing.
    """
    directory = known.description.path
    if directory is None or not has_directory(known) or not locator.is_seen(directory):
        return None
    try:
        paths = known.backend.list_paths(directory)
    except OSError:
        return None
    is_file_pool = known.description.type in FILE_POOLS
    if is_file_pool and known.is_active and not _are_of_daemon(known, directory, set(paths), locator):
        locator.forget(directory)
        return None
    return paths


def is_in_service(pool: Pool) -> bool:
    """Return whether a pool is active; libvirt stops a pool whose directory is gone."""
    try:
        return pool.is_active()
    except NotFoundError:
        return False


def _are_of_daemon(known: PoolEntry, directory: str, here: set[str], locator: Locator) -> bool:
    there = _volume_paths(known.pool, directory)
    if there - here:
        # or libvirt has not looked for a while
        is_fresh = known.pool.refresh()
        there = _volume_paths(known.pool, directory) if is_in_service(known.pool) else set()
        if there - here and (is_fresh or not there & here):
            return False
    return _tells_the_same(known, there & here, locator)


def _tells_the_same(known: PoolEntry, common: set[str], locator: Locator) -> bool:
    """Compare a few files with what libvirt says of them, those first that have not been written for long."""
    found = ((locator.of_path(path).status, path) for path in common)
    oldest = sorted((status.st_mtime_ns, path) for status, path in found if status is not None)
    samples = [path for _, path in oldest[:_SAMPLES] if not os.path.islink(path)]  # noqa: PTH114 - as above
    for path in samples:
        try:
            volume = known.pool.find_volume(posixpath.basename(path))
            if volume is not None and visible_status(describe_volume(known.pool.name, volume.document())):
                return True
        except VirtomateError:
            # a broken volume proves nothing, and a broken connection will show soon enough
            continue
    return not samples


def _volume_paths(pool: Pool, directory: str) -> set[str]:
    return {posixpath.join(directory, volume.name) for volume in pool.list_volumes()}
