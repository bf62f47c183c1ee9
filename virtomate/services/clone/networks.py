"""What libvirt's networks have for the original alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.readers import child, devices, dhcp_entries
from virtomate.notices import CloneWarning, Notice, notice

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.hypervisor.connection import Connection


def lost_dhcp_entries(connection: Connection, domain: Document) -> tuple[Notice, ...]:
    """Return a warning for each address that a network keeps for an interface of the original.

    Only networks that its interfaces name are looked at.
    """
    addresses: dict[str, list[str]] = {}
    for interface in devices(domain, "interface"):
        network, mac = child(interface, "source").get("@network"), child(interface, "mac").get("@address")
        if network is not None and mac is not None:
            addresses.setdefault(network, []).append(str(mac).lower())
    lost = []
    for network, macs in addresses.items():
        for definition in connection.network_definitions(network):
            for entry in dhcp_entries(definition):
                lease = ", ".join(part for part in (entry.address, entry.name) if part is not None)
                if entry.mac_address in macs:
                    lost.append(notice(CloneWarning.DHCP_ENTRY, entry.mac_address, network=network, lease=lease))
    return tuple(dict.fromkeys(lost))
