"""Text for people: names made harmless, sizes made readable."""

from __future__ import annotations

import unicodedata

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNIT_STEP = 1024


def printable(text: str) -> str:
    """The text with control and formatting characters spelled out, so that a name cannot drive the terminal."""
    return "".join(
        character if not _is_unsafe(character) else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def binary_size(size_bytes: int) -> str:
    """A size in the binary unit that suits it: `1.5 GiB`."""
    value = float(size_bytes)
    for unit in _UNITS:
        if value < _UNIT_STEP or unit == _UNITS[-1]:
            return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= _UNIT_STEP
    raise AssertionError("unreachable")


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines whose columns stand below each other; blanks at the end are cut."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _is_unsafe(character: str) -> bool:
    # Cf holds the marks that turn the direction of writing around
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
