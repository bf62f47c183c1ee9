"""Linked clones of a frozen original: all are used in any order, and no kill or failure loses anything."""

import json
import re
import signal
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.functional.runs import paused, unchanged
from tests.functional.support import clone, clone_path, cloned, definition, image_info, refused
from tests.lab import Inventory, Lab, Program, Result, disk, domain, images, interface, running
from tests.lab.images import MIB
from tests.lab.ordinary_user import OrdinaryUser

FREEZE = ("--mode", "linked", "--freeze")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The calls of libvirt's that a freeze consists of: the record, an overlay, a disk in the definition, the mark.
MOMENTS = ("virDomainRename", "virStorageVolCreateXML", "virDomainUpdateDeviceFlags", "virDomainSetMetadata")
SWEEP_MOMENTS = 30
# What others have written is kept.
NOTE = "<lab:note xmlns:lab='urn:lab'>kept</lab:note>"
MANY = 50


class Original:
    """A domain `original` with a qcow2 and a raw disk, and what its guest reads of them."""

    def __init__(self, lab: Lab, **keywords: Any) -> None:
        self.lab = lab
        self.paths = {
            "vda": lab.pool.qcow2("original.qcow2", 16 * MIB, data_bytes=2 * MIB, marker="the first disk"),
            "vdb": lab.pool.raw("data.raw", 8 * MIB, data_bytes=MIB, marker="the second disk"),
        }
        disks = [disk(self.paths["vda"]), disk(self.paths["vdb"], "raw", "vdb")]
        self.domain = lab.define(domain("original", disks=disks, interfaces=[interface()], metadata=NOTE, **keywords))
        self.before = self.content()

    def disks(self) -> dict[str, tuple[Path, str]]:
        """The paths and formats of the disks in the definition."""
        found = ET.fromstring(definition(self.lab, "original")).findall("devices/disk")
        return {
            str(item.find("target").get("dev")): (  # type: ignore[union-attr]
                Path(str(item.find("source").get("file"))),  # type: ignore[union-attr]
                str(item.find("driver").get("type")),  # type: ignore[union-attr]
            )
            for item in found
        }

    def content(self) -> dict[str, str]:
        """What a guest reads of each disk, as digests."""
        return {target: images.guest_digest(path, format_) for target, (path, format_) in self.disks().items()}

    @property
    def is_frozen(self) -> bool:
        """Whether all disks are overlays on the volumes that they were."""
        return all(path.name.endswith("-overlay.qcow2") for path, _ in self.disks().values())


@pytest.fixture
def original(lab: Lab) -> Original:
    """The original, which is off."""
    return Original(lab)


def chain_length(path: Path) -> int:
    """How many images there are from an image down."""
    return len(json.loads(images.qemu_img("info", "--force-share", "--backing-chain", "--output=json", path)))


def mode_of(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def record_of(original: Original) -> str:
    """The name of the domain that records a freeze."""
    return f"virtomate-freeze-{original.domain.UUIDString()}"


def names(lab: Lab) -> set[str]:
    """The names of all domains."""
    return {found.name() for found in lab.connection.listAllDomains()}


def write(path: Path) -> None:
    """Write to an image as a guest does."""
    images.qemu_io(path, "qcow2", "write -P 77 1M 64k")


def error_of(result: Result) -> Any:
    """The error of the one clone of a run."""
    (attempt,) = result.json
    return attempt["error"]


def test_frozen_original_rests_on_its_former_volumes(lab: Lab, original: Original, virtomate: Program) -> None:
    """The definition has changed in its sources alone, the former volumes are read-only, and all is recorded."""
    text = definition(lab, "original")
    digests = {target: images.file_digest(path) for target, path in original.paths.items()}
    modes = {target: mode_of(path) for target, path in original.paths.items()}

    document = clone(virtomate, *FREEZE)

    assert document["warnings"] == []
    assert [(item["target"], item["new"]) for item in document["frozen"]] == [("vda", True), ("vdb", True)]
    overlays = {item["target"]: Path(item["overlay"]["path"]) for item in document["frozen"]}
    assert [path.name for path in overlays.values()] == ["original-overlay.qcow2", "data-overlay.qcow2"]
    assert original.disks() == {target: (path, "qcow2") for target, path in overlays.items()}
    assert original.content() == original.before
    for target, path in original.paths.items():
        assert images.file_digest(path) == digests[target]
        assert mode_of(path) == modes[target] & ~0o222
        assert mode_of(overlays[target]) == mode_of(clone_path(document, target)) == modes[target]
        assert chain_length(overlays[target]) == chain_length(clone_path(document, target)) == 2
        assert image_info(clone_path(document, target))["full-backing-filename"] == str(path)
        text = text.replace(f"'{path}'", f"'{overlays[target]}'")
    now = re.sub(
        r" *<virtomate-freeze:frozen.*</virtomate-freeze:frozen>\n", "", definition(lab, "original"), flags=re.DOTALL
    )
    assert now == text.replace("type='raw'/>", "type='qcow2'/>")
    assert 'frozen="yes"' in definition(lab, "clone")
    assert "virtomate-freeze:frozen" not in definition(lab, "clone")
    assert names(lab) == {"original", "clone"}


def exec_in(virtomate: Program, name: str, script: str) -> str:
    """Run a shell script in a guest, and return its output."""
    result = virtomate("guest-run", name, "/bin/sh", "-c", script, json=True)
    assert result.status == 0, str(result)
    return str(result.json["stdout"] or "")


def write_in_guest(virtomate: Program, name: str) -> None:
    """Write the domain's name to the beginning and the middle of both disks."""
    places = " ".join(f"{device}:{sector}" for device in ("vda", "vdb") for sector in (0, 8000))
    exec_in(
        virtomate,
        name,
        f"for place in {places}; do printf 'LAB-DISK {name}\\n' | "
        "dd of=/dev/${place%:*} bs=512 seek=${place#*:} conv=sync,fsync 2>/dev/null; done",
    )


def read_in_guest(virtomate: Program, name: str) -> set[str]:
    """Return what stands at these places, read from the disks."""
    places = " ".join(f"{device}:{sector}" for device in ("vda", "vdb") for sector in (0, 8000))
    output = exec_in(
        virtomate,
        name,
        f"echo 3 >/proc/sys/vm/drop_caches; for place in {places}; do "
        "dd if=/dev/${place%:*} bs=512 skip=${place#*:} count=1 2>/dev/null | head -n 1; done",
    )
    return set(output.split("\n")) - {""}


def check_side_by_side(lab: Lab, virtomate: Program, clones: Sequence[str]) -> None:
    """Run an original and its clones at once, write in all of them, and see that each reads its own alone."""
    everyone = ("original", *clones)
    # two threads on one connection would wait for each other
    connections = [lab.hypervisor.connect() for _ in everyone]
    meeting = threading.Barrier(len(everyone))

    def live(connection: Any, name: str) -> set[str]:
        try:
            with running(connection, name) as guest:
                guest.wait_for_agent()
                assert guest.report.markers == {"vda": "the first disk", "vdb": "the second disk"}
                # all run, then all have written, before anybody looks
                meeting.wait()
                write_in_guest(virtomate, name)
                meeting.wait()
                return read_in_guest(virtomate, name)
        except BaseException:
            # the others wait for nobody
            meeting.abort()
            raise

    with ThreadPoolExecutor(len(everyone)) as executor:
        found = list(executor.map(live, connections, everyone))
    assert found == [{f"LAB-DISK {name}"} for name in everyone]


def test_original_and_clones_run_side_by_side(lab: Lab, virtomate: Program) -> None:
    """The original and two clones run at once, all write, and none sees what the others write."""
    original = Original(lab, guest=lab.guest, agent=True)
    digests = {path: images.file_digest(path) for path in original.paths.values()}

    result = virtomate("domain-clone", *FREEZE, "--count", "2", "original", "clone", json=True)

    assert result.status == 0, str(result)
    assert [item["new"] for made in result.json for item in made["frozen"]] == [True] * 4
    check_side_by_side(lab, virtomate, ("clone-1", "clone-2"))
    assert {path: images.file_digest(path) for path in original.paths.values()} == digests


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_original_and_ten_clones_run_side_by_side(lab: Lab, virtomate: Program) -> None:
    """The same with ten clones."""
    Original(lab, guest=lab.guest, agent=True)
    assert virtomate("domain-clone", *FREEZE, "--count", "10", "original", "clone").status == 0

    check_side_by_side(lab, virtomate, [f"clone-{number}" for number in range(1, 11)])


def freeze_often(lab: Lab, virtomate: Program, times: int) -> None:
    """Freeze again and again; no chain grows while the original is not written to."""
    del lab
    for number in range(times):
        document = cloned(virtomate("domain-clone", *FREEZE, "original", f"clone-{number}", json=True))
        assert {item["new"] for item in document["frozen"]} == {number == 0}
        assert document["warnings"] == []
        assert chain_length(clone_path(document)) == chain_length(Path(document["frozen"][0]["overlay"]["path"])) == 2
        # as if the base had never been frozen
        assert mode_of(clone_path(document)) & stat.S_IWUSR


@pytest.mark.usefixtures("original")
def test_base_serves_again(lab: Lab, virtomate: Program) -> None:
    """While the overlays hold nothing, clones rest on the same bases."""
    freeze_often(lab, virtomate, 3)


@pytest.mark.stress
@pytest.mark.usefixtures("original")
def test_base_serves_fifty_times(lab: Lab, virtomate: Program) -> None:
    """The same, fifty times."""
    freeze_often(lab, virtomate, MANY)


def test_overlay_that_was_written_to_becomes_a_base(original: Original, virtomate: Program) -> None:
    """A disk whose overlay holds something is frozen with it; the other disk's base serves again."""
    clone(virtomate, *FREEZE)
    write(original.disks()["vda"][0])
    content = original.content()

    document = cloned(virtomate("domain-clone", *FREEZE, "original", "second", json=True))

    assert [(item["target"], item["new"]) for item in document["frozen"]] == [("vda", True), ("vdb", False)]
    assert [path.name for path, _ in original.disks().values()] == ["original-overlay-2.qcow2", "data-overlay.qcow2"]
    assert [chain_length(clone_path(document, target)) for target in ("vda", "vdb")] == [3, 2]
    # as if the original had never been frozen
    assert [clone_path(document, target).name for target in ("vda", "vdb")] == ["second.qcow2", "second-data.qcow2"]
    assert original.content() == content
    assert {t: images.guest_digest(clone_path(document, t), "qcow2") for t in content} == content
    assert not mode_of(original.disks()["vda"][0].with_name("original-overlay.qcow2")) & 0o222


def test_overlay_on_another_base_is_frozen(original: Original, virtomate: Program) -> None:
    """An empty overlay that rests on another image by now, or on none, becomes a base itself."""
    clone(virtomate, *FREEZE)
    copy = original.lab.pool.path / "moved.qcow2"
    copy.write_bytes(original.paths["vda"].read_bytes())
    overlay = original.disks()["vda"][0]
    images.qemu_img("rebase", "-u", "-b", copy, "-F", "qcow2", overlay)
    original.lab.pool.refresh()

    document = cloned(virtomate("domain-clone", *FREEZE, "original", "second", json=True))

    assert [(item["target"], item["new"]) for item in document["frozen"]] == [("vda", True), ("vdb", False)]
    assert image_info(clone_path(document))["full-backing-filename"] == str(overlay)


def test_only_linked_disks_are_frozen(original: Original, virtomate: Program) -> None:
    """A disk that is copied stays where it is."""
    document = clone(virtomate, "--disk", "vda=linked", "--freeze")

    assert [item["target"] for item in document["frozen"]] == ["vda"]
    assert original.disks()["vdb"] == (original.paths["vdb"], "raw")
    assert mode_of(original.paths["vdb"]) & stat.S_IWUSR


def test_disks_of_type_volume_are_frozen(lab: Lab, virtomate: Program) -> None:
    """A disk that names its pool and volume names them afterwards, too."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    source = f"<disk type='volume' device='disk'><source pool='{lab.pool.name}' volume='{path.name}'/>"
    lab.define(domain("original", disks=[f"{source}<target dev='vda' bus='virtio'/></disk>"]))

    clone(virtomate, *FREEZE)

    assert f"<source pool='{lab.pool.name}' volume='original-overlay.qcow2'/>" in definition(lab, "original")


def test_preview_says_what_would_be_frozen(lab: Lab, original: Original, virtomate: Program) -> None:
    """--dry-run names the overlays, and changes nothing."""
    before = lab.inventory()

    result = virtomate("domain-clone", "--dry-run", *FREEZE, "original", "clone")

    assert result.status == 0
    overlay = original.paths["vda"].with_name("original-overlay.qcow2")
    assert f"original  vda moves to {overlay}" in result.stdout
    unchanged(before, lab)


def other_domain(original: Original) -> str:
    """Another domain has a disk of the original."""
    original.lab.define(domain("other", disks=[disk(original.paths["vda"])]))
    return "domain 'other' uses it"


def internal_snapshot(original: Original) -> str:
    """A snapshot inside of the image, which libvirt does not know."""
    images.qemu_img("snapshot", "-c", "monday", original.paths["vda"])
    return "has 1 snapshot inside"


def external_snapshot(original: Original) -> str:
    """A snapshot of the domain that names the overlay which it has made."""
    original.domain.snapshotCreateXML(
        "<domainsnapshot><name>monday</name><disks><disk name='vda' snapshot='external'/>"
        "<disk name='vdb' snapshot='external'/></disks></domainsnapshot>",
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    original.lab.pool.refresh()
    return "snapshot 'monday' of domain 'original' uses it"


def saved_state(original: Original) -> str:
    """A managed-save image."""
    original.domain.create()
    original.domain.managedSave()
    return "has a managed-save image"


def checkpoint(original: Original) -> str:
    """A checkpoint, whose bitmap an overlay would not continue."""
    original.domain.create()
    document = "<disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/>"
    original.domain.checkpointCreateXML(f"<domaincheckpoint><disks>{document}</disks></domaincheckpoint>", 0)
    original.domain.destroy()
    return "has 1 checkpoint"


@pytest.mark.parametrize("obstacle", [other_domain, internal_snapshot, external_snapshot, saved_state, checkpoint])
def test_volumes_that_somebody_may_write_to_are_no_bases(
    lab: Lab, original: Original, virtomate: Program, obstacle: Any
) -> None:
    """Whatever may write to a volume later refuses the freeze, and nothing is changed."""
    reason = obstacle(original)
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", *FREEZE, "original", "clone", json=True))

    assert reason in error["message"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_takes_the_freeze_back(lab: Lab, original: Original, virtomate: Program, number: signal.Signals) -> None:
    """Without a clone, the original is as it was before."""
    before = lab.inventory()
    run = virtomate.pausing("virDomainSetMetadata").start("domain-clone", *FREEZE, "original", "clone", json=True)
    with paused(run):
        assert original.is_frozen
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    assert "leftovers" not in error_of(result)
    unchanged(before, lab)


def started(original: Original) -> str:
    """The original runs meanwhile."""
    original.domain.create()
    return "domain 'original' runs"


def written_to(original: Original) -> str:
    """An overlay was written to meanwhile."""
    write(original.disks()["vda"][0])
    return "was written to"


def linked_to(original: Original) -> str:
    """Somebody else made an overlay on an overlay meanwhile."""
    path = original.disks()["vda"][0]
    original.lab.pool.overlay("other.qcow2", path)
    return "other.qcow2' rests on"


@pytest.mark.parametrize("event", [started, written_to, linked_to])
def test_freeze_stays_where_it_cannot_be_taken_back(
    lab: Lab, original: Original, virtomate: Program, event: Any
) -> None:
    """An original that was used since stays frozen, which is told, and is complete."""
    run = virtomate.pausing("virDomainSetMetadata").start("domain-clone", *FREEZE, "original", "clone", json=True)
    with paused(run):
        reason = event(original)
        run.signal(signal.SIGINT)
    result = run.wait()

    assert result.status == 3, str(result)
    (leftover,) = error_of(result)["leftovers"]
    assert "domain 'original', which stays frozen" in leftover
    assert reason in leftover
    assert original.is_frozen
    assert names(lab) == {"original"}
    if original.domain.isActive():
        original.domain.destroy()
    document = clone(virtomate, *FREEZE)
    assert [item["new"] for item in document["frozen"]] == [reason == "was written to", False]


def kill_at(virtomate: Program, moment: str) -> None:
    """Kill a freeze right after a call of libvirt's."""
    run = virtomate.pausing(moment).start("domain-clone", *FREEZE, "original", "clone", json=True)
    with paused(run):
        run.signal(signal.SIGKILL)
        run.process.wait()


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_freeze_is_completed_or_undone_by_the_next(
    lab: Lab, original: Original, virtomate: Program, moment: str
) -> None:
    """The original reads what it read before, can be started, and the next run finds everything as it has to be."""
    kill_at(virtomate, moment)
    assert original.content() == original.before
    original.domain.create()
    original.domain.destroy()

    document = clone(virtomate, *FREEZE)

    assert original.is_frozen
    assert original.content() == original.before
    assert names(lab) == {"original", "clone"}
    overlays = {path for path, _ in original.disks().values()}
    clones = {clone_path(document, target) for target in original.paths}
    assert set(lab.pool.path.iterdir()) == {*original.paths.values(), *overlays, *clones}
    assert [chain_length(clone_path(document, target)) for target in ("vda", "vdb")] == [2, 2]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_freeze_is_cleared_up_by_domain_delete(
    lab: Lab, original: Original, virtomate: Program, moment: str
) -> None:
    """Deletion of the record removes overlays that are no disks, and completes the freeze of disks that are."""
    before = lab.inventory()
    kill_at(virtomate, moment)
    (record,) = names(lab) - {"original"}

    result = virtomate("domain-delete", record, json=True)

    assert result.status == 0, str(result)
    assert original.content() == original.before
    if moment in MOMENTS[:2]:
        unchanged(before, lab)
        return
    assert names(lab) == {"original"}
    moved = {path for path, _ in original.disks().values()}
    assert set(lab.pool.path.iterdir()) == moved | set(original.paths.values())
    document = clone(virtomate, *FREEZE)
    assert original.is_frozen
    assert chain_length(clone_path(document)) == 2


def test_data_of_an_original_that_was_undefined_stays(lab: Lab, original: Original, virtomate: Program) -> None:
    """After a freeze that was killed, no deletion of its record loses what the original has written since."""
    kill_at(virtomate, MOMENTS[2])
    (record,) = names(lab) - {"original"}
    overlay, _ = original.disks()["vda"]
    write(overlay)
    text = definition(lab, "original")
    original.domain.undefine()
    before = lab.inventory()

    result = virtomate("domain-delete", record, json=True)

    assert result.status == 1, str(result)
    assert str(overlay) in result.json["message"]
    assert "vol-delete" in result.json["hint"]
    unchanged(before, lab)
    original.domain = lab.define(text)
    assert virtomate("domain-delete", record).status == 0
    assert names(lab) == {"original"}
    assert overlay.exists()


def sweep(
    lab: Lab, virtomate: Program, original: Original, numbers: Sequence[signal.Signals]
) -> Iterator[tuple[Result, dict[str, tuple[Path, str]]]]:
    """Signal runs at moments spread evenly from beginning to end, and clear up after each with one command.

    Yields:
        How a run ended, and the original's disks before it.
    """
    measured = virtomate("domain-clone", *FREEZE, "original", "clone", json=True)
    assert measured.status == 0
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    for moment in range(SWEEP_MOMENTS):
        write(original.disks()["vda"][0])
        content, disks = original.content(), original.disks()
        run = virtomate.start("domain-clone", *FREEZE, "original", "clone", json=True)
        time.sleep(1.2 * measured.seconds * moment / (SWEEP_MOMENTS - 1))
        if run.running:
            run.signal(numbers[moment % len(numbers)])
        result = run.wait()
        assert original.content() == content
        yield result, disks
        left = names(lab) - {"original"}
        if left:
            deleted = virtomate("domain-delete", "--yes", *left, json=True)
            assert deleted.status == 0, str(deleted)
        assert names(lab) == {"original"}
        assert original.content() == content
        original.domain.create()
        original.domain.destroy()


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_kills_at_every_moment(lab: Lab, original: Original, virtomate: Program) -> None:
    """Whenever a freeze is killed, the original reads what it read before, and one command cleans up."""
    for _ in sweep(lab, virtomate, original, [signal.SIGKILL]):
        pass


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_signals_at_every_moment(lab: Lab, original: Original, virtomate: Program) -> None:
    """Whenever a signal comes, there is a clone, or nothing is left of the freeze."""
    statuses = set()
    for result, disks in sweep(lab, virtomate, original, SIGNALS):
        if not result.stdout:
            continue
        # a refusal before anything was begun is an object of its own
        attempt = result.json[0] if isinstance(result.json, list) else {"status": "interrupted", "error": result.json}
        statuses.add(attempt["status"])
        if attempt["status"] != "cloned":
            assert "leftovers" not in attempt["error"]
            assert names(lab) == {"original"}
            assert original.disks() == disks
    assert statuses == {"cloned", "interrupted"}


@pytest.mark.usefixtures("original")
def test_two_freezes_at_once(lab: Lab, virtomate: Program) -> None:
    """The second run waits for the first one's freeze, and its clone rests on the same bases."""
    first = virtomate.pausing("virStorageVolCreateXML").start("domain-clone", *FREEZE, "original", "one", json=True)
    with paused(first):
        second = virtomate.start("domain-clone", *FREEZE, "original", "two", json=True)
        time.sleep(0.5)
        assert second.running
    documents = [cloned(run.wait()) for run in (first, second)]

    assert [[item["new"] for item in document["frozen"]] for document in documents] == [[True] * 2, [False] * 2]
    assert names(lab) == {"original", "one", "two"}
    assert [chain_length(clone_path(document)) for document in documents] == [2, 2]


def test_disks_that_change_meanwhile(original: Original, virtomate: Program) -> None:
    """A disk that is taken out of the definition during the freeze takes the freeze back, and all is planned anew."""
    run = virtomate.pausing("virDomainUpdateDeviceFlags").start("domain-clone", *FREEZE, "original", "clone", json=True)
    with paused(run):
        text = f"<disk type='file'><source file='{original.paths['vdb']}'/><target dev='vdb' bus='virtio'/></disk>"
        original.domain.detachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    document = cloned(run.wait())

    assert [(item["target"], item["new"]) for item in document["frozen"]] == [("vda", True)]
    assert {path.name for path in original.lab.pool.path.iterdir()} == {
        *("original.qcow2", "data.raw", "original-overlay.qcow2", "clone.qcow2")
    }


def test_several_clones_need_one_freeze(lab: Lab, original: Original, virtomate: Program) -> None:
    """The disks move once, and the table of clones is followed by where they went."""
    result = virtomate("domain-clone", *FREEZE, "--count", "3", "original", "clone")

    assert result.status == 0, str(result)
    overlays = [path for path, _ in original.disks().values()]
    assert result.stdout.splitlines()[-2:] == [
        f"{target} of the original moved to {path}" for target, path in zip(("vda", "vdb"), overlays, strict=True)
    ]
    assert [path.name for path in overlays] == ["original-overlay.qcow2", "data-overlay.qcow2"]
    assert names(lab) == {"original", "clone-1", "clone-2", "clone-3"}


def test_who_cannot_open_the_files_freezes_over_the_connection(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Overlays are made and looked into over the connection; the write bits stay, which is said once for a base."""
    path = nobody.pool.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    path.chmod(0o600)
    nobody.pool.refresh()
    root_lab.define(domain("original", disks=[disk(path)]))
    overlay = path.with_name("original-overlay.qcow2")

    first, second = (cloned(nobody("domain-clone", *FREEZE, "original", name)) for name in ("first", "second"))
    write(overlay)
    third = cloned(nobody("domain-clone", *FREEZE, "original", "third"))

    assert [document["frozen"][0]["new"] for document in (first, second, third)] == [True, False, True]
    assert [chain_length(clone_path(document)) for document in (first, second, third)] == [2, 2, 3]
    assert first["warnings"] == second["warnings"]
    (warning,) = first["warnings"]
    assert f"the base '{path}' keeps its write permission (its file belongs to another user)" in warning
    assert [notice["subject"] for notice in third["notices"] if notice["code"] == "writable-base"] == [str(overlay)]
    assert mode_of(path) == mode_of(overlay) == 0o600


def test_base_outlives_clone_and_original(lab: Lab, original: Original, virtomate: Program) -> None:
    """Deletion of a clone leaves the bases; a clone goes on without the definition of its original."""
    clone(virtomate, *FREEZE)
    document = cloned(virtomate("domain-clone", *FREEZE, "original", "second", json=True))
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    original.domain.undefine()

    assert images.guest_digest(clone_path(document), "qcow2") == original.before["vda"]
    lab.connection.lookupByName("second").create()
    lab.connection.lookupByName("second").destroy()
    deleted = virtomate("domain-delete", "--yes", "second", json=True)

    assert deleted.status == 0, str(deleted)
    assert all(path.exists() for path in original.paths.values())


def test_clone_that_was_frozen_can_be_deleted(lab: Lab, original: Original, virtomate: Program) -> None:
    """The overlays of a clone that was frozen are its own, like its volumes, which go with the last one on them."""
    before = lab.inventory()
    clone(virtomate)
    document = cloned(virtomate("domain-clone", *FREEZE, "clone", "of-clone", json=True))
    assert original.content() == original.before

    first = virtomate("domain-delete", "--yes", "clone", json=True)
    assert first.status == 0, str(first)
    assert images.guest_digest(clone_path(document), "qcow2") == original.before["vda"]
    deleted = virtomate("domain-delete", "--yes", "of-clone", json=True)

    assert deleted.status == 0, str(deleted)
    unchanged(before, lab)


def test_clone_gets_its_record_back_with_the_freeze(lab: Lab, original: Original, virtomate: Program) -> None:
    """The undo of the freeze of a clone leaves its record as it was."""
    del original
    clone(virtomate)
    before = lab.inventory()
    run = virtomate.pausing("virDomainSetMetadata").start("domain-clone", *FREEZE, "clone", "of-clone", json=True)
    with paused(run):
        run.signal(signal.SIGINT)
    assert run.wait().status == -signal.SIGINT

    unchanged(before, lab)


def test_running_original_is_frozen_with_shutdown(lab: Lab, virtomate: Program) -> None:
    """--shutdown starts the original again although the clone is linked: it runs on its overlay."""
    path = lab.pool.qcow2("original.qcow2", 64 * MIB, marker="the only disk")
    original = lab.define(domain("original", disks=[disk(path)], guest=lab.guest, agent=True))
    with running(lab.connection, "original") as guest:
        guest.wait_for_agent()
        document = clone(virtomate, *FREEZE, "--shutdown", "--shutdown-timeout", "100")
        assert document["restarted"] is True
        assert original.isActive()
        assert "original-overlay.qcow2" in original.XMLDesc(0)
    assert images.guest_digest(clone_path(document), "qcow2") == images.guest_digest(path, "qcow2")


def test_freeze_of_running_original_is_refused(lab: Lab, original: Original, virtomate: Program) -> None:
    """An original that runs needs --shutdown."""
    original.domain.create()
    before: Inventory = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", *FREEZE, "original", "clone", json=True))

    assert "is running, and must be shut off" in error["message"]
