"""Readers of a virtual network's definition (https://libvirt.org/formatnetwork.html)."""

from __future__ import annotations

from virtomate.definition import codec
from virtomate.definition.readers import as_list, child
from virtomate.tuples import NamedTuple


class DhcpEntry(NamedTuple):
    """The address and name that a network gives to a MAC address."""

    mac_address: str
    address: str | None
    name: str | None


def dhcp_entries(text: str) -> tuple[DhcpEntry, ...]:
    """Return the entries for MAC addresses, in lower case; entries for host names or client IDs are left out.

    Raises:
        MalformedDocumentError: The text is not a `<network>` document.
    """
    network = codec.parse(text, "network")
    return tuple(
        DhcpEntry(str(host["@mac"]).lower(), host.get("@ip"), host.get("@name"))
        for ip in as_list(network.get("ip"))
        for host in as_list(child(ip, "dhcp").get("host"))
        if "@mac" in host
    )
