"""The volumes that block devices are."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.errors import VirtomateError
from virtomate.hypervisor.block_devices import find_volume_by_key, find_volume_by_path
from virtomate.paths import logical_volume_key, logical_volume_path
from virtomate.services.storage.block_pools import BLOCK_POOLS
from virtomate.services.storage.pools import FoundVolume, describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.storage.pools import PoolEntry, PoolIndex


def find_device(connection: Connection, pools: PoolIndex, path: str) -> FoundVolume | None:
    """Return the volume that a block device is, by any path of the device; None for a device in no active pool.

    libvirt finds a volume by the path that its pool has for it, and some by links to it. Where the devices can be seen
    here, two paths with one device number are the same device.
    """
    by_name = {known.pool.name: known for known in pools.known if known.is_active}
    if (key := logical_volume_key(path)) is not None:
        found = find_volume_by_key(connection, key)
        return None if found is None or found[0] not in by_name else _as_device(by_name[found[0]], found[1].name)
    paths = [path, logical_volume_path(path) or path]
    if connection.is_local:
        with suppress(OSError, ValueError):
            paths.append(os.path.realpath(path))
    for candidate in dict.fromkeys(paths):
        found = find_volume_by_path(connection, candidate)
        if found is not None and found[0] in by_name and (seen := _as_device(by_name[found[0]], found[1].name)):
            return seen
    number = device_number(path) if connection.is_local else None
    if number is None:
        return None
    return next((seen for seen in _devices(by_name.values()) if device_number(seen.description.path) == number), None)


def is_device(connection: Connection, volume: VolumeDescription, path: str) -> bool:
    """Return whether a path leads to the block device that a volume is, as far as the path tells, or is seen here."""
    if volume.path in {path, logical_volume_path(path)} or (volume.key and volume.key == logical_volume_key(path)):
        return True
    number = device_number(volume.path) if connection.is_local else None
    return number is not None and number == device_number(path)


def device_number(path: str) -> int | None:
    """Return the number of the block device that a path leads to here, None where it leads to none."""
    with suppress(OSError, ValueError):
        status = os.stat(path)
        return status.st_rdev if stat.S_ISBLK(status.st_mode) else None
    return None


def _devices(pools: Iterable[PoolEntry]) -> Iterator[FoundVolume]:
    for known in pools:
        if known.description.type in BLOCK_POOLS:
            for volume in known.pool.list_volumes():
                if (seen := _as_device(known, volume.name)) is not None:
                    yield seen


def _as_device(known: PoolEntry, name: str) -> FoundVolume | None:
    with suppress(VirtomateError):
        volume = known.pool.find_volume(name)
        if volume is not None and (found := describe(known.pool, volume)).description.is_device:
            return found
    return None
