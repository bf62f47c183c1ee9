"""What the definition of a virtual network says, as records.

Source for the elements: https://libvirt.org/formatnetwork.html
"""

from __future__ import annotations

from dataclasses import dataclass

from virtomate.definition import codec
from virtomate.definition.readers import as_list, child


@dataclass(frozen=True)
class DhcpEntry:
    """What a network gives the interface with one MAC address."""

    mac_address: str
    address: str | None
    name: str | None


def dhcp_entries(text: str) -> tuple[DhcpEntry, ...]:
    """The entries for MAC addresses, in lower case; those by host name or client ID alone are left out.

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
