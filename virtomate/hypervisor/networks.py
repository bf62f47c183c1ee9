"""Networks of a connection."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import translate

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


def network_definitions(connection: Connection, name: str) -> tuple[str, ...]:
    """A network as it is now, and as it will be when it starts again; nothing where libvirt does not tell.

    There may be no such network, no driver for networks, or a daemon of their own that does not run.
    """
    definitions: list[str] = []
    # had the connection broken, the next call would tell
    with suppress(libvirt.libvirtError):
        network = connection.handle.networkLookupByName(name)
        definitions.append(str(network.XMLDesc(0)))
        if network.isActive() and network.isPersistent():
            definitions.append(str(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)))
    return tuple(definitions)
