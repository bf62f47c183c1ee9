"""Text for people: names made harmless, columns lined up."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """The text with control and formatting characters spelled out, so that a name cannot drive the terminal."""
    return "".join(
        character if not _is_unsafe(character) else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines whose columns stand below each other; blanks at the end are cut."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _is_unsafe(character: str) -> bool:
    # Cf holds the marks that turn the direction of writing around
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
