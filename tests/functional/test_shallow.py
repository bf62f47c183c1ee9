"""Shallow copies: only the top image of a backing chain is copied, and the copy rests on the same base."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.functional.support import by_target, clone, clone_path, definition, image_info, refused
from tests.lab import Lab, Pool, Program, disk, domain, images
from tests.lab.images import MIB
from virtomate.definition.provenance import NAMESPACE


def define_chain(lab: Lab, pool: Pool, base_name: str | None = None) -> tuple[Path, Path]:
    """Define a domain that boots from an overlay with data of its own; return the base and the overlay."""
    base = pool.qcow2("base.qcow2", 16 * MIB, seed=1)
    top = pool.overlay("original.qcow2", Path(base_name) if base_name else base, marker="of the top", pattern=5)
    lab.define(domain("original", disks=[disk(top)], guest=lab.guest))
    return base, top


@pytest.mark.parametrize("transfer", ["host", "stream"])
def test_only_the_top_image_is_copied(lab: Lab, virtomate: Program, transfer: str) -> None:
    """The copy is byte for byte the top image, rests on the same base, and is independent of the original's own."""
    base, top = define_chain(lab, lab.pool)
    before = images.file_digest(base)

    made = clone(virtomate, "--mode", "shallow", "--transfer", transfer)

    copy = clone_path(made)
    entry = by_target(made)["vda"]
    assert (made["mode"], entry["action"], entry["transfer"]) == ("shallow", "shallow-copied", transfer)
    assert entry["bytes_copied"] <= images.allocated_bytes(top) + 64 * 1024 < images.allocated_bytes(base)
    assert images.file_digest(copy) == images.file_digest(top)
    assert image_info(copy)["backing-filename"] == str(base)
    (notice,) = [notice for notice in made["notices"] if notice["code"] == "shared-base"]
    assert (notice["subject"], str(base) in notice["message"]) == ("vda", True)
    content = images.guest_digest(top, "qcow2")
    top.unlink()
    assert images.guest_digest(copy, "qcow2") == content
    lab.connection.lookupByName("clone").create()
    assert images.file_digest(base) == before


def test_record_has_the_base_as_it_was(lab: Lab, virtomate: Program) -> None:
    """As of a linked clone, the record of a shallow copy says what its base was like."""
    base, _ = define_chain(lab, lab.pool)
    lab.pool.raw("data.raw", MIB)
    other = domain("other", disks=[disk(lab.pool.path / "original.qcow2")])
    lab.define(other)

    clone(virtomate, "--mode", "shallow")
    assert virtomate("domain-clone", "--mode", "linked", "other", "linked").status == 0

    status = base.stat()
    made, linked = (
        ET.fromstring(definition(lab, name)).find(f".//{{{NAMESPACE}}}made").attrib  # type: ignore[union-attr]
        for name in ("clone", "linked")
    )
    keys = ("base", "base-size", "base-modified")
    modified = f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}"
    assert [made[key] for key in keys] == [str(base), str(status.st_size), modified]
    assert set(keys) <= set(linked)


def test_life_after_cloning(lab: Lab, virtomate: Program) -> None:
    """Its base is watched as that of a linked clone, and it can become independent, but not be emptied."""
    base, top = define_chain(lab, lab.pool)
    content = images.guest_digest(top, "qcow2")
    for name in ("clone", "other"):
        assert virtomate("domain-clone", "--mode", "shallow", "original", name).status == 0
    copy, other = lab.pool.path / "clone.qcow2", lab.pool.path / "other.qcow2"

    reset = virtomate("domain-reset", "clone", json=True)
    assert (reset.status, "is a copy of the original's own image" in reset.json["message"]) == (1, True), str(reset)
    assert images.guest_digest(copy, "qcow2") == content
    assert virtomate("domain-verify", "clone", "other").status == 0
    assert virtomate("domain-flatten", "other").status == 0
    assert "backing-filename" not in image_info(other)
    assert images.guest_digest(other, "qcow2") == content
    top.unlink()
    images.qemu_io(base, "qcow2", "write -P 9 8M 64k")
    verified = virtomate("domain-verify", "clone", json=True)
    assert verified.status == 1, str(verified)
    assert str(base) in verified.stdout
    assert virtomate("domain-verify", "other").status == 0


def test_frozen_base(lab: Lab, virtomate: Program) -> None:
    """Of a frozen original nothing is to be warned of: nobody writes to its base, and both can be used."""
    base = lab.pool.qcow2("original.qcow2", 16 * MIB, seed=1)
    lab.define(domain("original", disks=[disk(base)]))
    assert virtomate("domain-clone", "--mode", "linked", "--freeze", "original", "linked").status == 0
    images.qemu_io(lab.pool.path / "original-overlay.qcow2", "qcow2", "write -P 9 0 64k")

    made = clone(virtomate, "--mode", "shallow")

    assert by_target(made)["vda"]["action"] == "shallow-copied"
    assert image_info(clone_path(made))["backing-filename"] == str(base)
    assert "shared-base" not in [notice["code"] for notice in made["notices"]]
    assert images.same_content(clone_path(made), "qcow2", lab.pool.path / "original-overlay.qcow2", "qcow2")
    for name in ("original", "clone", "linked"):
        lab.connection.lookupByName(name).create()


def test_relative_base(lab: Lab, virtomate: Program) -> None:
    """A base that is named relative to the image is found beside the copy, and only there."""
    define_chain(lab, lab.pool, "base.qcow2")
    other = lab.make_pool("other")
    words = ("--mode", "shallow", "--pool", other.name)
    before = lab.inventory()
    error = refused(lab, before, virtomate("domain-clone", *words, "original", "clone", json=True))

    made = clone(virtomate, "--mode", "shallow")

    assert error["type"] == "UnsupportedError"
    assert "relative" in error["message"]
    assert image_info(clone_path(made))["backing-filename"] == "base.qcow2"
    assert lab.boot("clone").markers == {"vda": "of the top"}


def test_other_pool(lab: Lab, virtomate: Program) -> None:
    """A base that is named by its whole path is found from every pool, on every file system."""
    base, top = define_chain(lab, lab.pool)
    other = lab.pools["xfs"] if lab.privileged else lab.make_pool("other")

    made = clone(virtomate, "--disk", f"vda=shallow,pool={other.name}")

    assert made["mode"] == "copy"
    assert by_target(made)["vda"]["action"] == "shallow-copied"
    assert clone_path(made).parent == other.path
    assert image_info(clone_path(made))["backing-filename"] == str(base)
    assert images.guest_digest(clone_path(made), "qcow2") == images.guest_digest(top, "qcow2")


@pytest.mark.parametrize("words", [("--mode", "shallow"), ("--disk", "vda=shallow", "--disk", "vdb=shallow")])
def test_disk_without_a_base_is_copied_in_whole(lab: Lab, virtomate: Program, words: tuple[str, ...]) -> None:
    """Where nothing is below, the top image is the whole disk: it is a copy as any other."""
    paths = {"vda": lab.pool.raw("original.raw", 4 * MIB), "vdb": lab.pool.qcow2("original.qcow2", 4 * MIB)}
    lab.define(domain("original", disks=[disk(paths["vda"], "raw"), disk(paths["vdb"], "qcow2", "vdb")]))

    made = clone(virtomate, *words)

    assert [entry["action"] for entry in made["disks"]] == ["copied", "copied"]
    assert [entry["reason"] for entry in made["disks"]] == ["it rests on no other image"] * 2
    assert made["warnings"] == []
    for target, path in paths.items():
        assert images.file_digest(clone_path(made, target)) == images.file_digest(path)


def test_what_the_top_image_holds_besides_data(lab: Lab, virtomate: Program) -> None:
    """Internal snapshots are in the copy of the top image, unlike in a copy of the whole chain."""
    _, top = define_chain(lab, lab.pool)
    images.qemu_img("snapshot", "-c", "monday", top)
    lab.pool.refresh()

    made = clone(virtomate, "--mode", "shallow")

    assert [snapshot["name"] for snapshot in image_info(clone_path(made))["snapshots"]] == ["monday"]
    assert not any("snapshots of disk vda are not carried over" in warning for warning in made["warnings"])


def test_running_original(lab: Lab, virtomate: Program) -> None:
    """A backup of a running original has no image without those below, and copies a disk with nothing below as ever."""
    _, top = define_chain(lab, lab.pool)
    lab.connection.lookupByName("original").undefine()
    plain = lab.pool.qcow2("plain.qcow2", 4 * MIB, seed=3)
    lab.define(domain("original", disks=[disk(top)])).create()
    lab.define(domain("other", disks=[disk(plain)])).create()
    before = lab.inventory()

    words = ("domain-clone", "--live", "--mode", "shallow")
    error = refused(lab, before, virtomate(*words, "original", "clone", json=True))
    made = virtomate(*words, "other", "clone", json=True)

    assert (error["type"], "backup" in error["message"]) == ("UnsupportedError", True)
    assert made.status == 0, str(made)
    assert by_target(made.json[0])["vda"]["action"] == "copied"


def test_plan_and_result_in_words(lab: Lab, virtomate: Program) -> None:
    """People read that only the top image is copied, in the plan and afterwards."""
    define_chain(lab, lab.pool)
    words = ("domain-clone", "--mode", "shallow", "original", "clone")

    plan, result = virtomate(*words[:1], "--dry-run", *words[1:]), virtomate(*words)

    path = lab.pool.path / "clone.qcow2"
    plan_words = re.search(rf"copy the top image to {path}, (.+) KiB, directly$", plan.stdout, re.MULTILINE)
    assert plan_words is not None, str(plan)
    assert float(plan_words[1]) > 0
    assert f"copied the top image to {path}, " in result.stdout, str(result)
