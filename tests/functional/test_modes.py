"""Each mode on each file system, looked at from inside the guests."""

from pathlib import Path
from typing import Any

import pytest

from tests.functional.support import boot_all, by_target, clone, clone_path, image_info, pool_on, refused
from tests.lab import Lab, Pool, Program, disk, domain, images, interface
from tests.lab.domains import OUI_OTHER, mac_address
from tests.lab.programs import require_program, run
from virtomate.duplication.hostfs import reflink, require_reflinks
from virtomate.errors import UnsupportedError

UUID = "0c6bcf3e-7d0b-4b5c-8a0e-1f5b1a1d1c01"
MACS = [mac_address(0x10203), mac_address(0x10204, OUI_OTHER)]
MARKERS = {"vda": "the first disk", "vdb": "the second disk"}


def define_original(lab: Lab, pool: Pool) -> dict[str, Path]:
    """Define a domain with a raw and a qcow2 disk, and return its disks."""
    paths = {
        "vda": pool.raw("original.raw", marker=MARKERS["vda"]),
        "vdb": pool.qcow2("data.qcow2", seed=2, marker=MARKERS["vdb"]),
    }
    lab.define(
        domain(
            "original",
            guest=lab.guest,
            uuid_=UUID,
            smbios=True,
            interfaces=[interface(mac) for mac in MACS],
            disks=[disk(paths["vda"], "raw"), disk(paths["vdb"], "qcow2", "vdb")],
        )
    )
    return paths


def check_clone_boots(lab: Lab, document: Any, *, beside_original: bool) -> None:
    """Boot the clone, beside its original where that is allowed, and compare what their guests say."""
    new_macs = [interface["mac"] for interface in document["interfaces"]]
    assert [interface["source_mac"] for interface in document["interfaces"]] == MACS
    assert [mac[:8] for mac in new_macs] == [mac[:8] for mac in MACS]
    assert len({*new_macs, *MACS}) == 4
    assert document["uuid"] != UUID

    guest, *others = boot_all(lab, "clone", "original") if beside_original else boot_all(lab, "clone")
    assert guest.markers == MARKERS
    assert guest.uuid == document["uuid"]
    assert guest.macs == new_macs
    for original in others:
        assert (original.uuid, original.macs, original.markers) == (UUID, MACS, MARKERS)
        assert original.disks == guest.disks


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
def test_copy_boots_beside_its_original(lab: Lab, virtomate: Program, file_system: str) -> None:
    """A copy reads what the original reads, has an identity of its own, and needs nothing of the original."""
    pool = pool_on(lab, file_system)
    paths = define_original(lab, pool)

    document = clone(virtomate)

    assert (document["mode"], document["source"]) == ("copy", {"name": "original", "uuid": UUID})
    assert [entry["action"] for entry in document["disks"]] == ["copied", "copied"]
    assert [clone_path(document, target).name for target in MARKERS] == ["clone.raw", "clone-data.qcow2"]
    for target, path in paths.items():
        assert images.file_digest(clone_path(document, target)) == images.file_digest(path)
    check_clone_boots(lab, document, beside_original=True)


@pytest.mark.parametrize("file_system", ["xfs", "btrfs"])
def test_reflink_boots_beside_its_original(root_lab: Lab, virtomate: Program, file_system: str) -> None:
    """A reflink, raw or qcow2, shares its data on the file system and behaves like a copy."""
    paths = define_original(root_lab, root_lab.pools[file_system])

    document = clone(virtomate, "--mode", "reflink")

    assert [entry["action"] for entry in document["disks"]] == ["reflinked", "reflinked"]
    assert [entry["bytes_copied"] for entry in document["disks"]] == [0, 0]
    for target, path in paths.items():
        copy = clone_path(document, target)
        assert images.file_digest(copy) == images.file_digest(path)
        assert shared_extents(copy) == shared_extents(path) != []
    check_clone_boots(root_lab, document, beside_original=True)
    # Shared until somebody writes.
    images.qemu_io(clone_path(document, "vda"), "raw", "write -P 9 0 64k")
    assert images.file_digest(clone_path(document, "vda")) != images.file_digest(paths["vda"])


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
def test_linked_clone_rests_on_its_original(lab: Lab, virtomate: Program, file_system: str) -> None:
    """A linked clone is an overlay of version 1.1 with subclusters that records backing file and format."""
    paths = define_original(lab, pool_on(lab, file_system))
    before = {path: (images.file_digest(path), path.stat().st_mtime_ns) for path in paths.values()}

    document = clone(virtomate, "--mode", "linked")

    for target, format_ in (("vda", "raw"), ("vdb", "qcow2")):
        entry = by_target(document)[target]
        assert (entry["action"], entry["transfer"], entry["bytes_copied"]) == ("linked", "link", 0)
        assert entry["subclusters"] is True
        assert entry["clone"]["format"] == "qcow2"
        info = image_info(clone_path(document, target))
        assert info["backing-filename"] == str(paths[target])
        assert info["backing-filename-format"] == format_
        assert info["format-specific"]["data"]["compat"] == "1.1"
        assert info["format-specific"]["data"]["extended-l2"] is True
        assert images.allocated_bytes(clone_path(document, target)) < images.MIB
    assert any("'original'" in warning and "corrupts the linked clones" in warning for warning in document["warnings"])
    check_clone_boots(lab, document, beside_original=False)
    assert {path: (images.file_digest(path), path.stat().st_mtime_ns) for path in paths.values()} == before


@pytest.mark.parametrize("disks", ["raw", "qcow2", "both"])
def test_reflink_is_refused_without_reflinks(root_lab: Lab, virtomate: Program, disks: str) -> None:
    """Where the file system has no reflinks, the error says so and what to do, and nothing was made."""
    pool = root_lab.pools["ext4"]
    described = []
    if disks != "qcow2":
        described.append(disk(pool.raw("original.raw"), "raw"))
    if disks != "raw":
        described.append(disk(pool.qcow2("original.qcow2"), "qcow2", "vdb"))
    root_lab.define(domain("original", disks=described))
    before = root_lab.inventory()

    for words in (("--dry-run", "clone"), ("clone", "other")):
        result = virtomate("domain-clone", "--mode", "reflink", "original", *words, json=True)

        error = refused(root_lab, before, result)
        # the plan knows it, so that no clone is begun
        assert error == result.json
        assert error["type"] == "UnsupportedError"
        assert str(pool.path / "original.") in error["message"]
        assert "reflink" in error["message"]
        assert "--mode copy" in error["hint"]


def test_file_system_that_turns_out_to_have_no_reflinks(root_lab: Lab, tmp_path: Path) -> None:
    """Where that could not be tried beforehand, it is the same error."""
    directory = root_lab.pools["ext4"].path
    require_reflinks(str(tmp_path / "nowhere"), "original.raw")
    with pytest.raises(UnsupportedError) as planned:
        require_reflinks(str(directory), "original.raw")

    with (
        (directory / "a").open("wb") as target,
        (directory / "b").open("w+b") as source,
        pytest.raises(UnsupportedError) as tried,
    ):
        reflink(target.fileno(), source.fileno(), "original.raw")

    assert (tried.value.message, tried.value.hint) == (planned.value.message, planned.value.hint)


def shared_extents(path: Path) -> list[str]:
    """Return the physical extents of a file that it shares with another one."""
    listing = run(require_program("filefrag", "e2fsprogs"), "-v", path).decode().splitlines()
    return sorted(line.split(":")[2].strip() for line in listing if "shared" in line)
