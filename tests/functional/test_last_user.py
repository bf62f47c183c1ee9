"""Bases that only cloning made: they stay while anybody rests on them, and go with whoever is deleted last."""

import signal
from itertools import permutations
from pathlib import Path

import libvirt
import pytest

from tests.functional.runs import Question, paused, unchanged
from tests.functional.support import cloned
from tests.functional.test_deletion import define_source, delete, make_clone, names_of, outcome
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.images import MIB

# Right after these calls of libvirt's: the placeholder of the clone, the domain that keeps its base, the first file.
MOMENTS = ("virDomainDefineXMLFlags", "virDomainDefineXMLFlags-2", "virStorageVolDelete")


def freeze_clone(virtomate: Program, *names: str) -> list[Path]:
    """Make linked clones of the clone `web`, which is frozen for each; the paths of their disks."""
    return [_freeze(virtomate, name) for name in names]


def _freeze(virtomate: Program, name: str) -> Path:
    made = cloned(virtomate("domain-clone", "--mode", "linked", "--freeze", "web", name, json=True))
    path = Path(made["disks"][0]["clone"]["path"])
    # the base of the next clone is another image
    images.qemu_io(made["frozen"][0]["overlay"]["path"], "qcow2", "write -P 77 1M 64k")
    return path


@pytest.mark.parametrize("order", [*permutations(("web", "a", "b"))], ids="-".join)
def test_every_order(lab: Lab, virtomate: Program, order: tuple[str, ...]) -> None:
    """A clone goes although others rest on its former volumes, and each of these goes with its own last user."""
    define_source(lab)
    before = lab.inventory()
    first = make_clone(virtomate, "web")
    second = lab.pool.path / "web-overlay.qcow2"
    paths = dict(zip(("a", "b"), freeze_clone(virtomate, "a", "b"), strict=True))
    content = {name: images.guest_digest(path, "qcow2") for name, path in paths.items()}

    for position, name in enumerate(order):
        result = delete(virtomate, name)
        assert result.status == 0, str(result)
        left = set(order[position + 1 :])
        assert left <= names_of(lab)
        assert {n: images.guest_digest(path, "qcow2") for n, path in paths.items() if n in left} == {
            n: digest for n, digest in content.items() if n in left
        }
        assert first.exists() == bool(left)
        # rests on the first one
        assert second.exists() == bool(left & {"b", "web"})

    unchanged(before, lab)


def test_one_command(lab: Lab, virtomate: Program) -> None:
    """A pattern and a clone that runs: what stays keeps its bases, and the question, the result and the list say so."""
    define_source(lab)
    before = lab.inventory()
    first = make_clone(virtomate, "web")
    second = lab.pool.path / "web-overlay.qcow2"
    freeze_clone(virtomate, "a", "b")
    guest = lab.connection.lookupByName("b")
    guest.create()

    question = Question(virtomate, "we*", "a")
    status, after = question.answer("y\n")

    assert (status, first.exists(), second.exists()) == (0, True, True), after
    assert names_of(lab) == {"src", "b", "web-base", "web-base-2"}
    for text in (question.text, after):
        for path, keeper in ((first, "web-base"), (second, "web-base-2")):
            assert f"kept: image '{path}', on which others rest: domain '{keeper}' keeps the image" in text
    clones = {item["name"]: item["clone"] for item in virtomate("domain-list", "--clones", json=True).json}
    assert {name: clone.get("images") for name, clone in clones.items()} == {
        "b": None,
        "web-base": [str(first)],
        "web-base-2": [str(second)],
    }
    for words in (("domain-delete", "--yes", "web-base"), ("domain-clone", "web-base", "x")):
        refused = virtomate(*words, json=True)
        assert (refused.status, refused.json["type"]) == (1, "IllegalStateError"), str(refused)
    guest.destroy()
    assert set(outcome(delete(virtomate, "*"))) == {"b", "web-base", "web-base-2"}
    unchanged(before, lab)


def test_dependents_go_along(lab: Lab, virtomate: Program) -> None:
    """With its dependents a frozen clone leaves nothing, and nothing is handed to anybody."""
    define_source(lab)
    before = lab.inventory()
    make_clone(virtomate, "web")
    freeze_clone(virtomate, "a", "b")

    result = delete(virtomate, "--with-dependents", "web")

    assert outcome(result) == dict.fromkeys(("a", "b", "web"), "deleted")
    assert not any(item["kept"] for item in result.json)
    unchanged(before, lab)


def test_only_bases_are_handed(lab: Lab, virtomate: Program) -> None:
    """A volume that is a disk refuses the deletion as ever; a base that the user made stays, and nobody deletes it."""
    define_source(lab)
    first = make_clone(virtomate, "web")
    own = lab.pool.qcow2("own.qcow2", 4 * MIB)
    lab.connection.lookupByName("web").attachDeviceFlags(disk(own, target="vdb"), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    freeze_clone(virtomate, "a")
    stranger = lab.define(domain("stranger", disks=[disk(first)]))
    before = lab.inventory()

    refused = delete(virtomate, "web")

    assert (refused.status, "'stranger' uses it" in refused.json["message"]) == (1, True), str(refused)
    unchanged(before, lab)
    stranger.undefine()
    assert outcome(delete(virtomate, "web")) == {"web": "deleted"}
    (last, keeper) = delete(virtomate, "a").json
    assert (last["name"], keeper["name"]) == ("a", "web-base")
    assert any(str(own) in told for item in (last, keeper) for told in item["kept"])
    assert (own.exists(), first.exists()) == (True, False)


def test_last_user_is_flattened(lab: Lab, virtomate: Program) -> None:
    """Where the last user becomes independent, the result names the command that deletes the base."""
    define_source(lab)
    before = lab.inventory()
    base = make_clone(virtomate, "web")
    freeze_clone(virtomate, "a")
    assert outcome(delete(virtomate, "web")) == {"web": "deleted"}

    (flattened,) = virtomate("domain-flatten", "a", json=True).json

    assert [notice["code"] for notice in flattened["notices"]] == ["kept-unused-image"]
    assert f"image '{base}'" in flattened["kept"][0]
    assert "domain-delete web-base" in flattened["kept"][0]
    assert outcome(delete(virtomate, "web-base", "a")) == dict.fromkeys(("web-base", "a"), "deleted")
    unchanged(before, lab)


@pytest.mark.parametrize("order", [("web", "a", "b"), ("b", "a", "web")], ids="-".join)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(lab: Lab, virtomate: Program, moment: str, order: tuple[str, ...]) -> None:
    """A deletion that is killed loses nothing that others rest on, and the same commands clean up."""
    define_source(lab)
    before = lab.inventory()
    make_clone(virtomate, "web")
    paths = dict(zip(("a", "b"), freeze_clone(virtomate, "a", "b"), strict=True))
    content = {name: images.guest_digest(path, "qcow2") for name, path in paths.items()}
    run = virtomate.pausing(moment).start("domain-delete", "--yes", "web", json=True)
    with paused(run):
        run.signal(signal.SIGKILL)
        run.process.wait()

    assert {name: images.guest_digest(path, "qcow2") for name, path in paths.items()} == content
    for name in order:
        result = delete(virtomate, name)
        assert result.status == 0, str(result)

    assert names_of(lab) == {"src"}
    unchanged(before, lab)
