"""A say in every part of a clone: disks, addresses, identity, NVRAM, definition."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.functional.support import EVERYTHING, by_target, clone, definition, image_info, refused, unchanged
from tests.lab import Lab, Program, disk, domain, images, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from tests.lab.programs import require_program

MAC_1, MAC_2, MAC_NEW = "52:54:00:00:00:01", "52:54:00:00:00:02", "02:00:00:00:00:09"
UUID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


@pytest.fixture
def original(lab: Lab) -> dict[str, Path]:
    """A domain `original` with four disks, one of them read-only, and two interfaces; the disks by their target."""
    paths = {
        "vda": lab.pool.qcow2("original.qcow2", 16 * MIB, data_bytes=2 * MIB),
        "vdb": lab.pool.raw("data.raw", 8 * MIB, data_bytes=MIB),
        "vdc": lab.pool.raw("scratch.raw", 8 * MIB, data_bytes=MIB),
        "vdd": lab.pool.raw("tools.raw", 8 * MIB, data_bytes=MIB),
    }
    disks = [disk(path, path.suffix[1:], target, read_only=target == "vdd") for target, path in paths.items()]
    interfaces = [interface(MAC_1), interface(MAC_2)]
    lab.define(domain("original", disks=disks, interfaces=interfaces, description="of old"))
    return paths


def test_each_disk_its_own(lab: Lab, virtomate: Program, original: dict[str, Path]) -> None:
    """Every disk becomes what was asked for it; what was not asked for goes by the mode."""
    other = lab.make_pool("other pool")

    made = clone(
        virtomate,
        *("--disk", "vda=linked,name=root,, of clone.qcow2"),
        *("--disk", "vdb=share", "--disk", "vdc=drop", "--disk", "vdd=copy,pool=other pool"),
    )
    disks = by_target(made)

    assert {target: item["action"] for target, item in disks.items()} == {
        "vda": "linked",
        "vdb": "shared",
        "vdc": "dropped",
        "vdd": "copied",
    }
    root = lab.pool.path / "root, of clone.qcow2"
    assert disks["vda"]["clone"]["path"] == str(root)
    assert image_info(root)["backing-filename"] == str(original["vda"])
    assert disks["vdb"]["clone"]["path"] == str(original["vdb"])
    assert disks["vdb"]["reason"] == "as asked"
    assert disks["vdc"]["clone"] == {"pool": None, "volume": None, "path": None, "format": None}
    copy = other.path / "clone-tools.raw"
    assert disks["vdd"]["clone"] == {"pool": "other pool", "volume": copy.name, "path": str(copy), "format": "raw"}
    assert images.same_content(original["vdd"], "raw", copy, "raw")
    assert any("vdb" in warning and "both write to it" in warning for warning in made["warnings"])
    assert any("corrupts the linked clones" in warning for warning in made["warnings"])
    sources = {
        item.find("target").attrib["dev"]: item.find("source").attrib["file"]  # type: ignore[union-attr]
        for item in ET.fromstring(definition(lab, "clone")).iter("disk")
    }
    assert sources == {"vda": str(root), "vdb": str(original["vdb"]), "vdd": str(copy)}


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_other_pool(lab: Lab, virtomate: Program, transfer: str) -> None:
    """New volumes go to the pool that was asked for, through every transfer, and read like their originals."""
    other = lab.pools["xfs"] if lab.privileged else lab.make_pool("other")
    path = lab.pool.raw("original.raw", 8 * MIB, data_bytes=2 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw")]))

    made = clone(virtomate, "--pool", other.name, "--transfer", transfer)

    assert by_target(made)["vda"]["transfer"] == transfer
    copy = other.path / "clone.raw"
    assert by_target(made)["vda"]["clone"]["path"] == str(copy)
    assert images.same_content(path, "raw", copy, "raw")
    assert lab.pool.volumes() == ["original.raw"]


def test_relative_backing_file_is_not_reflinked_elsewhere(root_lab: Lab, virtomate: Program) -> None:
    """An image that names what is below by a relative path would find a stranger's volume, or none, elsewhere."""
    pool = root_lab.pools["xfs"]
    (other := pool.path / "other").mkdir()
    there = root_lab.make_pool("other", other)
    pool.qcow2("base.qcow2", MIB)
    there.qcow2("base.qcow2", MIB, seed=2)
    path = pool.overlay("original.qcow2", Path("base.qcow2"))
    root_lab.define(domain("original", disks=[disk(path)]))
    content = images.guest_digest(path, "qcow2")
    before = root_lab.inventory()

    words = ("domain-clone", "--pool", "other", "--mode")
    error = refused(root_lab, before, virtomate(*words, "reflink", "original", "clone", json=True))

    assert "relative" in error["message"]
    assert virtomate(*words, "linked", "original", "linked").status == 0
    assert images.guest_digest(there.path / "linked.qcow2", "qcow2") == content


def test_linked_in_other_pool(lab: Lab, virtomate: Program) -> None:
    """An overlay may be in another pool than what it rests on, also when it is made by a mould."""
    other = lab.make_pool("other")
    path = lab.pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(path)]))

    result = virtomate(
        "domain-clone", "--mode", "linked", "--pool", "other", "--jobs", "1", "original", "a", "b", json=True
    )

    assert result.status == 0, str(result)
    for name in "ab":
        assert image_info(other.path / f"{name}.qcow2")["backing-filename"] == str(path)
        assert images.same_content(path, "qcow2", other.path / f"{name}.qcow2", "qcow2")


def test_reflink_across_file_systems(root_lab: Lab, virtomate: Program) -> None:
    """A reflink goes to another pool of the same file system, and is refused in the plan for another one."""
    inner = root_lab.pools["btrfs"].path / "near"
    subprocess.run([require_program("btrfs", "btrfs-progs"), "subvolume", "create", inner], check=True)
    near = root_lab.make_pool("near", inner)
    path = root_lab.pools["btrfs"].qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    root_lab.define(domain("original", disks=[disk(path)]))
    before = root_lab.inventory()

    for option in ("--dry-run", "--no-space-check"):
        error = refused(
            root_lab,
            before,
            virtomate("domain-clone", option, "--mode", "reflink", "--pool", "xfs", "original", "clone", json=True),
        )
        assert error["type"] == "UnsupportedError"
        assert "'xfs'" in error["message"]
    clone(virtomate, "--mode", "reflink", "--pool", "near")
    assert images.same_content(path, "qcow2", near.path / "clone.qcow2", "qcow2")
    near.handle.destroy()
    subprocess.run([require_program("btrfs", "btrfs-progs"), "subvolume", "delete", inner], check=True)


def test_mac_addresses(lab: Lab, virtomate: Program, original: dict[str, Path]) -> None:
    """Addresses go to the interfaces in their order; the others get new ones; keep keeps all and warns."""
    words = ("domain-clone", "--dry-run", "original")
    given = virtomate(*words, "--mac", MAC_NEW.upper(), "a", json=True).json[0]
    kept = virtomate(*words, "--mac", "keep", "a", json=True).json[0]

    assert [item["source_mac"] for item in given["interfaces"]] == [MAC_1, MAC_2]
    assert given["interfaces"][0]["mac"] == MAC_NEW
    assert given["interfaces"][1]["mac"] not in {MAC_1, MAC_2, MAC_NEW}
    assert [item["mac"] for item in kept["interfaces"]] == [MAC_1, MAC_2]
    assert "MAC addresses" not in kept["changes"]
    assert any("the clone has the MAC addresses of" in warning for warning in kept["warnings"])
    made = clone(virtomate, "--mode", "linked", "--mac", MAC_NEW, "--mac", "52:54:00:00:00:0a")
    assert [item["mac"] for item in made["interfaces"]] == [MAC_NEW, "52:54:00:00:00:0a"]
    assert definition(lab, "clone").count(MAC_NEW) == 1
    assert original["vda"].exists()


def test_identity_and_texts(lab: Lab, virtomate: Program, original: dict[str, Path]) -> None:
    """UUID, title and description are those that were asked for; an empty text leaves none."""
    made = clone(
        virtomate,
        "--mode",
        "linked",
        "--uuid",
        UUID.upper(),
        "--title",
        "Web <1>",
        "--description",
        "first\nsecond & last",
    )
    assert made["uuid"] == UUID
    root = ET.fromstring(definition(lab, "clone"))
    assert (root.findtext("uuid"), root.findtext("title")) == (UUID, "Web <1>")
    assert root.findtext("description") == "first\nsecond & last"

    bare = virtomate("domain-clone", "--mode", "linked", "--description", "", "original", "bare", json=True)
    assert bare.status == 0, str(bare)
    assert ET.fromstring(definition(lab, "bare")).find("description") is None
    assert ET.fromstring(definition(lab, "original")).findtext("description") == "of old"
    assert original["vda"].exists()


Place = Callable[[Lab], tuple[str, Path]]
PLACES: dict[str, Place] = {
    "name": lambda lab: ("my vars.fd", lab.directory / "vars" / "my vars.fd"),
    "path in the same directory": lambda lab: (f"{lab.directory}/vars/./x.fd", lab.directory / "vars" / "x.fd"),
    "path in another directory": lambda lab: (f"{lab.make_directory('new')}/x.fd", lab.directory / "new" / "x.fd"),
    "pool": lambda lab: (f"{lab.pool.name}/x.fd", lab.pool.path / "x.fd"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_place_of_nvram(lab: Lab, virtomate: Program, place: Place) -> None:
    """The NVRAM goes where it was asked to go, whether that is a pool or not, and no pool is left of it."""
    store = lab.make_directory("vars") / "original_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    lab.define(domain("original", firmware=nvram(store)))
    word, path = place(lab)
    pools = lab.inventory().pools.keys()

    made = clone(virtomate, "--nvram", word)

    assert (made["nvram"]["action"], made["nvram"]["clone"]) == ("copied", str(path))
    assert path.read_bytes() == store.read_bytes()
    assert str(path) in definition(lab, "clone")
    assert lab.inventory().pools.keys() == pools
    before = lab.inventory()
    error = refused(lab, before, virtomate("domain-clone", "--nvram", word, "original", "other", json=True))
    assert error["type"] == "Conflict"
    assert "--nvram" in error["hint"]


def test_nvram_is_looked_at_in_the_plan(lab: Lab, virtomate: Program) -> None:
    """An NVRAM outside all pools that was never made, or whose place is taken, is known before anything is made."""
    directory = lab.make_directory("vars")
    lab.define(domain("original", firmware=nvram(directory / "original_VARS.fd")))
    (directory / "taken_VARS.fd").write_bytes(b"precious")
    before = lab.inventory()

    plan = virtomate("domain-clone", "--dry-run", "original", "clone", json=True)
    taken = virtomate("domain-clone", "--dry-run", "original", "taken", json=True)

    assert plan.json[0]["nvram"]["action"] == "fresh"
    assert (taken.status, taken.json["type"]) == (1, "Conflict")
    assert str(directory / "taken_VARS.fd") in taken.json["message"]
    unchanged(lab, before)


def test_print_xml(lab: Lab, virtomate: Program, original: dict[str, Path]) -> None:
    """The definition is printed as libvirt accepts it, and nothing is changed; the clone then has just that."""
    before = lab.inventory()
    words = ("--mode", "linked", "--uuid", UUID, "--mac", MAC_NEW, "--mac", "52:54:00:00:00:0a", "original", "clone")

    printed = virtomate("domain-clone", "--print-xml", *words)
    machine = virtomate("domain-clone", "--print-xml", *words, json=True)

    assert printed.status == 0, str(printed)
    assert machine.json[0]["definition"] + "\n" == printed.stdout
    unchanged(lab, before)
    domain_ = lab.connection.defineXMLFlags(printed.stdout, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    by_hand = domain_.XMLDesc(EVERYTHING)
    domain_.undefine()
    assert virtomate("domain-clone", *words).status == 0
    made = definition(lab, "clone")
    assert ET.canonicalize(_without_metadata(made)) == ET.canonicalize(_without_metadata(by_hand))
    assert original["vda"].exists()


def _without_metadata(document: str) -> str:
    root = ET.fromstring(document)
    for element in root.findall("metadata"):
        root.remove(element)
    text: str = ET.tostring(root, encoding="unicode")
    return "".join(line.strip() for line in text.splitlines())


def test_print_xml_that_libvirt_refuses(lab: Lab, virtomate: Program, original: dict[str, Path]) -> None:
    """What libvirt would not accept is said instead of printed."""
    before = lab.inventory()

    result = virtomate("domain-clone", "--print-xml", "--title", "x" * 70_000, "original", "clone", json=True)

    assert result.status in {0, 1}
    if result.status == 1:
        assert result.json["type"] == "libvirtError"
    unchanged(lab, before)
    assert original["vda"].exists()


REFUSALS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "no such pool": (("--pool", "nowhere"), "NotFoundError", "'nowhere'"),
    "no such pool of a disk": (("--disk", "vda=copy,pool=nowhere"), "NotFoundError", "'nowhere'"),
    "volume taken": (("--disk", "vda=copy,name=data.raw"), "Conflict", "'data.raw'"),
    "two volumes of one name": (("--disk", "vda=name=x", "--disk", "vdb=name=x"), "Conflict", "x'"),
    "UUID taken": (("--uuid", "{uuid}"), "Conflict", "'original'"),
    "MAC address taken": (("--mac", MAC_2), "Conflict", MAC_2),
}


@pytest.mark.parametrize(("words", "type_", "part"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(
    lab: Lab, virtomate: Program, original: dict[str, Path], words: tuple[str, ...], type_: str, part: str
) -> None:
    """What was asked for and cannot be had is refused before anything is made, naming it."""
    uuid = lab.connection.lookupByName("original").UUIDString()
    before = lab.inventory()

    spelled = [word.replace("{uuid}", uuid) for word in words]
    error = refused(lab, before, virtomate("domain-clone", *spelled, "original", "clone", json=True))

    assert error["type"] == type_
    assert part in error["message"]
    assert error["hint"]
    # whatever is in the way, it is not the clone's name
    assert "name for the clone" not in error["hint"]
    assert original["vda"].exists()


def test_nvram_in_a_directory_that_is_not_there(lab: Lab, virtomate: Program) -> None:
    """The plan sees that, and not only the clone in the making."""
    store = lab.make_directory("vars") / "original_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    lab.define(domain("original", firmware=nvram(store)))
    path = store.parent / "nowhere" / "x.fd"

    plan = virtomate("domain-clone", "--dry-run", "--nvram", path, "original", "clone", json=True)

    assert (plan.status, plan.json["type"]) == (1, "NotFoundError")
    assert str(path) in plan.json["message"]


USAGE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown target": (("--disk", "sdz=copy", "original", "c"), ("'sdz'", "vda, vdb, vdc, vdd")),
    "too many MAC addresses": (
        ("--mac", "02:00:00:00:00:01", "--mac", "02:00:00:00:00:02", "--mac", "02:00:00:00:00:03", "original", "c"),
        ("3 MAC addresses", "2 network interfaces"),
    ),
    "NVRAM of none": (("--nvram", "x.fd", "original", "c"), ("--nvram 'x.fd'", "'original' has no NVRAM file")),
    "bad volume name": (("--disk", "vda=copy,name=a/b", "original", "c"), ("'a/b'", "1 to 255 bytes")),
}


@pytest.mark.parametrize(("words", "parts"), USAGE.values(), ids=USAGE.keys())
def test_requests_that_do_not_fit(
    lab: Lab, virtomate: Program, original: dict[str, Path], words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    """What does not fit the original is a usage error that names the value and what would fit."""
    before = lab.inventory()

    result = virtomate("domain-clone", *words, json=True)

    assert (result.status, result.stdout) == (2, ""), str(result)
    assert all(part in result.stderr for part in parts), str(result)
    unchanged(lab, before)
    assert original["vda"].exists()


def test_writable_disk_of_no_file_can_be_dropped(root_lab: Lab, virtomate: Program) -> None:
    """A disk that cannot be duplicated is refused where that was asked for, and may be left out or shared."""
    block = "<disk type='network'><source protocol='nbd' name='x'><host name='127.0.0.1'/></source>"
    root_lab.define(
        domain("original", disks=[f"{block}<target dev='vda' bus='virtio'/></disk>"], interfaces=[interface()])
    )
    before = root_lab.inventory()

    error = refused(root_lab, before, virtomate("domain-clone", "--disk", "vda=copy", "original", "clone", json=True))
    assert error["type"] == "UnsupportedError"
    assert "--disk vda=share" in error["hint"]
    made: Any = clone(virtomate, "--disk", "vda=drop")
    assert by_target(made)["vda"]["action"] == "dropped"
    assert "<disk" not in definition(root_lab, "clone")


def test_base_of_an_overlay_is_not_shared(lab: Lab, virtomate: Program) -> None:
    """A disk that an overlay of the same clone would rest on is not written to through another disk."""
    path = lab.pool.raw("original.raw", 8 * MIB)
    disks = [disk(path, "raw"), disk((lab.pool.name, path.name), "raw", "vdb")]
    lab.define(domain("original", disks=disks))
    before = lab.inventory()

    words = ("domain-clone", "--disk", "vda=linked", "--disk", "vdb=share", "original", "clone")
    error = refused(lab, before, virtomate(*words, json=True))

    assert error["type"] == "UnsupportedError"
    assert str(path) in error["message"]
    assert "vdb=drop" in error["hint"]
