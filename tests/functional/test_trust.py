"""Pools in whose directories others can write: whoever puts a symbolic link there gains nothing."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import error_of, paused, unchanged
from tests.functional.support import by_target, cloned
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from tests.lab.ordinary_user import NOBODY, OrdinaryUser
from tests.lab.storage import Pool

STRANGER = 4711


@pytest.fixture
def theirs(root_lab: Lab) -> Pool:
    """A pool in the directory of somebody else, with the volume of the domain `original`."""
    pool = root_lab.make_pool("theirs")
    root_lab.define(domain("original", disks=[disk(pool.qcow2("original.qcow2", 4 * MIB))]))
    os.chown(pool.path, STRANGER, STRANGER)
    pool.refresh()
    return pool


def refuse(lab: Lab, result: Any, before: Any) -> dict[str, Any]:
    """Return the error of a run that must have been refused before anything was made."""
    assert result.status == 1, str(result)
    error = result.json
    assert isinstance(error, dict), "It was not refused in the plan"
    assert error["type"] == "IllegalStateError"
    unchanged(before, lab)
    return error


def test_libvirt_does_not_write_among_strangers(
    root_lab: Lab, virtomate: Program, theirs: Pool, tmp_path: Path
) -> None:
    """Transfers in which libvirt opens files by their path are refused in the plan, which says whose the place is."""
    good = root_lab.pool.qcow2("good.qcow2", 4 * MIB)
    root_lab.define(domain("good", disks=[disk(good)]))
    root_lab.define(domain("chain", disks=[disk(theirs.overlay("top.qcow2", good))]))
    image = images.make_raw(tmp_path / "image.raw", MIB)
    before = root_lab.inventory()
    words = [
        ("domain-clone", "--transfer", "stream", "original", "clone"),
        ("domain-clone", "--dry-run", "--disk", "vda=linked,pool=theirs", "good", "clone"),
        # read through a link, what only root may read would get into the clone
        ("domain-clone", "--pool", root_lab.pool.name, "chain", "clone"),
        ("volume-import", image, "theirs"),
    ]

    for command in words:
        error = refuse(root_lab, virtomate(*command, json=True), before)
        subject = "volume 'image.raw'" if command[0] == "volume-import" else "disk vda"
        assert error["message"].startswith(f"{subject}: libvirt would follow a symbolic link")
        assert f"'{theirs.path}', which belongs to user {STRANGER}" in error["message"]
        for part in (f"chown root {shlex.quote(str(theirs.path))}", "another pool", "--trust-pool"):
            assert part in error["hint"]

    # where libvirt only makes the empty file, and where nothing is read among strangers
    assert cloned(virtomate("domain-clone", "original", "one", json=True))["disks"][0]["transfer"] == "host"
    elsewhere = ("--dry-run", "--mode", "linked", "--pool", root_lab.pool.name)
    assert virtomate("domain-clone", *elsewhere, "original", "two").status == 0
    # with consent, and for the owner
    cloned(virtomate(*words[0][:-1], "three", json=True, env={"SUDO_UID": str(STRANGER)}))
    assert virtomate(*words[-1], "--trust-pool", json=True).status == 0


def test_directory_that_everybody_may_write_to(virtomate: Program, theirs: Pool) -> None:
    """It is refused with its mode; a sticky bit keeps others' hands off, and of a group there is only a warning."""
    # what libvirt saw at its last look is not what counts
    os.chown(theirs.path, 0, 0)
    theirs.path.chmod(0o777)
    words = ("domain-clone", "--mode", "linked", "--dry-run")

    def warnings() -> list[str]:
        (document,) = virtomate(*words, "original", "clone", json=True).json
        return [warning for warning in document["warnings"] if "symbolic" in warning]

    error = virtomate(*words, "original", "clone", json=True).json
    assert f"'{theirs.path}', which can be written to by everybody (mode 0777)" in error["message"]
    assert f"chmod o-w {theirs.path}" in error["hint"]
    theirs.path.chmod(0o1777)
    assert warnings() == []
    theirs.path.chmod(0o775)
    (warning,) = warnings()
    assert f"disk vda: '{theirs.path}' can be written to by group 0 (mode 0775)" in warning
    assert "0775" in virtomate("volume-import", __file__, "theirs", json=True).json["warnings"][0]


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_nothing_is_written_through_a_link(root_lab: Lab, virtomate: Program, theirs: Pool, mode: str) -> None:
    """Where the new volume has become a link, it is not filled here, and nothing else is tried."""
    empty = root_lab.directory / "empty"
    empty.write_bytes(b"")
    words = ("domain-clone", "--trust-pool", "--mode", mode, "original", "clone")
    run = virtomate.pausing("virStorageVolCreateXML").start(*words, json=True)
    path = theirs.path / "clone.qcow2"
    with paused(run):
        path.rename(root_lab.directory / "gone")
        path.symlink_to(empty)

    result = run.wait()

    assert result.status in {1, 3}, str(result)
    error = error_of(result)
    assert error["type"] == "IllegalStateError"
    assert f"'{path}' has become a symbolic link" in error["message"], str(result)
    assert empty.read_bytes() == b""


@pytest.mark.parametrize("is_seen", [True, False])
def test_nvram_among_strangers(root_lab: Lab, nobody: OrdinaryUser, is_seen: bool) -> None:
    """A directory of NVRAM over which there is no pool is judged before any claim, as it is seen here or by libvirt."""
    hidden = nobody.pool.path / "hidden"
    hidden.mkdir(mode=0o755 if is_seen else 0o700)
    stores = hidden / "nvram"
    stores.mkdir()
    store = images.make_raw(stores / "original_VARS.fd", OVMF_TEMPLATE.stat().st_size)
    os.chown(stores, STRANGER, STRANGER)
    path = nobody.pool.raw("original.raw", MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")], firmware=nvram(store), memory_mib=256))
    before = root_lab.inventory()

    result = nobody("domain-clone", "original", "clone")

    assert result.status == 1, str(result)
    # one error: nothing was claimed yet
    assert isinstance(result.json, dict)
    error = error_of(result)
    assert error["message"].startswith("the NVRAM: libvirt would follow a symbolic link")
    assert f"'{stores}', which belongs to user {STRANGER}" in error["message"]
    unchanged(before, root_lab)
    if not is_seen:
        return
    os.chown(stores, NOBODY, NOBODY)
    clone = cloned(nobody("domain-clone", "original", "clone"))
    assert (clone["nvram"]["action"], by_target(clone)["vda"]["action"]) == ("copied", "copied")
