"""Text for people: names made harmless, and many of them in a sentence."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_NAMES = 10


class Named(Protocol):
    """A record of something that has a name."""

    @property
    def name(self) -> str:
        """The name."""


def printable(text: str) -> str:
    """The text with control and formatting characters spelled out, so that a name cannot drive the terminal."""
    return "".join(
        character if not _is_unsafe(character) else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def listed(items: Sequence[Named]) -> str:
    """The names of clones or domains in quotes, the first ten of them."""
    names = [f"'{item.name}'" for item in items[:_MAX_NAMES]]
    if len(items) > len(names):
        names.append(f"{len(items) - len(names)} more")
    return ", ".join(names)


def _is_unsafe(character: str) -> bool:
    # Cf holds the marks that turn the direction of writing around
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
