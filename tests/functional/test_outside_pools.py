"""A disk whose directory no active pool covers is cloned through a temporary pool over the directory, if asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.support import by_target, clone, clone_path, cloned, definition, image_info, refused
from tests.lab import Lab, Program, disk, domain, images, mounts
from tests.lab.images import MIB

OUTSIDE = "--outside-pools"


def pools_of(lab: Lab) -> list[str]:
    """Return the names of all pools."""
    return sorted(pool.name() for pool in lab.connection.listAllStoragePools())


def define_original(lab: Lab, *paths: Path, format_: str = "qcow2") -> None:
    """Define the original with disks of these files."""
    disks = [disk(path, format_, f"vd{'abcd'[number]}") for number, path in enumerate(paths)]
    lab.define(domain("original", disks=disks))


def original_outside(lab: Lab, name: str = "outside") -> Path:
    """Define the original with a disk in a directory that is in no pool; return the path of the disk."""
    path = images.make_qcow2(lab.make_directory(name) / "original.qcow2", 8 * MIB, data_bytes=MIB)
    define_original(lab, path)
    return path


def same_content(one: Path, other: Path) -> bool:
    """Tell whether guests read the same from two images."""
    return images.same_content(one, "qcow2", other, "qcow2")


@contextmanager
def another_spelling(lab: Lab, directory: Path, way: str) -> Iterator[Path]:
    """Another path of a directory."""
    other = lab.make_directory("other") / "a path"
    if way == "symbolic link":
        other.symlink_to(directory)
    else:
        other.mkdir()
        mounts.mount("--bind", directory, other)
    try:
        yield other
    finally:
        if way == "symbolic link":
            other.unlink()
        else:
            mounts.unmount(other)


@pytest.mark.parametrize("place", ["no pool", "sub-directory", "inactive pool"])
def test_refused_unless_asked(lab: Lab, virtomate: Program, place: str) -> None:
    """Without the option, the error says how the directory becomes a pool, and names the option."""
    directory = lab.pool.path / "below" if place == "sub-directory" else lab.make_directory("outside")
    directory.mkdir(exist_ok=True)
    path = images.make_qcow2(directory / "original.qcow2", 8 * MIB)
    if place == "inactive pool":
        lab.make_pool("asleep", directory).handle.destroy()
    define_original(lab, path)
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "original", "clone", json=True))

    cure = "pool-start asleep" if place == "inactive pool" else f"--target {directory}"
    assert error["type"] == "IllegalStateError"
    assert cure in error["hint"]
    assert "--outside-pools" in error["hint"]
    document = clone(virtomate, OUTSIDE)
    assert clone_path(document).parent == directory
    assert same_content(path, clone_path(document))


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_copied_beside(lab: Lab, virtomate: Program, transfer: str) -> None:
    """The copy goes beside the original, and no pool is left; the plan says the same."""
    path = original_outside(lab, "out side")
    before = pools_of(lab)
    plan = virtomate("domain-clone", "--dry-run", OUTSIDE, "original", "clone", json=True)
    assert pools_of(lab) == before
    (planned,) = plan.json

    document = clone(virtomate, OUTSIDE, "--transfer", transfer)

    copy = path.with_name("clone.qcow2")
    source, made = ({"format": "qcow2", "path": str(file), "pool": None, "volume": None} for file in (path, copy))
    assert (by_target(document)["vda"]["source"], by_target(document)["vda"]["clone"]) == (source, made)
    assert by_target(planned)["vda"]["clone"] == made
    assert {(need["pool"], need["directory"]) for need in planned["space"]} == {(None, str(path.parent))}
    assert by_target(document)["vda"]["transfer"] == transfer
    assert same_content(path, copy)
    assert f"file='{copy}'" in definition(lab, "clone")
    assert pools_of(lab) == before


@pytest.mark.parametrize("mode", ["linked", "reflink", "shallow"])
def test_every_mode_and_chains_outside(root_lab: Lab, virtomate: Program, mode: str) -> None:
    """A chain in two directories outside pools is read to its end; overlays and top images go beside the original."""
    xfs = root_lab.pools["xfs"].path
    below, above = xfs / "bases", xfs / "tops"
    for directory in (below, above):
        directory.mkdir()
    base = images.make_qcow2(below / "base.qcow2", 8 * MIB, data_bytes=MIB)
    top = images.make_overlay(above / "original.qcow2", base, "qcow2", pattern=7)
    define_original(root_lab, top)

    document = clone(virtomate, OUTSIDE, "--mode", mode)

    path = clone_path(document)
    assert path == above / "clone.qcow2"
    assert same_content(top, path)
    assert image_info(path)["full-backing-filename"] == str(top if mode == "linked" else base)
    record = definition(root_lab, "clone")
    assert str(base) in record
    assert virtomate("domain-verify", "clone").status == 0


def test_chain_flattened(lab: Lab, virtomate: Program) -> None:
    """A base outside pools is copied into the clone; without the option the error names it."""
    base = images.make_qcow2(lab.make_directory("bases") / "base.qcow2", 8 * MIB, data_bytes=MIB)
    top = lab.pool.overlay("original.qcow2", base, pattern=7)
    define_original(lab, top)

    error = refused(lab, lab.inventory(), virtomate("domain-clone", "original", "clone", json=True))
    document = clone(virtomate, OUTSIDE)

    assert str(base) in error["message"]
    assert OUTSIDE in error["hint"]
    assert by_target(document)["vda"]["clone"]["pool"] == lab.pool.name
    assert same_content(top, clone_path(document))
    assert "backing-filename" not in image_info(clone_path(document))


def test_into_a_pool(lab: Lab, virtomate: Program) -> None:
    """With --pool the original alone is outside, and the clone is an ordinary one."""
    path = original_outside(lab)
    there = len(list(path.parent.iterdir()))

    document = clone(virtomate, OUTSIDE, "--pool", lab.pool.name)

    assert by_target(document)["vda"]["clone"]["pool"] == lab.pool.name
    assert same_content(path, clone_path(document))
    assert len(list(path.parent.iterdir())) == there
    assert "virtomate-clone-" not in definition(lab, "clone")


@pytest.mark.parametrize("way", ["symbolic link", "bind mount"])
def test_pool_under_another_spelling(root_lab: Lab, virtomate: Program, way: str) -> None:
    """An active pool that covers the directory under another path is used, and no option is needed."""
    path = root_lab.pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    with another_spelling(root_lab, path.parent, way) as other:
        define_original(root_lab, other / path.name)

        document = clone(virtomate)
        linked = cloned(virtomate("domain-clone", "--mode", "linked", "original", "linked", json=True))

        assert by_target(document)["vda"]["clone"]["pool"] == root_lab.pool.name
        assert same_content(path, clone_path(document))
        assert image_info(clone_path(linked))["full-backing-filename"] == str(path)
        delete = virtomate("domain-delete", "-y", "clone", "linked")
        assert delete.status == 0, str(delete)


@pytest.mark.parametrize("way", ["symbolic link", "bind mount"])
def test_two_spellings_are_one_directory(root_lab: Lab, virtomate: Program, way: str) -> None:
    """Two disks in two spellings of a directory have one temporary pool, and two names."""
    directory = root_lab.make_directory("outside")
    one = images.make_qcow2(directory / "disk.qcow2", 8 * MIB, data_bytes=MIB)
    with another_spelling(root_lab, directory, way) as other:
        (other / "sub").mkdir()
        two = images.make_qcow2(other / "original.qcow2", 8 * MIB, data_bytes=MIB, seed=2)
        lab_disks = [disk(one, target="vda"), disk(two, target="vdb"), disk(other / one.name, target="vdc")]
        root_lab.define(domain("original", disks=lab_disks))
        words = ("domain-clone", OUTSIDE, "--disk", "vda=name=new.qcow2", "--disk", "vdb=name=new.qcow2")

        clash = virtomate(*words, "original", "clone", json=True)
        document = clone(virtomate, OUTSIDE)

        assert clash.json["type"] == "Conflict", str(clash)
        paths = {target: item["clone"]["path"] for target, item in by_target(document).items()}
        assert paths["vda"] == paths["vdc"] == str(directory / "clone-disk.qcow2")
        assert paths["vdb"] == str(directory / "clone.qcow2")
        assert same_content(two, Path(paths["vdb"]))
