"""Linked clones of an original that is frozen while it runs: it goes on in overlays, and nothing of it is ever lost."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu
import pytest

from tests.functional.runs import error_of, paused, unchanged, wait_for
from tests.functional.support import EVERYTHING, by_target, clone, clone_path, cloned, definition, image_info, refused
from tests.functional.test_freeze import chain_length, mode_of, names
from tests.functional.test_quiesce import children, is_frozen, mark_of, needs_journal, watchdogs
from tests.lab import Lab, Program, boot, disk, domain, images, interface, running
from tests.lab.guest import RunningGuest
from tests.lab.images import MIB
from tests.lab.mounts import make_file_system
from tests.lab.program import Background
from tests.lab.ssh import SshServer

FREEZE = ("--mode", "linked", "--live", "--freeze")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The calls of libvirt's that a freeze consists of, after its record: an overlay, the move of all disks, the mark.
MOMENTS = ("virStorageVolCreateXML", "virDomainSnapshotCreateXML", "virDomainSetMetadata")
AFTER_THE_MOVE = MOMENTS[1:]
MARK = re.compile(r" *<virtomate-freeze:frozen.*</virtomate-freeze:frozen>\n", re.DOTALL)
SWEEP_MOMENTS = 30
NOTE = "<lab:note xmlns:lab='urn:lab'>kept</lab:note>"


class Original:
    """A domain `original` with a qcow2 disk, and a raw one that it names as a volume; it runs, without a guest."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.paths = {
            "vda": lab.pool.qcow2("original.qcow2", 16 * MIB, data_bytes=2 * MIB),
            "vdb": lab.pool.raw("data.raw", 8 * MIB, data_bytes=MIB),
        }
        volume = (
            "<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='writethrough'/>"
            f"<source pool='{lab.pool.name}' volume='data.raw' startupPolicy='mandatory'/>"
            "<target dev='vdb' bus='virtio'/></disk>"
        )
        disks = [disk(self.paths["vda"]), volume]
        self.domain = lab.define(domain("original", disks=disks, interfaces=[interface()], metadata=NOTE, machine="pc"))
        self.domain.create()
        self.digests = self.digest(self.paths)

    @staticmethod
    def digest(paths: dict[str, Path]) -> dict[str, str]:
        """Digests of files, by disk."""
        return {target: images.file_digest(path) for target, path in paths.items()}

    def disks(self) -> dict[str, Path]:
        """The files of the disks; the running domain and its definition always name the same."""
        found = [self._sources(flags) for flags in (0, EVERYTHING)] if self.domain.isActive() else [self._sources(0)]
        assert found[0] == found[-1]
        return found[0]

    def _sources(self, flags: int) -> dict[str, Path]:
        disks = {}
        for item in ET.fromstring(self.domain.XMLDesc(flags)).iterfind("devices/disk"):
            source = item.find("source")
            assert source is not None
            name = source.get("file") or self.lab.pool.path / str(source.get("volume"))
            disks[str(item.find("target").get("dev"))] = Path(name)  # type: ignore[union-attr]
        return disks

    @property
    def is_frozen(self) -> bool:
        """Whether the disks are overlays; either all of them are, or none is."""
        (is_frozen,) = {"-overlay" in path.name for path in self.disks().values()}
        return is_frozen

    def write(self, number: int = 0, pattern: int = 77) -> None:
        """Have QEMU write to a disk, as its guest would."""
        device = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
        said = libvirt_qemu.qemuMonitorCommand(self.domain, f'qemu-io -d {device} "write -P {pattern} 0 64k"', 1)
        assert "rror" not in said, said

    def content(self) -> dict[str, str]:
        """What a guest reads of each disk, as digests; the domain must not write meanwhile."""
        formats = {".raw": "raw", ".qcow2": "qcow2"}
        return {target: images.guest_digest(path, formats[path.suffix]) for target, path in self.disks().items()}


@pytest.fixture
def original(lab: Lab) -> Iterator[Original]:
    """The original, which runs."""
    found = Original(lab)
    yield found
    with suppress(libvirt.libvirtError):
        found.domain.destroy()


def record_of(lab: Lab) -> str:
    """The name of the domain that records a freeze."""
    (record,) = [name for name in names(lab) if name.startswith("virtomate-freeze-")]
    return record


def caught(virtomate: Program, moment: str, *words: str) -> Background:
    """Start a freeze that stands still right after a call of libvirt's."""
    return virtomate.pausing(moment).start("domain-clone", *FREEZE, *words, "original", "clone", json=True)


def kill_at(virtomate: Program, moment: str) -> None:
    """Kill a freeze right after a call of libvirt's."""
    run = caught(virtomate, moment)
    with paused(run):
        run.signal(signal.SIGKILL)
        run.process.wait()


def files(lab: Lab) -> set[str]:
    """The names of all files in the pool."""
    return {path.name for path in lab.pool.path.iterdir()}


def test_running_original_goes_on_in_overlays(lab: Lab, original: Original, virtomate: Program) -> None:
    """Both definitions name the overlays and have the mark; the former volumes are read-only and stay as they were."""
    text = definition(lab, "original")
    modes = {target: mode_of(path) for target, path in original.paths.items()}

    document = clone(virtomate, *FREEZE)

    assert document["warnings"] == []
    assert (document["consistency"], document["frozen_seconds"]) == ("crash", None)
    assert [(item["target"], item["new"]) for item in document["frozen"]] == [("vda", True), ("vdb", True)]
    overlays = {item["target"]: Path(item["overlay"]["path"]) for item in document["frozen"]}
    assert [path.name for path in overlays.values()] == ["original-overlay.qcow2", "data-overlay.qcow2"]
    assert original.domain.isActive()
    assert original.disks() == overlays
    for number, pattern in enumerate((77, 78)):
        original.write(number, pattern)
    assert original.digest(original.paths) == original.digests
    for target, path in original.paths.items():
        assert mode_of(path) == modes[target] & ~0o222
        assert mode_of(overlays[target]) == mode_of(clone_path(document, target)) == modes[target]
        assert image_info(clone_path(document, target))["full-backing-filename"] == str(path)
        assert chain_length(overlays[target]) == chain_length(clone_path(document, target)) == 2
        text = text.replace(f"'{path}'", f"'{overlays[target]}'").replace(
            f"'{path.name}'", f"'{overlays[target].name}'"
        )
    # the definition has changed in its sources alone
    assert MARK.sub("", definition(lab, "original")) == text.replace("type='raw' ", "type='qcow2' ")
    assert MARK.search(original.domain.XMLDesc(0)) is not None
    assert 'frozen="yes"' in definition(lab, "clone")
    assert names(lab) == {"original", "clone"}
    original.domain.destroy()
    assert original.content() != {
        target: images.guest_digest(clone_path(document, target), "qcow2") for target in modes
    }
    original.domain.create()
    assert original.disks() == overlays
    assert original.domain.snapshotNum(0) == 0


def test_base_serves_again_until_a_disk_is_written(original: Original, virtomate: Program) -> None:
    """While the guest writes nothing no chain grows; a write to one disk makes bases of all, as of one moment."""
    original.domain.suspend()
    original.domain.resume()
    documents = [
        cloned(virtomate("domain-clone", *FREEZE, "original", f"c-{number}", json=True)) for number in range(3)
    ]
    assert [{item["new"] for item in document["frozen"]} for document in documents] == [{True}, {False}, {False}]
    assert {chain_length(path) for path in original.disks().values()} == {2}
    first = original.disks()
    original.write(1)

    document = cloned(virtomate("domain-clone", *FREEZE, "original", "later", json=True))

    assert {item["new"] for item in document["frozen"]} == {True}
    assert [path.name for path in original.disks().values()] == ["original-overlay-2.qcow2", "data-overlay-2.qcow2"]
    assert [chain_length(clone_path(document, target)) for target in first] == [3, 3]
    assert not any(mode_of(path) & 0o222 for path in first.values())
    original.domain.destroy()
    assert original.content() == {
        target: images.guest_digest(clone_path(document, target), "qcow2") for target in first
    }


def test_paused_original_stays_paused(original: Original, virtomate: Program) -> None:
    """A paused original is frozen as it is."""
    original.domain.suspend()

    document = clone(virtomate, *FREEZE)

    assert original.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert original.is_frozen
    assert document["consistency"] == "crash"


def test_later_freeze_of_the_original_that_is_off(original: Original, virtomate: Program) -> None:
    """Shut off, the original is frozen as ever: a disk that it wrote to moves, the other one's base serves again."""
    clone(virtomate, *FREEZE)
    original.write()
    original.domain.destroy()
    content = original.content()

    document = cloned(virtomate("domain-clone", "--mode", "linked", "--freeze", "original", "later", json=True))

    assert [(item["target"], item["new"]) for item in document["frozen"]] == [("vda", True), ("vdb", False)]
    assert {t: images.guest_digest(clone_path(document, t), "qcow2") for t in content} == content


def test_preview_says_what_would_move(lab: Lab, original: Original, virtomate: Program) -> None:
    """--dry-run names the overlays, and changes nothing."""
    before = lab.inventory()

    result = virtomate("domain-clone", "--dry-run", *FREEZE, "original", "clone")

    assert result.status == 0, str(result)
    assert f"vda moves to {original.paths['vda'].with_name('original-overlay.qcow2')}" in result.stdout
    assert "file systems not frozen, disks will be as after a power cut" in result.stdout
    assert "backup" not in result.stdout
    unchanged(before, lab)
    assert not original.is_frozen


def test_signal_before_the_move(lab: Lab, original: Original, virtomate: Program) -> None:
    """Before the disks have moved nothing is left of a freeze."""
    before = lab.inventory()
    run = caught(virtomate, "virStorageVolCreateXML")
    with paused(run):
        run.signal(signal.SIGINT)
    result = run.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert "leftovers" not in error_of(result)
    unchanged(before, lab)
    assert not original.is_frozen


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_after_the_move(lab: Lab, original: Original, virtomate: Program, number: signal.Signals) -> None:
    """When the disks have moved the original stays frozen, which is told, and the next clone rests on its bases."""
    run = caught(virtomate, AFTER_THE_MOVE[0])
    with paused(run):
        assert original.is_frozen
        run.signal(number)
    result = run.wait()

    assert result.status == 3, str(result)
    (leftover,) = error_of(result)["leftovers"]
    assert "domain 'original', which stays frozen (domain 'original' runs)" in leftover
    assert original.is_frozen
    assert names(lab) == {"original"}
    assert original.digest(original.paths) == original.digests
    document = clone(virtomate, *FREEZE)
    assert {item["new"] for item in document["frozen"]} == {False}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_freeze_is_completed_or_undone_by_the_next(
    lab: Lab, original: Original, virtomate: Program, moment: str
) -> None:
    """Whenever a freeze is killed, both definitions agree, the original goes on, and the next run clears up."""
    kill_at(virtomate, moment)
    assert original.is_frozen is (moment in AFTER_THE_MOVE)
    original.write(pattern=80)

    document = clone(virtomate, *FREEZE)

    assert names(lab) == {"original", "clone"}
    disks = original.disks()
    is_second = moment in AFTER_THE_MOVE
    assert {path.name for path in disks.values()} == (
        {"original-overlay-2.qcow2", "data-overlay-2.qcow2"}
        if is_second
        else {"original-overlay.qcow2", "data-overlay.qcow2"}
    )
    assert [chain_length(clone_path(document, target)) for target in disks] == [2 + is_second] * 2
    clones = {clone_path(document, target) for target in disks}
    bases = {Path(item["base"]["path"]) for item in document["frozen"]}
    assert files(lab) == {path.name for path in (*original.paths.values(), *disks.values(), *clones, *bases)}
    original.domain.destroy()
    content = original.content()
    assert content == {target: images.guest_digest(clone_path(document, target), "qcow2") for target in disks}
    original.domain.create()


@pytest.mark.parametrize(
    ("moment", "is_off"), [(MOMENTS[0], False), (AFTER_THE_MOVE[0], False), (AFTER_THE_MOVE[0], True)]
)
def test_killed_freeze_is_cleared_up_by_domain_delete(
    lab: Lab, original: Original, virtomate: Program, moment: str, is_off: bool
) -> None:
    """Deletion of the record completes a freeze of disks that have moved, also if the original was shut off since."""
    before = lab.inventory()
    kill_at(virtomate, moment)
    if moment in AFTER_THE_MOVE:
        original.write()
    if is_off:
        original.domain.destroy()

    result = virtomate("domain-delete", record_of(lab), json=True)

    assert result.status == 0, str(result)
    assert names(lab) == {"original"}
    if moment not in AFTER_THE_MOVE:
        if not is_off:
            unchanged(before, lab)
        assert files(lab) == {path.name for path in original.paths.values()}
        return
    assert original.is_frozen
    assert files(lab) == {path.name for path in (*original.paths.values(), *original.disks().values())}
    assert MARK.search(definition(lab, "original")) is not None
    # the bases are known: what was not written serves again
    if not is_off:
        original.domain.destroy()
    document = cloned(virtomate("domain-clone", "--mode", "linked", "--freeze", "original", "clone", json=True))
    assert [item["new"] for item in document["frozen"]] == [True, False]


def test_overlay_in_use_is_not_deleted(lab: Lab, original: Original, virtomate: Program) -> None:
    """An overlay that only the running domain names is kept, whatever its definition says by now."""
    kill_at(virtomate, AFTER_THE_MOVE[0])
    overlays = original.disks()
    path = original.paths["vda"]
    original.domain.updateDeviceFlags(disk(path), libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    result = virtomate("domain-delete", record_of(lab), json=True)

    assert result.status == 0, str(result)
    assert all(overlay.exists() for overlay in overlays.values())
    original.write()
    assert names(lab) == {"original"}


def test_link_breaks_after_the_move(root_lab: Lab, original: Original, virtomate: Program) -> None:
    """Where the link breaks, the freeze is completed over another one, and leaves no record.

    Whether the program notices the broken link before its next call or by it, and then makes no clone, is open.
    """
    with SshServer(root_lab.directory / "ssh", root_lab.workspace.cache) as server:
        words = ("domain-clone", *FREEZE, "--quiesce", "off", "--trust-pool", "original", "clone")
        program = virtomate.pausing(AFTER_THE_MOVE[0])
        run = program.start(*words, json=True, uri=server.uri(root_lab.hypervisor))
        with paused(run):
            for link in children(run.process.pid):
                os.kill(link, signal.SIGKILL)
        result = run.wait()

    assert result.status in {0, 3}, str(result)
    if result.status == 3:
        (leftover,) = error_of(result)["leftovers"]
        assert "domain 'original', which stays frozen (domain 'original' runs)" in leftover
    assert original.is_frozen
    assert names(root_lab) - {"clone"} == {"original"}
    assert MARK.search(definition(root_lab, "original")) is not None


def plug(original: Original, path: Path) -> None:
    """Plug a disk into the running domain alone."""
    original.domain.attachDeviceFlags(disk(path, target="vdc"), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def test_plugged_disk_is_left_alone(lab: Lab, original: Original, virtomate: Program) -> None:
    """A hot-plugged disk has no place in the definition: it does not move, and is refused where it would be cloned."""
    path = lab.pool.qcow2("plugged.qcow2", 4 * MIB)
    plug(original, path)
    before = lab.inventory()
    words = ("domain-clone", *FREEZE, "--live-devices", "original", "clone")
    error = refused(lab, before, virtomate(*words, json=True))
    assert "disk vdc is not in the definition of domain 'original'" in error["message"]
    assert "--disk vdc=drop" in error["hint"]

    document = clone(virtomate, *FREEZE)

    subjects = [item["subject"] for item in document["notices"] if item["code"] == "without-hot-plugged-device"]
    assert subjects == ["disk vdc"]
    sources = [item.get("file") for item in ET.fromstring(original.domain.XMLDesc(0)).iterfind("devices/disk/source")]
    assert str(path) in sources


def checkpoint(original: Original) -> str:
    """A checkpoint, whose bitmap an overlay would not continue."""
    document = "<disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/>"
    original.domain.checkpointCreateXML(f"<domaincheckpoint><disks>{document}</disks></domaincheckpoint>", 0)
    return "has 1 checkpoint"


def snapshot(original: Original) -> str:
    """A snapshot of the domain that names the overlay which it has made."""
    document = "<disk name='vda' snapshot='external'/><disk name='vdb' snapshot='no'/>"
    original.domain.snapshotCreateXML(
        f"<domainsnapshot><name>monday</name><disks>{document}</disks></domainsnapshot>",
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    original.lab.pool.refresh()
    return "snapshot 'monday' of domain 'original' uses it"


def transient(original: Original) -> str:
    """A domain that libvirt forgets."""
    original.domain.undefine()
    return "is transient"


def other_disk(original: Original) -> str:
    """Another disk in the definition."""
    path = original.lab.pool.qcow2("other.qcow2", 4 * MIB)
    original.domain.updateDeviceFlags(disk(path), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    return "but its definition names"


@pytest.mark.parametrize("obstacle", [checkpoint, snapshot, transient, other_disk])
def test_refusals(lab: Lab, original: Original, virtomate: Program, obstacle: Any) -> None:
    """What stands against the freeze of a running original is named, and nothing is changed."""
    reason = obstacle(original)
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", *FREEZE, "original", "clone", json=True))

    assert reason in error["message"]


def test_block_job(original: Original, virtomate: Program) -> None:
    """A block job of a disk that would move is named."""
    mirror = f"<disk type='file'><source file='{original.lab.pool.path}/mirror.qcow2'/><driver type='qcow2'/></disk>"
    original.domain.blockCopy("vda", mirror, {"bandwidth": 1 << 20}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)

    result = virtomate("domain-clone", *FREEZE, "original", "clone", json=True)

    original.domain.blockJobAbort("vda", 0)
    assert result.status == 1, str(result)
    assert "disk vda of domain 'original' has a block copy running" in error_of(result)["message"]
    assert not original.is_frozen


def test_all_written_disks_are_linked(lab: Lab, original: Original, virtomate: Program) -> None:
    """A copy of another disk would be of another moment."""
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", *FREEZE, "--disk", "vdb=copy", "original", "c", json=True))

    assert "disk vdb is not to be linked" in error["message"]
    document = clone(virtomate, *FREEZE, "--disk", "vdb=drop")
    assert [item["target"] for item in document["frozen"]] == ["vda"]
    assert original.disks()["vdb"] == original.paths["vdb"]


def test_original_that_is_restarted_meanwhile(lab: Lab, original: Original, virtomate: Program) -> None:
    """An original that is shut off since the plan is frozen as it is then."""
    del lab
    run = caught(virtomate, "virStorageVolCreateXML")
    with paused(run):
        original.domain.destroy()
    document = cloned(run.wait())

    assert document["consistency"] == "offline"
    assert original.is_frozen
    assert original.content() == {t: images.guest_digest(clone_path(document, t), "qcow2") for t in original.paths}


def test_what_other_commands_say(lab: Lab, original: Original, virtomate: Program) -> None:
    """Trees, verification, reset and deletion know the overlays of a running original as those of any other."""
    clone(virtomate, *FREEZE)
    original.write()
    overlay = original.disks()["vda"]

    tree = virtomate("domain-list", "--tree").stdout
    assert "original" in tree
    assert "clone" in tree
    verified = virtomate("domain-verify", json=True)
    assert {item["name"]: item["status"] for item in verified.json} == {"clone": "intact", "original": "intact"}
    lab.connection.lookupByName("clone").create()
    lab.connection.lookupByName("clone").destroy()
    assert virtomate("domain-reset", "clone").status == 0
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    assert names(lab) == {"original"}
    assert overlay.exists()
    assert all(path.exists() for path in original.paths.values())
    original.write()


def test_frozen_clone_that_runs_is_whole(lab: Lab, original: Original, virtomate: Program) -> None:
    """The overlays of a running clone that is frozen itself are its own: verified, and deleted with it."""
    original.domain.destroy()
    before = lab.inventory()
    cloned(virtomate("domain-clone", "--mode", "linked", "original", "clone", json=True))
    found = lab.connection.lookupByName("clone")
    found.create()
    cloned(virtomate("domain-clone", *FREEZE, "clone", "of-clone", json=True))

    verified = virtomate("domain-verify", json=True)
    assert verified.status == 0, str(verified)
    found.destroy()
    assert virtomate("domain-delete", "--yes", "clone", "of-clone").status == 0
    unchanged(before, lab)


def define_guest(lab: Lab, words: str) -> None:
    """Define an original whose guest has an agent and writes to two disks."""
    data = lab.pool.path / "original-data.raw"
    make_file_system("ext4", data, 32 * MIB)
    disks = [disk(lab.pool.qcow2("original.qcow2", 64 * MIB)), disk(data, "raw", "vdb")]
    lab.pool.refresh()
    lab.define(domain("original", disks=disks, guest=lab.guest, agent=True, cmdline=words, memory_mib=256))


def require_writing(guest: RunningGuest) -> None:
    """See that a guest writes."""
    written = guest.domain.blockStats("vdb")[3]
    wait_for(lambda: guest.domain.blockStats("vdb")[3] > written, "the guest writes")


def test_guest_goes_on_beside_its_clone(lab: Lab, virtomate: Program) -> None:
    """A guest writes records to two disks in turn: in the clone none before the last is missing, and it goes on."""
    define_guest(lab, "lab.count lab.write")
    with running(lab.connection, "original") as guest:
        require_writing(guest)

        document = clone(virtomate, *FREEZE, "--quiesce", "off")

        require_writing(guest)
        bases = {
            target: images.file_digest(Path(disk_["source"]["path"])) for target, disk_ in by_target(document).items()
        }
        report = boot(lab.hypervisor.connect(), "clone")
        require_writing(guest)
    assert report.records > 0
    assert report.stray == 0
    for target, disk_ in by_target(document).items():
        assert images.file_digest(Path(disk_["source"]["path"])) == bases[target]


def test_file_systems_are_whole(lab: Lab, virtomate: Program) -> None:
    """The file systems of the guest are frozen for the moment, and thawed by whoever comes after a kill."""
    define_guest(lab, "lab.mount")
    with running(lab.connection, "original") as guest:
        guest.wait_for_agent()
        run = virtomate.pausing("freeze").start("domain-clone", *FREEZE, "original", "killed")
        with paused(run):
            assert is_frozen(guest.domain)
            for process in watchdogs(virtomate):
                os.kill(process, signal.SIGKILL)
            run.signal(signal.SIGKILL)
            run.process.wait()
        result = virtomate("domain-delete", record_of(lab))
        assert result.status == 0, str(result)
        assert "thawed the file systems of domain 'original'" in result.stderr
        require_writing(guest)

        document = clone(virtomate, *FREEZE, "--quiesce", "require")

        assert not is_frozen(guest.domain)
        assert mark_of(guest.domain) is None
        assert MARK.search(guest.domain.XMLDesc(0)) is not None
        require_writing(guest)
        assert names(lab) == {"original", "clone"}
    assert document["consistency"] == "filesystem"
    assert document["frozen_seconds"] > 0
    assert not needs_journal(Path(by_target(document)["vdb"]["source"]["path"]))


def require_whole(lab: Lab, guest: RunningGuest) -> int:
    """Make sure that a guest goes on writing and finds everything that it wrote; return how many records it read."""
    connection = lab.hypervisor.connect()
    earlier = guest.hear(connection, lambda _: True)
    report = guest.hear(connection, lambda report: report.checked > earlier.checked)
    assert report.wrong == 0
    return report.checked


@pytest.mark.stress
@pytest.mark.timeout(2400)
def test_guests_write_side_by_side(lab: Lab, virtomate: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """An original that is frozen five times while it writes, and its clones, which write, too, each read their own."""
    define_guest(lab, "lab.write")
    with running(lab.connection, "original") as guest, ExitStack() as stack:
        for number in range(5):
            cloned(virtomate("domain-clone", *FREEZE, "original", f"c-{number}", json=True))
            guests = [guest]
            if number < 3:
                guests.append(stack.enter_context(running(lab.hypervisor.connect(), f"c-{number}")))
            counted = [require_whole(lab, each) for each in guests]
        with capsys.disabled():
            print(f"\nrecords that were read back at last: {counted}")


def sweep(lab: Lab, virtomate: Program, numbers: Sequence[signal.Signals]) -> None:
    """Signal freezes of a guest that writes, at moments spread evenly, and clear up after each with one command."""
    define_guest(lab, "lab.write")
    with running(lab.connection, "original") as guest:
        begin = time.monotonic()
        assert virtomate("domain-clone", *FREEZE, "original", "clone").status == 0
        seconds = time.monotonic() - begin
        assert virtomate("domain-delete", "--yes", "clone").status == 0
        for moment in range(SWEEP_MOMENTS):
            run = virtomate.start("domain-clone", *FREEZE, "original", "clone", json=True)
            time.sleep(1.1 * seconds * moment / (SWEEP_MOMENTS - 1))
            if run.running:
                run.signal(numbers[moment % len(numbers)])
            result = run.wait()
            assert "Traceback" not in result.stderr, str(result)
            if left := names(lab) - {"original"}:
                deleted = virtomate("domain-delete", "--yes", *left, json=True)
                assert deleted.status == 0, str(deleted)
            assert names(lab) == {"original"}
            live, defined = (
                [
                    item.get("file")
                    for item in ET.fromstring(guest.domain.XMLDesc(flags)).iterfind("devices/disk/source")
                ]
                for flags in (0, EVERYTHING)
            )
            assert live == defined
            chains = {str(path) for disk_ in live for path in chain(Path(str(disk_)))}
            assert {str(path) for path in lab.pool.path.iterdir()} == chains
            assert not is_frozen(guest.domain)
        require_whole(lab, guest)


def chain(path: Path) -> list[str]:
    """The paths of an image and of all images below it."""
    words = ("info", "--force-share", "--backing-chain", "--output=json", path)
    return [image["filename"] for image in json.loads(images.qemu_img(*words))]


@pytest.mark.stress
@pytest.mark.timeout(2400)
def test_kills_at_every_moment(lab: Lab, virtomate: Program) -> None:
    """Whenever a freeze is killed, the guest goes on and finds what it wrote, and one command cleans up."""
    sweep(lab, virtomate, [signal.SIGKILL])


@pytest.mark.stress
@pytest.mark.timeout(2400)
def test_signals_at_every_moment(lab: Lab, virtomate: Program) -> None:
    """Likewise, whenever a signal comes."""
    sweep(lab, virtomate, SIGNALS)
