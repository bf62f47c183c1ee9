"""Readers of libvirt's documents: elements, names and interfaces of domains, DHCP entries, users of QEMU processes.

Source for a domain's elements: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition import codec
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document


class InterfaceDefinition(NamedTuple):
    """A network interface of an active domain: its name on the host or else in libvirt, and its MAC address."""

    name: str
    mac: str | None


class DhcpEntry(NamedTuple):
    """The address and name that a network gives to a MAC address."""

    mac_address: str
    address: str | None
    name: str | None


def child(element: Document, name: str) -> dict[str, Any]:
    """Return a child element, or an empty one where it is absent, without content or plain text."""
    value = element.get(name)
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the elements with content of an element that may stand once, several times or not at all."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def text(value: Any) -> str | None:  # noqa: ANN401
    """Return the text of an element with or without attributes."""
    if isinstance(value, dict):
        value = value.get("#text")
    return value if isinstance(value, str) else None


def devices(domain: Document, kind: str) -> list[dict[str, Any]]:
    """Return the devices of one kind; an element without content counts as an empty one."""
    return [device or {} for device in child(domain, "devices").get(kind, [])]


def name(domain: Document) -> str:
    """Return the domain's name."""
    return text(domain.get("name")) or ""


def uuid(domain: Document) -> str:
    """Return the domain's UUID."""
    return text(domain.get("uuid")) or ""


def interfaces(domain: Document) -> tuple[InterfaceDefinition, ...]:
    """Return the network interfaces of an active domain, in order."""
    found = []
    for number, interface in enumerate(devices(domain, "interface")):
        alias = child(interface, "alias").get("@name") or f"net{number}"
        mac = str(child(interface, "mac").get("@address", "")).lower() or None
        found.append(InterfaceDefinition(str(child(interface, "target").get("@dev") or alias), mac))
    return tuple(found)


def find_interface(domain: Document, word: str) -> int | None:
    """Return the position of the interface that a word names: by its number from 1 on, MAC address or target device."""
    for position, interface in enumerate(devices(domain, "interface")):
        mac, target = child(interface, "mac").get("@address"), child(interface, "target").get("@dev")
        if word in {str(position + 1), target} or word.lower() == str(mac or "").lower():
            return position
    return None


def mac_addresses(domain: Document) -> tuple[str, ...]:
    """Return the MAC addresses of all network interfaces, in lower case."""
    return tuple(interface.mac for interface in interfaces(domain) if interface.mac)


def network_names(domain: Document) -> tuple[str, ...]:
    """Return the virtual networks that the interfaces are connected to, each once."""
    sources = (child(interface, "source") for interface in devices(domain, "interface"))
    return tuple(dict.fromkeys(str(network) for source in sources if (network := source.get("@network"))))


def dhcp_entries(document: str) -> tuple[DhcpEntry, ...]:
    """Return a network's DHCP entries for MAC addresses, in lower case; entries for names or client IDs are left out.

    Source: https://libvirt.org/formatnetwork.html

    Raises:
        MalformedDocumentError: The text is not a `<network>` document.
    """
    return tuple(
        DhcpEntry(str(host["@mac"]).lower(), host.get("@ip"), host.get("@name"))
        for ip in as_list(codec.parse(document, "network").get("ip"))
        for host in as_list(child(ip, "dhcp").get("host"))
        if "@mac" in host
    )


def qemu_users(capabilities: str) -> frozenset[int]:
    """Return the default user IDs of QEMU processes from a hypervisor's capabilities; empty if libvirt reports none.

    libvirt reports `+UID:+GID` as the label of its security model `dac`, once for each type of domain.

    Source: https://libvirt.org/formatcaps.html
    """
    users = set()
    for model in as_list(child(codec.parse(capabilities, "capabilities"), "host").get("secmodel")):
        labels = model.get("baselabel") if text(model.get("model")) == "dac" else None
        for label in labels if isinstance(labels, list) else [labels]:
            user = (text(label) or "").partition(":")[0].removeprefix("+")
            if user.isdecimal():
                users.add(int(user))
    return frozenset(users)
