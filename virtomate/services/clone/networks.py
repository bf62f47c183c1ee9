"""What libvirt's networks have for the original alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.network import dhcp_entries
from virtomate.definition.readers import child, devices
from virtomate.hypervisor.networks import network_definitions

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.hypervisor.connection import Connection


def lost_dhcp_entries(connection: Connection, domain: Document) -> tuple[str, ...]:
    """A sentence for each address that a network keeps for an interface of the original.

    Only networks that its interfaces name are looked at.
    """
    addresses: dict[str, list[str]] = {}
    for interface in devices(domain, "interface"):
        network, mac = child(interface, "source").get("@network"), child(interface, "mac").get("@address")
        if network is not None and mac is not None:
            addresses.setdefault(network, []).append(str(mac).lower())
    sentences = []
    for network, macs in addresses.items():
        for definition in network_definitions(connection, network):
            for entry in dhcp_entries(definition):
                given = ", ".join(part for part in (entry.address, entry.name) if part is not None)
                if entry.mac_address in macs:
                    sentences.append(
                        f"the DHCP entry of network '{network}' for {entry.mac_address} ({given}) is not carried over: "
                        "the clone has another MAC address"
                    )
    return tuple(dict.fromkeys(sentences))
