"""Rule: name, UUIDs, generation ID, MAC addresses, title and description are the clone's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import child, devices, mac_addresses
from virtomate.notices import Change, Notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from virtomate.definition.codec import Document


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
    guest that it was duplicated; libvirt makes one where the element has no value.
    """
    domain = copied(domain)
    domain["name"] = identity.name
    domain["uuid"] = identity.uuid
    if "genid" in domain:
        domain["genid"] = None
    for entry in _smbios_uuids(domain):
        entry["#text"] = identity.uuid
    for index, interface in enumerate(devices(domain, "interface")):
        mac = identity.mac_addresses.get(index)
        if mac is not None:
            child(interface, "mac")["@address"] = mac
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
