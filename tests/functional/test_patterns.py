"""Words that several commands take for clones: a name or a UUID, or else a shell-style pattern."""

from typing import Any

import pytest

from tests.functional.runs import Refusal, check_refusal
from tests.functional.support import cloned
from tests.lab import Lab, Program, disk, domain


def names(virtomate: Program, *words: str) -> list[Any]:
    """Return the names in the result of a command that must succeed."""
    result = virtomate(*words, json=True)
    assert result.status == 0, str(result)
    return [item["name"] for item in result.json]


def define(lab: Lab, virtomate: Program, *clones: str) -> None:
    """Define a domain `web-original`, and linked clones of it."""
    lab.define(domain("web-original", disks=[disk(lab.pool.qcow2("original.qcow2"))]))
    for name in clones:
        cloned(virtomate("domain-clone", "--mode", "linked", "web-original", name, json=True))


@pytest.mark.parametrize("command", ["domain-verify", "domain-reset", "domain-flatten"])
def test_patterns_for_clones(lab: Lab, virtomate: Program, command: str) -> None:
    """A pattern stands for all clones with such names, unless it is a name; a pattern without a clone is refused."""
    define(lab, virtomate, "web-2", "web-10", "web-?", "other")
    refusal = Refusal("NotFoundError", ("no clone on", "'no-*'"), ("domain-list --clones",))

    check_refusal(lab, virtomate, (command, "no-*", "web-2"), refusal)

    assert names(virtomate, command, "web-?") == ["web-?"]
    assert names(virtomate, command, "web-2", "web-*") == ["web-2", "web-10", "web-?"]


def test_patterns_for_templates(lab: Lab, virtomate: Program) -> None:
    """A pattern stands for domains that can become templates, and with --undo for templates."""
    define(lab, virtomate)
    for name in ("web-a", "web-b"):
        lab.define(domain(name, disks=[disk(lab.pool.qcow2(f"{name}.qcow2"))]))

    assert names(virtomate, "domain-template", "web-[ab]") == ["web-a", "web-b"]
    refusal = Refusal("NotFoundError", ("no template on", "'*original'"), ("domain-list",))
    check_refusal(lab, virtomate, ("domain-template", "--undo", "*original"), refusal)
    assert names(virtomate, "domain-template", "--undo", "web-*") == ["web-a", "web-b"]
