"""How command lines are read that are not finished, and what bash has to insert into them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.shell_completion import CompletionItem

from virtomate.cli.completion import DOMAIN
from virtomate.cli.help import Command
from virtomate.cli.options import Settings
from virtomate.cli.root import root
from virtomate.cli.shells import Bash, complete, split
from virtomate.hypervisor.connection import _without_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


def ask(shell: str, *arguments: str) -> list[list[str]]:
    """Have a shell's script answered by a process of its own, as the script does; the fields of each line."""
    command = [sys.executable, "-m", "virtomate", *arguments]
    environment = {"_VIRTOMATE_COMPLETE": f"{shell}_complete", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a ", ["a", ""]),
        ("a  b", ["a", "b"]),
        (r"a\ b", ["a b"]),
        (r"a\ ", ["a "]),
        ("a\\", ["a"]),
        ("'a b' c", ["a b", "c"]),
        ("'a b", ["a b"]),
        ('"a b', ["a b"]),
        (r'"a\"b\c', [r'a"b\c']),
        (r"'a\' b", ["a\\", "b"]),
        ("a'b c'd", ["ab cd"]),
        ("'' ", ["", ""]),
        ("-c 'qemu+unix:///system?socket=/s' x", ["-c", "qemu+unix:///system?socket=/s", "x"]),
    ],
)
def test_words_are_those_of_the_shell(line: str, words: list[str]) -> None:
    """A line is cut where the shell cuts it, and a word that is not finished is known as far as it goes."""
    finished, current, _ = split(line)

    assert [*finished, current] == words


def inserted(typed: str, replaced: str, word: str) -> str:
    """What bash gets to insert, so that what was typed becomes a word."""
    bash = Bash(root, Settings(), [f"virtomate {typed}", replaced])
    bash.get_completion_args()
    return bash.format_completion(CompletionItem(word)).split("\t")[1]


@pytest.mark.parametrize(
    ("typed", "replaced", "expected"),
    [
        ("", "", r"my\ a:b=\'\$x"),
        (r"my\ ", r"my\ ", r"my\ a:b=\'\$x"),
        (r"my\ a:", "", r"b=\'\$x"),
        (r"my\ a:b=", "", r"\'\$x"),
        (r"my\ a\:", r"my\ a\:", r"my\ a:b=\'\$x"),
        ('"my ', "my ", r"my a:b='\$x"),
        ('"my a:b', "my a:b", r"my a:b='\$x"),
        ("'my ", "my ", r"my a:b='\''$x"),
        ("'my 'a", "'my 'a", r"my\ a:b=\'\$x"),
        ('my" a', " a", r" a:b='\$x"),
    ],
)
def test_bash_gets_what_it_replaces_with(typed: str, replaced: str, expected: str) -> None:
    """Bash replaces from the last break or open quotation mark on, as it says; what it gets continues the rest."""
    assert inserted(typed, replaced, "my a:b='$x") == expected


def test_bash_replaces_an_at_sign_as_well() -> None:
    """What follows an at sign, as in the URI of a remote host, gets one of its own."""
    assert inserted("qemu+ssh://root@kv", "@kv", "qemu+ssh://root@kvm/system") == "@kvm/system"


def test_both_spellings_complete_and_the_documented_one_is_offered() -> None:
    """After the program stand hyphenated commands; after a group, its commands."""
    documented = ask("zsh", "domain")
    assert all(fields[0] == "plain" and fields[1].startswith("domain-") and fields[2] for fields in documented)
    assert [fields[1] for fields in ask("zsh", "domain-l")] == ["domain-list"]
    assert {f"domain-{fields[1]}" for fields in ask("zsh", "domain", "")} == {fields[1] for fields in documented}
    assert ask("bash", "virtomate --mode=", "") == []


def test_words_of_the_guest_are_not_completed() -> None:
    """Before its program, `guest-run` completes its own options; what comes after the program belongs to the guest."""
    assert [fields[1] for fields in ask("zsh", "guest-run", "--en")] == ["--encode"]
    assert [fields[1] for fields in ask("zsh", "guest-run", "vm", "--en")] == ["--encode"]
    for words in (["--en"], ["-c", ""], ["--connect=qe"], ["--log", ""]):
        assert ask("zsh", "guest-run", "vm", "ls", *words) == []
        assert ask("zsh", "guest", "run", "vm", "--", "ls", *words) == []


def test_options_given_are_not_offered_again() -> None:
    """An option that stands in the line already is not offered."""
    fresh = {fields[1] for fields in ask("zsh", "domain-clone", "--")}
    given = {fields[1] for fields in ask("zsh", "domain-clone", "--dry-run", "--")}

    assert fresh - given == {"--dry-run"}
    assert {"--mode", "--transfer", "--connection", "--json", "--help"} <= given


def test_the_old_way_to_get_a_script_works(capsys: pytest.CaptureFixture[str]) -> None:
    """What virtomate 0.1.2 told people to write into their shell's files gives them the new script."""
    assert complete(root, Settings(), "bash_source", []) == 0

    assert "complete -o nosort -F _virtomate virtomate" in capsys.readouterr().out


@pytest.mark.parametrize("instruction", ["", "tcsh_complete", "bash_complete", "fish_complete"])
def test_nonsense_is_answered_with_nothing(instruction: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A question that cannot be understood gets no answer, and no message."""
    complete(root, Settings(), instruction, [])

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize(
    ("uri", "default", "opened"),
    [
        (None, None, None),
        (None, "qemu+ssh://host/system", "qemu+ssh://host/system?no_tty=1"),
        ("qemu:///system", "qemu+ssh://host/system", "qemu:///system"),
        ("qemu+libssh2://host/system?x=y", None, "qemu+libssh2://host/system?x=y&no_tty=1"),
        ("qemu+unix:///system?socket=/ssh", None, "qemu+unix:///system?socket=/ssh"),
    ],
)
def test_ssh_is_told_not_to_ask(
    uri: str | None, default: str | None, opened: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the URI comes from, ssh gets no terminal."""
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    if default is not None:
        monkeypatch.setenv("LIBVIRT_DEFAULT_URI", default)

    assert _without_terminal(uri) == opened


def _commands() -> list[click.Command]:
    return [*root.commands.values(), *(command for group in root.groups for command in group.commands.values())]


def _arguments() -> Iterator[tuple[str, click.Argument]]:
    for command in _commands():
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                yield f"{command.name} {parameter.metavar}", parameter


def test_every_command_is_one_of_ours() -> None:
    """Documented names in usage lines, and options in their order, are for all commands."""
    assert [command for command in _commands() if not isinstance(command, Command)] == []


@pytest.mark.parametrize("argument", [pytest.param(argument, id=name) for name, argument in _arguments()])
def test_every_argument_completes(argument: click.Argument) -> None:
    """What names something that exists is completed, by the type of the parameter."""
    if argument.metavar is None or argument.metavar.strip("[].") in {"NEWNAME", "PROGRAM", "ARG"}:
        return
    assert isinstance(argument.type, (click.Choice, click.Path, type(DOMAIN)))
