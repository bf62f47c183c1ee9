"""DHCP entries that cloning makes in libvirt's networks: the entry for libvirt, and the lines in a clone's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition import codec
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.definition.codec import Document


class HostEntry(NamedTuple):
    """The IPv4 address that a network gives to a MAC address.

    All of it together proves that an entry was made for a clone: the MAC address is the clone's own.

    Attributes:
        mac_address: In lower case; empty for an entry of somebody else that is for a name alone.
        name: The name that DNS and DHCP of the network tell; None where the clone's name cannot be a host name.
    """

    network: str
    mac_address: str
    address: str
    name: str | None = None

    @property
    def what(self) -> str:
        """A phrase that names the entry."""
        parts = ", ".join(part for part in (self.address, self.name) if part is not None)
        whose = f" for {self.mac_address}" if self.mac_address else ""
        return f"DHCP entry of network '{self.network}'{whose} ({parts})"


def host_element(entry: HostEntry) -> str:
    """Return the entry as libvirt takes it (https://libvirt.org/formatnetwork.html#addressing)."""
    values = {"@mac": entry.mac_address, "@name": entry.name, "@ip": entry.address}
    return codec.unparse({key: value for key, value in values.items() if value is not None}, "host")


def written_entry(entry: HostEntry) -> Document:
    """Return the line of a record."""
    return {f"@{key}": value for key, value in entry._asdict().items() if value is not None}


def read_entry(item: Mapping[str, Any]) -> HostEntry:
    """Return the entry in a line of a record."""
    return HostEntry(item["@network"], item["@mac_address"], item["@address"], item.get("@name"))
