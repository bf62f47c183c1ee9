"""DHCP entries for clones: what a network has, what it can take, and the making and removing of one entry.

The definition of a network is the user's: nothing but the one entry is ever added or removed.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from virtomate.definition.host_entries import HostEntry, host_element
from virtomate.definition.networks import DhcpServer, read_dhcp_server
from virtomate.errors import IllegalStateError, NotFoundError, UnsupportedError, VirtomateError
from virtomate.hypervisor.networks import Lease, Network, ReservedAddress, find_network
from virtomate.tuples import NamedTuple
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from virtomate.hypervisor.connection import Connection


class DhcpNetwork(NamedTuple):
    """A network with a DHCP server for IPv4, as it was when it was looked at.

    Attributes:
        server: The server that runs, else the server of the next start.
        entries: The entries of both.
        leases: The addresses that are given away.
        live: Whether a change is for the network that runs.
        config: Whether a change is for the next start.
    """

    network: Network
    server: DhcpServer
    entries: tuple[HostEntry, ...]
    leases: tuple[Lease, ...]
    live: bool
    config: bool

    @property
    def name(self) -> str:
        """The name of the network."""
        return self.network.name

    def without(self, leaving: Collection[HostEntry]) -> DhcpNetwork:
        """Return the network as it is after some entries have been removed."""
        return self._replace(entries=tuple(entry for entry in self.entries if entry not in leaving))

    def mismatch(self, address: IPv4Address) -> str | None:
        """Return why the network can never give an address to a guest; None if it can."""
        subnet = self.server.subnet
        if address not in subnet:
            return f"is not in {subnet}, the subnet of network '{self.name}'"
        if address in self.server.own:
            return f"is the address of network '{self.name}' itself"
        if address in {subnet.network_address, subnet.broadcast_address}:
            return f"is not an address for a guest in {subnet}, the subnet of network '{self.name}'"
        return None

    def holder(self, address: IPv4Address, own: Collection[str] = ()) -> str | None:
        """Return who has an address, besides the MAC addresses in `own`; None for an address that is free."""
        text = str(address)
        for entry in self.entries:
            if entry.address == text:
                return f"is kept by the {entry.what}"
        for lease in self.leases:
            if lease.address == text and lease.mac_address not in own:
                who = lease.mac_address if lease.host_name is None else f"{lease.mac_address} ({lease.host_name})"
                return f"is leased to {who} in network '{self.name}'"
        return None

    def named(self, name: str) -> HostEntry | None:
        """Return the entry with a name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def of_mac(self, mac_address: str) -> HostEntry | None:
        """Return the entry for a MAC address."""
        return next((entry for entry in self.entries if entry.mac_address == mac_address), None)

    def free(self, first: IPv4Address, last: IPv4Address) -> Iterator[IPv4Address]:
        """Yield the free addresses of a range, in order."""
        taken = {entry.address for entry in self.entries} | {lease.address for lease in self.leases}
        begin, end = (max(first, self.server.subnet[0]), min(last, self.server.subnet[-1]))
        for number in range(int(begin), int(end) + 1):
            address = IPv4Address(number)
            if str(address) not in taken and self.mismatch(address) is None:
                yield address


def read_dhcp_network(connection: Connection, name: str) -> DhcpNetwork:
    """Return a network with a DHCP server.

    Raises:
        NotFoundError: There is no such network.
        UnsupportedError: The network has no DHCP server for IPv4.
        IllegalStateError: The server will be another one after the next start of the network.
    """
    network = find_network(connection, name)
    if network is None:
        raise NotFoundError(
            f"there is no network '{name}' on {connection.name}, so no DHCP entry can be made",
            hint=f"{virsh('net-list', options='--all')} shows the networks.",
        )
    live, config = network.is_active(), network.is_persistent()
    texts = (*([network.definition()] if live else []), *([network.inactive_definition()] if config else []))
    servers = [read_dhcp_server(text) for text in texts]
    server = servers[0]
    if server is None:
        raise UnsupportedError(
            f"libvirt runs no DHCP server for IPv4 in network '{name}', so no DHCP entry can be made there",
            hint="Set the address in the guest, such as with --seed and --network-data.",
        )
    if any(other is None or (other.number, other.subnet) != (server.number, server.subnet) for other in servers):
        raise IllegalStateError(
            f"the DHCP server of network '{name}' will be another one after the network's next start",
            hint=f"Restart the network: {virsh('net-destroy', name)} and {virsh('net-start', name)}",
        )
    entries = dict.fromkeys(entry for found in servers if found is not None for entry in found.entries)
    return DhcpNetwork(network, server, tuple(entries), network.leases(), live, config)


def reserved_addresses(entries: Iterable[HostEntry]) -> dict[str, ReservedAddress]:
    """Return the addresses that entries keep, by MAC address."""
    return {entry.mac_address: ReservedAddress(entry.network, entry.address, entry.name) for entry in entries}


def add_entry(known: DhcpNetwork, entry: HostEntry) -> None:
    """Make an entry; raise IllegalStateError if it cannot be made, as where others were faster."""
    known.network.add_host(host_element(entry), known.server.number, live=known.live, config=known.config)


def find_entries(connection: Connection, entry: HostEntry) -> tuple[HostEntry, ...]:
    """Return the entries that a network has now for the MAC address of an entry, each once."""
    found: dict[HostEntry, None] = {}
    for _, server, _ in _servers(connection, entry.network):
        found |= {item: None for item in server.entries if item.mac_address == entry.mac_address}
    return tuple(found)


def remove_entry(connection: Connection, entry: HostEntry) -> bool:
    """Remove an entry wherever it is exactly as it was made; return whether it was anywhere.

    Raises:
        VirtomateError: libvirt does not remove it.
    """
    was_there = False
    for network, server, is_live in _servers(connection, entry.network):
        if entry in server.entries:
            was_there = True
            try:
                network.remove_host(host_element(entry), server.number, live=is_live, config=not is_live)
            except IllegalStateError:
                # somebody else may have removed it, or stopped the network
                if any(entry in now.entries for _, now, live in _servers(connection, entry.network) if live == is_live):
                    raise
    return was_there


def _servers(connection: Connection, name: str) -> Iterator[tuple[Network, DhcpServer, bool]]:
    """Yield a network with its DHCP server, now and after the next start, and whether that is now."""
    network = find_network(connection, name)
    if network is None:
        return
    try:
        definitions = [(network.definition(), True)] if network.is_active() else []
        definitions += [(network.inactive_definition(), False)] if network.is_persistent() else []
    except VirtomateError:
        # a transient network may vanish meanwhile, with its entries
        if find_network(connection, name) is None:
            return
        raise
    for text, is_live in definitions:
        if (server := read_dhcp_server(text)) is not None:
            yield network, server, is_live
