"""Commands in sentences, which a reader pastes: they have to reach the libvirt that was asked, and no other.

How it was reached, whoever shows a sentence knows. So a command stands in it with a mark in front, which is no sign of
any name, path or message, and takes up what has to be added.
"""

from __future__ import annotations

from dataclasses import dataclass

from virtomate.words import shell_word

_MARK = "\0"


def virsh(command: str, *operands: str, options: str = "") -> str:
    """A command of virsh's, to stand in a sentence.

    Args:
        command: Such as `shutdown`.
        operands: Names and paths, which are quoted as need be, and words that stand for one, such as `NAME`.
        options: Options with their values, as they are.
    """
    return f"{_MARK}{_line('virsh', command, options, operands)}"


def virtomate(command: str, *operands: str, options: str = "", uri: str | None = None) -> str:
    """A command of ours, likewise.

    Args:
        command: Such as `domain-delete`.
        operands: As above.
        options: As above.
        uri: Another libvirt than the one that was asked.
    """
    if uri is None:
        return f"{_MARK}{_line('virtomate', command, options, operands)}"
    return _line(f"virtomate -c {shell_word(uri)}", command, options, operands)


def _line(program: str, command: str, options: str, operands: tuple[str, ...]) -> str:
    ends_options = ("--",) if any(operand.startswith("-") for operand in operands) else ()
    words = (program, command, options, *ends_options, *map(shell_word, operands))
    return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Reach:
    """How commands reach the libvirt that was asked.

    Attributes:
        virtomate: The URI that ours need; None where they find it by themselves.
        virsh: Likewise.
    """

    virtomate: str | None = None
    virsh: str | None = None

    def fill(self, text: str) -> str:
        """The text with its commands as they can be pasted."""
        for program, uri in (("virtomate", self.virtomate), ("virsh", self.virsh)):
            text = text.replace(f"{_MARK}{program}", program if uri is None else f"{program} -c {shell_word(uri)}")
        return text
