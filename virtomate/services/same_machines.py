"""Clones that run and that others take for another machine: one DHCP client ID or one IP address for two guests."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.mentions import read_mentions
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import list_active_domains
from virtomate.notices import Notice, StartWarning, notice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone_records import CloneResult
    from virtomate.services.guest import LeaseHistory, Twin

# How many guests a warning names.
_MAX_NAMES = 4


def same_machines(
    connection: Connection, result: CloneResult, history: LeaseHistory, others: Iterable[CloneResult]
) -> Iterator[Notice]:
    """Yield a warning if a clone that runs shares its DHCP client ID or its address with other guests.

    The client ID is usually made of the machine ID in the guest, which is the original's.

    Args:
        connection: Where the clone is.
        result: The clone, with its addresses.
        history: The leases that were seen since before the clone was started.
        others: Clones of the same run, with their addresses.
    """
    macs = {interface.mac for interface in result.interfaces}
    addresses = _addresses(result)
    found: dict[str, list[str]] = {}
    for twin in history.twins(macs, addresses):
        name = _name(connection, twin, result, others)
        # an address alone: the other guest may have given it back before
        if name is not None or twin.client_id is not None:
            found.setdefault(_what(twin), []).append(twin.mac_address if name is None else f"'{name}'")
    known = {name for names in found.values() for name in names}
    for other in others:
        both = addresses & _addresses(other)
        if both and f"'{other.name}'" not in known:
            found.setdefault(f"IP address {min(both)}", []).append(f"'{other.name}'")
    for what, names in found.items():
        yield notice(StartWarning.SAME_MACHINE_ID, result.name, what=what, others=_listed(names))


def _listed(names: list[str]) -> str:
    *front, last = (
        names if len(names) <= _MAX_NAMES else [*names[: _MAX_NAMES - 1], f"{len(names) - _MAX_NAMES + 1} more"]
    )
    return f"{', '.join(front)} and {last}" if front else last


def _addresses(result: CloneResult) -> set[str]:
    return {address.address for interface in result.addresses or () for address in interface.addresses}


def _what(twin: Twin) -> str:
    parts = (
        None if twin.client_id is None else f"DHCP client ID ({twin.client_id})",
        None if twin.address is None else f"IP address {twin.address}",
    )
    return " and ".join(part for part in parts if part is not None)


def _name(connection: Connection, twin: Twin, result: CloneResult, others: Iterable[CloneResult]) -> str | None:
    """Return the name of the domain with an interface; without a client ID, only of a domain that is active."""
    mac = twin.mac_address
    for domain in list_active_domains(connection):
        with suppress(NotFoundError):
            if domain.uuid != result.uuid and mac in read_mentions(domain.live_definition()).mac_addresses:
                return domain.name
    if twin.client_id is None:
        return None
    known = {interface.mac: other.name for other in others for interface in other.interfaces}
    known |= {interface.source_mac or "": result.source.name for interface in result.interfaces}
    return known.get(mac)
