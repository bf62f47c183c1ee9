"""Disks with a history: floppies, shared and transient ones, chains, snapshots, marks in headers, slices."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu
import pytest

from tests.functional.support import (
    by_target,
    clone,
    clone_path,
    definition,
    image_info,
    pool_on,
    refused,
)
from tests.lab import Lab, Pool, Program, disk, domain, images
from tests.lab.images import KIB, MIB
from tests.lab.programs import require_program
from tests.lab.storage import loop_device

MODES = ["copy", "linked", "reflink"]
CHAIN_MODES = [*MODES, "shallow"]
EMPTY = "<backingStore/>"


def pool_for(lab: Lab, mode: str) -> Pool:
    """Return a pool where this mode is possible."""
    return pool_on(lab, "xfs") if mode == "reflink" else lab.pool


def defined_disks(lab: Lab, name: str) -> dict[str, ET.Element]:
    """Return the disks of a definition by their target."""
    disks = ET.fromstring(definition(lab, name)).findall("devices/disk")
    return {str(found.find("target").get("dev")): found for found in disks}  # type: ignore[union-attr]


def shown(elements: Mapping[str, ET.Element], path: str) -> list[str]:
    """Return which disks have such an element."""
    return sorted(target for target, element in elements.items() if element.find(path) is not None)


def said(document: Mapping[str, Sequence[str]], *words: str) -> list[str]:
    """Return the warnings that have all these words."""
    return [warning for warning in document["warnings"] if all(word in warning for word in words)]


def other_warnings(document: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the warnings but those of what a clone rests on."""
    expected = ("corrupts the linked clones", "both rest on it")
    return [warning for warning in document["warnings"] if not any(part in warning for part in expected)]


@pytest.mark.parametrize("mode", MODES)
def test_floppies(lab: Lab, virtomate: Program, mode: str) -> None:
    """A floppy that can be written to is a disk like any other; a protected one and an empty drive stay."""
    pool = pool_for(lab, mode)
    written, protected = pool.raw("original.img", 1440 * KIB, seed=5), pool.raw("tools.img", 1440 * KIB, seed=6)
    disks = [
        disk(written, "raw", "fda", bus="fdc", device="floppy"),
        disk(protected, "raw", "fdb", bus="fdc", device="floppy", read_only=True),
    ]
    lab.define(domain("original", disks=disks, machine="pc"))

    document = clone(virtomate, "--mode", mode)

    entries = by_target(document)
    assert entries["fda"]["action"] != "shared"
    assert (entries["fdb"]["action"], entries["fdb"]["reason"]) == ("shared", "read-only")
    assert other_warnings(document) == []
    assert images.same_content(clone_path(document, "fda"), entries["fda"]["clone"]["format"], written, "raw")
    after = defined_disks(lab, "clone")
    assert {target: found.get("device") for target, found in after.items()} == {"fda": "floppy", "fdb": "floppy"}
    assert ET.tostring(after["fdb"]) == ET.tostring(defined_disks(lab, "original")["fdb"])
    lab.connection.lookupByName("clone").create()


def test_empty_floppy_drive(lab: Lab, virtomate: Program) -> None:
    """A drive without a floppy is nothing that two domains could share, although it can be written to."""
    lab.define(domain("original", disks=[disk(None, "raw", "fda", bus="fdc", device="floppy")], machine="pc"))

    document = clone(virtomate, "--mode", "linked")

    assert [entry["reason"] for entry in document["disks"]] == ["empty drive"]
    assert document["warnings"] == []
    lab.connection.lookupByName("clone").create()


@pytest.mark.parametrize("named", ["path", "volume"])
def test_volume_that_libvirt_has_not_seen_yet(lab: Lab, virtomate: Program, named: str) -> None:
    """A file that was put into a pool's directory is found, although nobody told libvirt of it."""
    path = images.make_raw(lab.pool.path / "original.raw", 4 * MIB)
    assert path.name not in lab.pool.handle.listVolumes()
    lab.define(domain("original", disks=[disk(path if named == "path" else (lab.pool.name, path.name), "raw")]))

    assert images.file_digest(clone_path(clone(virtomate))) == images.file_digest(path)


@pytest.mark.parametrize("mode", ["copy", "reflink"])
def test_shareable_disk(lab: Lab, virtomate: Program, mode: str) -> None:
    """A shareable disk that nobody uses is duplicated, and the clone's is shareable, too, with a volume of its own."""
    path = pool_for(lab, mode).raw("original.raw", 4 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw", shareable=True)]))

    document = clone(virtomate, "--mode", mode)

    assert clone_path(document) != path
    assert document["warnings"] == []
    assert images.file_digest(clone_path(document)) == images.file_digest(path)
    assert shown(defined_disks(lab, "clone"), "shareable") == ["vda"]


def test_shareable_disk_is_not_linked(lab: Lab, virtomate: Program) -> None:
    """Two domains cannot write to one qcow2, so libvirt takes no shareable overlay: a linked clone is refused."""
    path = lab.pool.raw("original.raw", 4 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw", shareable=True)]))
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--mode", "linked", "original", "clone", json=True))

    assert error["type"] == "UnsupportedError"
    assert "vda" in error["message"]
    assert "--mode copy" in error["hint"]


@pytest.mark.parametrize("mode", MODES)
def test_shareable_disk_in_use(lab: Lab, virtomate: Program, mode: str) -> None:
    """While a domain that runs can write to a shareable disk, it is not duplicated, whatever both agreed on."""
    path = pool_for(lab, mode).raw("original.raw", 4 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw", shareable=True)]))
    lab.define(domain("writer", disks=[disk(path, "raw", shareable=True)])).create()
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--mode", mode, "original", "clone", json=True))

    assert error["type"] == "IllegalStateError"
    assert "open for writing by domain 'writer'" in error["message"]
    assert str(path) in error["message"]


def test_disk_that_others_only_read(lab: Lab, virtomate: Program) -> None:
    """A domain that runs and only reads a disk is no obstacle to duplicating it."""
    path = lab.pool.raw("original.raw", 4 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw")]))
    lab.define(domain("reader", disks=[disk(path, "raw", read_only=True)])).create()

    assert images.file_digest(clone_path(clone(virtomate))) == images.file_digest(path)


@pytest.mark.parametrize("mode", MODES)
def test_transient_disk(lab: Lab, virtomate: Program, mode: str) -> None:
    """A transient disk is duplicated and stays transient: what the clone's guest writes is gone at its end."""
    path = pool_for(lab, mode).qcow2("original.qcow2", 4 * MIB)
    lab.define(domain("original", disks=[disk(path, extra="<transient/>")]))

    document = clone(virtomate, "--mode", mode)

    copy = clone_path(document)
    assert images.same_content(copy, "qcow2", path, "qcow2")
    assert shown(defined_disks(lab, "clone"), "transient") == ["vda"]
    before = images.file_digest(copy)
    handle = lab.connection.lookupByName("clone")
    handle.create()
    # As its guest would: through the device.
    write = 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 5 0 64k"'
    answer = libvirt_qemu.qemuMonitorCommand(handle, write, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    (written,) = [found for found in copy.parent.iterdir() if "TRANSIENT" in found.name]
    assert b"\5" * 512 in written.read_bytes(), answer
    handle.destroy()
    assert images.file_digest(copy) == before
    assert not written.exists()


def test_below_a_transient_disk_in_use(lab: Lab, virtomate: Program) -> None:
    """A domain that runs writes into its transient disk's overlay and not into the volume, which can be duplicated."""
    path = lab.pool.raw("original.raw", 4 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw")]))
    lab.define(domain("user", disks=[disk(path, "raw", extra="<transient shareBacking='yes'/>")])).create()

    document = clone(virtomate)

    assert document["warnings"] == []
    assert images.file_digest(clone_path(document)) == images.file_digest(path)


def store(place: Path | tuple[str, str], format_: str, inner: str = EMPTY) -> str:
    """Describe a volume below another one, by its path or by its pool and name."""
    kind, source = "file", f"file='{place}'"
    if isinstance(place, tuple):
        kind, source = "volume", f"pool='{place[0]}' volume='{place[1]}'"
    return f"<backingStore type='{kind}'><format type='{format_}'/><source {source}/>{inner}</backingStore>"


def make_chain(pool: Pool) -> tuple[Path, Path, Path]:
    """Make three layers, each with data of its own."""
    base = pool.raw("base.raw", 16 * MIB)
    middle = pool.overlay("middle.qcow2", base, "raw", pattern=3)
    top = pool.overlay("original.qcow2", middle, marker="chain")
    return base, middle, top


@pytest.mark.parametrize(
    ("mode", "named"),
    [("copy", "path"), ("linked", "path"), ("reflink", "path"), ("linked", "volume"), ("shallow", "volume")],
)
def test_explicit_chain(lab: Lab, virtomate: Program, mode: str, named: str) -> None:
    """A chain that the definition spells out is not the clone's: it finds its own and reads the same."""
    pool = pool_for(lab, mode)
    base, middle, top = make_chain(pool)
    content = images.guest_digest(top, "qcow2")
    chain = store(middle, "qcow2", store(base, "raw"))
    source: Path | tuple[str, str] = top
    if named == "volume":
        chain = store((pool.name, middle.name), "qcow2", store((pool.name, base.name), "raw"))
        source = (pool.name, top.name)
    lab.define(domain("original", disks=[disk(source, extra=chain)], guest=lab.guest))
    assert definition(lab, "original").count("<backingStore") == 3

    document = clone(virtomate, "--mode", mode)

    assert "<backingStore" not in definition(lab, "clone")
    copy = clone_path(document)
    below = {"copy": None, "linked": str(top)}.get(mode, str(middle))
    assert image_info(copy).get("backing-filename") == below
    if mode == "copy":
        for path in (base, middle, top):
            path.unlink()
    assert images.guest_digest(copy, "qcow2") == content
    lab.connection.lookupByName("clone").create()


@pytest.mark.parametrize("mode", MODES)
def test_empty_backing_store(lab: Lab, virtomate: Program, mode: str) -> None:
    """What says that nothing is below the original says nothing of the clone, which may be an overlay."""
    pool = pool_for(lab, mode)
    paths = {"vda": pool.raw("original.raw", 4 * MIB, marker="raw"), "vdb": pool.qcow2("d.qcow2", 4 * MIB, marker="q")}
    formats = {"vda": "raw", "vdb": "qcow2"}
    disks = [disk(path, formats[target], target, extra=EMPTY) for target, path in paths.items()]
    lab.define(domain("original", disks=disks, guest=lab.guest))
    assert definition(lab, "original").count(EMPTY) == 2

    clone(virtomate, "--mode", mode)

    assert "<backingStore" not in definition(lab, "clone")
    if mode == "linked":
        assert lab.boot("clone").markers == {"vda": "raw", "vdb": "q"}


def marker_read(lab: Lab, copy: Path, mode: str) -> str:
    """Return the marker that the clone's guest reads; what is below an overlay depends on its definition."""
    if mode == "linked":
        return lab.boot("clone").markers["vda"]
    flat = lab.make_directory("flat") / "raw"
    images.qemu_img("convert", "-f", "qcow2", "-O", "raw", copy, flat)
    first = flat.read_bytes()[:512].rstrip(b"\n\0")
    return first.removeprefix(images.MARKER_PREFIX).decode()


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_definition_that_knows_less_than_the_header(lab: Lab, virtomate: Program, mode: str) -> None:
    """Where the definition says that nothing is below, a file that the header names is not read into the clone."""
    pool = pool_for(lab, mode)
    base = pool.raw("base.raw", 4 * MIB, marker="below")
    top = pool.overlay("original.qcow2", base, "raw", pattern=3)
    # The original's guest reads zeros where the overlay has nothing.
    lab.define(domain("original", disks=[disk(top, extra=EMPTY)], guest=lab.guest))
    before = lab.inventory()

    result = virtomate("domain-clone", "--mode", mode, "original", "clone", json=True)

    if result.status:
        refused(lab, before, result)
    else:
        assert marker_read(lab, clone_path(result.json[0]), mode) == ""


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_definition_that_contradicts_the_header(lab: Lab, virtomate: Program, mode: str) -> None:
    """Where the definition puts the disk on another volume than the header, the clone's guest reads no other data."""
    pool = pool_for(lab, mode)
    named, true = pool.raw("old.raw", 4 * MIB, marker="by header"), pool.raw("new.raw", 4 * MIB, marker="by definition")
    top = pool.overlay("original.qcow2", named, "raw", pattern=3)
    # The original's guest reads what the definition says.
    lab.define(domain("original", disks=[disk(top, extra=store(true, "raw"))], guest=lab.guest))
    before = lab.inventory()

    result = virtomate("domain-clone", "--mode", mode, "original", "clone", json=True)

    if result.status:
        refused(lab, before, result)
    else:
        assert marker_read(lab, clone_path(result.json[0]), mode) == "by definition"


@pytest.mark.parametrize(("known", "mode"), [("nothing", "copy"), ("format", "linked")])
def test_definition_that_contradicts_a_header_below(lab: Lab, virtomate: Program, known: str, mode: str) -> None:
    """What the definition says holds for every image of the chain: no file is read because only a header names it."""
    pool = pool_for(lab, mode)
    base = pool.raw("base.raw", 4 * MIB, marker="below")
    middle = pool.overlay("middle.qcow2", base, "raw")
    top = pool.overlay("original.qcow2", middle, pattern=3)
    chain = store(middle, "qcow2" if known == "nothing" else "raw")
    lab.define(domain("original", disks=[disk(top, extra=chain)], guest=lab.guest))
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--mode", mode, "original", "clone", json=True))

    assert error["type"] == "UnsupportedError"
    says = f"'{middle}', but by the image '{base}'" if known == "nothing" else "is raw, but by the image it is qcow2"
    assert says in error["message"]


def forget_backing_format(path: Path) -> None:
    """Take from an overlay what it says of the format below, as images of old have it."""
    with path.open("r+b") as file:
        position = file.read(4 * KIB).index(bytes.fromhex("e2792aca"))
        file.seek(position)
        # An extension that nobody knows.
        file.write(bytes.fromhex("0badcafe"))


def define_disguised_base(lab: Lab, pool: Pool, extra: str) -> Path:
    """Define a domain on an overlay that does not say that the volume below, which looks like an overlay, is raw."""
    secret = lab.make_directory("secrets") / "secret.raw"
    secret.write_bytes(b"what no guest may read ".ljust(4 * MIB, b"\1"))
    base = images.make_overlay(pool.path / "base.raw", secret, "raw")
    with base.open("r+b") as file:
        file.truncate(4 * MIB)
    top = pool.overlay("original.qcow2", base, "raw")
    forget_backing_format(top)
    pool.refresh()
    lab.define(domain("original", disks=[disk(top, extra=extra.format(base))], guest=lab.guest))
    return base


@pytest.mark.parametrize("case", ["unknown", "known", "further below"])
def test_volume_below_is_not_guessed(lab: Lab, virtomate: Program, case: str) -> None:
    """What a guest wrote into a raw volume below is not believed because the image above names no format for it."""
    define_disguised_base(lab, lab.pool, store(Path("{}"), "raw") if case == "known" else "")
    if case == "further below":
        middle = lab.pool.path / "original.qcow2"
        lab.connection.lookupByName("original").undefine()
        lab.define(domain("original", disks=[disk(lab.pool.overlay("top.qcow2", middle))]))
    before = lab.inventory()

    result = virtomate("domain-clone", "original", "clone", json=True)

    if result.status:
        refused(lab, before, result)
    else:
        assert b"no guest may read" not in clone_path(result.json[0]).read_bytes()


@pytest.mark.parametrize("mode", ["linked", "reflink"])
def test_format_that_only_the_definition_knows(lab: Lab, virtomate: Program, mode: str) -> None:
    """Where only the definition tells the format of what is below, a clone that needs it starts, or there is none."""
    define_disguised_base(lab, pool_for(lab, mode), store(Path("{}"), "raw"))
    lab.connection.lookupByName("original").create()
    lab.connection.lookupByName("original").destroy()
    before = lab.inventory()

    result = virtomate("domain-clone", "--mode", mode, "original", "clone", json=True)

    if result.status:
        refused(lab, before, result)
    else:
        lab.connection.lookupByName("clone").create()


@pytest.mark.parametrize("mode", CHAIN_MODES)
def test_two_overlays_over_one_base(lab: Lab, virtomate: Program, mode: str) -> None:
    """Two disks that rest on one volume stay two, each with what it reads."""
    pool = pool_for(lab, mode)
    base = pool.qcow2("base.qcow2", 16 * MIB)
    tops = {
        "vda": pool.overlay("original.qcow2", base, marker="first"),
        "vdb": pool.overlay("original-data.qcow2", base, marker="second", pattern=7),
    }
    contents = {target: images.guest_digest(path, "qcow2") for target, path in tops.items()}
    assert contents["vda"] != contents["vdb"]
    disks = [disk(path, "qcow2", target) for target, path in tops.items()]
    lab.define(domain("original", disks=disks, guest=lab.guest))
    base_digest = images.file_digest(base)

    document = clone(virtomate, "--mode", mode)

    copies = {target: clone_path(document, target) for target in tops}
    assert {target: images.guest_digest(path, "qcow2") for target, path in copies.items()} == contents
    assert images.file_digest(base) == base_digest
    lab.connection.lookupByName("clone").create()


def test_link_to_a_file_that_is_written_to(lab: Lab, virtomate: Program) -> None:
    """A disk that is a symbolic link is open for writing when the file that it leads to is, wherever that lies."""
    path = images.make_raw(lab.make_directory("elsewhere") / "real.raw", 4 * MIB)
    link = lab.pool.path / "original.raw"
    link.symlink_to(path)
    lab.pool.refresh()
    lab.define(domain("original", disks=[disk(link, "raw")]))
    writer = lab.define(domain("writer", disks=[disk(path, "raw")]))
    writer.create()
    before = lab.inventory()

    for mode in ("copy", "linked"):
        error = refused(lab, before, virtomate("domain-clone", "--mode", mode, "original", "clone", json=True))
        assert error["type"] == "IllegalStateError"
        assert f"'{link}' is open for writing" in error["message"]

    writer.destroy()
    assert images.file_digest(clone_path(clone(virtomate))) == images.file_digest(path)


@pytest.mark.parametrize("mode", CHAIN_MODES)
def test_volume_below_that_is_written_to(lab: Lab, virtomate: Program, mode: str) -> None:
    """What a domain that runs writes into below the original's overlay cannot be cloned at any one moment."""
    pool = pool_for(lab, mode)
    base = pool.qcow2("base.qcow2", 4 * MIB)
    lab.define(domain("original", disks=[disk(pool.overlay("original.qcow2", base))]))
    lab.define(domain("writer", disks=[disk(base)])).create()
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--mode", mode, "original", "clone", json=True))

    assert error["type"] == "IllegalStateError"
    assert "'writer'" in error["message"]


SNAPSHOT = """
<domainsnapshot><name>monday</name>
  <disks><disk name='vda' snapshot='external'><source file='{}'/></disk><disk name='vdb' snapshot='no'/></disks>
</domainsnapshot>"""


@pytest.mark.parametrize("mode", CHAIN_MODES)
def test_after_external_snapshot(lab: Lab, virtomate: Program, mode: str) -> None:
    """A disk that an external snapshot put on a new overlay is cloned as it is now; the snapshot is left behind."""
    pool = pool_for(lab, mode)
    base, other = pool.qcow2("original.qcow2", 16 * MIB, marker="before"), pool.raw("other.raw", 4 * MIB)
    original = lab.define(domain("original", disks=[disk(base), disk(other, "raw", "vdb")], guest=lab.guest))
    top = pool.path / "original.monday"
    original.snapshotCreateXML(SNAPSHOT.format(top), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    images.write_marker(top, "qcow2", "after")
    content = images.guest_digest(top, "qcow2")
    assert str(top) in definition(lab, "original")

    document = clone(virtomate, "--mode", mode)

    copy = clone_path(document)
    assert len(said(document, "'original'", "snapshots", "not carried over")) == 1
    assert len(other_warnings(document)) == 1
    assert lab.connection.lookupByName("clone").snapshotNum() == 0
    assert original.snapshotNum() == 1
    assert "<backingStore" not in definition(lab, "clone")
    assert images.guest_digest(copy, "qcow2") == content
    below = {"copy": None, "linked": str(top)}.get(mode, str(base))
    assert image_info(copy).get("backing-filename") == below
    if mode == "linked":
        assert lab.boot("clone").markers == {"vda": "after", "vdb": ""}


@pytest.mark.parametrize("transfer", ["host", "stream"])
def test_internal_snapshot_of_the_domain(lab: Lab, virtomate: Program, transfer: str) -> None:
    """A snapshot within the image is in the clone's image, but libvirt does not know it of the clone: that is said."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    original = lab.define(domain("original", disks=[disk(path)]))
    original.snapshotCreateXML("<domainsnapshot><name>monday</name></domainsnapshot>", 0)

    document = clone(virtomate, "--transfer", transfer)

    assert len(said(document, "disk vda", "contains the snapshots of 'original'")) == len(document["warnings"]) == 1
    assert lab.connection.lookupByName("clone").snapshotNum() == 0
    assert [found["name"] for found in image_info(clone_path(document))["snapshots"]] == ["monday"]


def test_checkpoint(lab: Lab, virtomate: Program) -> None:
    """A checkpoint is the original's: libvirt knows none of the clone, which is said, and the clone starts."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    original = lab.define(domain("original", disks=[disk(path)], guest=lab.guest))
    original.create()
    original.checkpointCreateXML("<domaincheckpoint><name>monday</name></domaincheckpoint>", 0)
    original.destroy()
    assert len(original.listAllCheckpoints()) == 1

    document = clone(virtomate)

    assert len(said(document, "'original'", "checkpoints", "not carried over")) == len(document["warnings"]) == 1
    assert lab.connection.lookupByName("clone").listAllCheckpoints() == []
    assert images.file_digest(clone_path(document)) == images.file_digest(path)
    lab.connection.lookupByName("clone").create()


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_autostart(lab: Lab, virtomate: Program, mode: str) -> None:
    """A clone does not start with its host because its original does, and that is said."""
    original = lab.define(domain("original", disks=[disk(lab.pool.raw("original.raw", MIB), "raw")]))
    original.setAutostart(1)

    document = clone(virtomate, "--mode", mode)

    assert len(said(document, "'original'", "starts with its host")) == len(other_warnings(document)) == 1
    assert lab.connection.lookupByName("clone").autostart() == 0
    assert original.autostart() == 1


def crashed(path: Path) -> Path:
    """Leave an image as a QEMU that is killed leaves one with lazy reference counts."""
    words: list[str | Path] = ["-f", "qcow2", "-c", "write -P 9 2M 256k", "-c", "flush", "-c", "sigraise 9", path]
    subprocess.run([require_program("qemu-io", "qemu-utils"), *words], check=False, capture_output=True)
    assert is_dirty(path)
    return path


def is_dirty(path: Path) -> bool:
    """Tell whether an image is marked as not properly closed."""
    # https://www.qemu.org/docs/master/interop/qcow2.html: the first bit of the incompatible features
    return bool(int.from_bytes(path.read_bytes()[72:80], "big") & 1)


@pytest.mark.parametrize("way", ["--transfer=host", "--transfer=stream", "--mode=reflink"])
def test_dirty_image(lab: Lab, virtomate: Program, way: str) -> None:
    """An image that was not closed properly is copied byte for byte, mark included, and that is said."""
    pool = pool_for(lab, way.partition("=")[2])
    path = crashed(pool.qcow2("original.qcow2", 4 * MIB, options=["lazy_refcounts=on"]))
    lab.define(domain("original", disks=[disk(path)]))
    digest = images.file_digest(path)

    document = clone(virtomate, way)

    assert len(said(document, "vda", str(path), "not closed properly")) == len(document["warnings"]) == 1
    copy = clone_path(document)
    assert images.file_digest(copy) == images.file_digest(path) == digest
    # QEMU repairs the clone's when it is opened for writing.
    images.qemu_io(copy, "qcow2", "read -P 9 2M 256k")
    images.qemu_img("check", "-f", "qcow2", copy)
    assert (is_dirty(copy), is_dirty(path)) == (False, True)


def test_dirty_image_is_not_given_to_libvirt(lab: Lab, virtomate: Program) -> None:
    """A conversion by libvirt is no copy of the bytes, so it is refused where it is asked for."""
    path = crashed(lab.pool.qcow2("original.qcow2", 4 * MIB, options=["lazy_refcounts=on"]))
    lab.define(domain("original", disks=[disk(path)]))
    before = lab.inventory()

    result = virtomate("domain-clone", "--transfer", "server", "original", "clone", json=True)

    assert "dirty" in refused(lab, before, result)["message"]


def test_dirty_overlay(lab: Lab, virtomate: Program) -> None:
    """An overlay that was not closed properly is merged with what is below: the clone's is sound, whatever is said."""
    base = lab.pool.qcow2("base.qcow2", 4 * MIB)
    path = lab.pool.path / "original.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "-b", base, "-F", "qcow2", path)
    crashed(path)
    lab.pool.refresh()
    lab.define(domain("original", disks=[disk(path)]))

    document = clone(virtomate)

    copy = clone_path(document)
    assert images.same_content(copy, "qcow2", path, "qcow2")
    assert not is_dirty(copy)
    assert said(document, "neither is its clone's") == []


@pytest.mark.parametrize("mode", MODES)
def test_security_label_of_a_disk(lab: Lab, virtomate: Program, mode: str) -> None:
    """What a definition says of a disk's label holds for the clone's volume."""
    path = pool_for(lab, mode).raw("original.raw", 4 * MIB)
    label = "<seclabel model='dac' relabel='no'/>"
    text = disk(path, "raw").replace("/><target", f">{label}</source><target")
    lab.define(domain("original", disks=[text]))
    assert shown(defined_disks(lab, "original"), "source/seclabel") == ["vda"]

    document = clone(virtomate, "--mode", mode)

    assert other_warnings(document) == []
    source = defined_disks(lab, "clone")["vda"].find("source")
    assert source is not None
    assert source.get("file") == str(clone_path(document))
    (kept,) = source.findall("seclabel")
    assert kept.attrib == {"model": "dac", "relabel": "no"}


def define_slice(lab: Lab, pool: Pool) -> Path:
    """Define a domain with a part of a raw volume as its disk."""
    path = images.make_raw(pool.path / "original.raw", 8 * MIB, data_bytes=8 * MIB)
    pool.refresh()
    part = f"<slices><slice type='storage' offset='{MIB}' size='{2 * MIB}'/></slices>"
    text = disk(path, "raw").replace("/><target", f">{part}</source><target")
    lab.define(domain("original", disks=[text]))
    return path


@pytest.mark.parametrize("way", ["--transfer=host", "--transfer=stream", "--transfer=server", "--mode=reflink"])
def test_slice(lab: Lab, virtomate: Program, way: str) -> None:
    """Of a disk that is a slice of a volume the whole volume is duplicated, and the clone's is the same slice of it."""
    path = define_slice(lab, pool_for(lab, way.partition("=")[2]))

    document = clone(virtomate, way)

    assert images.file_digest(clone_path(document)) == images.file_digest(path)
    (part,) = defined_disks(lab, "clone")["vda"].findall("source/slices/slice")
    assert part.attrib == {"type": "storage", "offset": str(MIB), "size": str(2 * MIB)}
    if way == "--transfer=host":
        handle = lab.connection.lookupByName("clone")
        handle.create()
        assert handle.blockInfo("vda")[0] == 2 * MIB


def test_slice_is_not_linked(lab: Lab, virtomate: Program) -> None:
    """An overlay lies on a whole volume: over a slice it would be another disk, so there is none."""
    path = define_slice(lab, lab.pool)
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--mode", "linked", "original", "clone", json=True))

    assert error["type"] == "UnsupportedError"
    assert "slice" in error["message"]
    assert str(path) in error["message"]
    assert "--mode copy" in error["hint"]


def test_slice_with_a_format(lab: Lab, virtomate: Program) -> None:
    """A qcow2 within a file, which starts where the slice does, is copied with its file, or is refused as a slice."""
    inner = images.make_qcow2(lab.make_directory("inner") / "inner.qcow2", 4 * MIB)
    path = lab.pool.path / "original.img"
    path.write_bytes(bytes(MIB) + inner.read_bytes())
    lab.pool.refresh()
    part = f"<slices><slice type='storage' offset='{MIB}' size='{inner.stat().st_size}'/></slices>"
    original = lab.define(domain("original", disks=[disk(path).replace("/><target", f">{part}</source><target")]))
    original.create()
    original.destroy()
    before = lab.inventory()

    result = virtomate("domain-clone", "original", "clone", json=True)

    if result.status:
        assert "slice" in refused(lab, before, result)["message"]
    else:
        assert images.file_digest(clone_path(result.json[0])) == images.file_digest(path)
        lab.connection.lookupByName("clone").create()


def test_start_with_a_block_device_of_the_original(root_lab: Lab, virtomate: Program) -> None:
    """No clone is started that would write to its original's device, unless it was asked to share it."""
    lab = root_lab
    with loop_device(images.make_raw(lab.directory / "device.img", MIB)) as device:
        block = (
            f"<disk type='block'><driver name='qemu' type='raw'/><source dev='{device}'/>"
            "<target dev='vdb' bus='virtio'/></disk>"
        )
        lab.define(domain("original", disks=[disk(lab.pool.raw("original.raw", MIB), "raw"), block]))
        before = lab.inventory()

        error = refused(lab, before, virtomate("domain-clone", "--count", "2", "--start", "original", "c", json=True))

        assert f"disk vdb ({device})" in error["message"]
        assert "--disk vdb=share" in error["hint"]
        document = clone(virtomate, "--start", "--disk", "vdb=share")
        assert document["started"] is True
        assert any(str(device) in warning for warning in document["warnings"])
        lab.connection.lookupByName("clone").destroy()


LUNS = """
    <disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/lab-lun'/>
      <target dev='sda' bus='scsi'/></disk>
    <disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/lab-lun-2'/>
      <target dev='sdb' bus='scsi'/><shareable/></disk>
    <disk type='block' device='cdrom'><driver name='qemu' type='raw'/><source dev='/dev/sr9'/>
      <target dev='sdc' bus='sata'/><readonly/></disk>
    <disk type='block' device='floppy'><driver name='qemu' type='raw'/><source dev='/dev/fd9'/>
      <target dev='fda' bus='fdc'/></disk>"""


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_host_devices_as_disks(lab: Lab, virtomate: Program, mode: str) -> None:
    """LUNs, drives and floppies of the host stay as they are; all that can be written to are warned of."""
    lab.define(domain("original", disks=[disk(lab.pool.raw("original.raw", MIB), "raw")], devices=LUNS, machine="pc"))

    document = clone(virtomate, "--mode", mode)

    shared = {entry["target"] for entry in document["disks"] if entry["action"] == "shared"}
    assert shared == {"fda", "sda", "sdb", "sdc"}
    warned = other_warnings(document)
    assert sorted(warning.split()[1] for warning in warned) == ["fda", "sda", "sdb"]
    assert all("both write to it" in warning for warning in warned)
    before, after = defined_disks(lab, "original"), defined_disks(lab, "clone")
    for target in shared:
        assert ET.tostring(after[target]) == ET.tostring(before[target])
