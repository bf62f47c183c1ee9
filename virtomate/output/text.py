"""Text for people: harmless, in colours (without rich, which takes a tenth of a second to load), and in columns."""

from __future__ import annotations

import os
import sys
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from virtomate.hypervisor.agent import DomainInterface

    Row = tuple[str, ...]
    Table = Sequence[Row]  # the header first

# Categories of Unicode; Cf holds the marks that turn the direction of writing around.
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_MAX_NAMES = 10
_GAP = "  "
_COLUMNS = 80  # of a terminal that does not tell its width
_BOLD = "1"
_STYLES = {"error": "1;31", "warning": "1;33"}  # bold red, bold yellow


def printable(text: str) -> str:
    """Return the text with control and formatting characters spelled out, so that no name can drive the terminal."""
    return "".join(
        sign.encode("unicode_escape").decode("ascii") if unicodedata.category(sign) in _UNSAFE else sign
        for sign in text
    )


def listed(names: Sequence[str]) -> str:
    """Return the first ten names in quotes, and the number of the others."""
    more = [f"{len(names) - _MAX_NAMES} more"] if len(names) > _MAX_NAMES else []
    return ", ".join([f"'{name}'" for name in names[:_MAX_NAMES]] + more)


def addresses_text(interfaces: Iterable[DomainInterface], *, all_addresses: bool = True) -> str:
    """Return the addresses of a domain, or the first address and the number of the others."""
    texts = [printable(address.address) for interface in interfaces for address in interface.addresses]
    return ", ".join(texts) if all_addresses or len(texts) <= 1 else f"{texts[0]} +{len(texts) - 1}"


def styled(text: str, kind: str) -> str:
    """Colour the beginning of a message on stderr if the kind of message has a colour."""
    return _with_style(text, _STYLES.get(kind), sys.stderr)


def bold(text: str) -> str:
    """Make the header of a table on stdout bold."""
    return _with_style(text, _BOLD, sys.stdout)


def _with_style(text: str, style: str | None, stream: TextIO) -> str:
    # https://no-color.org
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return text if style is None or is_plain or not stream.isatty() else f"\x1b[{style}m{text}\x1b[0m"


def terminal_columns() -> int:
    """Return COLUMNS or the width of the terminal that stdout is; no limit if stdout is not a terminal."""
    if not sys.stdout.isatty():
        return sys.maxsize
    given = os.environ.get("COLUMNS", "")
    with suppress(OSError):
        return int(given) if given.isdecimal() else os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
    return _COLUMNS


def aligned(rows: Table) -> list[str]:
    """Return rows as lines whose columns stand below each other, without blanks at the end."""
    widths = [max(map(cell_width, cells)) for cells in zip(*rows, strict=True)]
    return [_GAP.join(map(_padded, row, widths)).rstrip() for row in rows]


def aligned_below(rows: Sequence[Row]) -> list[str]:
    """Return keys and values, made harmless, as they stand below a headline."""
    return [f"  {line}" for line in aligned([tuple(map(printable, row)) for row in rows])]


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide signs take two, combining signs none."""
    return sum(
        0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in {"W", "F"}) for sign in text
    )


def cut(text: str, width: int) -> str:
    """Return the beginning of a text that fits, with an ellipsis if something is missing."""
    if cell_width(text) <= width:
        return text
    while cell_width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_width(text))
