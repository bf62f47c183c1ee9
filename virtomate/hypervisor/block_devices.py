"""Block devices that libvirt knows by their paths.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainGetBlockInfo
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.storage import Volume
from virtomate.hypervisor.translate import look_up, translating_errors

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain


def device_size(domain: Domain, target: str) -> int:
    """Return the size of the device of a domain's disk in bytes, as the daemon sees the device."""
    with translating_errors(f"cannot read the size of disk {target}"):
        return int(domain.handle.blockInfo(target)[2])


def find_volume_by_path(connection: Connection, path: str) -> tuple[str, Volume] | None:
    """Return the pool's name and the volume that libvirt knows by a path, or by a link to the path; None for none."""

    def call() -> tuple[str, Volume]:
        handle = connection.handle.storageVolLookupByPath(path)
        return str(handle.storagePoolLookupByVolume().name()), Volume(handle)

    return look_up(call, f"cannot look up volume '{path}'", libvirt.VIR_ERR_NO_STORAGE_VOL)
