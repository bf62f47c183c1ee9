"""Phrases that sentences are made of, and commands for a reader to paste.

A pasted command must reach the same libvirt, and only the module that shows a sentence knows the connection. So a
command begins with a mark, which no name, path or message can contain, and `Reach.fill` replaces the mark.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_MARK = "\0"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNIT_STEP = 1024
# The bytes that mean themselves in $'...': printable ASCII without quote and backslash.
_PLAIN = frozenset(range(ord(" "), ord("~") + 1)) - frozenset(b"\\'")
# libvirt passes nothing on to a guest that is paused, or that went to sleep by itself ("suspended").
_SHUTDOWN_COMMANDS = {
    "paused": ("resume", "shutdown"),
    "suspended": ("dompmwakeup", "shutdown"),
    "crashed": ("destroy",),
}


def counted(number: float, noun: str) -> str:
    """Return a number with its noun: `1 second`, `0.5 seconds`, `3 seconds`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:.15g} {noun}{'' if number == 1 else ending}"


def quoted(names: Iterable[str]) -> str:
    """Return names in quotes, as a sentence lists them: `'a', 'b' and 'c'`."""
    *front, last = [f"'{name}'" for name in names]
    return f"{', '.join(front)} and {last}" if front else last


def shell_word(text: str) -> str:
    """Return a text as one word of a shell command; unprintable text as bytes in the `$'...'` of bash and zsh."""
    if text.isprintable():
        return shlex.quote(text)
    signs = (chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in os.fsencode(text))
    return f"$'{''.join(signs)}'"


def binary_size(size_bytes: int) -> str:
    """Return a size in the largest binary unit that it reaches: `1.5 GiB`."""
    power, value = 0, float(size_bytes)
    while value >= _UNIT_STEP and power < len(_UNITS) - 1:
        power, value = power + 1, value / _UNIT_STEP
    return f"{value:.1f} {_UNITS[power]}" if power else f"{size_bytes} B"


def virsh(command: str, *operands: str, options: str = "") -> str:
    """Return a virsh command for a sentence; operands are quoted where necessary, and options are not."""
    return f"{_MARK}{_line('virsh', command, options, operands)}"


def virtomate(command: str, *operands: str, options: str = "", uri: str | None = None) -> str:
    """Return a virtomate command for a sentence, see `virsh`; `uri` names another libvirt than the one in use."""
    if uri is None:
        return f"{_MARK}{_line('virtomate', command, options, operands)}"
    return _line(f"virtomate -c {shell_word(uri)}", command, options, operands)


def undefine_command(*names: str, has_tpm: bool) -> str:
    """Return the virsh command that removes definitions, and neither an NVRAM nor the state of a TPM.

    Without the options virsh refuses a domain with an NVRAM, and libvirt removes the state. libvirt before 8.9 does not
    know `--keep-tpm`.
    """
    return virsh("undefine", *names, options="--keep-nvram --keep-tpm" if has_tpm else "--keep-nvram")


def shutdown_commands(name: str, state: str) -> str:
    """Return the commands that shut down a domain in this state, as listings call it."""
    return "; ".join(virsh(command, name) for command in _SHUTDOWN_COMMANDS.get(state, ("shutdown",)))


def _line(program: str, command: str, options: str, operands: tuple[str, ...]) -> str:
    ends_options = ("--",) if any(operand.startswith("-") for operand in operands) else ()
    words = (program, command, options, *ends_options, *map(shell_word, operands))
    return " ".join(word for word in words if word)


class Reach(NamedTuple):
    """How commands reach the libvirt in use: the URI that each program needs, or None."""

    virtomate: str | None = None
    virsh: str | None = None

    def fill(self, text: str) -> str:
        """Return the text with commands that can be pasted."""
        for program, uri in (("virtomate", self.virtomate), ("virsh", self.virsh)):
            text = text.replace(f"{_MARK}{program}", program if uri is None else f"{program} -c {shell_word(uri)}")
        return text
