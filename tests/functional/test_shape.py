"""Clones with another size or shape than their original's."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from tests.functional.support import (
    by_target,
    clone,
    clone_path,
    cloned,
    definition,
    image_info,
    pool_on,
    refused,
    unchanged,
)
from tests.lab import Lab, Program, disk, domain, images, interface
from tests.lab.images import MIB

if TYPE_CHECKING:
    from tests.lab.ssh import SshServer

LARGER = 96 * MIB


def virtual_size(lab: Lab, name: str, target: str = "vda") -> int:
    """Return the size of a disk as libvirt knows it, and as a guest will see it."""
    return int(lab.connection.lookupByName(name).blockInfo(target)[0])


def test_memory_vcpus_network_and_autostart(lab: Lab, virtomate: Program) -> None:
    """The definition has what was asked for, the result says so, and the clone starts with its host."""
    lab.define(domain("original", interfaces=[interface("52:54:00:11:22:33")]))

    made = clone(virtomate, "--memory", "256M", "--vcpus", "2", "--network", "1=bridge:br0", "--autostart")

    found = ET.fromstring(definition(lab, "clone"))
    assert (found.findtext("memory"), found.findtext("currentMemory")) == (str(256 << 10), str(256 << 10))
    assert found.findtext("vcpu") == "2"
    card = found.find("devices/interface")
    assert card is not None
    assert (card.get("type"), card.find("source").attrib) == ("bridge", {"bridge": "br0"})  # type: ignore[union-attr]
    assert [change for change in made["changes"] if " instead of " in change] == [
        "memory: 256.0 MiB instead of 192.0 MiB",
        "virtual CPUs: 2 instead of 1",
        "interface 52:54:00:11:22:33: bridge 'br0' instead of user",
        "start with the host: yes instead of no",
    ]
    assert [bool(lab.connection.lookupByName(name).autostart()) for name in ("original", "clone")] == [False, True]
    plain = cloned(virtomate("domain-clone", "clone", "plain", json=True))
    assert "without-autostart" in [notice["code"] for notice in plain["notices"]]
    again = cloned(virtomate("domain-clone", "--autostart", "clone", "again", json=True))
    assert "without-autostart" not in [notice["code"] for notice in again["notices"]]
    deleted = virtomate("domain-delete", "--yes", "clone", "plain", "again")
    assert deleted.status == 0, str(deleted)


def test_network_of_a_started_clone(root_lab: Lab, virtomate: Program) -> None:
    """A clone can be started in its network; a network that is not there is refused."""
    root_lab.make_network()
    root_lab.define(domain("original", interfaces=[interface()]))
    before = root_lab.inventory()

    error = refused(root_lab, before, virtomate("domain-clone", "--network", "none", "original", "clone", json=True))
    made = clone(virtomate, "--network", "lab", "--start")

    assert (error["type"], error["message"]) == ("NotFoundError", "there is no network 'none'")
    assert any(change.endswith("network 'lab' instead of user") for change in made["changes"])
    assert root_lab.connection.lookupByName("clone").isActive()


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
@pytest.mark.parametrize("format_", ["qcow2", "raw"])
def test_larger_copies(lab: Lab, virtomate: Program, format_: str, transfer: str) -> None:
    """A copy is larger and reads like the original up to its size; the original stays as it is."""
    make = lab.pool.qcow2 if format_ == "qcow2" else lab.pool.raw
    path = make(f"original.{format_}", 32 * MIB, data_bytes=2 * MIB)
    lab.define(domain("original", disks=[disk(path, format_)]))
    before = images.file_digest(path)
    words = ["--transfer", transfer]
    if (format_, transfer) == ("qcow2", "stream"):
        # libvirt streams raw volumes, and of the others those that it could not copy itself
        images.qemu_img("snapshot", "-c", "one", path)
        before = images.file_digest(path)

    made = clone(virtomate, *words, "--disk", "vda=size=96M")

    new = clone_path(made)
    assert by_target(made)["vda"]["capacity"] == LARGER
    assert image_info(new, format_)["virtual-size"] == LARGER
    assert "capacity of disk vda: 96.0 MiB instead of 32.0 MiB" in made["changes"]
    compared = images.qemu_img("compare", "-f", format_, "-F", format_, path, new)
    assert b"Images are identical" in compared
    assert images.file_digest(path) == before
    lab.pool.refresh()
    assert virtual_size(lab, "clone") == LARGER


@pytest.mark.parametrize("mode", ["linked", "reflink"])
@pytest.mark.parametrize("words", [(), ("--live",)])
def test_larger_overlays_and_reflinks(lab: Lab, virtomate: Program, mode: str, words: tuple[str, ...]) -> None:
    """Overlays and reflinks are larger than what they are made of, also those of running originals."""
    pool = pool_on(lab, "xfs")
    path = pool.qcow2("original.qcow2", 32 * MIB, data_bytes=MIB)
    original = lab.define(domain("original", disks=[disk(path)]))
    if words:
        original.create()

    made = clone(virtomate, *words, "--mode", mode, "--disk", "vda=size=96M")

    assert image_info(clone_path(made))["virtual-size"] == LARGER
    assert image_info(path)["virtual-size"] == 32 * MIB
    lab.connection.lookupByName("clone").create()


def test_allocated_volume_stays_allocated(lab: Lab, virtomate: Program) -> None:
    """What a fully allocated raw volume has more is allocated as well, and counts as space that is needed."""
    path = lab.pool.raw("original.raw", 8 * MIB)
    path.write_bytes(bytes(8 * MIB))
    lab.pool.refresh()
    lab.define(domain("original", disks=[disk(path, "raw")]))

    plan = virtomate("domain-clone", "--dry-run", "--disk", "vda=size=24M", "original", "clone", json=True)
    made = clone(virtomate, "--disk", "vda=size=24M")

    assert plan.json[0]["space"][0]["needed"] == 24 * MIB
    status = clone_path(made).stat()
    assert (status.st_size, status.st_blocks * 512 >= 24 * MIB) == (24 * MIB, True)


def test_several_larger_clones_of_a_running_original(lab: Lab, virtomate: Program) -> None:
    """The image that linked clones of a running original rest on has the original's size."""
    path = lab.pool.qcow2("original.qcow2", 32 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(path)])).create()

    result = virtomate(
        *("domain-clone", "--live", "--count", "2", "--disk", "vda=linked,size=96M", "original", "web"), json=True
    )

    assert result.status == 0, str(result)
    info = [image_info(clone_path(made)) for made in result.json]
    assert [item["virtual-size"] for item in info] == [LARGER, LARGER]
    base = lab.pool.path / info[0]["backing-filename"]
    assert image_info(base)["virtual-size"] == 32 * MIB


def test_larger_clone_over_ssh(root_lab: Lab, sshd: SshServer, virtomate: Program) -> None:
    """On a host whose files are not seen, libvirt resizes what it has copied."""
    with root_lab.make_host("far") as far:
        storage = far.on_host("/var/lib/libvirt/images")
        far.connection.storagePoolCreateXML(
            "<pool type='dir'><name>images</name><target><path>/var/lib/libvirt/images</path></target></pool>"
        )
        images.make_qcow2(storage / "original.qcow2", 32 * MIB, data_bytes=MIB)
        far.connection.storagePoolLookupByName("images").refresh()
        far.connection.defineXML(domain("original", disks=[disk("/var/lib/libvirt/images/original.qcow2")]))
        words = ("--network", "bridge:br0")
        error = virtomate("domain-clone", *words, "original", "clone", json=True, uri=sshd.uri(far))
        made = clone(virtomate, "--disk", "vda=size=96M", uri=sshd.uri(far))

        assert (error.status, "has no network interface" in error.stderr) == (2, True), str(error)
        assert by_target(made)["vda"]["transfer"] == "server"
        assert image_info(storage / "clone.qcow2")["virtual-size"] == LARGER


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--disk", "vda=size=16M"], 2, "--disk vda: a size of 16.0 MiB is less than the 32.0 MiB of the original's"),
        (["--disk", "vdb=size=64M"], 1, "disk vdb cannot be duplicated: read-only"),
        (["--vcpus", "4000"], 1, "Maximum CPUs"),
        (["--network", "7=lab"], 2, "has no network interface '7'"),
        (["--network", "1=bridge:a", "--network", "52:54:00:11:22:33=bridge:b"], 2, "--network is given twice"),
    ],
)
def test_refused_shapes(lab: Lab, virtomate: Program, words: list[str], status: int, message: str) -> None:
    """What cannot be is refused, by libvirt itself where it knows better, before anything is copied."""
    path = lab.pool.qcow2("original.qcow2", 32 * MIB)
    medium = lab.pool.raw("medium.raw", MIB)
    disks = [disk(path), disk(medium, "raw", "vdb", read_only=True)]
    lab.define(domain("original", disks=disks, interfaces=[interface("52:54:00:11:22:33")]))
    before = lab.inventory()

    result = virtomate("domain-clone", *words, "original", "clone", json=True)

    said = result.stdout + result.stderr
    assert (result.status, message in said) == (status, True), str(result)
    unchanged(lab, before)


def test_larger_reflink_or_copy(lab: Lab, virtomate: Program) -> None:
    """With --mode auto, a disk becomes larger in the way that is possible."""
    for file_system in ("ext4", "xfs"):
        pool = pool_on(lab, file_system)
        path = pool.raw(f"{file_system}.raw", 32 * MIB, data_bytes=MIB)
        lab.define(domain(file_system, disks=[disk(path, "raw")]))
        name = f"{file_system}-clone"

        made = cloned(
            virtomate("domain-clone", "--mode", "auto", "--disk", "vda=size=96M", file_system, name, json=True)
        )

        assert clone_path(made).stat().st_size == LARGER
        assert made["disks"][0]["action"] == ("copied" if file_system == "ext4" else "reflinked")


def test_larger_overlay_stays_larger(lab: Lab, virtomate: Program) -> None:
    """A reset empties a larger overlay, and flattening fills it: the guest finds the same size afterwards."""
    path = lab.pool.qcow2("original.qcow2", 32 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(path)]))
    new = clone_path(clone(virtomate, "--mode", "linked", "--disk", "vda=size=96M"))

    for words in (("domain-reset", "clone"), ("domain-flatten", "clone")):
        done = virtomate(*words, json=True)

        assert done.status == 0, str(done)
        assert image_info(new)["virtual-size"] == LARGER
    assert "backing-filename" not in image_info(new)
    assert b"Images are identical" in images.qemu_img("compare", path, new)
