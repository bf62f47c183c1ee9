"""Phrases that sentences are made of."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNIT_STEP = 1024

# The bytes that mean themselves in $'...': those of ASCII that can be printed, but for quote and backslash.
_PLAIN = frozenset(range(ord(" "), ord("~") + 1)) - frozenset(b"\\'")


def counted(number: float, noun: str) -> str:
    """A number and what it counts: `1 second`, `0.5 seconds`, `3 seconds`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:.15g} {noun}{'' if number == 1 else ending}"


def quoted(names: Iterable[str]) -> str:
    """Names in quotes, as a sentence lists them: `'a', 'b' and 'c'`."""
    *front, last = [f"'{name}'" for name in names]
    return f"{', '.join(front)} and {last}" if front else last


def shell_word(text: str) -> str:
    """Return a text as one word of a shell command; unprintable text as bytes in the `$'...'` of bash and zsh."""
    if text.isprintable():
        return shlex.quote(text)
    signs = (chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in os.fsencode(text))
    return f"$'{''.join(signs)}'"


def binary_size(size_bytes: int) -> str:
    """A size in the binary unit that suits it: `1.5 GiB`."""
    value = float(size_bytes)
    for unit in _UNITS:
        if value < _UNIT_STEP or unit == _UNITS[-1]:
            return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= _UNIT_STEP
    raise AssertionError("unreachable")
