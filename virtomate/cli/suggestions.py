"""Suggestions for mistyped commands."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The words of virtomate's commands, and what shells and other tools for virtual machines call the same.
_ELSEWHERE = {
    "clone": ("copy", "cp"),
    "delete": ("del", "destroy", "remove", "rm", "undefine"),
    "domain": ("dom", "domains", "vm"),
    "guest": ("guests",),
    "iface-list": ("interfaces",),
    "import": ("upload",),
    "list": ("ls", "ps"),
    "pool": ("pools",),
    "run": ("exec",),
    "volume": ("vol", "volumes"),
}
_OWN_WORDS = {other: word for word, others in _ELSEWHERE.items() for other in others}
_CLOSE = 0.8


def similar_commands(name: str, commands: Sequence[str], prefix: str) -> list[str]:
    """Return the documented names of the commands that are most similar to a mistyped name, an empty list if none is.

    After the name of a group, `prefix` is the beginning of its commands' names.
    """
    if name == "version":
        return ["--version"]
    parts = [_OWN_WORDS.get(part, part) for part in name.split("-")]
    word = "-".join(parts)
    for full_name in (f"{prefix}{word}", "-".join(reversed(parts)), f"{word}-list"):
        if full_name in commands:
            return [full_name]
    if same_verb := [command for command in commands if command.endswith(f"-{word}")]:
        return same_verb
    # a common group is not enough: domain-start is not similar to domain-list
    similar = [] if prefix else difflib.get_close_matches(word, commands, n=1, cutoff=_CLOSE)
    if similar or parts[0] in {command.partition("-")[0] for command in commands}:
        return similar
    verbs = [command.partition("-")[2] for command in commands]
    found = difflib.get_close_matches(word, filter(None, verbs), n=1)
    return [command for command, verb in zip(commands, verbs, strict=True) if verb in found]
