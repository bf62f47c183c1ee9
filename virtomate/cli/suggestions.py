"""Which commands somebody may have meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# What shells and other tools for virtual machines call things, and what a part of a command is called here.
_ELSEWHERE = {
    "copy": "clone",
    "cp": "clone",
    "del": "delete",
    "destroy": "delete",
    "dom": "domain",
    "domains": "domain",
    "exec": "run",
    "guests": "guest",
    "interfaces": "iface-list",
    "ls": "list",
    "pools": "pool",
    "ps": "list",
    "remove": "delete",
    "rm": "delete",
    "undefine": "delete",
    "upload": "import",
    "version": "--version",
    "vm": "domain",
    "vol": "volume",
    "volumes": "volume",
}

_CLOSE = 0.8

# What is no command, but an option of all of them.
_OPTIONS = frozenset({"--version"})


def similar_commands(name: str, commands: Sequence[str], group: str | None) -> list[str]:
    """The commands that come closest to a name, none where nothing does.

    Args:
        name: What was typed in the place of a command.
        commands: All that can stand there, by their documented names.
        group: The group whose commands these are, None for those of all groups.
    """
    parts = [_ELSEWHERE.get(part, part) for part in name.split("-")]
    word = "-".join(parts)
    if word in _OPTIONS:
        return [word]
    for full_name in (word if group is None else f"{group}-{word}", "-".join(reversed(parts)), f"{word}-list"):
        if full_name in commands:
            return [full_name]
    if same_verb := [command for command in commands if command.endswith(f"-{word}")]:
        return same_verb
    # what two commands of one group have in common is not enough: domain-start is not domain-list
    similar = difflib.get_close_matches(word, commands, n=1, cutoff=_CLOSE) if group is None else []
    if similar or parts[0] in {command.partition("-")[0] for command in commands}:
        return similar
    return _with_similar_verb(word, commands)


def _with_similar_verb(word: str, commands: Sequence[str]) -> list[str]:
    """The commands that do what a mistyped word may have said, whatever they do it to."""
    verbs = [command.partition("-")[2] for command in commands]
    found = difflib.get_close_matches(word, [verb for verb in verbs if verb], n=1)
    return [command for command, verb in zip(commands, verbs, strict=True) if verb in found]
