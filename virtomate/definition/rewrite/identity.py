"""Rule: name, UUIDs, generation ID, MAC addresses, title and description are the clone's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import child, devices, mac_addresses
from virtomate.errors import UnsupportedError
from virtomate.notices import Change, Notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from virtomate.definition.codec import Document

_MAC_OCTETS = 6
_OUI_OCTETS = 3
_ATTEMPTS = 10_000


class Identity(NamedTuple):
    """What identifies a clone.

    Attributes:
        mac_addresses: New addresses by position of the interface; other interfaces keep theirs.
        title: A new title; None keeps the original's, an empty text removes it.
        description: A new description, as for the title.
    """

    name: str
    uuid: str
    mac_addresses: Mapping[int, str]
    title: str | None = None
    description: str | None = None


def with_identity(domain: Document, identity: Identity) -> Document:
    """Return the definition with this identity.

    The SMBIOS system UUID must equal the domain's, or libvirt refuses the definition. A new VM generation ID tells the
    guest that it was duplicated; libvirt makes the ID where the element has no value.
    """
    domain = copied(domain)
    domain["name"] = identity.name
    domain["uuid"] = identity.uuid
    if "genid" in domain:
        domain["genid"] = None
    for entry in _smbios_uuids(domain):
        entry["#text"] = identity.uuid
    for index, interface in enumerate(devices(domain, "interface")):
        if index in identity.mac_addresses:
            child(interface, "mac")["@address"] = identity.mac_addresses[index]
    for name, text in (("title", identity.title), ("description", identity.description)):
        if text:
            domain[name] = text
        elif text is not None:
            domain.pop(name, None)
    return domain


def renewed_identifiers(domain: Document, identity: Identity) -> tuple[Notice, ...]:
    """Return what `with_identity` renews in this definition."""
    renewed = {
        "UUID": True,
        "SMBIOS system UUID": any(_smbios_uuids(domain)),
        "VM generation ID": "genid" in domain,
        "MAC addresses": bool(identity.mac_addresses and mac_addresses(domain)),
        "title": identity.title is not None,
        "description": identity.description is not None,
    }
    return tuple(Notice(Change.NEW, what) for what, is_renewed in renewed.items() if is_renewed)


def _smbios_uuids(domain: Document) -> Iterator[dict[str, Any]]:
    for sysinfo in domain.get("sysinfo", []):
        for entry in child(sysinfo or {}, "system").get("entry", []):
            if isinstance(entry, dict) and entry.get("@name") == "uuid":
                yield entry


def new_mac_addresses(
    domain: Document, taken: Collection[str], random_bytes: Callable[[int], bytes], requested: Iterable[str] = ()
) -> dict[int, str]:
    """Return a new MAC address for every interface that has one, by position.

    The first three octets name the manufacturer and stay the original's
    (https://en.wikipedia.org/wiki/Organizationally_unique_identifier); the rest is random.

    Args:
        domain: The original.
        taken: Addresses in use, in lower case.
        random_bytes: Returns the given number of random bytes.
        requested: Addresses for the first interfaces, in order.

    Raises:
        UnsupportedError: No free address was found; the manufacturer's whole range must be in use.
    """
    requested = tuple(requested)
    used = {*taken, *requested}
    left = iter(requested)
    addresses = {}
    for index, interface in enumerate(devices(domain, "interface")):
        address = child(interface, "mac").get("@address")
        if isinstance(address, str):
            oui = address.lower().split(":")[:_OUI_OCTETS]
            addresses[index] = next(left, None) or _new_mac_address(oui, used, random_bytes)
            used.add(addresses[index])
    return addresses


def _new_mac_address(oui: list[str], used: Collection[str], random_bytes: Callable[[int], bytes]) -> str:
    for _ in range(_ATTEMPTS):
        rest = [f"{octet:02x}" for octet in random_bytes(_MAC_OCTETS - _OUI_OCTETS)]
        address = ":".join(oui + rest)
        if address not in used:
            return address
    raise UnsupportedError(f"no free MAC address begins with {':'.join(oui)}")
