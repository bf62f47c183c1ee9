"""Phrases that sentences are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def counted(number: float, noun: str) -> str:
    """A number and what it counts: `1 second`, `0.5 seconds`, `3 seconds`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:.15g} {noun}{'' if number == 1 else ending}"


def quoted(names: Iterable[str]) -> str:
    """Names in quotes, as a sentence lists them: `'a', 'b' and 'c'`."""
    *front, last = [f"'{name}'" for name in names]
    return f"{', '.join(front)} and {last}" if front else last
