"""Block devices that libvirt knows by their paths.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainGetBlockInfo
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.storage import Volume
from virtomate.hypervisor.translate import look_up, translating_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain


def device_size(domain: Domain, target: str) -> int:
    """Return the size of the device of a domain's disk in bytes, as the daemon sees the device."""
    with translating_errors(f"cannot read the size of disk {target}"):
        return int(domain.handle.blockInfo(target)[2])


def find_volume_by_path(connection: Connection, path: str) -> tuple[str, Volume] | None:
    """Return the pool's name and the volume that libvirt knows by a path, or by a link to the path; None for none."""
    return _find(connection.handle.storageVolLookupByPath, path)


def find_volume_by_key(connection: Connection, key: str) -> tuple[str, Volume] | None:
    """Return the pool's name and the volume with one of libvirt's keys; None for none."""
    return _find(connection.handle.storageVolLookupByKey, key)


def _find(look: Callable[[str], libvirt.virStorageVol], what: str) -> tuple[str, Volume] | None:
    def call() -> tuple[str, Volume]:
        handle = look(what)
        return str(handle.storagePoolLookupByVolume().name()), Volume(handle)

    return look_up(call, f"cannot look up volume '{what}'", libvirt.VIR_ERR_NO_STORAGE_VOL)
