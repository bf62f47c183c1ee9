"""Networks of a connection."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import translate

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection


def is_network_active(connection: Connection, name: str) -> bool | None:
    """Return whether a network is active; None where there is no such network. HypervisorError where libvirt fails."""
    try:
        return bool(connection.handle.networkLookupByName(name).isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise translate(error, f"cannot look up network '{name}'") from error


def network_definitions(connection: Connection, name: str) -> tuple[str, ...]:
    """Return the current definition of a network and the one of its next start; none where libvirt does not tell.

    The network, the driver for networks, or its daemon may be missing.
    """
    definitions: list[str] = []
    # had the connection broken, the next call would tell
    with suppress(libvirt.libvirtError):
        network = connection.handle.networkLookupByName(name)
        definitions.append(str(network.XMLDesc(0)))
        if network.isActive() and network.isPersistent():
            definitions.append(str(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)))
    return tuple(definitions)
