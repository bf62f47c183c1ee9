"""libvirt's virtual networks: their definitions, their DHCP entries, and the leases of their DHCP servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import look_up, translating_errors
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection

_HOST = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
_ADD = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
_DELETE = libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
_LIVE = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
_CONFIG = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG

# of a driver without leases, and of a network that was stopped meanwhile
_NO_LEASES = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_OPERATION_UNSUPPORTED)


class Lease(NamedTuple):
    """An address that a DHCP server has given away for some time.

    Attributes:
        mac_address: In lower case; None where the server does not know it, for IPv6.
        client_id: What the client calls itself, in hexadecimal octets; for IPv6 its DUID. None if it did not say.
    """

    network: str
    address: str
    mac_address: str | None
    host_name: str | None
    client_id: str | None


class ReservedAddress(NamedTuple):
    """The address that a DHCP entry keeps for an interface."""

    network: str
    address: str
    name: str | None


class Network:
    """A network that libvirt knew when it was looked up."""

    def __init__(self, handle: libvirt.virNetwork) -> None:
        self._handle = handle
        self.name: str = handle.name()

    def is_active(self) -> bool:
        """Return whether the network runs."""
        with translating_errors(f"cannot read the state of network '{self.name}'"):
            return bool(self._handle.isActive())

    def is_persistent(self) -> bool:
        """Return whether libvirt keeps the network when it is stopped."""
        with translating_errors(f"cannot read the state of network '{self.name}'"):
            return bool(self._handle.isPersistent())

    def definition(self) -> str:
        """Return the current definition."""
        with translating_errors(f"cannot read the definition of network '{self.name}'"):
            return str(self._handle.XMLDesc(0))

    def inactive_definition(self) -> str:
        """Return the definition of the next start."""
        with translating_errors(f"cannot read the definition of network '{self.name}'"):
            return str(self._handle.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases that have not expired; none of a network that does not run or has no DHCP server."""
        failure = f"cannot read the leases of network '{self.name}'"
        found = look_up(self._handle.DHCPLeases, failure, *_NO_LEASES) or []
        return tuple(
            Lease(
                self.name, lease["ipaddr"], (lease["mac"] or "").lower() or None, lease["hostname"], lease["clientid"]
            )
            for lease in found
        )

    def add_host(self, element: str, index: int, *, live: bool, config: bool) -> None:
        """Add a DHCP entry to the `<ip>` element with this number.

        libvirt takes both changes or none. It refuses an entry with the MAC address, address or name of another.

        Raises:
            IllegalStateError: There is such an entry, or the network was started or stopped meanwhile.
        """
        with translating_errors(f"cannot add a DHCP entry to network '{self.name}'"):
            self._handle.update(_ADD, _HOST, index, element, _flags(live, config))

    def remove_host(self, element: str, index: int, *, live: bool, config: bool) -> None:
        """Remove the DHCP entry with exactly these values; IllegalStateError if there is no such entry."""
        with translating_errors(f"cannot remove a DHCP entry of network '{self.name}'"):
            self._handle.update(_DELETE, _HOST, index, element, _flags(live, config))


def find_network(connection: Connection, name: str) -> Network | None:
    """Return the network with this name; None where there is no such network, or no driver for networks."""
    absent = (libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_NO_SUPPORT)
    failure = f"cannot look up network '{name}'"
    return look_up(lambda: Network(connection.handle.networkLookupByName(name)), failure, *absent)


def _flags(live: bool, config: bool) -> int:
    return (_LIVE if live else 0) | (_CONFIG if config else 0)
