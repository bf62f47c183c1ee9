"""Disks from which a guest learns who it is: the seeds and configuration drives of cloud-init and its like."""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.labels import LABEL_BYTES, file_system_label
from virtomate.enums import Action
from virtomate.errors import ConnectionLostError, VirtomateError
from virtomate.hypervisor.storage import read_head
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.disks import SurveyedDisk
    from virtomate.services.storage import PoolIndex

# https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html and configdrive.html; in capitals, too
_LABELS = frozenset({"cidata", "config-2"})
# A seed is small, a configuration drive has 64 MB at most; of a duplicated disk that is larger nothing is read.
_MAX_SEED_BYTES = 64 << 20


def seed_warnings(connection: Connection, pools: PoolIndex, disks: Iterable[SurveyedDisk]) -> tuple[Notice, ...]:
    """Return a warning for each disk that tells original and clone the same about themselves, as far as it can be read.

    Where a disk is on another host, its first bytes are read over the connection.
    """
    warnings = []
    for item in disks:
        label = _label(connection, pools, item)
        if label is not None and label.lower() in _LABELS:
            disk = item.disk
            warnings.append(notice(CloneWarning.SAME_SEED, disk.target, location=disk.location, label=label))
    return tuple(warnings)


def _label(connection: Connection, pools: PoolIndex, item: SurveyedDisk) -> str | None:
    disk = item.disk
    if item.blueprint is not None:
        source = item.blueprint.source
        if source.format != "raw" or source.capacity > _MAX_SEED_BYTES:
            return None
        # what has that path here may be another file than the daemon's
        path, descriptor = source.path, open_visible(source, os.O_RDONLY)
    elif item.action is Action.SHARED and disk.is_readonly:
        named = disk.path if disk.volume is None else pools.path_of(disk.pool or "", disk.volume)
        if named is None:
            return None
        path, descriptor = named, _open_here(named) if connection.is_local else None
    else:
        return None
    head = _read_there(connection, pools, path) if descriptor is None else _read_here(descriptor)
    return None if head is None else file_system_label(head)


def _open_here(path: str) -> int | None:
    """Open a file of no volume that has a path here; never wait for a device or a pipe."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None


def _read_here(descriptor: int) -> bytes | None:
    """The first bytes of a file; of a device or a pipe nothing."""
    try:
        return os.pread(descriptor, LABEL_BYTES, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _read_there(connection: Connection, pools: PoolIndex, path: str) -> bytes | None:
    directory, name = posixpath.split(normalise(path))
    known = pools.covering(directory)
    if known is None or not known.is_active:
        return None
    try:
        return _read_volume(connection, known.pool, name)
    except ConnectionLostError:
        raise
    except VirtomateError:
        return None


def _read_volume(connection: Connection, pool: Pool, name: str) -> bytes | None:
    volume = pool.find_volume(name)
    if volume is None or not volume.is_file():
        return None
    return read_head(connection, volume, LABEL_BYTES)
