"""The one look at all domains of a connection: who uses which MAC address, and which files are open for writing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition.volume import normalise
from virtomate.errors import NotFoundError
from virtomate.frozen import dataclass
from virtomate.hypervisor.domains import list_active_domains, list_domains

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection


# A random UUID of the kernel's (random(4)); Python's module takes longer to import than libvirt to define a domain.
_RANDOM_UUID = Path("/proc/sys/kernel/random/uuid")


@dataclass(frozen=True)
class Identities:
    """What is in use on a connection.

    Attributes:
        names: Of all domains.
        mac_addresses: Of every domain's interfaces, in lower case.
        writers: Who has a disk open for writing: the name of the active domain, by the disk's path, or by its pool and
            volume where the disk is named by those.
    """

    names: frozenset[str]
    mac_addresses: frozenset[str]
    writers: dict[str | tuple[str, str], str]


def scan_identities(connection: Connection) -> Identities:
    """Look at every domain once; an active one twice, since its next start may use other things than it does now.

    Of an inactive domain only the MAC addresses count, so its definition is not parsed: with a thousand domains that
    would take longer than the clone. A domain that vanishes meanwhile is passed over.
    """
    mac_addresses: set[str] = set()
    writers: dict[str | tuple[str, str], str] = {}
    domains = list_domains(connection)
    for domain in domains:
        try:
            mac_addresses.update(readers.find_mac_addresses(domain.inactive_definition_without_secrets()))
        except NotFoundError:
            continue
    for domain in list_active_domains(connection):
        try:
            live = codec.parse_definition(domain.live_definition()).domain
        except NotFoundError:
            continue
        mac_addresses.update(readers.mac_addresses(live))
        for disk in readers.open_for_writing(live):
            if disk.path is not None:
                writers[normalise(disk.path)] = domain.name
            if disk.pool is not None and disk.volume is not None:
                writers[disk.pool, disk.volume] = domain.name
    return Identities(frozenset(domain.name for domain in domains), frozenset(mac_addresses), writers)


def new_uuid() -> str:
    """A random UUID."""
    return _RANDOM_UUID.read_text(encoding="ascii").strip()
