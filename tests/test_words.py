"""Phrases, and commands in sentences: they reach the libvirt that was asked, and there is no other way to write one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import virtomate as package
from virtomate.words import Reach, binary_size, counted, quoted, shutdown_commands, virsh, virtomate

FAR = Reach("qemu+ssh://root@far/system", "qemu+ssh://root@far/system")
MODULES = sorted(Path(package.__file__).parent.rglob("*.py"))

# A command that would be pasted as it stands.
BARE = re.compile(r"\bvirsh \S|\bvirtomate (domain|guest|pool|volume)-|\bvirt-(install|clone|manager|xml|viewer) ")


@pytest.mark.parametrize(
    ("number", "phrase"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (1.0, "1 second"),
        (0.1, "0.1 seconds"),
        (1.5, "1.5 seconds"),
        (2, "2 seconds"),
        (12345678, "12345678 seconds"),
    ],
)
def test_numbers_agree_with_their_nouns(number: float, phrase: str) -> None:
    """One is singular, everything else plural, and no number is rounded."""
    assert counted(number, "second") == phrase


def test_noun_that_ends_in_a_hiss() -> None:
    """Not every plural is made by one letter."""
    assert [counted(number, "address") for number in (1, 2)] == ["1 address", "2 addresses"]


@pytest.mark.parametrize(
    ("names", "phrase"), [(["a"], "'a'"), (["a", "b"], "'a' and 'b'"), (["a", "b", "c"], "'a', 'b' and 'c'")]
)
def test_names_of_a_sentence(names: list[str], phrase: str) -> None:
    """Names stand in quotes, the last one behind an "and"."""
    assert quoted(names) == phrase


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 * 1024**2, "10.0 MiB"),
        (20 * 1024**3, "20.0 GiB"),
        (1024**4, "1.0 TiB"),
        (1024**5, "1.0 PiB"),
        (2000 * 1024**5, "2000.0 PiB"),
    ],
)
def test_binary_size(size: int, expected: str) -> None:
    """A size stands in the largest unit that it fills, whole bytes without a fraction."""
    assert binary_size(size) == expected


@pytest.mark.parametrize(
    ("command", "near", "far"),
    [
        (virsh("shutdown", "web"), "virsh shutdown web", "virsh -c qemu+ssh://root@far/system shutdown web"),
        (
            virtomate("domain-delete", "a b"),
            "virtomate domain-delete 'a b'",
            "virtomate -c qemu+ssh://root@far/system domain-delete 'a b'",
        ),
        (virsh("start", "-x"), "virsh start -- -x", "virsh -c qemu+ssh://root@far/system start -- -x"),
        (
            virsh("blockcommit", "-x", "vda", options="--pivot"),
            "virsh blockcommit --pivot -- -x vda",
            "virsh -c qemu+ssh://root@far/system blockcommit --pivot -- -x vda",
        ),
        (
            virtomate("domain-list", uri="qemu:///system"),
            "virtomate -c qemu:///system domain-list",
            "virtomate -c qemu:///system domain-list",
        ),
    ],
)
def test_command(command: str, near: str, far: str) -> None:
    """Operands are words of a shell and no options; the connection stands where it has to be said."""
    assert Reach().fill(f"Do it: {command}.") == f"Do it: {near}."
    assert FAR.fill(f"{command}; {command}") == f"{far}; {far}"


def test_only_commands_are_filled() -> None:
    """A name, a message or a path may look like a command."""
    text = "there is no domain 'virsh shutdown web' on virtomate domain-list"

    assert FAR.fill(text) == text


def test_connection_is_one_word() -> None:
    """What a shell would take apart is quoted, and an empty connection is none of virsh's own."""
    uri = "qemu+unix:///system?socket=/a b&x"

    assert Reach(uri, "").fill(f"{virtomate('pool-list')} {virsh('pool-list')}") == (
        f"virtomate -c '{uri}' pool-list virsh -c '' pool-list"
    )


def sentences(tree: ast.Module) -> list[str]:
    """Return every text of a module but docstrings, other texts that stand alone, and examples of the help."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["EXAMPLES"]:
            alone |= {id(example) for example in ast.walk(node.value)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_command_is_written_by_hand(path: Path) -> None:
    """A command in a sentence that does not know of the connection would be pasted for another hypervisor."""
    assert [text for text in sentences(ast.parse(path.read_text())) if BARE.search(text)] == []


@pytest.mark.parametrize("source", ['hint = "Start it: virsh start web"', 'hint = f"virtomate domain-delete {x}"'])
def test_a_command_by_hand_is_found(source: str) -> None:
    """The rule can be broken."""
    assert [text for text in sentences(ast.parse(source)) if BARE.search(text)]


@pytest.mark.parametrize(
    ("state", "commands"),
    [
        ("running", "virsh shutdown 'a b'"),
        ("blocked", "virsh shutdown 'a b'"),
        ("paused", "virsh resume 'a b'; virsh shutdown 'a b'"),
        ("suspended", "virsh dompmwakeup 'a b'; virsh shutdown 'a b'"),
        ("crashed", "virsh destroy 'a b'"),
    ],
)
def test_commands_suit_the_state(state: str, commands: str) -> None:
    """What does not hear the request to shut down is woken up before, or switched off."""
    assert Reach().fill(shutdown_commands("a b", state)) == commands
