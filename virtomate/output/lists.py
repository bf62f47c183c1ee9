"""Lists of domains, storage pools, volumes and interfaces."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING

from virtomate.enums import Integrity
from virtomate.output.json import domain_document
from virtomate.output.streams import print_json, print_records, print_table
from virtomate.output.text import addresses_text, aligned, cell_width, cut, printable, terminal_columns
from virtomate.tuples import NamedTuple
from virtomate.words import binary_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.definition.volume import VolumeListing
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.output.streams import Format
    from virtomate.output.text import Table
    from virtomate.services.listings import DomainListing
    from virtomate.services.pool_listings import PoolListing

# How many columns the name of an original keeps in a line that is too long.
_SHORTEST_ORIGIN = 16


class _Parts(NamedTuple):
    """What a line of a list of domains contains.

    Attributes:
        origin_width: The columns for the name and state of a clone's original; None for as many as they take.
    """

    has_uuids: bool = True
    all_addresses: bool = True
    has_modes: bool = True
    origin_width: int | None = None


# What gives way in lines that are too long, one after the other.
_STEPS = (
    _Parts(),
    _Parts(has_uuids=False),
    _Parts(has_uuids=False, all_addresses=False),
    _Parts(has_uuids=False, all_addresses=False, has_modes=False),
)


# What a list says of a clone's base; nothing of an intact base.
_TOLD = frozenset({Integrity.BROKEN, Integrity.UNVERIFIED})


def render_domains(listings: Sequence[DomainListing], format_: Format) -> None:
    """Show a list of domains, with as much of each domain as fits into a line of the terminal.

    The UUID gives way first, then all addresses of a domain but one, then the mode of clones, then the end of an
    original's name. Names of domains are never cut.
    """
    if format_.is_json:
        print_json([domain_document(listing, format_.reach) for listing in listings], format_)
        return
    columns = terminal_columns()
    for parts in _STEPS:
        table = _domain_table(listings, parts)
        if _width(table) <= columns:
            break
    else:
        rest = columns - _width([(*row[:-1], ".") for row in table]) + 1
        if rest >= _SHORTEST_ORIGIN:
            table = _domain_table(listings, _STEPS[-1]._replace(origin_width=rest))
    print_table(table)


def render_pools(listings: Sequence[PoolListing], format_: Format) -> None:
    """Show a list of storage pools."""
    if format_.is_json:
        print_records(listings, format_)
        return
    rows = [("Name", "State", "Capacity", "Allocation", "Available", "Volumes", "Persistent")]
    rows += [
        (
            printable(item.name),
            item.state,
            binary_size(item.capacity),
            binary_size(item.allocation),
            binary_size(item.available),
            "" if item.volume_count is None else str(item.volume_count),
            "yes" if item.is_persistent else "no",
        )
        for item in listings
    ]
    print_table(rows)


def render_volumes(listings: Sequence[VolumeListing], format_: Format) -> None:
    """Show a list of volumes."""
    if format_.is_json:
        print_records(listings, format_)
        return
    rows = [("Name", "Format", "Capacity", "Allocation", "Backing store")]
    rows += [
        (
            printable(item.name),
            item.target.format or item.type,
            binary_size(item.capacity),
            binary_size(item.allocation),
            "" if item.backing_store is None else printable(item.backing_store.path or ""),
        )
        for item in listings
    ]
    print_table(rows)


def render_interfaces(interfaces: Sequence[DomainInterface], format_: Format) -> None:
    """Show the interfaces of an active domain, a line for each address."""
    if format_.is_json:
        print_records(interfaces, format_)
        return
    rows = [("Name", "MAC address", "Address", "DHCP entry")]
    for interface in interfaces:
        head = (printable(interface.name), printable(interface.hwaddr or ""))
        entry = interface.dhcp_entry
        tail = "" if entry is None else printable(f"{entry.address} ({entry.network})")
        for address in [f"{address.address}/{address.prefix}" for address in interface.addresses] or [""]:
            rows.append((*head, printable(address), tail))
            head, tail = ("", ""), ""
    has_entries = any(interface.dhcp_entry is not None for interface in interfaces)
    print_table([tuple(compress(row, (True, True, True, has_entries))) for row in rows])


def _domain_table(listings: Sequence[DomainListing], parts: _Parts) -> Table:
    is_shown = (True, True, any(item.addresses is not None for item in listings), parts.has_uuids, True)
    rows = [("Name", "State", "Addresses", "UUID", "Clone of")]
    for item in listings:
        addresses = addresses_text(item.addresses or (), all_addresses=parts.all_addresses)
        rows.append((printable(item.name), state_text(item), addresses, item.uuid, origin_text(item, parts)))
    return [tuple(compress(row, is_shown)) for row in rows]


def state_text(item: DomainListing) -> str:
    """Return the state of a domain as lists show it."""
    return "template" if item.is_template else item.state


def origin_text(item: DomainListing, parts: _Parts = _STEPS[0]) -> str:
    """Return what a clone was made of, and whether it is unfinished or broken, as a frozen original may be, too."""
    clone = item.clone
    told = item.integrity.value if item.integrity is not None and item.integrity in _TOLD else ""
    if clone is None:
        return f"frozen, {told}" if told else ""
    mode = clone.mode.value if clone.images is None else "images for its clones"
    more = f" ({mode})" if parts.has_modes else ""
    if parts.has_modes and clone.snapshot is not None:
        more = f" at {printable(clone.snapshot)}{more}"
    more += "" if clone.finished else ", unfinished"
    more += f", {told}" if told else ""
    name = printable(clone.source.name)
    if clone.host is not None:
        name = f"{name} on {printable(clone.host)}"
    return (name if parts.origin_width is None else cut(name, parts.origin_width - len(more))) + more


def _width(table: Table) -> int:
    return max(map(cell_width, aligned(table)))
