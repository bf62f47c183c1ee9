"""Rule: identity, disks, NVRAM and firmware are the clone's own.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.file_readers import loader_path, selects_firmware
from virtomate.definition.readers import child, devices, mac_addresses
from virtomate.definition.rewrite.unshared import Outcome
from virtomate.errors import UnsupportedError
from virtomate.notices import Change, Notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from virtomate.definition.codec import Document

_ATTEMPTS = 10_000


class Identity(NamedTuple):
    """The identity of a clone.

    Attributes:
        mac_addresses: New addresses by position of the interface; other interfaces keep theirs.
        title: A new title; None keeps the original's, an empty text removes it.
        description: A new description, as for the title.
        host_name: Host name of the guest, None where the definition tells what the original's tells.
    """

    name: str
    uuid: str
    mac_addresses: Mapping[int, str]
    title: str | None = None
    description: str | None = None
    host_name: str | None = None


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
    domain: Document,
    is_taken: Callable[[str], bool],
    random_bytes: Callable[[int], bytes],
    requested: Collection[str] = (),
) -> dict[int, str]:
    """Return a new MAC address for every interface that has one, by position.

    The first three octets name the manufacturer and stay the original's
    (https://en.wikipedia.org/wiki/Organizationally_unique_identifier); the rest is random.

    Args:
        domain: The original.
        is_taken: Tells whether an address, in lower case, is in use.
        random_bytes: Returns the given number of random bytes.
        requested: Addresses for the first interfaces, in order.

    Raises:
        UnsupportedError: No free address was found; the manufacturer's whole range must be in use.
    """
    used = set(requested)
    left = iter(requested)
    addresses = {}

    def is_new(address: str) -> bool:
        return address not in used and not is_taken(address)

    for index, interface in enumerate(devices(domain, "interface")):
        address = child(interface, "mac").get("@address")
        if isinstance(address, str):
            manufacturer, *_ = address.lower().rsplit(":", 3)
            addresses[index] = next(left, None) or _new_mac_address(manufacturer, is_new, random_bytes)
            used.add(addresses[index])
    return addresses


def _new_mac_address(manufacturer: str, is_new: Callable[[str], bool], random_bytes: Callable[[int], bytes]) -> str:
    for _ in range(_ATTEMPTS):
        address = f"{manufacturer}:{random_bytes(3).hex(':')}"
        if is_new(address):
            return address
    raise UnsupportedError(f"no free MAC address begins with {manufacturer}")


class NewSource(NamedTuple):
    """The new volume of a duplicated disk.

    Attributes:
        path: Path of the volume, for a disk of type `file` or `block`.
        pool: Pool and volume, for a disk of type `volume`.
        base_path: Path of an overlay's base; None if the disk is not an overlay.
        base_source: The base as the source of a backing store, where the base is an image in a network.
        is_device: Whether the volume is a block device.
        is_base_device: Whether the overlay's base is a block device.
    """

    path: str
    pool: str
    volume: str
    format: str
    base_path: str | None = None
    base_format: str | None = None
    base_source: Document | None = None
    is_device: bool = False
    is_base_device: bool = False


class NewNvram(NamedTuple):
    """The clone's NVRAM."""

    path: str
    format: str


class NewTpm(NamedTuple):
    """The clone's TPM.

    Attributes:
        path: Path of the state where the original's definition names one; None leaves the place to libvirt.
        place: What is at the path: `dir` or `file`.
        is_copy: Whether the state is a copy of the original's.
    """

    path: str | None = None
    place: str | None = None
    is_copy: bool = False


def without_disks(domain: Document, dropped: Collection[int]) -> Document:
    """Return the definition without the disks at these positions."""
    if not dropped:
        return domain
    domain = copied(domain)
    domain["devices"]["disk"] = [disk for index, disk in enumerate(domain["devices"]["disk"]) if index not in dropped]
    return domain


def with_sources(domain: Document, sources: Mapping[int, NewSource]) -> Document:
    """Return the definition with the new volumes in the duplicated disks, by position.

    The backing chain in the definition is the original's and is removed: libvirt reads the true chain from the images.
    An old `<backingStore/>` would make libvirt take an overlay for the whole disk. Encrypted volumes below an overlay,
    and images in a network, stay named, since no image tells the secrets that open them. The overlay itself is not
    encrypted.
    """
    domain = copied(domain)
    for index, disk in enumerate(devices(domain, "disk")):
        if index in sources:
            _set_source(disk, sources[index])
    return domain


def _set_source(disk: dict[str, Any], new: NewSource) -> None:
    if new.base_source is not None:
        from virtomate.definition.rewrite.network import on_network_base  # noqa: PLC0415 - few disks

        on_network_base(disk, new.base_source, new.path, new.pool, new.volume)
        return
    below = disk.pop("backingStore", None)
    disk.pop("mirror", None)
    source = child(disk, "source")
    # an image above an encrypted one, or above one in a network, cannot be flattened, so its chain stays
    kept = below if _has_secrets(below) else None
    if new.base_path is not None:
        kept = _base_with_secrets(disk, source, new, kept)
    if kept is not None:
        disk["backingStore"] = kept
    if disk.get("@type") == "volume":
        if source.get("@pool") != new.pool:
            # how QEMU gets to a volume of an iSCSI pool
            source.pop("@mode", None)
        source["@pool"], source["@volume"] = new.pool, new.volume
    else:
        kind, path, other = ("block", "@dev", "@file") if new.is_device else ("file", "@file", "@dev")
        if disk.get("@type", "file") != kind:
            disk["@type"] = kind
        source[path] = new.path
        source.pop(other, None)
    driver = {**child(disk, "driver"), "@type": new.format}
    if new.format != "qcow2":
        driver.pop("metadata_cache", None)
    disk["driver"] = driver


def _base_with_secrets(
    disk: dict[str, Any], source: dict[str, Any], new: NewSource, below: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return an overlay's base with the disk's encryption moved into it; None if the images tell all of the chain."""
    # the element stands in the disk or, since libvirt 3.9, in its source
    encryption = disk.pop("encryption", None) or source.pop("encryption", None)
    if encryption is None and below is None:
        return None
    kind, key = ("block", "@dev") if new.is_base_device else ("file", "@file")
    base: dict[str, Any] = {"@type": kind, "format": {"@type": new.base_format}, "source": {key: new.base_path}}
    if encryption is not None:
        base["source"]["encryption"] = encryption
    return base if below is None else {**base, "backingStore": below}


def _has_secrets(store: dict[str, Any] | None) -> bool:
    """Return whether a backing store or one below it is encrypted, or in a network that asks for a secret."""
    while store:
        if "encryption" in child(store, "source") or store.get("@type") == "network":
            return True
        store = child(store, "backingStore")
    return False


def with_nvram(domain: Document, nvram: NewNvram) -> Document:
    """Return the definition with this NVRAM, in the spelling that the definition uses.

    An NVRAM that libvirt placed itself (firmware autoselection) is not in the definition; the clone's is.
    """
    domain = copied(domain)
    os_element = child(domain, "os")
    element: Any = os_element.get("nvram")
    if isinstance(element, dict) and "@type" in element:
        element["source"] = {**child(element, "source"), "@file": nvram.path}
    elif isinstance(element, dict):
        element["#text"] = nvram.path
    else:
        os_element["nvram"] = nvram.path if nvram.format == "raw" else {"@format": nvram.format, "#text": nvram.path}
    return domain


def with_named_firmware(prepared: Outcome) -> Outcome:
    """Turn firmware selection off where libvirt would find no firmware and refuse to define the clone.

    The clone keeps the firmware that the definition names, which libvirt selected once. libvirt before 9.2 names none
    and does not look for firmware when a domain is defined.
    """
    domain = prepared.domain
    path = loader_path(domain)
    if path is None or not selects_firmware(domain):
        return prepared
    named = {key: value for key, value in domain["os"].items() if key not in {"@firmware", "firmware"}}
    changes = (*prepared.changes, Notice(Change.NAMED_FIRMWARE, path))
    return Outcome(copied({**domain, "os": named}), changes, prepared.warnings)
