"""domain-delete with patterns, with originals, with what rests on a clone, and with clones that run."""

from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import Question, Refusal, check_refusal, unchanged
from tests.functional.support import virsh
from tests.functional.test_deletion import define_source, delete, make_clone, names_of, outcome
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.images import MIB


def refuse(lab: Lab, virtomate: Program, words: tuple[str, ...], type_: str, *parts: str, hint: str = "") -> None:
    """Make sure that a deletion is refused in these words, and changes nothing."""
    check_refusal(lab, virtomate, ("domain-delete", "--yes", *words), Refusal(type_, parts, (hint,)))


def test_pattern(lab: Lab, virtomate: Program) -> None:
    """A pattern stands for all clones with such names; other domains with such names are not meant."""
    define_source(lab)
    define_source(lab, "web-original")
    for name in ("web-2", "web-10", "other", "web"):
        make_clone(virtomate, name)

    refuse(lab, virtomate, ("no-*", "web-2"), "NotFoundError", "'no-*'", hint="domain-list --clones")
    refuse(lab, virtomate, ("Web-*",), "NotFoundError", "'Web-*'")
    result = delete(virtomate, "web-2", "web-*", "*-10")

    assert result.status == 0, str(result)
    assert list(outcome(result)) == ["web-2", "web-10"]
    assert names_of(lab) == {"src", "web-original", "other", "web"}
    assert list(outcome(delete(virtomate, "[ow]?b", "oth[a-e]r"))) == ["web", "other"]
    assert names_of(lab) == {"src", "web-original"}


def test_name_that_looks_like_a_pattern(lab: Lab, virtomate: Program) -> None:
    """A word that is a name is that name alone."""
    define_source(lab)
    for name in ("web[1]", "web1"):
        make_clone(virtomate, name)

    assert outcome(delete(virtomate, "web[1]")) == {"web[1]": "deleted"}
    assert outcome(delete(virtomate, "web[1]")) == {"web1": "deleted"}


def test_clones_of_an_original(lab: Lab, virtomate: Program) -> None:
    """The clones of a domain go, also when the domain itself is gone; not having any is no failure."""
    for name in ("src", "other"):
        define_source(lab, name)
    make_clone(virtomate, "a", "src")
    make_clone(virtomate, "b", "src", "linked")
    make_clone(virtomate, "of-other", "other")
    make_clone(virtomate, "of-a", "a")

    refuse(lab, virtomate, ("--clones-of", "nobody"), "NotFoundError", "'nobody'")
    assert outcome(delete(virtomate, "--clones-of", "src", "b")) == {"b": "deleted", "a": "deleted"}
    again = delete(virtomate, "--clones-of", "src")
    people = delete(virtomate, "--clones-of", "src", json=False)
    lab.connection.lookupByName("other").undefine()
    both = delete(virtomate, "--clones-of", "a", "--clones-of", "other")

    assert (again.status, again.json) == (0, [])
    assert (people.status, people.stdout, people.stderr) == (0, "", "there are no clones of 'src'\n")
    assert outcome(both) == {"of-a": "deleted", "of-other": "deleted"}
    assert names_of(lab) == {"src"}


def test_no_clone_is_named(virtomate: Program) -> None:
    """Options alone name nothing."""
    result = virtomate("domain-delete", "--yes", "--with-dependents", "--force")

    assert (result.status, result.stdout) == (2, "")
    assert "--clones-of" in result.stderr


def test_clones_of_a_running_original(lab: Lab, virtomate: Program) -> None:
    """The images of the moment go with the clones, although they are no clones of the original themselves."""
    path = lab.pool.qcow2("src.qcow2", 4 * MIB)
    lab.define(domain("src", disks=[disk(path)])).create()
    before = lab.inventory()
    made = virtomate("domain-clone", "--live", "--mode", "linked", "src", "src-a", "src-b", json=True)
    assert made.status == 0, str(made)

    listed = {item["name"]: item["clone"] for item in virtomate("domain-list", "--clones", json=True).json}
    assert listed["src-moment"]["images"] == [str(path.with_name("src-moment.qcow2"))]
    assert "images" not in listed["src-a"]
    table = virtomate("domain-list", "--clones", env={"COLUMNS": "200"}).stdout
    assert "src (images for its clones)" in table
    verified = virtomate("domain-verify", "src-moment", json=True)
    assert (verified.status, "only keeps images of 'src'" in verified.json["message"]) == (1, True)
    assert list(outcome(delete(virtomate, "src-*"))) == ["src-a", "src-b", "src-moment"]
    unchanged(before, lab)


def make_tree(virtomate: Program) -> dict[str, Path]:
    """Make a clone with clones that rest on it, in two levels, and one that rests on nothing."""
    paths = {"a": make_clone(virtomate, "a")}
    paths |= {
        name: make_clone(virtomate, name, below, "linked") for name, below in (("c", "a"), ("b", "a"), ("d", "c"))
    }
    return paths | {"copy": make_clone(virtomate, "copy", "a")}


def test_tree(lab: Lab, virtomate: Program) -> None:
    """All that rests on a clone goes with it, from the top, after one question that shows who rests on whom."""
    define_source(lab)
    before = lab.inventory()
    paths = make_tree(virtomate)

    refuse(lab, virtomate, ("a",), "IllegalStateError", "rests on it", hint="--with-dependents")
    question = Question(virtomate, "--with-dependents", "a")
    lines = [line for line in question.text.splitlines() if " of " in line]
    status, after = question.answer("n\n")
    assert (status, "Nothing was deleted." in after) == (1, True)
    result = delete(virtomate, "--with-dependents", "a")

    assert lines == [
        "a (clone of src, copy)",
        "  b (clone of a, linked)",
        "  c (clone of a, linked)",
        "    d (clone of c, linked)",
    ]
    assert result.status == 0, str(result)
    assert outcome(result) == dict.fromkeys(("a", "b", "c", "d"), "deleted")
    assert [name for name, path in paths.items() if path.exists()] == ["copy"]
    assert outcome(delete(virtomate, "copy")) == {"copy": "deleted"}
    unchanged(before, lab)


def test_tree_with_strangers(lab: Lab, virtomate: Program) -> None:
    """What cloning did not make is not part of the tree: it prevents the deletion, as ever."""
    define_source(lab)
    paths = make_tree(virtomate)
    stranger = lab.define(domain("stranger", disks=[disk(lab.pool.overlay("stranger.qcow2", paths["d"]))]))

    refuse(lab, virtomate, ("--with-dependents", "a"), "IllegalStateError", "'stranger'", str(paths["d"]))
    stranger.undefine()
    refuse(lab, virtomate, ("--with-dependents", "a"), "IllegalStateError", "stranger.qcow2", str(paths["d"]))
    (lab.pool.path / "stranger.qcow2").unlink()
    assert delete(virtomate, "--with-dependents", "a").status == 0


def test_running_clones(lab: Lab, virtomate: Program) -> None:
    """Clones that run are ended and deleted only if that was asked for, and the question says that they run."""
    define_source(lab)
    before = lab.inventory()
    paths = make_tree(virtomate)
    for name in ("b", "d", "copy"):
        lab.connection.lookupByName(name).create()
    lab.connection.lookupByName("d").suspend()

    parts = ("'b' and 'd'", "running or paused")
    refuse(lab, virtomate, ("--with-dependents", "a"), "IllegalStateError", *parts, hint="--force")
    refuse(lab, virtomate, ("copy",), "IllegalStateError", "'copy'", hint="--force")
    question = Question(virtomate, "--with-dependents", "--force", "a", "copy")
    assert "  b (clone of a, linked; running, and ended first)\r\n" in question.text
    assert "    d (clone of c, linked; paused, and ended first)\r\n" in question.text
    status, after = question.answer("n\n")
    assert status == 1, after
    assert lab.connection.lookupByName("copy").isActive()
    status, after = Question(virtomate, "--with-dependents", "--force", "a", "copy").answer("y\n")

    assert status == 0, after
    assert not any(path.exists() for path in paths.values())
    unchanged(before, lab)


def test_transient_clone(lab: Lab, virtomate: Program) -> None:
    """A clone whose record would vanish with its end is not ended."""
    define_source(lab)
    make_clone(virtomate, "web")
    web = lab.connection.lookupByName("web")
    web.create()
    web.undefine()

    result = delete(virtomate, "--force", "web")

    assert result.status == 1, str(result)
    assert (result.json["type"], "transient" in result.json["message"]) == ("IllegalStateError", True)
    assert web.isActive()


def bases(document: Any) -> list[str]:
    """Return the images that a deletion names as no longer needed."""
    return [notice["subject"] for notice in document["notices"] if notice["code"] == "kept-base"]


def test_base_that_nobody_uses_any_more(lab: Lab, virtomate: Program) -> None:
    """A volume of the original's own is never deleted; when nothing rests on it any more, the command is named."""
    lower = lab.pool.qcow2("lower.qcow2", 8 * MIB)
    base = lab.pool.overlay("base, of src.qcow2", lower)
    original = lab.define(domain("src", disks=[disk(base)]))
    for name in ("a", "b", "c"):
        make_clone(virtomate, name, "src", "linked")
    digest = images.file_digest(base)

    (used,) = delete(virtomate, "a").json
    original.undefine()
    (shared,) = delete(virtomate, "b").json
    question = Question(virtomate, "c")
    question.answer("n\n")
    (last,) = delete(virtomate, "c").json

    assert bases(used) == bases(shared) == []
    assert bases(last) == [str(base), str(lower)]
    assert "which cloning did not make, and on which nothing rests" in question.text
    assert images.file_digest(base) == digest
    (notice, _) = last["notices"]
    virsh(notice["message"].partition("any more: ")[2].removesuffix(" deletes the image"))
    assert not base.exists()
    assert lower.exists()


def test_frozen_originals(lab: Lab, virtomate: Program) -> None:
    """The base of a frozen original is never deleted, not even when only clones rest on it; that of a clone goes."""
    base = define_source(lab)
    freeze = ("domain-clone", "--mode", "linked", "--freeze")
    assert virtomate(*freeze, "src", "a").status == 0
    own = make_clone(virtomate, "copy", "src")
    assert virtomate(*freeze, "copy", "of-copy").status == 0

    (used,) = delete(virtomate, "a").json
    tree = delete(virtomate, "--with-dependents", "copy")
    assert virtomate(*freeze, "src", "b").status == 0
    lab.connection.lookupByName("src").undefine()
    (lab.pool.path / "src-overlay.qcow2").unlink()
    (last,) = delete(virtomate, "b").json

    assert bases(used) == []
    assert outcome(tree) == {"copy": "deleted", "of-copy": "deleted"}
    assert not own.exists()
    assert bases(last) == [str(base)]
    assert lab.pool.volumes() == [base.name]


@pytest.mark.parametrize("mode", ["shallow", "linked"])
def test_bases_of_several(lab: Lab, virtomate: Program, mode: str) -> None:
    """Of several clones that go together, the last one names the base, once."""
    base = lab.pool.qcow2("base.qcow2", 8 * MIB)
    top = lab.pool.overlay("src.qcow2", base) if mode == "shallow" else base
    original = lab.define(domain("src", disks=[disk(top)]))
    make_clone(virtomate, "a", "src", mode)
    make_clone(virtomate, "b", "src", mode)
    original.undefine()
    if mode == "shallow":
        top.unlink()

    documents = delete(virtomate, "a", "b").json

    assert [path for document in documents for path in bases(document)] == [str(base)]
    assert base.exists()


def test_template_with_clones(lab: Lab, virtomate: Program) -> None:
    """A clone that has become a template is deleted like others: not before its linked clones."""
    define_source(lab)
    before = lab.inventory()
    template = make_clone(virtomate, "golden")
    assert virtomate("domain-template", "golden").status == 0
    make_clone(virtomate, "web", "golden", "linked")

    refuse(lab, virtomate, ("golden",), "IllegalStateError", str(template), "'web'")
    result = delete(virtomate, "--with-dependents", "golden")

    assert outcome(result) == {"golden": "deleted", "web": "deleted"}
    unchanged(before, lab)
