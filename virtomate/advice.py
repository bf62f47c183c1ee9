"""Commands in sentences, which a reader pastes: they must reach the same libvirt.

Only the module that shows a sentence knows the connection. So a command has a mark in front, which no name, path or
message can contain, and `Reach.fill` puts the connection in its place.
"""

from __future__ import annotations

from virtomate.tuples import NamedTuple
from virtomate.words import shell_word

_MARK = "\0"

# libvirt passes nothing on to a guest that is paused, or that went to sleep by itself ("suspended").
_SHUTDOWN_COMMANDS = {
    "paused": ("resume", "shutdown"),
    "suspended": ("dompmwakeup", "shutdown"),
    "crashed": ("destroy",),
}


def virsh(command: str, *operands: str, options: str = "") -> str:
    """Return a virsh command for a sentence.

    Args:
        command: Such as `shutdown`.
        operands: Names and paths, which are quoted where necessary, or placeholders such as `NAME`.
        options: Options with their values, as they are.
    """
    return f"{_MARK}{_line('virsh', command, options, operands)}"


def virtomate(command: str, *operands: str, options: str = "", uri: str | None = None) -> str:
    """Return a virtomate command for a sentence, see `virsh`; `uri` names another libvirt than the one in use."""
    if uri is None:
        return f"{_MARK}{_line('virtomate', command, options, operands)}"
    return _line(f"virtomate -c {shell_word(uri)}", command, options, operands)


def shutdown_commands(name: str, state: str) -> str:
    """Return the commands that shut down a domain in this state, as listings call it."""
    return "; ".join(virsh(command, name) for command in _SHUTDOWN_COMMANDS.get(state, ("shutdown",)))


def _line(program: str, command: str, options: str, operands: tuple[str, ...]) -> str:
    ends_options = ("--",) if any(operand.startswith("-") for operand in operands) else ()
    words = (program, command, options, *ends_options, *map(shell_word, operands))
    return " ".join(word for word in words if word)


class Reach(NamedTuple):
    """How commands reach the libvirt in use: the URI that each program needs, None where it needs none."""

    virtomate: str | None = None
    virsh: str | None = None

    def fill(self, text: str) -> str:
        """Return the text with commands that can be pasted."""
        for program, uri in (("virtomate", self.virtomate), ("virsh", self.virsh)):
            text = text.replace(f"{_MARK}{program}", program if uri is None else f"{program} -c {shell_word(uri)}")
        return text
