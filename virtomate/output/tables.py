"""Tables: what stands in which column, and what gives way where a line would get too long."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from virtomate.output.text import printable
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.services.clone_records import CloneResult
    from virtomate.services.listings import CloneOrigin, DomainListing

    Row = tuple[str, ...]
    Table = tuple[Row, Sequence[Row]]

_GAP = 2

# The columns that the name of an original keeps when a line gets too long
_SHORTEST_ORIGIN = 16


class _Parts(NamedTuple):
    """What a line of a list of domains holds.

    Attributes:
        origin_width: How many columns there are for where a clone comes from; None for as many as that takes.
    """

    has_uuids: bool = True
    all_addresses: bool = True
    has_modes: bool = True
    origin_width: int | None = None


_GIVING_WAY = (
    _Parts(has_uuids=False),
    _Parts(has_uuids=False, all_addresses=False),
    _Parts(has_uuids=False, all_addresses=False, has_modes=False),
)


def aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as lines whose columns stand below each other; blanks at the end are cut."""
    widths = [max(map(cell_width, cells)) for cells in zip(*rows, strict=True)]
    gap = " " * _GAP
    return [gap.join(map(_padded, row, widths)).rstrip() for row in rows]


def aligned_below(rows: Sequence[Row]) -> list[str]:
    """Keys and values, made harmless, as they stand below a headline."""
    return [f"  {line}" for line in aligned([tuple(map(printable, row)) for row in rows])]


def domain_table(listings: Sequence[DomainListing], columns: int | None) -> Table:
    """A line for each domain, and in it what fits.

    The UUID gives way first, then all addresses of a domain but one, then the mode of clones, in the end what a long
    name of an original ends with. Names of domains are never cut.

    Args:
        listings: The domains.
        columns: How long a line may get; None for lines that hold everything.
    """
    table = _domain_table(listings, _Parts())
    for parts in _GIVING_WAY:
        if columns is None or table_width(table) <= columns:
            return table
        table = _domain_table(listings, parts)
    header, rows = table
    rest = (columns or 0) - table_width((header[:-1], [row[:-1] for row in rows])) - _GAP
    if rest < _SHORTEST_ORIGIN:
        return table
    return _domain_table(listings, _GIVING_WAY[-1]._replace(origin_width=rest))


def clone_table(results: Sequence[CloneResult]) -> Table:
    """A line for each of several clones: its MAC addresses, and what is known of it once it was started."""
    has_addresses = any(result.addresses for result in results)
    has_states = any(result.is_started for result in results)

    def row(name: str, macs: str, addresses: str, state: str) -> Row:
        return (name, macs, *([addresses] if has_addresses else []), *([state] if has_states else []))

    return row("Name", "MAC address", "Addresses", "State"), [
        row(
            printable(result.name),
            ", ".join(printable(interface.mac) for interface in result.interfaces),
            addresses_text(result.addresses or ()),
            "started" if result.is_started else "",
        )
        for result in results
    ]


def addresses_text(interfaces: Iterable[DomainInterface], *, all_addresses: bool = True) -> str:
    """The addresses of a domain; or the first one, and how many more there are."""
    texts = [printable(address.address) for interface in interfaces for address in interface.addresses]
    if all_addresses or len(texts) <= 1:
        return ", ".join(texts)
    return f"{texts[0]} +{len(texts) - 1}"


def table_width(table: Table) -> int:
    """How many columns of a terminal a table takes."""
    return max(map(cell_width, aligned([table[0], *table[1]])))


def cell_width(text: str) -> int:
    """How many columns of a terminal a text takes: wide signs take two, combining ones none."""
    return sum(_sign_width(sign) for sign in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_width(text))


def _sign_width(sign: str) -> int:
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in {"W", "F"} else 1


def _cut(text: str, width: int) -> str:
    """The beginning of a text that fits, with a sign that something is missing."""
    if cell_width(text) <= width:
        return text
    while cell_width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _domain_table(listings: Sequence[DomainListing], parts: _Parts) -> Table:
    has_addresses = any(item.addresses is not None for item in listings)

    def row(name: str, state: str, addresses: str, uuid: str, origin: str) -> Row:
        return (name, state, *([addresses] if has_addresses else []), *([uuid] if parts.has_uuids else []), origin)

    return row("Name", "State", "Addresses", "UUID", "Clone of"), [
        row(
            printable(item.name),
            item.state,
            addresses_text(item.addresses or (), all_addresses=parts.all_addresses),
            item.uuid,
            _origin(item.clone, parts),
        )
        for item in listings
    ]


def _origin(clone: CloneOrigin | None, parts: _Parts) -> str:
    if clone is None:
        return ""
    mode = f" ({clone.mode.value})" if parts.has_modes else ""
    more = mode if clone.finished else f"{mode}, unfinished"
    name = printable(clone.source.name)
    return (name if parts.origin_width is None else _cut(name, parts.origin_width - len(more))) + more
