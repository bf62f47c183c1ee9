"""Clones of a domain as it was at a snapshot: the definition and the content of the snapshot, or a refusal."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from tests.functional.runs import Watched, is_alive, paused, wait_for
from tests.functional.support import by_target, clone, clone_path, cloned, definition, image_info, pool_on, refused
from tests.lab import Lab, Pool, Program, disk, domain, images, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from tests.lab.ordinary_user import OrdinaryUser
from virtomate.cancel import CancelToken
from virtomate.definition import file_readers
from virtomate.definition.codec import Document, parse_definition
from virtomate.definition.provenance import read_provenance
from virtomate.duplication.image_headers import header_digest
from virtomate.hypervisor.session import open_session
from virtomate.notices import CloneWarning
from virtomate.progress import Progress
from virtomate.services.clone import clone_domains
from virtomate.services.clone_records import CloneRequest
from virtomate.services.transaction import Run

DISK_ONLY = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
ACTIVE = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE

KNOWS_NVRAM_FORMAT = 9_002_000
SNAPSHOTS_NVRAM = 10_010_000
HOUR = 3600 * 10**9

# Says how far it is and goes on for ever, as qemu-img would with a large image.
ENDLESS = "#!/bin/sh\necho '    (50.00/100%)'\nexec sleep 600\n"


def snapshot(original: Any, name: str, flags: int = 0, without: str = "") -> None:
    """Make a snapshot, without one of the disks if that is asked for."""
    disks = f"<disks><disk name='{without}' snapshot='no'/></disks>" if without else ""
    original.snapshotCreateXML(f"<domainsnapshot><name>{name}</name>{disks}</domainsnapshot>", flags)


def write(original: Any, number: int = 0, pattern: int = 9) -> None:
    """Have the running domain write to one of its disks, as its guest would."""
    device = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
    said = libvirt_qemu.qemuMonitorCommand(original, f'qemu-io -d {device} "write -P {pattern} 0 64k"', 1)
    assert "rror" not in said, said


def define(lab: Lab, pool: Pool, *, firmware: str = "") -> Any:
    """Define `original` with a qcow2 disk and a raw disk."""
    system, data = pool.qcow2("original.qcow2", 4 * MIB), pool.raw("original-data.raw", 4 * MIB, seed=2)
    disks = [disk(system), disk(data, "raw", "vdb")]
    interfaces = [interface()]
    return lab.define(domain("original", disks=disks, interfaces=interfaces, firmware=firmware, memory_mib=64))


def content(pool: Pool) -> list[str]:
    """Return digests of what a guest reads from the disks of `original` as they were defined."""
    paths = {"original.qcow2": "qcow2", "original-data.raw": "raw"}
    return [images.guest_digest(pool.path / name, format_) for name, format_ in paths.items()]


def content_of(document: Any) -> list[str]:
    """Return digests of what a guest reads from the disks of a clone."""
    return [
        images.guest_digest(clone_path(document, item["target"]), item["clone"]["format"]) for item in document["disks"]
    ]


def codes(document: Any) -> set[str]:
    """Return the codes of a clone's warnings."""
    return {item["code"] for item in document["notices"]} - {"new-identifier"}


@pytest.fixture
def internal(lab: Lab) -> Any:
    """A domain `original` that is off, with an internal snapshot `fresh`; its disk was written to since."""
    path = lab.pool.qcow2(
        "original.qcow2", 4 * MIB, cluster_bytes=128 << 10, options=("extended_l2=on", "lazy_refcounts=on")
    )
    original = lab.define(domain("original", disks=[disk(path)], memory_mib=64))
    snapshot(original, "fresh, a=b")
    images.qemu_io(path, "qcow2", "write -P 9 0 64k")
    return original


def test_external_snapshot_of_a_running_domain(lab: Lab, virtomate: Program) -> None:
    """In all modes, the clone has the definition and the content of the moment, and the original runs on."""
    pool = pool_on(lab, "xfs" if lab.privileged else "ext4")
    store = lab.make_directory("nvram") / "original_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    original = define(lab, pool, firmware=nvram(store))
    before = content(pool)
    original.create()
    original.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "then", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    snapshot(original, "s 1", DISK_ONLY)
    original.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "now", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    write(original, 0)
    write(original, 1)
    # the firmware may write to the NVRAM at any time
    original.suspend()
    always = {"without-memory", "nvram-of-now", "same-title"}

    for mode in ("copy", "linked", "reflink") if lab.privileged else ("copy", "linked"):
        words = ("domain-clone", "--mode", mode, "--snapshot", "s 1", "original", mode)
        document = cloned(virtomate(*words, json=True))
        assert content_of(document) == before
        assert (document["snapshot"]["name"], document["snapshot"]["state"]) == ("s 1", "disk-snapshot")
        assert document["consistency"] == "crash"
        assert document["snapshot"]["created"].endswith("+00:00")
        assert codes(document) == always | ({"linked-snapshot"} if mode == "linked" else set())
        assert "<title>then</title>" in definition(lab, mode)
        assert Path(document["nvram"]["clone"]).read_bytes() == store.read_bytes()
    original.resume()

    record = read_provenance(parse_definition(definition(lab, "linked")))
    assert record is not None
    assert record.snapshot == "s 1"
    bases = {item.base: item.base_fingerprint for item in record.made if item.base is not None}
    for name in ("original.qcow2", "original-data.raw"):
        status, found = (pool.path / name).stat(), bases[str(pool.path / name)]
        assert found is not None
        assert found.size == status.st_size
        assert found.modified == f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09}"
        assert found.inode == status.st_ino
        is_qcow2 = name.endswith(".qcow2")
        assert found.header == (header_digest((pool.path / name).read_bytes()) if is_qcow2 else None)
    assert original.isActive()
    assert virtomate("domain-clone", "--snapshot", "s 1", "original", "x").stdout.startswith(
        "Cloned original at snapshot s 1 to x (copy) in "
    )


def test_snapshot_that_was_committed(lab: Lab, virtomate: Program) -> None:
    """A clone is refused while a block commit goes on into a frozen image, and ever after."""
    original = define(lab, lab.pool)
    original.create()
    snapshot(original, "s1", DISK_ONLY, without="vdb")
    words = ("domain-clone", "--snapshot", "s1", "--disk", "vdb=drop", "original", "clone")
    write(original)
    original.blockCommit("vda", None, None, 0, ACTIVE)
    # From then on until the pivot only what the guest writes is merged, and it writes nothing.
    wait_for(lambda: '"ready":true' in str(block_jobs(original)).replace(" ", ""), "the overlay is merged")
    before = lab.inventory()
    error = refused(lab, before, virtomate(*words, json=True))
    assert error["type"] == "IllegalStateError"
    assert error["message"] == "a block commit writes into the images below disk vda of domain 'original'"
    assert error["hint"].endswith("blockjob --abort original vda")

    original.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    before = lab.inventory()
    assert "of disk vda that snapshot 's1' had frozen" in refused(lab, before, virtomate(*words, json=True))["message"]

    original.destroy()
    before = lab.inventory()
    message = refused(lab, before, virtomate(*words, json=True))["message"]
    assert "original.qcow2' was written to since snapshot 's1' was made" in message


def block_jobs(original: Any) -> Any:
    """Return QEMU's block jobs."""
    return libvirt_qemu.qemuMonitorCommand(original, '{"execute": "query-block-jobs"}', 0)


def test_older_snapshot_that_was_deleted(lab: Lab, virtomate: Program) -> None:
    """A merge into a frozen image keeps what the later snapshot holds; a warning says so if it came much later."""
    original = define(lab, lab.pool)
    original.create()
    snapshot(original, "s1", DISK_ONLY, without="vdb")
    write(original, pattern=1)
    snapshot(original, "s2", DISK_ONLY, without="vdb")
    made = time.time_ns()
    then = images.guest_digest(lab.pool.path / "original.s1", "qcow2")
    write(original, pattern=2)
    original.snapshotLookupByName("s1").delete()
    # as if the merge had come at once, however busy the machine is
    os.utime(lab.pool.path / "original.qcow2", ns=(made, made))
    lab.pool.refresh()

    words = ("domain-clone", "--disk", "vdb=drop", "--snapshot")
    document = cloned(virtomate(*words, "s2", "original", "clone", json=True))
    assert images.guest_digest(clone_path(document), "qcow2") == then
    assert codes(document) == {"without-memory"}
    # as if the merge had come later
    os.utime(lab.pool.path / "original.qcow2", ns=(time.time_ns() + HOUR,) * 2)
    lab.pool.refresh()
    document = cloned(virtomate(*words, "s2", "original", "other", json=True))
    assert images.guest_digest(clone_path(document), "qcow2") == then
    assert codes(document) == {"without-memory", "written-snapshot"}


def test_commit_that_begins_meanwhile(lab: Lab, virtomate: Program) -> None:
    """While a clone is made, QEMU's lock keeps block commits from the frozen image."""
    original = define(lab, lab.pool)
    before = content(lab.pool)
    original.create()
    snapshot(original, "s1", DISK_ONLY)
    write(original)
    program = virtomate.pausing("virStorageVolCreateXML")
    run = program.start("domain-clone", "--snapshot", "s1", "original", "clone", json=True)
    with paused(run), pytest.raises(libvirt.libvirtError, match="lock"):
        original.blockCommit("vda", None, None, 1, ACTIVE)
    assert content_of(cloned(run.wait())) == before


def test_snapshot_on_a_host_whose_files_are_not_seen(root_lab: Lab, virtomate: Program) -> None:
    """Libvirt copies what the snapshot froze; where there are no locks, a look at the end tells of a block commit."""
    path = Path("/var/lib/libvirt/images")
    with root_lab.make_host("far") as far:
        here = far.on_host(path)
        far.connection.storagePoolCreateXML(
            f"<pool type='dir'><name>default</name><target><path>{path}</path></target></pool>"
        )
        system, data = images.make_qcow2(here / "original.qcow2", 4 * MIB), images.make_raw(here / "data.raw", 4 * MIB)
        before = [images.guest_digest(system, "qcow2"), images.guest_digest(data, "raw")]
        disks = [disk(path / "original.qcow2"), disk(path / "data.raw", "raw", "vdb")]
        original = far.connection.defineXML(domain("original", disks=disks, memory_mib=64))
        original.create()
        snapshot(original, "s1", DISK_ONLY)
        write(original, 0)
        write(original, 1)
        words = ("domain-clone", "--snapshot", "s1")
        document = cloned(virtomate(*words, "original", "copy", json=True, uri=far.uri))
        assert [item["transfer"] for item in document["disks"]] == ["server", "stream"]
        made = [(here / item["clone"]["volume"], item["clone"]["format"]) for item in document["disks"]]
        assert [images.guest_digest(*item) for item in made] == before

        program = replace(virtomate, uri=far.uri).pausing("virStorageVolCreateXML")
        run = program.start(*words, "--mode", "linked", "original", "linked", json=True)
        with paused(run):
            original.blockCommit("vda", None, None, 1, ACTIVE)
        (failed,) = run.wait().json
        assert failed["error"]["type"] == "SourceChangedError"
        assert (
            failed["error"]["message"] == "snapshot 's1' of domain 'original' was committed while it was being cloned"
        )
        assert not (here / "linked.qcow2").exists()
        original.destroy()


@pytest.mark.usefixtures("internal")
def test_internal_snapshot(lab: Lab, virtomate: Program) -> None:
    """qemu-img copies what the guest saw then into the volume that libvirt made, and the image keeps its features."""
    path = lab.pool.path / "original.qcow2"
    words = ("--snapshot", "fresh, a=b")
    (planned,) = virtomate("domain-clone", "--dry-run", *words, "original", "clone", json=True).json
    document = clone(virtomate, *words)
    assert by_target(document)["vda"]["transfer"] == by_target(planned)["vda"]["transfer"] == "convert"
    assert (document["snapshot"]["state"], codes(document)) == ("shutoff", {"without-snapshots"})
    assert document["consistency"] == "offline"
    info = image_info(clone_path(document))
    assert "snapshots" not in info
    assert info["cluster-size"] == 128 << 10
    features = info["format-specific"]["data"]
    assert (features["extended-l2"], features["lazy-refcounts"], features["compat"]) == (True, True, "1.1")
    # the file is the one that libvirt made, which carries the proof
    record = read_provenance(parse_definition(definition(lab, "clone")))
    assert record is not None
    (made,) = record.made
    assert made.fingerprint is not None
    assert made.fingerprint.inode == clone_path(document).stat().st_ino

    images.qemu_img("snapshot", "-a", "fresh, a=b", path)
    assert images.same_content(clone_path(document), "qcow2", path, "qcow2")
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    assert not clone_path(document).exists()


def test_internal_snapshot_above_a_base(lab: Lab, virtomate: Program) -> None:
    """The copy of a snapshot inside of an overlay has the content of the base, and does not rest on it."""
    base = lab.pool.raw("base.raw", 4 * MIB)
    path = lab.pool.path / "original.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", base.name, "-F", "raw", path)
    images.qemu_io(path, "qcow2", "write -P 3 1M 64k")
    lab.pool.refresh()
    original = lab.define(domain("original", disks=[disk(path)], memory_mib=64))
    before = images.guest_digest(path, "qcow2")
    snapshot(original, "fresh")
    images.qemu_io(path, "qcow2", "write -P 9 0 64k")

    document = clone(virtomate, "--snapshot", "fresh")
    assert images.guest_digest(clone_path(document), "qcow2") == before
    assert "backing-filename" not in image_info(clone_path(document))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mode", "linked"), "can only be copied, not linked"),
        (("--disk", "vda=reflink"), "can only be copied, not reflink"),
        (("--transfer", "stream"), "there is no transfer 'stream' for it"),
        (("--bandwidth", "1"), "is copied by qemu-img without a limit"),
    ],
)
@pytest.mark.usefixtures("internal")
def test_internal_snapshot_in_other_ways(lab: Lab, virtomate: Program, words: tuple[str, ...], message: str) -> None:
    """Nothing can rest on the inside of an image, and libvirt cannot read it."""
    before = lab.inventory()
    result = virtomate("domain-clone", *words, "--snapshot", "fresh, a=b", "original", "clone", json=True)
    error = refused(lab, before, result)
    assert (error["type"], "hint" in error) == ("UnsupportedError", True)
    assert message in error["message"]


def test_internal_snapshot_that_cannot_be_copied(lab: Lab, virtomate: Program, internal: Any, tmp_path: Path) -> None:
    """The original runs, there is no qemu-img, the disk was resized, or the image does not have the snapshot."""
    path = lab.pool.path / "original.qcow2"
    words = ("domain-clone", "--snapshot", "fresh, a=b", "original", "clone")

    def message(env: dict[str, str] | None = None) -> str:
        return str(refused(lab, lab.inventory(), virtomate(*words, json=True, env=env))["message"])

    assert message({"PATH": str(tmp_path)}).endswith("cannot be copied: there is no qemu-img here")
    internal.create()
    assert message() == "snapshot 'fresh, a=b' is inside of disk vda of domain 'original', which is active"
    internal.destroy()
    images.qemu_img("resize", "-q", path, "8M")
    assert "was resized since snapshot 'fresh, a=b': its size was 4194304 bytes" in message()
    images.qemu_img("snapshot", "-d", "fresh, a=b", path)
    assert message().endswith("has no internal snapshot 'fresh, a=b', although libvirt lists one")


def test_internal_snapshot_that_cannot_be_read(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Who cannot open the image is told why, since libvirt has no call that reads a snapshot inside of an image."""
    path = nobody.pool.qcow2("original.qcow2", 4 * MIB)
    path.chmod(0o600)
    nobody.pool.refresh()
    original = root_lab.define(domain("original", disks=[disk(path)], memory_mib=64))
    snapshot(original, "fresh")

    error = nobody("domain-clone", "--snapshot", "fresh", "original", "clone").json
    assert error["type"] == "UnsupportedError"
    assert "cannot be copied: its file cannot be read here" in error["message"]
    assert "as root on the host" in error["hint"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
@pytest.mark.usefixtures("internal")
def test_end_in_the_middle_of_a_conversion(lab: Lab, virtomate: Program, number: int) -> None:
    """qemu-img ends with virtomate, also when nothing can end it any more, and the volume can be removed at once."""
    before = lab.inventory()
    programs = virtomate.directory / "programs"
    programs.mkdir()
    (programs / "qemu-img").write_text(ENDLESS)
    (programs / "qemu-img").chmod(0o755)
    run = virtomate.start(
        *("--progress", "json", "domain-clone", "--snapshot", "fresh, a=b", "original", "clone"),
        json=True,
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
    )
    Watched(run).wait_for_event("progress")
    (child,) = children(run.process.pid)

    run.signal(number)
    assert run.wait().status == -number
    wait_for(lambda: not is_alive(child), "qemu-img ends")
    if number == signal.SIGKILL:
        assert virtomate("domain-delete", "clone").status == 0
    assert before.difference(lab.inventory()) == ""


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    return [
        int(child)
        for listing in Path(f"/proc/{process}/task").glob("*/children")
        for child in listing.read_text().split()
    ]


def test_disk_that_a_snapshot_does_not_hold(lab: Lab, virtomate: Program) -> None:
    """A disk of another moment is refused, left out, or taken as it is now with a warning, as was asked."""
    original = define(lab, lab.pool)
    before = content(lab.pool)
    snapshot(original, "s1", DISK_ONLY, without="vdb")
    images.qemu_io(lab.pool.path / "original.s1", "qcow2", "write -P 9 0 64k")
    lab.pool.refresh()
    words = ("--snapshot", "s1")

    error = refused(lab, lab.inventory(), virtomate("domain-clone", *words, "original", "clone", json=True))
    assert (error["type"], "snapshot 's1' does not hold disk vdb" in error["message"]) == ("UnsupportedError", True)
    assert "--disk vdb=drop" in error["hint"]

    dropped = cloned(virtomate("domain-clone", *words, "--disk", "vdb=drop", "original", "without", json=True))
    assert images.guest_digest(clone_path(dropped), "qcow2") == before[0]
    taken = clone(virtomate, *words, "--disk", "vdb=copy")
    assert content_of(taken) == before
    assert (taken["snapshot"]["state"], codes(taken)) == ("shutoff", {"other-moment"})

    original.create()
    running = virtomate("domain-clone", *words, "--disk", "vdb=copy", "original", "other", json=True).json
    assert "is open for writing by domain 'original'" in running["message"]


def test_overlay_that_is_committed_right_after_the_snapshot(lab: Lab, virtomate: Program) -> None:
    """Of a domain that was off, no write to the image right after the snapshot is taken for one of the guest."""
    original = define(lab, lab.pool)
    snapshot(original, "s1", DISK_ONLY)
    time.sleep(1.1)
    overlay = lab.pool.path / "original.s1"
    images.qemu_io(overlay, "qcow2", "write -P 9 0 64k")
    images.qemu_img("commit", overlay)
    lab.pool.refresh()
    assert "written-snapshot" in codes(clone(virtomate, "--snapshot", "s1"))


def test_disk_that_a_later_snapshot_froze(lab: Lab, virtomate: Program) -> None:
    """The volume that a disk was at the snapshot is not the disk as it is now, and is not taken for it."""
    original = define(lab, lab.pool)
    original.create()
    snapshot(original, "s1", DISK_ONLY, without="vdb")
    snapshot(original, "s2", DISK_ONLY)
    write(original, 1)
    lab.pool.refresh()
    words = ("domain-clone", "--snapshot", "s1", "--disk", "vdb=copy", "original", "clone")
    for _ in range(2):
        error = refused(lab, lab.inventory(), virtomate(*words, json=True))
        assert error["type"] == "UnsupportedError"
        assert "disk vdb cannot be taken as it is now: at snapshot 's1' it was" in error["message"]
        if original.isActive():
            original.destroy()


def test_frozen_image_that_the_original_uses_again(lab: Lab, virtomate: Program) -> None:
    """A linked clone on an image to which the original will write is told of as that, and refused before a restart."""
    original = define(lab, lab.pool)
    document = original.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    time.sleep(1.1)
    snapshot(original, "s1", DISK_ONLY)
    lab.define(document)
    lab.pool.refresh()
    taken = clone(virtomate, "--snapshot", "s1", "--mode", "linked")
    assert codes(taken) == {"linked-original"}


def test_frozen_disk_that_is_to_be_shared(lab: Lab, virtomate: Program) -> None:
    """A clone that wrote to a frozen image would destroy the overlay that the original writes to."""
    snapshot(define(lab, lab.pool), "s1", DISK_ONLY)
    lab.pool.refresh()
    words = ("domain-clone", "--snapshot", "s1", "--disk", "vdb=share", "original", "clone")
    error = refused(lab, lab.inventory(), virtomate(*words, json=True))
    assert error["type"] == "UnsupportedError"
    assert "original-data.raw) cannot be shared: the overlay that the original got" in error["message"]


def test_unknown_snapshot(lab: Lab, virtomate: Program) -> None:
    """A wrong name gets the right ones."""
    original = define(lab, lab.pool)
    hints = []
    for name in (None, "before", "after"):
        if name is not None:
            snapshot(original, name, DISK_ONLY)
        error = refused(
            lab, lab.inventory(), virtomate("domain-clone", "--snapshot", "xyz", "original", "c", json=True)
        )
        assert error["type"] == "NotFoundError"
        assert error["message"] == "domain 'original' has no snapshot 'xyz'"
        hints.append(error["hint"])
    assert hints == [
        "The domain has no snapshots at all; leave out --snapshot.",
        "There is 'before'.",
        "There are 'after' and 'before'.",
    ]
    similar = virtomate("domain-clone", "--snapshot", "Befor", "original", "c", json=True).json
    assert similar["hint"].startswith("Did you mean 'before'?")


def test_several_linked_clones_of_a_snapshot(lab: Lab, virtomate: Program) -> None:
    """Clones of one snapshot share its images, and --print-xml shows what they would be."""
    original = define(lab, lab.pool)
    before = content(lab.pool)
    snapshot(original, "s1", DISK_ONLY)
    images.qemu_io(lab.pool.path / "original.s1", "qcow2", "write -P 9 0 64k")
    words = ("domain-clone", "--snapshot", "s1", "--mode", "linked", "--count", "2", "original", "web")
    assert virtomate("domain-clone", "--snapshot", "s1", "--print-xml", "original", "x").stdout.count("x.qcow2") == 1
    result = virtomate(*words, json=True)
    assert result.status == 0, str(result)
    assert [content_of(document) for document in result.json] == [before, before]
    human = virtomate(*words[:-1], "more")
    assert "2 clones of original at snapshot s1 (linked) in " in human.stdout


def test_nvram_inside_of_an_image(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NVRAM that is a qcow2 image is as it was at an internal snapshot.

    libvirt 10.10 and later make such snapshots. Where libvirt is older, a snapshot is redefined, and where libvirt does
    not know the format of an NVRAM, virtomate is told.
    """
    version = lab.connection.getLibVersion()
    store, path, then = qcow2_nvram(lab)
    firmware = nvram(store, format_="qcow2", template=None) if version >= KNOWS_NVRAM_FORMAT else nvram(store)
    original = lab.define(domain("original", disks=[disk(path)], firmware=firmware, memory_mib=64))
    if version >= SNAPSHOTS_NVRAM:
        snapshot(original, "s1")
    else:
        redefine_snapshot(original, "s1", store, path)
    for image in (store, path):
        images.qemu_io(image, "qcow2", "write -P 9 0 64k")
    if version < KNOWS_NVRAM_FORMAT:
        read = file_readers.nvram

        def with_format(document: Document) -> Any:
            found = read(document)
            return None if found is None else found._replace(format="qcow2")

        monkeypatch.setattr(file_readers, "nvram", with_format)

    with open_session(lab.uri) as session:
        run = Run(session, session, Progress(), CancelToken())
        (result,) = clone_domains(run, CloneRequest(source="original", names=("clone",), snapshot="s1"))
    assert result.error is None
    assert result.nvram is not None
    assert result.nvram.clone == str(store.parent / "clone_VARS.fd")
    assert images.guest_digest(store.parent / "clone_VARS.fd", "qcow2") == then
    assert "snapshots" not in image_info(store.parent / "clone_VARS.fd")
    assert CloneWarning.NVRAM_OF_NOW not in {warning.code for warning in result.warnings}


def test_raw_nvram_that_looks_like_an_image(lab: Lab, virtomate: Program) -> None:
    """An NVRAM without a format is raw, whatever a guest has written: the clone gets today's bytes, with a warning."""
    store, path, _ = qcow2_nvram(lab)
    original = lab.define(domain("original", disks=[disk(path)], firmware=nvram(store), memory_mib=64))
    redefine_snapshot(original, "s1", store, path)
    images.qemu_io(store, "qcow2", "write -P 9 0 64k")

    document = cloned(virtomate("domain-clone", "--snapshot", "s1", "original", "clone", json=True))

    assert "nvram-of-now" in codes(document)
    assert Path(document["nvram"]["clone"]).read_bytes() == store.read_bytes()


def qcow2_nvram(lab: Lab) -> tuple[Path, Path, str]:
    """Make an NVRAM and a disk, both qcow2 images, and return their paths and what a guest reads from the NVRAM."""
    store = images.make_qcow2(lab.make_directory("nvram") / "original_VARS.fd", MIB)
    return store, lab.pool.qcow2("original.qcow2", 4 * MIB), images.guest_digest(store, "qcow2")


def redefine_snapshot(original: Any, name: str, *paths: Path) -> None:
    """Make an internal snapshot of images, and tell libvirt that the domain has the snapshot."""
    for path in paths:
        images.qemu_img("snapshot", "-c", name, path)
    head = f"<name>{name}</name><state>shutoff</state><creationTime>{int(time.time())}</creationTime>"
    document = f"<domainsnapshot>{head}{original.XMLDesc()}</domainsnapshot>"
    original.snapshotCreateXML(document, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
