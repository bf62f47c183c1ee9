"""The examples of the documentation: what its `console` blocks say that commands print, and what they do print.

`python3 noxfile.py -s examples` runs them all and writes what differs into the pages. An example begins with `$ `; what
follows is what it prints, as at a terminal: where a command is piped into another one, standard error comes first. What
differs from run to run is masked before it is compared. A comment `setup: COMMAND` on a page runs a command that no
reader sees.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import Lab
from tests.lab.stage import RUNNING, Printed, Stage
from tests.lab.workspace import CHECKOUT

# They change the machine, take it for granted, or cannot be reached from a test.
NOT_RUN = (
    "sudo apt-get install ",
    "sudo dnf install ",
    "sudo zypper install ",
    "pipx ",
    "PIPX_DEFAULT_BACKEND=",
    "uv tool install ",
    "python3 -m venv ",
    "pip install ",
    "python -m build",
    "mkdir -p ~/.local/share/man/",
    "ln -sf ~/.local/",
    "rm ~/.local/share/man/",
    "python3 noxfile.py ",
    "export LIBVIRT_DEFAULT_URI=",
    "virsh pool-define-as default ",
    "virsh pool-build default",
    "virsh pool-start default",
    "virsh pool-autostart default",
    "wget ",
    "virt-customize ",
)

BLOCK = re.compile(r"^( *)(?:\.\. code-block:: console|```console)$")
SETUP = re.compile(r"^ *(?:\.\. |<!-- )setup: (.+?)(?: -->)?$")
# An error at a terminal, or in JSON; a notice has a message, too, but no type.
FAILED = re.compile(r'^error:|"message": .*\s+"type": "', re.IGNORECASE | re.MULTILINE)

# What takes the place of what is never the same. The first octets of a MAC address are the same.
MASKS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>"),
        (r"\b((?:[0-9a-f]{2}:){3})[0-9a-f]{2}(?::[0-9a-f]{2}){2}\b", r"\1<mac>"),
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "<time>"),
        (r"\b\d+(\.\d+)? ([KMGT]i)?B\b", "<size>"),
        (r"\b\d+(\.\d+)? s\b", "<seconds>"),
        (r"\b192\.168\.\d+\.\d+\b", "<address>"),
        (r'"(seconds|bytes|bytes_copied|total|capacity|allocation|available|physical)": ?[\d.]+', r'"\1": <number>'),
        (r'\b(token|mark|created|changed|inode|born|directory|pid|started|host)="[^"]*"', r"\1=<value>"),
        (r"\b(process|kill) \d+", r"\1 <pid>"),
        (r"\bvnet\d+\b", "<vnet>"),
        (r"\bvirtomate \d+\.\d+\.\d+\b", "virtomate <version>"),
        # the width of a column
        (r"(?<=\S) {2,}", "  "),
    )
]


@dataclass(frozen=True)
class Example:
    """A command on a page and what the page says that it prints.

    Attributes:
        page: The page.
        command: What the shell gets; of several lines where it is continued.
        printed: What it prints; empty for a setup.
        start: The line on the page, counted from 0, where that begins.
        indent: What is in front of each line.
        is_setup: Whether nobody sees it.
        shows_status: Whether `echo $?` comes next, which says how it ended.
    """

    page: Path
    command: str
    printed: tuple[str, ...]
    start: int
    indent: str
    is_setup: bool = False
    shows_status: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.start}: $ {self.command}"

    @property
    def is_run(self) -> bool:
        """Whether it can be run."""
        return not self.command.startswith(NOT_RUN)

    def agrees(self, printed: Printed) -> bool:
        """Tell whether the command did what the page says; a setup has to succeed."""
        if self.is_setup:
            return printed.status == 0
        fails = FAILED.search("\n".join(self.printed)) is not None
        ends_so = self.shows_status or (printed.status != 0) == fails
        return ends_so and masked(self.printed) == masked(printed.lines)


def pages() -> list[Path]:
    """Return every page that has an example; last the one that boots the guest that the others behind it use."""
    candidates = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.rst"))]
    found = [page for page in candidates if any(example.is_run for example in examples(page))]
    return sorted(found, key=_use_of_the_guest)


def boots_guest(page: Path) -> bool:
    """Tell whether a page boots the guest, unless an earlier one has done so."""
    return any(example.command.startswith("boot ") for example in examples(page))


def _use_of_the_guest(page: Path) -> int:
    return any(RUNNING in example.command for example in examples(page)) + boots_guest(page)


def examples(page: Path) -> Iterator[Example]:
    """Find the examples and setups of a page, in their order."""
    lines = page.read_text().split("\n")
    number = 0
    while number < len(lines):
        if found := SETUP.match(lines[number]):
            yield Example(page, found[1], (), number, "", is_setup=True)
        elif found := BLOCK.match(lines[number]):
            end = _end_of_block(lines, number, found[1])
            yield from _examples_of_block(page, lines, number + 1, end)
            number = end
            continue
        number += 1


def masked(lines: tuple[str, ...]) -> list[str]:
    """Mask what differs from run to run; of lines that are equal then, one after the other, one is left."""
    found: list[str] = []
    for line in lines:
        masked_line = line
        for pattern, replacement in MASKS:
            masked_line = pattern.sub(replacement, masked_line)
        if not found or masked_line != found[-1]:
            found.append(masked_line)
    return found


def run_page(stage: Stage, page: Path) -> Iterator[tuple[Example, Printed]]:
    """Run the examples of a page, each with what the ones before it have left."""
    status = 0
    for example in examples(page):
        if example.is_run:
            printed = stage.run(example.command, status)
            status = printed.status
            yield example, printed


def rewrite(page: Path, differing: list[tuple[Example, Printed]]) -> None:
    """Write onto a page what its examples did print."""
    lines = page.read_text().split("\n")
    for example, printed in reversed(differing):
        new = [f"{example.indent}{line}".rstrip() for line in printed.lines]
        lines[example.start : example.start + len(example.printed)] = new
    page.write_text("\n".join(lines))


def _end_of_block(lines: list[str], start: int, indent: str) -> int:
    """Return the first line behind a block."""
    is_fenced = lines[start].endswith("```console")
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if is_fenced and line == f"{indent}```":
            return number
        if not is_fenced and line.strip() and not line.startswith(f"{indent} "):
            return number
    return len(lines)


def _examples_of_block(page: Path, lines: list[str], start: int, end: int) -> Iterator[Example]:
    while end > start and not lines[end - 1].strip():
        end -= 1
    number = start
    while number < end:
        indent, prompt, command = lines[number].partition("$ ")
        number += 1
        if not prompt or indent.strip():
            continue
        while command.endswith("\\") or (number < end and lines[number].startswith(f"{indent}> ")):
            command += "\n" + lines[number].removeprefix(indent).removeprefix("> ")
            number += 1
        first = number
        while number < end and not lines[number].startswith(f"{indent}$ "):
            number += 1
        printed = tuple(line.removeprefix(indent) for line in lines[first:number])
        shows_status = lines[number : number + 1] == [f"{indent}$ echo $?"]
        yield Example(page, command, printed, first, indent, shows_status=shows_status)


def main(words: list[str]) -> int:
    """Run the examples of these pages, or all, and write into the pages what differs; 1 if a setup fails.

    With `--all` in front, what differs in nothing but what is masked is written, too.
    """
    is_all = words[:1] == ["--all"]
    chosen = [Path(word).resolve() for word in words[is_all:]] or pages()
    status = 0
    with Lab() as lab, Stage(lab) as stage:
        for page in chosen:
            ran = list(run_page(stage, page))
            stage.clear()
            differing = [(example, printed) for example, printed in ran if not example.agrees(printed)]
            for example, printed in differing:
                status |= example.is_setup
                sys.stdout.write(f"{example}\n" + "".join(f"    {line}\n" for line in printed.lines))
            written = ran if is_all else differing
            rewrite(page, [(example, printed) for example, printed in written if not example.is_setup])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
