"""domain-verify of a frozen original: whether its bases are what they were at the freeze."""

import os

import pytest

from tests.functional.runs import Refusal, check_refusal
from tests.functional.support import clone, cloned
from tests.functional.test_freeze import FREEZE, MOMENTS, Original, kill_at, write
from tests.functional.test_verify import BREAKS, EVERYTHING, verify
from tests.lab import Lab, Program


@pytest.fixture
def original(lab: Lab) -> Original:
    """The original, which is off."""
    return Original(lab)


def statuses(virtomate: Program, *names: str, status: int = 0) -> dict[str, str]:
    """What is told of domains by their names."""
    return {name: item["status"] for name, item in verify(virtomate, *names, status=status).items()}


@pytest.mark.parametrize("case", ["write", "copy", "move", "truncate"])
def test_broken_original(lab: Lab, original: Original, virtomate: Program, case: str) -> None:
    """Whatever happens to a base is told of the original as of its clone, and the original is not cloned."""
    clone(virtomate, *FREEZE)
    base = original.paths["vda"]
    base.chmod(0o644)
    way, reason, message = BREAKS[case]
    way(base, lab)

    found = verify(virtomate, status=1)

    assert list(found) == ["clone", "original"]
    broken, intact = found["original"]["volumes"]
    assert (broken["path"], broken["base"]) == (str(original.disks()["vda"][0]), str(base))
    assert (broken["status"], broken["reason"], intact["status"]) == ("broken", reason, "intact")
    assert broken["message"].startswith(f"'{base}' {message}")
    tree = {item["name"]: item for item in virtomate("domain-list", "--tree", json=True).json}
    assert tree["original"]["integrity"] == "broken"
    assert "frozen, broken" in virtomate("domain-list", "--tree", env={"COLUMNS": "200"}).stdout
    named = ("'original' is a broken frozen original", str(base))
    refusal = Refusal("IllegalStateError", named, ("virtomate domain-verify original",))
    for words in (FREEZE, (*FREEZE, "--start"), ("--mode", "copy")):
        check_refusal(lab, virtomate, ("domain-clone", *words, "original", "new"), refusal)


def test_moved_base_is_found_again(lab: Lab, original: Original, virtomate: Program) -> None:
    """A frozen original gets another base as a clone does, and is intact again."""
    clone(virtomate, *FREEZE)
    moved = original.paths["vda"].rename(original.paths["vda"].with_name("moved.qcow2"))
    lab.pool.refresh()
    (broken, _) = verify(virtomate, "original", status=1)["original"]["volumes"]
    assert (broken["reason"], broken["found"]) == ("base-moved", str(moved))

    rebased = virtomate("domain-rebase", "original", "--disk", "vda", "--base", moved, json=True)

    assert rebased.status == 0, str(rebased)
    (volume, _) = verify(virtomate, "original")["original"]["volumes"]
    assert (volume["status"], volume["base"], volume["checked"]) == ("intact", str(moved), EVERYTHING)
    assert original.content() == original.before
    # the new base serves further clones
    document = cloned(virtomate("domain-clone", *FREEZE, "original", "second", json=True))
    assert [item["new"] for item in document["frozen"]] == [False, False]


def test_whole_chain_is_verified(original: Original, virtomate: Program) -> None:
    """The second freeze puts an image between the disk and the first base, which is verified nevertheless."""
    clone(virtomate, *FREEZE)
    write(original.disks()["vda"][0])
    cloned(virtomate("domain-clone", *FREEZE, "original", "second", json=True))
    assert statuses(virtomate) == dict.fromkeys(("clone", "original", "second"), "intact")

    write(original.paths["vda"])

    assert statuses(virtomate, status=1) == dict.fromkeys(("clone", "original", "second"), "broken")


def test_no_false_alarm(lab: Lab, original: Original, virtomate: Program) -> None:
    """Starts, a change of owner and mode, a refresh and a restart of libvirt leave a frozen original intact."""
    clone(virtomate, *FREEZE)
    for domain in map(lab.connection.lookupByName, ("original", "clone")):
        domain.create()
        assert statuses(virtomate, "original") == {"original": "intact"}
        domain.destroy()
    for path in original.paths.values():
        if lab.privileged:
            for owner in (65534, 0):
                os.chown(path, owner, owner)
        path.chmod(0o444)
        os.setxattr(path, "user.label", b"some")
    lab.pool.refresh()
    lab.hypervisor.restart()

    found = verify(virtomate, "orig*", "clone")

    assert {name: item["status"] for name, item in found.items()} == {"original": "intact", "clone": "intact"}
    checked = [volume["checked"] for volume in found["original"]["volumes"]]
    assert checked == [EVERYTHING, EVERYTHING[:-1]]


def test_who_is_not_frozen(lab: Lab, original: Original, virtomate: Program) -> None:
    """A domain that was never frozen is refused; one whose disks are others by now rests on no base of the freeze."""
    reason = "'original' is neither a clone that virtomate made nor frozen"
    refusal = Refusal("IllegalStateError", (reason,), ("--tree",))
    check_refusal(lab, virtomate, ("domain-verify", "original"), refusal)
    clone(virtomate, *FREEZE)
    text = original.domain.XMLDesc()
    for target, (overlay, _) in original.disks().items():
        text = text.replace(f"<source file='{overlay}'", f"<source file='{original.paths[target]}'")
    lab.define(text)

    assert statuses(virtomate) == {"clone": "intact"}
    assert statuses(virtomate, "original") == {"original": "independent"}


def test_killed_freeze(original: Original, virtomate: Program) -> None:
    """What a freeze had moved before it was killed is verified once the freeze is completed."""
    kill_at(virtomate, MOMENTS[2])
    clone(virtomate, *FREEZE)

    assert statuses(virtomate) == {"clone": "intact", "original": "intact"}
    write(original.paths["vda"])
    assert statuses(virtomate, "original", status=1) == {"original": "broken"}
