"""Readers of a domain's definition: its elements, names and interfaces.

Source for the elements: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document


class InterfaceDefinition(NamedTuple):
    """A network interface of an active domain.

    Attributes:
        name: Name on the host; libvirt's name for the device if there is none on the host.
        mac: MAC address in lower case, if it has one.
    """

    name: str
    mac: str | None


def devices(domain: Document, kind: str) -> list[dict[str, Any]]:
    """Return the devices of one kind; an element without content counts as an empty one."""
    return [device or {} for device in child(domain, "devices").get(kind, [])]


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


def name(domain: Document) -> str:
    """Return the domain's name."""
    return text(domain.get("name")) or ""


def uuid(domain: Document) -> str:
    """Return the domain's UUID."""
    return text(domain.get("uuid")) or ""


def mac_addresses(domain: Document) -> tuple[str, ...]:
    """Return the MAC addresses of all network interfaces, in lower case."""
    return tuple(
        str(mac).lower()
        for interface in devices(domain, "interface")
        if (mac := child(interface, "mac").get("@address"))
    )


def interfaces(domain: Document) -> tuple[InterfaceDefinition, ...]:
    """Return the network interfaces of an active domain, in order."""
    return tuple(
        InterfaceDefinition(
            name=str(
                child(interface, "target").get("@dev") or child(interface, "alias").get("@name") or f"net{number}"
            ),
            mac=str(child(interface, "mac").get("@address", "")).lower() or None,
        )
        for number, interface in enumerate(devices(domain, "interface"))
    )


def network_names(domain: Document) -> tuple[str, ...]:
    """Return the virtual networks that the interfaces are connected to, each once."""
    sources = (child(interface, "source") for interface in devices(domain, "interface"))
    return tuple(dict.fromkeys(str(network) for source in sources if (network := source.get("@network"))))


def command_line_arguments(domain: Document) -> tuple[str, ...]:
    """Return the arguments that the definition adds to QEMU's command line."""
    arguments = child(domain, "qemu:commandline").get("qemu:arg", [])
    return tuple(str(argument.get("@value", "")) for argument in arguments if isinstance(argument, dict))
