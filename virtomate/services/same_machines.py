"""Clones that run and that others take for another machine: one DHCP client ID or one IP address for two guests."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.mentions import read_mentions
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import list_active_domains
from virtomate.notices import Notice, StartWarning, notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone_records import CloneResult
    from virtomate.services.guest import LeaseHistory, Twin

# How many guests a warning names.
_MAX_NAMES = 4


class Machine(NamedTuple):
    """A domain that runs, or a domain that is shut off and had a lease.

    Attributes:
        mac_addresses: Its MAC addresses, as far as they are known.
        addresses: The IP addresses that its guest is known to have.
    """

    name: str
    mac_addresses: frozenset[str]
    addresses: frozenset[str]


def clone_machine(result: CloneResult) -> Machine:
    """Return a clone that was waited for."""
    macs = frozenset(interface.mac for interface in result.interfaces)
    return Machine(result.name, macs, _texts(result.addresses or ()))


def original_machine(result: CloneResult, known: tuple[DomainInterface, ...]) -> Machine:
    """Return the original of a clone with what is known of the interfaces of its guest."""
    macs = frozenset(interface.source_mac for interface in result.interfaces if interface.source_mac is not None)
    return Machine(result.source.name, macs, _texts(known))


def same_machines(
    connection: Connection, result: CloneResult, history: LeaseHistory, others: Sequence[Machine]
) -> Iterator[Notice]:
    """Yield a warning if a clone that runs shares its DHCP client ID or its address with other guests.

    The client ID is usually made of the machine ID in the guest, which is the original's.

    Args:
        connection: Where the clone is.
        result: The clone, with its addresses.
        history: The leases that were seen since before the clone was started.
        others: The original, and clones of the same run.
    """
    mine = clone_machine(result)
    by_mac = {mac: other.name for other in others for mac in other.mac_addresses - mine.mac_addresses}
    found: dict[str, list[str]] = {}
    active: dict[str, str] | None = None
    for twin in history.twins(mine.mac_addresses, mine.addresses):
        name = None if twin.client_id is None else by_mac.get(twin.mac_address)
        if name is None:
            active = _active_by_mac(connection, result.uuid) if active is None else active
            name = active.get(twin.mac_address)
        # an address alone: the other guest may have given it back before
        if name is not None or twin.client_id is not None:
            found.setdefault(_what(twin), []).append(twin.mac_address if name is None else f"'{name}'")
    known = {name for names in found.values() for name in names}
    for other in others:
        both = mine.addresses & other.addresses
        if both and f"'{other.name}'" not in known:
            found.setdefault(f"IP address {min(both)}", []).append(f"'{other.name}'")
    for what, names in found.items():
        yield notice(StartWarning.SAME_MACHINE_ID, result.name, what=what, others=_listed(names))


def _texts(interfaces: tuple[DomainInterface, ...]) -> frozenset[str]:
    return frozenset(address.address for interface in interfaces for address in interface.addresses)


def _listed(names: list[str]) -> str:
    *front, last = (
        names if len(names) <= _MAX_NAMES else [*names[: _MAX_NAMES - 1], f"{len(names) - _MAX_NAMES + 1} more"]
    )
    return f"{', '.join(front)} and {last}" if front else last


def _what(twin: Twin) -> str:
    parts = (
        None if twin.client_id is None else f"DHCP client ID ({twin.client_id})",
        None if twin.address is None else f"IP address {twin.address}",
    )
    return " and ".join(part for part in parts if part is not None)


def _active_by_mac(connection: Connection, but: str) -> dict[str, str]:
    """Return the names of the active domains by their MAC addresses, but for the domain with a UUID."""
    found: dict[str, str] = {}
    for domain in list_active_domains(connection):
        with suppress(NotFoundError):
            if domain.uuid != but:
                found |= dict.fromkeys(read_mentions(domain.live_definition()).mac_addresses, domain.name)
    return found
