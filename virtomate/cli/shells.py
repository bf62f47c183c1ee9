"""What the scripts for bash, zsh and fish ask for: the words that can stand where the cursor is.

Each line of the answer is a kind, a word and its description, with tabs between them. The kind is Click's: `plain`, or
`file` and `dir`, where the shell itself knows what there is. Click's own scripts are not used: the one for bash cuts
words at colons and does not quote names with blanks.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem, ShellComplete

from virtomate.cli.completion import COMPLETE_VARIABLE, SHELLS, read_script

if TYPE_CHECKING:
    import click

    from virtomate.cli.options import Settings

_BASH_DEFAULT_BREAKS = " \t\n\"'@><=;|&(:"
_BASH_SPECIAL = re.compile(r"[^\w@%+=:,./^-]")
_BASH_SPECIAL_IN_DOUBLE_QUOTES = re.compile(r'[\\"$`]')


@dataclass
class Word:
    """A word of a command line that may not be finished.

    Attributes:
        value: What the program would get.
        quote: The quotation mark that has not been closed, if any.
        kept: How many characters of the value stand before the part that bash replaces.
    """

    value: str = ""
    quote: str = ""
    kept: int = 0

    def completed_in_bash(self, word: str) -> str:
        """What bash has to insert so that this word becomes the one given."""
        rest = word[self.kept :]
        if self.quote == "'":
            return rest.replace("'", r"'\''")
        special = _BASH_SPECIAL_IN_DOUBLE_QUOTES if self.quote else _BASH_SPECIAL
        return special.sub(r"\\\g<0>", rest)


def split(line: str, breaks: str = "") -> list[Word]:
    """The words of a command line up to the cursor, as a shell reads them; the last one is the one to complete.

    Args:
        line: The command line.
        breaks: At which characters bash begins to replace (COMP_WORDBREAKS).
    """
    words = [Word()]
    is_escaped = is_word = False
    kept_before_quote = 0
    for character in line:
        word = words[-1]
        if is_escaped:
            keeps_backslash = word.quote and not _BASH_SPECIAL_IN_DOUBLE_QUOTES.match(character)
            word.value += f"\\{character}" if keeps_backslash else character
            is_escaped = False
        elif character == "\\" and word.quote != "'":
            is_escaped = True
        elif character == word.quote:
            word.quote, word.kept = "", kept_before_quote
        elif word.quote:
            word.value += character
        elif character in "'\"":
            kept_before_quote = word.kept
            word.quote, word.kept = character, len(word.value)
        elif character.isspace():
            if is_word:
                words.append(Word())
            is_word = False
            continue
        else:
            word.value += character
            if character in breaks:
                # an @ is replaced with the rest (rl_special_prefixes)
                word.kept = len(word.value) - (character == "@")
        is_word = True
    return words


class _Completion(ShellComplete):
    """Click's search for what fits, with words that take the place of all that has been typed."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """What can stand in the place of a word."""
        option, equals, _ = incomplete.partition("=")
        items = super().get_completions(args, incomplete)
        if not equals or not option.startswith("--"):
            return items
        if option not in [item.value for item in super().get_completions(args, option)]:
            return []
        for item in items:
            item.value = f"{option}={item.value}"
        return items


def complete(root: click.Command, settings: Settings, instruction: str, arguments: list[str]) -> int:
    """Answer a shell's script; where anything goes wrong, with nothing.

    Args:
        root: The program.
        settings: Where options that were given are kept.
        instruction: A shell, and `complete` or `source`: `bash_complete`.
        arguments: For bash, the line up to the cursor, and COMP_WORDBREAKS; otherwise the words after the program's
            name, the last of which is to be completed.
    """
    shell, _, action = instruction.partition("_")
    if shell not in SHELLS:
        return 1
    try:
        text = read_script(shell) if action == "source" else _answer(root, settings, shell, arguments)
        sys.stdout.write(text)
        sys.stdout.flush()
    except Exception:  # noqa: BLE001 - a message would stand in the middle of the line that is being typed
        return 1
    return 0


def _answer(root: click.Command, settings: Settings, shell: str, arguments: list[str]) -> str:
    if shell == "bash":
        line, breaks = [*arguments, _BASH_DEFAULT_BREAKS][:2]
        _, *before, current = split(line, breaks)
        words = [word.value for word in before]
    else:
        *words, incomplete = arguments
        # zsh has taken away the quotes; fish gives the word as it stands there
        current = split(incomplete)[-1] if shell == "fish" else Word(incomplete)
    items = _Completion(root, {"obj": settings}, "virtomate", COMPLETE_VARIABLE).get_completions(words, current.value)
    lines = []
    for item in items:
        value = current.completed_in_bash(item.value) if shell == "bash" else item.value
        lines.append("\t".join([item.type, value, " ".join((item.help or "").split())]))
    return "".join(f"{line}\n" for line in lines)
