"""Lists of what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.output.json import domain_document
from virtomate.output.streams import print_json, print_records, print_table
from virtomate.output.style import terminal_columns
from virtomate.output.tables import domain_table
from virtomate.output.text import printable
from virtomate.words import binary_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.definition.volume import VolumeListing
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.output.streams import Format
    from virtomate.services.listings import DomainListing
    from virtomate.services.pool_listings import PoolListing


def render_domains(listings: Sequence[DomainListing], format_: Format) -> None:
    """Show a list of domains."""
    if format_.is_json:
        print_json([domain_document(listing, format_.reach) for listing in listings], format_)
    else:
        print_table(domain_table(listings, terminal_columns()))


def render_pools(listings: Sequence[PoolListing], format_: Format) -> None:
    """Show a list of storage pools."""
    if format_.is_json:
        print_records(listings, format_)
        return
    rows = [
        (
            printable(item.name),
            item.state,
            *(binary_size(size) for size in (item.capacity, item.allocation, item.available)),
            "" if item.volume_count is None else str(item.volume_count),
            "yes" if item.is_persistent else "no",
        )
        for item in listings
    ]
    print_table((("Name", "State", "Capacity", "Allocation", "Available", "Volumes", "Persistent"), rows))


def render_volumes(listings: Sequence[VolumeListing], format_: Format) -> None:
    """Show a list of volumes."""
    if format_.is_json:
        print_records(listings, format_)
        return
    rows = [
        (
            printable(item.name),
            item.target.format or item.type,
            binary_size(item.capacity),
            binary_size(item.allocation),
            "" if item.backing_store is None else printable(item.backing_store.path or ""),
        )
        for item in listings
    ]
    print_table((("Name", "Format", "Capacity", "Allocation", "Backing store"), rows))


def render_interfaces(interfaces: Sequence[DomainInterface], format_: Format) -> None:
    """Show the interfaces of an active domain, a line for each address."""
    if format_.is_json:
        print_records(interfaces, format_)
        return
    rows = []
    for interface in interfaces:
        head = (printable(interface.name), printable(interface.hwaddr or ""))
        for address in [f"{address.address}/{address.prefix}" for address in interface.addresses] or [""]:
            rows.append((*head, printable(address)))
            head = ("", "")
    print_table((("Name", "MAC address", "Address"), rows))
