"""Commands in sentences: they reach the libvirt that was asked, and there is no other way to write one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import virtomate as package
from virtomate.words import Reach, virsh, virtomate

FAR = Reach("qemu+ssh://root@far/system", "qemu+ssh://root@far/system")
MODULES = sorted(Path(package.__file__).parent.rglob("*.py"))

# A command that would be pasted as it stands.
BARE = re.compile(r"\bvirsh \S|\bvirtomate (domain|guest|pool|volume)-|\bvirt-(install|clone|manager|xml|viewer) ")


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
