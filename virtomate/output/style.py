"""Colours at a terminal, written by hand: rich takes a tenth of a second to load."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_COLUMNS = 80  # of a terminal that does not tell
_BOLD = "1"
_STYLES = {"error": "1;31", "warning": "1;33"}  # bold red, bold yellow


def styled(text: str, kind: str) -> str:
    """Colour the beginning of a message on stderr, as errors and warnings usually are."""
    return _with_style(text, _STYLES.get(kind), sys.stderr)


def bold(text: str) -> str:
    """Make the header of a table on stdout bold."""
    return _with_style(text, _BOLD, sys.stdout)


def _with_style(text: str, style: str | None, stream: TextIO) -> str:
    # https://no-color.org
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return text if style is None or is_plain or not stream.isatty() else f"\x1b[{style}m{text}\x1b[0m"


def terminal_columns() -> int | None:
    """Return the width of the terminal that stdout is, COLUMNS before what it says; None where it is no terminal."""
    if not sys.stdout.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    with suppress(OSError):
        return int(given) if given.isdecimal() else os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
    return _COLUMNS
