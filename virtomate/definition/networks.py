"""The DHCP server of a libvirt network, by the network's definition.

libvirt runs at most one DHCP server for IPv4 in a network. dnsmasq gives an entry's address only if the address is in
the subnet of the server; it need not be in the range of the addresses that are given to everybody (dnsmasq(8),
`--dhcp-host`).

Source: https://libvirt.org/formatnetwork.html
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.host_entries import HostEntry
from virtomate.definition.readers import as_list, child
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

# Lengths of prefixes by the first octet, for addresses without a netmask (libvirt's virSocketAddrGetIPPrefix).
_CLASSES = ((128, 8), (192, 16), (224, 24))


class DhcpServer(NamedTuple):
    """A DHCP server for IPv4.

    Attributes:
        number: The number of its `<ip>` element in the definition.
        subnet: The addresses that it can give.
        own: The addresses of the network's bridge.
        entries: The addresses that it keeps; without a MAC address, for a name.
    """

    number: int
    subnet: IPv4Network
    own: frozenset[IPv4Address]
    entries: tuple[HostEntry, ...]


def read_dhcp_server(document: str) -> DhcpServer | None:
    """Return the DHCP server for IPv4 in the definition of a network; None where there is none.

    Raises:
        MalformedDocumentError: The text is not a `<network>` document.
    """
    network = codec.parse(document, "network")
    elements = [(number, ip) for number, ip in enumerate(as_list(network.get("ip"))) if _is_v4(ip)]
    own = frozenset(IPv4Address(str(ip["@address"])) for _, ip in elements)
    for number, ip in elements:
        dhcp = child(ip, "dhcp")
        if dhcp.get("range") or dhcp.get("host"):
            hosts = as_list(dhcp.get("host"))
            entries = tuple(_entry(str(network.get("name", "")), host) for host in hosts if "@ip" in host)
            return DhcpServer(number, _subnet(ip), own, entries)
    return None


def _is_v4(ip: Document) -> bool:
    return ip.get("@family", "ipv4") == "ipv4" and "@address" in ip


def _subnet(ip: Document) -> IPv4Network:
    address = IPv4Address(str(ip["@address"]))
    default = next((length for end, length in _CLASSES if address.packed[0] < end), 24)
    return IPv4Network(f"{address}/{ip.get('@netmask') or ip.get('@prefix') or default}", strict=False)


def _entry(network: str, host: Document) -> HostEntry:
    return HostEntry(network, str(host.get("@mac", "")).lower(), str(host["@ip"]), host.get("@name"))
