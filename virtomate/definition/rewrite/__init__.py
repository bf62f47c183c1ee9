"""The changes that make a clone's definition out of its original's, each a pure function.

Whatever is not named here stays as it was. The rules and their reasons are those of the documentation's page on what
changes in a clone; the elements are those of https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from virtomate.definition import readers
from virtomate.definition.codec import copied
from virtomate.definition.identity import same_identity
from virtomate.definition.readers import child, devices, mac_addresses
from virtomate.definition.rewrite.auto_allocated import (
    automatic_channel_sockets,
    automatic_graphics_sockets,
    automatic_interface_targets,
    automatic_ports,
    automatic_virtual_ports,
    automatic_vsock,
)
from virtomate.definition.rewrite.outcome import Outcome
from virtomate.definition.rewrite.per_domain_paths import own_paths
from virtomate.definition.rewrite.still_shared import not_carried_over, shared_things
from virtomate.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from virtomate.definition.codec import Document

_MAC_OCTETS = 6
_OUI_OCTETS = 3
_MAC_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Identity:
    """What is the clone's own.

    Attributes:
        mac_addresses: New ones, by the position of the interface; the others keep theirs.
        title: A new title, None for the original's, empty for none.
        description: A new description, likewise.
    """

    name: str
    uuid: str
    mac_addresses: Mapping[int, str]
    title: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class NewSource:
    """Where a duplicated disk of the clone lies.

    Attributes:
        path: Path of the volume, for a disk named by its file.
        pool: Pool and volume, for a disk named by those.
        format: What the driver is told.
        base_path: Of an overlay, the volume below; else None.
        base_format: Its format.
    """

    path: str
    pool: str
    volume: str
    format: str
    base_path: str | None = None
    base_format: str | None = None


@dataclass(frozen=True)
class NewNvram:
    """Where the clone's NVRAM lies."""

    path: str
    format: str


_AUTOMATIC = (
    automatic_ports,
    automatic_graphics_sockets,
    automatic_channel_sockets,
    automatic_vsock,
    automatic_interface_targets,
    automatic_virtual_ports,
)


def prepare_definition(domain: Document) -> Outcome:
    """Do what is the same for every clone of an original."""
    changes: list[str] = []
    for rule in _AUTOMATIC:
        outcome = rule(domain)
        domain = outcome.domain
        changes += outcome.changes
    return Outcome(domain, tuple(changes))


def with_named_firmware(prepared: Outcome) -> Outcome:
    """Have libvirt select no firmware where it finds none: it would refuse to define the clone.

    The firmware that it selected once stays, which the definition names. libvirt before 9.2 does not name it, and does
    not look for any when a domain is defined.
    """
    domain = prepared.domain
    path = readers.loader_path(domain)
    if path is None or not readers.selects_firmware(domain):
        return prepared
    named = {key: value for key, value in domain["os"].items() if key not in {"@firmware", "firmware"}}
    change = f"firmware: {path}, and no other that libvirt selects"
    return Outcome(copied({**domain, "os": named}), (*prepared.changes, change), prepared.warnings)


def clone_domain_definition(
    prepared: Outcome,
    identity: Identity,
    sources: Mapping[int, NewSource],
    nvram: NewNvram | None,
    dropped: Collection[int] = (),
) -> Outcome:
    """Make a clone's definition, and tell what was renewed and what original and clone still share.

    Args:
        prepared: What was made of the original's definition, for any number of clones.
        identity: What is the clone's own.
        sources: The duplicated disks, by position.
        nvram: The clone's NVRAM, None where it has none or shares a source that is no file.
        dropped: Positions of the disks that the clone does not get.
    """
    source = readers.name(prepared.domain)
    changes = (*renewed_identifiers(prepared.domain, identity), *prepared.changes)
    domain = without_disks(with_sources(with_identity(prepared.domain, identity), sources), dropped)
    if nvram is not None:
        domain = with_nvram(domain, nvram.path, nvram.format)
    outcome = own_paths(domain, source, identity.name)
    return Outcome(
        domain=outcome.domain,
        # several interfaces may have lost the same
        changes=tuple(dict.fromkeys((*changes, *outcome.changes))),
        warnings=(
            *outcome.warnings,
            *shared_things(outcome.domain),
            *same_identity(prepared.domain, sources, has_new_title=identity.title is not None),
            *not_carried_over(outcome.domain),
        ),
    )


def renewed_identifiers(domain: Document, identity: Identity) -> tuple[str, ...]:
    """What `with_identity` renews in this definition, in words."""
    changes = ["UUID"]
    if any(
        isinstance(entry, dict) and entry.get("@name") == "uuid"
        for sysinfo in domain.get("sysinfo", [])
        for entry in child(sysinfo or {}, "system").get("entry", [])
    ):
        changes.append("SMBIOS system UUID")
    if "genid" in domain:
        changes.append("VM generation ID")
    if identity.mac_addresses and mac_addresses(domain):
        changes.append("MAC addresses")
    texts = {"title": identity.title, "description": identity.description}
    changes += [what for what, text in texts.items() if text is not None]
    return tuple(changes)


def with_identity(domain: Document, identity: Identity) -> Document:
    """Name, UUID, and what else says who the domain is.

    The SMBIOS system UUID must equal the domain's, or libvirt refuses the definition. A VM generation ID tells the
    guest that it is another machine than it was; without a value libvirt makes a new one.
    """
    domain = copied(domain)
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
    for name, text in (("title", identity.title), ("description", identity.description)):
        if text:
            domain[name] = text
        elif text is not None:
            domain.pop(name, None)
    return domain


def without_disks(domain: Document, dropped: Collection[int]) -> Document:
    """Leave disks out, by position."""
    if not dropped:
        return domain
    domain = copied(domain)
    kept = [disk for index, disk in enumerate(domain["devices"]["disk"]) if index not in dropped]
    domain["devices"]["disk"] = kept
    return domain


def with_sources(domain: Document, sources: Mapping[int, NewSource]) -> Document:
    """Put the new volumes into the duplicated disks, by position.

    What the definition says of the chain below is removed: it is the original's, and libvirt finds the true one in the
    images. An old `<backingStore/>` would make libvirt take an overlay for all there is. Encrypted volumes below an
    overlay are named, with the secrets that open them, which no image can tell; the overlay itself is not encrypted.

    Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms (backingStore)
    """
    domain = copied(domain)
    for index, disk in enumerate(devices(domain, "disk")):
        new = sources.get(index)
        if new is None:
            continue
        below = disk.pop("backingStore", None)
        disk.pop("mirror", None)
        source = child(disk, "source")
        # of what rests on an encrypted volume there is no flat copy
        encrypted_below = below if _is_encrypted(below) else None
        if new.base_path is not None:
            encrypted_below = _encrypted_base(disk, source, new, encrypted_below)
        if encrypted_below is not None:
            disk["backingStore"] = encrypted_below
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


def _encrypted_base(
    disk: dict[str, Any], source: dict[str, Any], new: NewSource, below: dict[str, Any] | None
) -> dict[str, Any] | None:
    """What is below an overlay, if that or something below it is encrypted; the encryption is moved there."""
    # the element stands in the disk or, since libvirt 3.9, in its source
    encryption = disk.pop("encryption", None) or source.pop("encryption", None)
    if encryption is None and below is None:
        return None
    base: dict[str, Any] = {
        "@type": "file",
        "format": {"@type": new.base_format},
        "source": {"@file": new.base_path},
    }
    if encryption is not None:
        base["source"]["encryption"] = encryption
    return base if below is None else {**base, "backingStore": below}


def _is_encrypted(store: dict[str, Any] | None) -> bool:
    """Whether a backing store or one below it is encrypted."""
    while store:
        if "encryption" in child(store, "source"):
            return True
        store = child(store, "backingStore")
    return False


def with_nvram(domain: Document, path: str, format_: str) -> Document:
    """Give the clone an NVRAM of its own, in whichever spelling the definition has.

    Where the definition shows none because libvirt chose it (firmware autoselection), the clone's is named.
    """
    domain = copied(domain)
    os_element = child(domain, "os")
    element: Any = os_element.get("nvram")
    if isinstance(element, dict) and "@type" in element:
        element["source"] = {**child(element, "source"), "@file": path}
    elif isinstance(element, dict):
        element["#text"] = path
    else:
        os_element["nvram"] = path if format_ == "raw" else {"@format": format_, "#text": path}
    return domain


def new_mac_addresses(
    domain: Document, taken: Collection[str], chance: Callable[[int], bytes], given: Iterable[str] = ()
) -> dict[int, str]:
    """A new MAC address for every interface that has one, by position.

    The first three octets, which tell the manufacturer, stay the original's
    (https://en.wikipedia.org/wiki/Organizationally_unique_identifier); the rest is random.

    Args:
        domain: The original.
        taken: Addresses in use, in lower case.
        chance: Gives so many random bytes.
        given: Addresses for the first interfaces, in order.

    Raises:
        UnsupportedError: No free address was found; the manufacturer's whole range must be in use.
    """
    used = {*taken, *(given := tuple(given))}
    chosen = iter(given)
    addresses = {}
    for index, interface in enumerate(devices(domain, "interface")):
        address = child(interface, "mac").get("@address")
        if not isinstance(address, str):
            continue
        oui = address.lower().split(":")[:_OUI_OCTETS]
        addresses[index] = next(chosen, None) or _new_mac_address(oui, used, chance)
        used.add(addresses[index])
    return addresses


def _new_mac_address(oui: list[str], used: Collection[str], chance: Callable[[int], bytes]) -> str:
    for _ in range(_MAC_ATTEMPTS):
        rest = [f"{octet:02x}" for octet in chance(_MAC_OCTETS - _OUI_OCTETS)]
        address = ":".join(oui + rest)
        if address not in used:
            return address
    raise UnsupportedError(f"no free MAC address begins with {':'.join(oui)}")
