"""The changes that make a clone's definition out of its original's, each a pure function.

Whatever is not named here stays as it was. The rules and their reasons are those of the documentation's page on what
changes in a clone; the elements are those of https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import child, devices, mac_addresses
from virtomate.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from virtomate.definition.codec import Document

_MAC_OCTETS = 6
_OUI_OCTETS = 3
_MAC_ATTEMPTS = 10_000

# Graphics devices that listen on ports; the others draw on the host's own screen or nowhere.
_GRAPHICS_WITH_PORTS = frozenset({"vnc", "spice", "rdp"})


@dataclass(frozen=True)
class Identity:
    """What is the clone's own."""

    name: str
    uuid: str
    mac_addresses: Mapping[int, str]


@dataclass(frozen=True)
class NewSource:
    """Where a duplicated disk of the clone lies.

    Attributes:
        path: Path of the volume, for a disk named by its file.
        pool: Pool and volume, for a disk named by those.
        format: What the driver is told.
    """

    path: str
    pool: str
    volume: str
    format: str


def with_identity(domain: Document, identity: Identity) -> Document:
    """Name, UUID, and what else says who the domain is.

    The SMBIOS system UUID must equal the domain's, or libvirt refuses the definition. A VM generation ID tells the
    guest that it is another machine than it was; without a value libvirt makes a new one.
    """
    domain = copy.deepcopy(domain)
    domain["name"] = identity.name
    domain["uuid"] = identity.uuid
    if "genid" in domain:
        domain["genid"] = None
    for sysinfo in domain.get("sysinfo", []):
        for entry in child(sysinfo or {}, "system").get("entry", []):
            if isinstance(entry, dict) and entry.get("@name") == "uuid":
                entry["#text"] = identity.uuid
    for index, interface in enumerate(devices(domain, "interface")):
        mac = identity.mac_addresses.get(index)
        if mac is not None:
            child(interface, "mac")["@address"] = mac
    return domain


def with_automatic_ports(domain: Document) -> Document:
    """Let libvirt choose every port of every graphics device when the clone starts.

    A port that the original's definition fixes can be listened on by one domain only.
    """
    domain = copy.deepcopy(domain)
    for graphics in devices(domain, "graphics"):
        if graphics.get("@type") not in _GRAPHICS_WITH_PORTS:
            continue
        graphics.pop("@port", None)
        graphics.pop("@tlsPort", None)
        graphics["@autoport"] = "yes"
        if "@websocket" in graphics:
            graphics["@websocket"] = "-1"
    return domain


def with_automatic_vsock(domain: Document) -> Document:
    """Let libvirt choose the vsock's context ID: it addresses one guest of the host."""
    domain = copy.deepcopy(domain)
    for vsock in devices(domain, "vsock"):
        cid = child(vsock, "cid")
        if cid:
            cid.pop("@address", None)
            cid["@auto"] = "yes"
    return domain


def with_sources(domain: Document, sources: Mapping[int, NewSource]) -> Document:
    """Put the new volumes into the duplicated disks, by position.

    What the definition says of the chain below is removed: it is the original's, and libvirt finds the true one in the
    images. An old `<backingStore/>` would make libvirt take an overlay for all there is.
    """
    domain = copy.deepcopy(domain)
    for index, disk in enumerate(devices(domain, "disk")):
        new = sources.get(index)
        if new is None:
            continue
        disk.pop("backingStore", None)
        disk.pop("mirror", None)
        source = child(disk, "source")
        if disk.get("@type") == "volume":
            source["@pool"], source["@volume"] = new.pool, new.volume
        else:
            source["@file"] = new.path
        driver = disk.get("driver")
        if isinstance(driver, dict):
            driver["@type"] = new.format
        else:
            disk["driver"] = {"@type": new.format}
    return domain


def with_nvram(domain: Document, path: str, format_: str) -> Document:
    """Give the clone an NVRAM of its own, in whichever spelling the definition has.

    Where the definition shows none because libvirt chose it (firmware autoselection), the clone's is named.
    """
    domain = copy.deepcopy(domain)
    os_element = child(domain, "os")
    element: Any = os_element.get("nvram")
    if isinstance(element, dict) and "@type" in element:
        child(element, "source")["@file"] = path
    elif isinstance(element, dict):
        element["#text"] = path
    else:
        os_element["nvram"] = path if format_ == "raw" else {"@format": format_, "#text": path}
    return domain


def describe_changes(domain: Document) -> tuple[str, ...]:
    """What `with_identity`, `with_automatic_ports` and `with_automatic_vsock` renew in this definition, in words."""
    changes = ["UUID"]
    if any(
        isinstance(entry, dict) and entry.get("@name") == "uuid"
        for sysinfo in domain.get("sysinfo", [])
        for entry in child(sysinfo or {}, "system").get("entry", [])
    ):
        changes.append("SMBIOS system UUID")
    if "genid" in domain:
        changes.append("VM generation ID")
    if mac_addresses(domain):
        changes.append("MAC addresses")
    changes.extend(
        f"{str(graphics['@type']).upper()} ports: chosen by libvirt at every start"
        for graphics in devices(domain, "graphics")
        if graphics.get("@type") in _GRAPHICS_WITH_PORTS and not _has_automatic_ports(graphics)
    )
    if any(child(vsock, "cid").get("@auto") != "yes" for vsock in devices(domain, "vsock")):
        changes.append("vsock context ID: chosen by libvirt at every start")
    return tuple(changes)


def _has_automatic_ports(graphics: Document) -> bool:
    return graphics.get("@autoport") == "yes" and graphics.get("@websocket", "-1") == "-1"


def new_mac_addresses(domain: Document, taken: Collection[str], chance: Callable[[int], bytes]) -> dict[int, str]:
    """A new MAC address for every interface that has one, by position.

    The first three octets, which tell the manufacturer, stay the original's
    (https://en.wikipedia.org/wiki/Organizationally_unique_identifier); the rest is random.

    Args:
        domain: The original.
        taken: Addresses in use, in lower case.
        chance: Gives so many random bytes.

    Raises:
        UnsupportedError: No free address was found; the manufacturer's whole range must be in use.
    """
    used = set(taken)
    addresses = {}
    for index, interface in enumerate(devices(domain, "interface")):
        address = child(interface, "mac").get("@address")
        if not isinstance(address, str):
            continue
        oui = address.lower().split(":")[:_OUI_OCTETS]
        addresses[index] = _new_mac_address(oui, used, chance)
        used.add(addresses[index])
    return addresses


def _new_mac_address(oui: list[str], used: Collection[str], chance: Callable[[int], bytes]) -> str:
    for _ in range(_MAC_ATTEMPTS):
        rest = [f"{octet:02x}" for octet in chance(_MAC_OCTETS - _OUI_OCTETS)]
        address = ":".join(oui + rest)
        if address not in used:
            return address
    raise UnsupportedError(f"no free MAC address begins with {':'.join(oui)}")
