"""Mode auto: each disk is reflinked where its file system can do that, and copied where it cannot."""

from typing import Any

import pytest

from tests.functional.support import by_target, clone, clone_path, image_info, pool_on, unchanged
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.images import MIB


def outcomes(document: Any) -> dict[str, str]:
    """Return what became of each disk."""
    return {target: entry["action"] for target, entry in by_target(document).items()}


@pytest.mark.parametrize(("file_system", "action"), [("ext4", "copied"), ("xfs", "reflinked"), ("btrfs", "reflinked")])
def test_the_file_system_decides(lab: Lab, virtomate: Program, file_system: str, action: str) -> None:
    """Raw or qcow2, a disk is reflinked where that is possible, and the plan knows what will happen."""
    pool = pool_on(lab, file_system)
    paths = {"vda": pool.raw("original.raw", 4 * MIB), "vdb": pool.qcow2("original.qcow2", 4 * MIB)}
    lab.define(domain("original", disks=[disk(paths["vda"], "raw"), disk(paths["vdb"], "qcow2", "vdb")]))
    before = lab.inventory()

    (plan,) = virtomate("domain-clone", "--mode", "auto", "--dry-run", "original", "clone", json=True).json
    unchanged(lab, before)
    made = clone(virtomate, "--mode", "auto")

    assert made["mode"] == "auto"
    assert outcomes(plan) == outcomes(made) == {"vda": action, "vdb": action}
    for target, entry in by_target(made).items():
        assert (entry["bytes_copied"] == 0) == (action == "reflinked")
        assert entry["transfer"] == "host"
        assert images.file_digest(clone_path(made, target)) == images.file_digest(paths[target])
        if action == "copied":
            assert "does not support reflinks" in entry["reason"]
        else:
            assert entry["reason"] is None
    (listed,) = virtomate("domain-list", "--clones", json=True).json
    assert listed["clone"]["mode"] == "auto"


def test_each_disk_on_its_own_file_system(root_lab: Lab, virtomate: Program) -> None:
    """Of one domain some disks are reflinked and others copied; the mode of a disk alone can be auto, too."""
    slow, fast = root_lab.pools["ext4"], root_lab.pools["btrfs"]
    paths = [
        slow.raw("original.raw", 4 * MIB),
        fast.qcow2("original.qcow2", 4 * MIB),
        fast.raw("data.raw", 4 * MIB),
        fast.raw("more.raw", 4 * MIB),
    ]
    targets = ("vda", "vdb", "vdc", "vdd")
    disks = [disk(path, path.suffix[1:], target) for path, target in zip(paths, targets, strict=True)]
    root_lab.define(domain("original", disks=disks))

    made = clone(virtomate, "--mode", "auto", "--disk", f"vdc=auto,pool={slow.name}", "--disk", "vdd=copy")
    single = virtomate("domain-clone", "--disk", "vdb=auto", "original", "other", json=True)

    assert outcomes(made) == {"vda": "copied", "vdb": "reflinked", "vdc": "copied", "vdd": "copied"}
    assert "another file system" in by_target(made)["vdc"]["reason"]
    assert by_target(made)["vdd"]["reason"] is None
    assert single.status == 0, str(single)
    assert (single.json[0]["mode"], outcomes(single.json[0])["vdb"]) == ("copy", "reflinked")
    assert set(outcomes(single.json[0]).values()) == {"copied", "reflinked"}


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_backing_chain(lab: Lab, virtomate: Program, file_system: str) -> None:
    """The reflink of a top image rests on its base and says so; a copy has everything itself."""
    pool = pool_on(lab, file_system)
    base = pool.qcow2("base.qcow2", 4 * MIB)
    top = pool.overlay("original.qcow2", base, pattern=3)
    lab.define(domain("original", disks=[disk(top)]))

    made = clone(virtomate, "--mode", "auto")

    is_reflink = file_system == "xfs"
    assert outcomes(made) == {"vda": "reflinked" if is_reflink else "copied"}
    assert image_info(clone_path(made)).get("backing-filename") == (str(base) if is_reflink else None)
    assert [notice["code"] for notice in made["notices"]].count("shared-base") == is_reflink
    assert images.guest_digest(clone_path(made), "qcow2") == images.guest_digest(top, "qcow2")


def test_other_formats_and_forced_transfers(root_lab: Lab, virtomate: Program) -> None:
    """What cannot be reflinked is copied, whatever the reason: its format, or the transfer that was asked for."""
    pool = root_lab.pools["xfs"]
    raw = pool.raw("source.raw", 4 * MIB)
    images.qemu_img("convert", "-f", "raw", "-O", "vdi", raw, pool.path / "original.vdi")
    pool.refresh()
    disks = [disk(pool.path / "original.vdi", "vdi"), disk(raw, "raw", "vdb")]
    root_lab.define(domain("original", disks=disks))

    made = clone(virtomate, "--mode", "auto")
    forced = virtomate(
        "domain-clone", "--disk", "vda=drop", "--disk", "vdb=auto", "--transfer", "stream", "original", "b", json=True
    )

    assert outcomes(made) == {"vda": "copied", "vdb": "reflinked"}
    assert forced.status == 0, str(forced)
    assert outcomes(forced.json[0])["vdb"] == "copied"
    assert "shares no data" in by_target(forced.json[0])["vdb"]["reason"]


def test_two_disks_of_one_volume_stay_two(root_lab: Lab, virtomate: Program) -> None:
    """Two disks that are one volume are one volume in the clone as well."""
    for name, file_system in (("slow", "ext4"), ("fast", "xfs")):
        path = root_lab.pools[file_system].raw(f"{name}.raw", 4 * MIB)
        disks = [disk(path, "raw", target, extra="<shareable/>") for target in ("vda", "vdb")]
        root_lab.define(domain(name, disks=disks))

        result = virtomate("domain-clone", "--mode", "auto", name, f"{name}-clone", json=True)

        assert result.status == 0, str(result)
        assert clone_path(result.json[0], "vda") == clone_path(result.json[0], "vdb")


def test_running_original(root_lab: Lab, virtomate: Program) -> None:
    """One clone of a running original is filled by its backup; several are reflinks of the images of its moment."""
    path = root_lab.pools["xfs"].qcow2("original.qcow2", 4 * MIB)
    root_lab.define(domain("original", disks=[disk(path)])).create()

    single = clone(virtomate, "--live", "--mode", "auto")
    several = virtomate("domain-clone", "--live", "--mode", "auto", "original", "a", "b", json=True)

    assert (outcomes(single), by_target(single)["vda"]["transfer"]) == ({"vda": "copied"}, "backup")
    assert several.status == 0, str(several)
    assert [outcomes(document) for document in several.json] == [{"vda": "reflinked"}] * 2
    assert [name for name in root_lab.pools["xfs"].volumes() if "moment" in name] == []
    for document in (single, *several.json):
        assert images.same_content(clone_path(document), "qcow2", path, "qcow2")


def test_internal_snapshot(lab: Lab, virtomate: Program) -> None:
    """What is inside of an image can only be copied, which auto does."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    original = lab.define(domain("original", disks=[disk(path)], memory_mib=64))
    original.snapshotCreateXML("<domainsnapshot><name>monday</name></domainsnapshot>", 0)
    before = images.guest_digest(path, "qcow2")
    images.qemu_io(path, "qcow2", "write -P 9 0 64k")

    made = clone(virtomate, "--mode", "auto", "--snapshot", "monday")

    assert (outcomes(made), by_target(made)["vda"]["transfer"]) == ({"vda": "copied"}, "convert")
    assert images.guest_digest(clone_path(made), "qcow2") == before
