"""Answers to the scripts for bash, zsh and fish: the words that can stand at the cursor.

Each line of an answer is a kind, a word and its description, with tabs between them. The kind is Click's: `plain`, or
`file` and `dir`, which the shell completes. Click's own scripts are not used: its script for bash cuts words at colons
and does not quote names with blanks.
"""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem, ShellComplete

from virtomate.cli.completion import COMPLETE_VARIABLE, read_script

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

    from virtomate.cli.options import Settings

# This sign at the cursor makes the unfinished word the last word, even if the word is empty.
_CURSOR = "\0"
_SPECIAL = r"[^\w@%+=:,./^-]"
_SPECIAL_IN_DOUBLE_QUOTES = r'[\\"$`]'


def split(line: str) -> tuple[list[str], str, str]:
    """Return the words of a command line up to the cursor, the unfinished word, and the open quotation mark."""
    for quote in ("", '"', "'"):
        with suppress(ValueError):
            *words, current = shlex.split(f"{line}{_CURSOR}{quote}")
            return words, current.removesuffix(_CURSOR), quote
    raise AssertionError("unreachable")


class Zsh(ShellComplete):
    """Gets the words after the program's name, without quotes; the last word is unfinished."""

    name = "zsh"

    def __init__(self, root: click.Command, settings: Settings, arguments: Sequence[str]) -> None:
        super().__init__(root, {"obj": settings}, "virtomate", COMPLETE_VARIABLE)
        self.arguments = arguments

    def source(self) -> str:
        """Return the script."""
        return read_script(self.name)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the finished words, and the unfinished word."""
        *words, current = self.arguments
        return words, current

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return the words that can stand at the cursor, after `--name=` with that beginning."""
        option, equals, _ = incomplete.partition("=")
        items = super().get_completions(args, incomplete)
        if not equals or not option.startswith("--"):
            return items
        if option not in [item.value for item in super().get_completions(args, option)]:
            return []
        for item in items:
            item.value = f"{option}={item.value}"
        return items

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Return a line of the answer."""
        return "\t".join([item.type, item.value, " ".join((item.help or "").split())])


class Fish(Zsh):
    """Gets the unfinished word as it was typed."""

    name = "fish"

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the finished words, and the unfinished word."""
        *words, current = self.arguments
        return words, split(current)[1]


class Bash(Zsh):
    """Gets the line up to the cursor, and the part of the line that bash will replace."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the finished words, and the unfinished word."""
        line, *replaced = self.arguments
        (_, *words), current, self._quote = split(line)
        # bash replaces what follows the last colon, equals sign or open quotation mark, but an @ is replaced as well
        self._kept = len(current) - len(split(f"{self._quote}{''.join(replaced)}")[1])
        return words, current

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Return a line of the answer, with the text that bash inserts."""
        rest = item.value[self._kept :]
        if self._quote == "'":
            item.value = rest.replace("'", r"'\''")
        else:
            item.value = re.sub(_SPECIAL_IN_DOUBLE_QUOTES if self._quote else _SPECIAL, r"\\\g<0>", rest)
        return super().format_completion(item)


_SHELLS = {shell.name: shell for shell in (Bash, Zsh, Fish)}


def complete(root: click.Command, settings: Settings, instruction: str, arguments: Sequence[str]) -> int:
    """Answer a shell's script, after an error with nothing; an instruction is `SHELL_complete` or `SHELL_source`."""
    shell, _, action = instruction.partition("_")
    try:
        completion = _SHELLS[shell](root, settings, arguments)
        answer = completion.source() if action == "source" else completion.complete()
        sys.stdout.write(f"{answer}\n" if answer else "")
        sys.stdout.flush()
    except Exception:  # noqa: BLE001 - a message would spoil the line that is being typed
        return 1
    return 0
