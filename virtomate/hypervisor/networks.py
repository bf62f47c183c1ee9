"""Networks of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.errors import translate

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection


def is_network_active(connection: Connection, name: str) -> bool | None:
    """Whether domains can be connected to a network now; None where there is no such network.

    Raises:
        HypervisorError: libvirt does not tell.
    """
    try:
        return bool(connection.handle.networkLookupByName(name).isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise translate(error, f"cannot look up network '{name}'") from error
