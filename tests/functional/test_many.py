"""Several clones in one command."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import make_big_source, paused, reaching, start_clone, unchanged
from tests.functional.support import EVERYTHING, boot_all, image_info, pool_on
from tests.lab import Lab, Program, Result, disk, domain, images, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from virtomate.cancel import CancelToken
from virtomate.enums import Mode
from virtomate.errors import ConflictError, InterruptedBySignalError
from virtomate.hypervisor.domains import check_definition
from virtomate.hypervisor.session import open_session
from virtomate.progress import Progress
from virtomate.services.clone.run import clone_domains, preview_clones, preview_definitions
from virtomate.services.clone_records import CloneRequest, DiskOptions
from virtomate.services.transaction import Run, claim

UUID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"

MODES = {"copy": "ext4", "linked": "ext4", "reflink": "xfs"}


def make_original(lab: Lab, file_system: str = "ext4", name: str = "original") -> Path:
    """Define a domain with a small qcow2 disk and two interfaces, and return the disk's path."""
    path = pool_on(lab, file_system).qcow2(f"{name}.qcow2", 32 * MIB, data_bytes=2 * MIB)
    lab.define(domain(name, disks=[disk(path)], interfaces=[interface(), interface()]))
    return path


def complete(result: Result) -> list[Any]:
    """Return what a run says of its clones, all of which must be there."""
    assert result.status == 0, str(result)
    assert [clone["status"] for clone in result.json] == ["cloned"] * len(result.json)
    return list(result.json)


def names(lab: Lab) -> list[str]:
    """Return the names of all domains, in order."""
    return sorted(found.name() for found in lab.connection.listAllDomains())


@pytest.mark.parametrize("mode", MODES)
def test_several_clones(lab: Lab, virtomate: Program, mode: str) -> None:
    """Clones made in one command share nothing, are told in the order given, and are as good as one made alone."""
    path = make_original(lab, MODES[mode])
    before = lab.inventory()
    wanted = [f"web-{number}" for number in (7, 3, 1, 2, 5, 4, 6)]

    clones = complete(virtomate("domain-clone", "--mode", mode, "--jobs", "3", "original", *wanted, json=True))
    alone = complete(virtomate("domain-clone", "--mode", mode, "original", "alone", json=True))[0]

    assert [clone["name"] for clone in clones] == wanted
    assert len({clone["uuid"] for clone in clones}) == len(wanted)
    assert len({item["mac"] for clone in clones for item in clone["interfaces"]}) == 2 * len(wanted)
    for clone in clones:
        new, single = clone["disks"][0], alone["disks"][0]
        assert {key: new[key] for key in ("action", "transfer", "subclusters", "capacity")} == {
            key: single[key] for key in ("action", "transfer", "subclusters", "capacity")
        }
        copy = Path(new["clone"]["path"])
        assert images.same_content(path, "qcow2", copy, "qcow2")
        information, like = image_info(copy), image_info(Path(single["clone"]["path"]))
        for key in ("virtual-size", "cluster-size", "format-specific", "backing-filename"):
            assert information.get(key) == like.get(key)
        assert copy.stat().st_mode == path.stat().st_mode
        # libvirt knows what it is, without being asked to look again
        volume = lab.connection.storageVolLookupByPath(str(copy))
        assert "<format type='qcow2'/>" in volume.XMLDesc(0)
    listed = {item["name"]: item["clone"] for item in virtomate("domain-list", json=True).json}
    assert {listed[name]["status"] for name in wanted} == {"finished"}
    assert lab.inventory().domains["original"] == before.domains["original"]


def test_linked_clones_boot(lab: Lab, virtomate: Program) -> None:
    """Overlays made by the dozen boot side by side with the original's content, and write to their own."""
    path = lab.pool.qcow2("original.qcow2", marker="original")
    lab.define(domain("original", disks=[disk(path)], interfaces=[interface()], guest=lab.guest))

    clones = complete(
        virtomate("domain-clone", "--mode", "linked", "--count", "6", "--jobs", "1", "original", "web", json=True)
    )

    assert [clone["name"] for clone in clones] == [f"web-{number}" for number in range(1, 7)]
    # the first overlay is made by qemu-img, the last one by the mould
    reports = boot_all(lab, "web-1", "web-6")
    for clone, report in zip((clones[0], clones[-1]), reports, strict=True):
        assert report.markers == {"vda": "original"}
        assert report.uuid == clone["uuid"]
        assert report.macs == [clone["interfaces"][0]["mac"]]


def test_one_refusal_refuses_all(lab: Lab, virtomate: Program) -> None:
    """When one clone of several cannot be made, none is, and that is one error."""
    make_original(lab)
    lab.define(domain("web-2"))
    lab.define(domain("web-3"))
    (lab.pool.path / "db-3.qcow2").write_bytes(b"precious")
    before = lab.inventory()

    domain_taken = virtomate("domain-clone", "--count", "3", "original", "web", json=True)
    volume_taken = virtomate("domain-clone", "--count", "3", "original", "db", json=True)
    twice = virtomate("domain-clone", "original", "a", "b", "a", json=True)
    unusable = virtomate("domain-clone", "original", "a", "b/c", json=True)

    assert (domain_taken.status, domain_taken.json["type"]) == (1, "Conflict")
    assert domain_taken.json["message"] == "there are already domains 'web-2' and 'web-3'"
    assert (volume_taken.status, volume_taken.json["type"]) == (1, "Conflict")
    assert "'db-3.qcow2'" in volume_taken.json["message"]
    assert (twice.status, twice.stdout) == (2, "")
    assert "'a' is given twice" in twice.stderr
    assert (unusable.status, unusable.stdout) == (2, "")
    unchanged(before, lab)


def test_a_failed_clone_leaves_the_others(lab: Lab, virtomate: Program) -> None:
    """A clone that fails is undone alone; the others stay, and each is told in its place."""
    path = make_big_source(lab, lab.pool)
    watched = start_clone(virtomate, "--jobs", "1", "big", "a", "b", "c", moment="a/vda")
    with paused(watched.run):
        # while the first one is copied, somebody takes the second one's volume name
        (lab.pool.path / "b.raw").write_bytes(b"precious")
    result = watched.run.wait()

    assert result.status == 1, str(result)
    assert [(clone["name"], clone["status"]) for clone in result.json] == [
        ("a", "cloned"),
        ("b", "failed"),
        ("c", "cloned"),
    ]
    assert result.json[1]["error"]["type"] == "Conflict"
    assert "leftovers" not in result.json[1]["error"]
    assert (lab.pool.path / "b.raw").read_bytes() == b"precious"
    assert names(lab) == ["a", "big", "c"]
    assert all(images.same_content(path, "raw", lab.pool.path / f"{name}.raw", "raw") for name in "ac")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """Clones that are complete stay, those in the making are undone, and the rest are not begun."""
    path = make_big_source(lab, lab.pool)
    watched = start_clone(virtomate, "--jobs", "1", "big", "a", "b", "c", moment="b/vda")
    with paused(watched.run):
        watched.run.signal(number)
    result = watched.run.wait()

    assert result.status == -number, str(result)
    assert [(clone["name"], clone["status"]) for clone in result.json] == [
        ("a", "cloned"),
        ("b", "interrupted"),
        ("c", "interrupted"),
    ]
    assert {clone["error"]["type"] for clone in result.json[1:]} == {"Interrupted"}
    assert names(lab) == ["a", "big"]
    assert lab.pool.volumes() == ["a.raw", "big.raw"]
    assert images.same_content(path, "raw", lab.pool.path / "a.raw", "raw")


def test_killed_in_the_middle(lab: Lab, virtomate: Program) -> None:
    """After kill -9 every clone that was being made is an unfinished one that goes away with what was made for it."""
    store = lab.make_directory("vars") / "big_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    path = lab.pool.raw("big.raw", 320 * MIB, extents=[(offset, MIB) for offset in range(0, 256 * MIB, MIB)])
    lab.define(domain("big", disks=[disk(path, "raw")], firmware=nvram(store)))
    before = lab.inventory()
    watched = start_clone(virtomate, "--jobs", "2", "big", "a", "b", "c", moment="a/vda,b/vda")
    with paused(watched.run):
        watched.run.signal(signal.SIGKILL)
    watched.run.wait()

    listed = {item["name"]: item["clone"] for item in virtomate("domain-list", json=True).json}
    unfinished = sorted(name for name, clone in listed.items() if clone is not None)
    assert unfinished == ["a", "b"]
    assert {listed[name]["status"] for name in unfinished} == {"unfinished"}
    for name in unfinished:
        result = virtomate("domain-delete", name)
        assert result.status == 0, str(result)
    lab.pool.refresh()
    unchanged(before, lab)


def test_nvram_outside_of_pools(lab: Lab, virtomate: Program) -> None:
    """Clones made side by side share the pool that is needed for their NVRAM, and none is left of it."""
    store = lab.make_directory("vars") / "original_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    path = lab.pool.qcow2("original.qcow2", 8 * MIB)
    lab.define(domain("original", disks=[disk(path)], firmware=nvram(store)))
    pools = lab.inventory().pools.keys()

    clones = complete(virtomate("domain-clone", "--mode", "linked", "--count", "9", "original", "web-{:02}", json=True))

    assert [clone["name"] for clone in clones] == [f"web-{number:02}" for number in range(1, 10)]
    for clone in clones:
        assert clone["nvram"] == {
            "action": "copied",
            "source": str(store),
            "clone": str(store.parent / f"{clone['name']}_VARS.fd"),
            "format": "raw",
        }
        assert Path(clone["nvram"]["clone"]).read_bytes() == store.read_bytes()
    assert lab.inventory().pools.keys() == pools


def test_daemon_that_dies_in_the_middle(lab: Lab, virtomate: Program) -> None:
    """What was complete stays, what was in the making is named, and what was not begun leaves nothing to clean up."""
    path = make_big_source(lab, lab.pool)
    before = lab.inventory()
    watched = start_clone(virtomate, "--jobs", "1", "big", "a", "b", "c", moment="b/vda")
    with paused(watched.run):
        lab.hypervisor.kill()
    result = watched.run.wait()
    lab.hypervisor.start()

    assert result.status == 3, str(result)
    assert [clone["status"] for clone in result.json] == ["cloned", "failed", "failed"]
    first, second, third = result.json
    assert "error" not in first
    assert any(str(lab.pool.path / "b.raw") in item for item in second["error"]["leftovers"])
    assert reaching(lab.uri, "virtomate domain-delete b") in second["error"]["hint"]
    assert "leftovers" not in third["error"], third
    assert names(lab) == ["a", "b", "big"]
    assert images.same_content(path, "raw", lab.pool.path / "a.raw", "raw")
    assert virtomate("domain-delete", "--yes", "a", "b").status == 0
    unchanged(before, lab)


def test_full_disk_in_the_middle(root_lab: Lab, virtomate: Program) -> None:
    """Where there is no space for all, those that fit are complete, and nothing is left of the others."""
    pool = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    path = pool.raw("original.raw", 20 * MIB, data_bytes=20 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))

    result = virtomate("domain-clone", "--no-space-check", "--count", "6", "--jobs", "2", "original", "web", json=True)

    assert result.status == 1, str(result)
    by_status: dict[str, list[str]] = {}
    for clone in result.json:
        by_status.setdefault(clone["status"], []).append(clone["name"])
        assert clone["status"] == "cloned" or clone["error"]["type"] == "NoSpaceError", clone
        assert "leftovers" not in clone.get("error", {})
    assert by_status["cloned"]
    assert by_status["failed"]
    assert names(root_lab) == sorted([*by_status["cloned"], "original"])
    assert pool.volumes() == sorted([*(f"{name}.raw" for name in by_status["cloned"]), "original.raw"])
    for name in by_status["cloned"]:
        assert images.same_content(path, "raw", pool.path / f"{name}.raw", "raw")


class Meanwhile(CancelToken):
    """A token that does something, once, between the plan of a clone and its claim."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act: Callable[[], object] | None = act

    def check(self) -> None:
        """Look, and act if a clone is about to be made."""
        if threading.current_thread().name.startswith("clone-") and self._act is not None:
            act, self._act = self._act, None
            act()
        super().check()


@pytest.mark.parametrize("name", ["web", "other"])
def test_uuid_that_is_taken_meanwhile(lab: Lab, virtomate: Program, name: str) -> None:
    """Who asks for the same UUID, and even the same name, at the same time gets a conflict and harms nobody."""
    make_original(lab)
    rival = ("domain-clone", "--mode", "linked", "--uuid", UUID, "original", name)
    cancel = Meanwhile(lambda: complete(virtomate(*rival, json=True)))

    with open_session(lab.uri) as session, pytest.raises(ConflictError, match="'web'" if name == "web" else UUID):
        clone_domains(Run(session, session, Progress(), cancel), CloneRequest("original", ("web",), uuid=UUID))

    assert names(lab) == sorted(["original", name])
    (listed,) = (item for item in virtomate("domain-list", json=True).json if item["name"] == name)
    assert (listed["uuid"], listed["clone"]["status"]) == (UUID, "finished")
    assert lab.pool.volumes() == sorted(["original.qcow2", f"{name}.qcow2"])


def test_name_that_is_taken_meanwhile(lab: Lab, virtomate: Program) -> None:
    """An automatic name that another run takes gives way to the next one, and what was asked for stays."""
    make_original(lab)
    cancel = Meanwhile(lambda: complete(virtomate("domain-clone", "--auto-name", "original", json=True)))
    request = CloneRequest("original", auto_names=1, uuid=UUID, disks=(DiskOptions("vda", name="root.qcow2"),))

    with open_session(lab.uri) as session:
        (made,) = clone_domains(Run(session, session, Progress(), cancel), request)

    assert (made.status, made.name, made.uuid) == ("cloned", "original-clone-2", UUID)
    assert made.disks[0].clone.volume == "root.qcow2"
    # the volume of the next one's name is taken, and the name that was asked for is not
    make_pair(lab)
    (lab.pool.path / "pair-clone-data.qcow2").write_bytes(b"precious")
    words = ("--mode", "linked", "--auto-name", "--disk", "vda=name=pair-root.qcow2")
    assert complete(virtomate("domain-clone", *words, "pair", json=True))[0]["name"] == "pair-clone-2"


def make_pair(lab: Lab) -> None:
    """Define a domain with two disks."""
    paths = [lab.pool.qcow2(name, 4 * MIB) for name in ("pair.qcow2", "pair-data.qcow2")]
    lab.define(domain("pair", disks=[disk(paths[0]), disk(paths[1], target="vdb")]))


@pytest.mark.parametrize("preview", [preview_clones, preview_definitions])
def test_signal_during_a_preview(lab: Lab, preview: Callable[..., object]) -> None:
    """Plans of many clones take a while, and a signal ends them."""
    make_original(lab)
    cancel = CancelToken()
    cancel.interrupt(signal.SIGINT)

    with open_session(lab.uri) as session, pytest.raises(InterruptedBySignalError):
        preview(Run(session, session, Progress(), cancel), CloneRequest("original", ("a", "b")))


def test_original_that_vanishes_during_a_preview(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """--print-xml has libvirt judge a definition without defining it, also where the original is not there any more."""
    make_original(lab)
    lab.define(domain("bystander"))
    original = lab.connection.lookupByName("original")

    def vanish_and_check(*words: Any) -> None:
        original.undefine()
        # it raises where it finds that something was defined
        check_definition(*words)

    monkeypatch.setattr("virtomate.services.transaction.claim.check_definition", vanish_and_check)
    with open_session(lab.uri) as session:
        (planned,) = preview_definitions(
            Run(session, session, Progress(), CancelToken()), CloneRequest("original", ("web",))
        )

    assert "<name>web</name>" in (planned.definition or "")
    assert names(lab) == ["bystander"]


def test_fewer_threads_than_wanted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no more threads, those that there are make all clones."""
    make_original(lab)
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("clone-"):
            if started:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with open_session(lab.uri) as session:
        results = clone_domains(
            Run(session, session, Progress(), CancelToken()), CloneRequest("original", ("a", "b", "c"))
        )

    assert [result.status for result in results] == ["cloned"] * 3


def test_mistake_of_ours_fails_the_clone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in the thread of a clone is told, and nobody waits for it forever."""
    make_original(lab)
    before = lab.inventory()

    def fail() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(claim, "this_process", fail)
    with open_session(lab.uri) as session:
        results = clone_domains(Run(session, session, Progress(), CancelToken()), CloneRequest("original", ("a", "b")))

    assert [result.status for result in results] == ["failed"] * 2
    assert all("Too many open files" in str(result.error) for result in results)
    unchanged(before, lab)


def test_mistake_of_ours_after_the_clones(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails when the clones are complete hides none of them."""
    make_original(lab)

    def fail(*_words: object) -> None:
        raise RuntimeError("mistake")

    monkeypatch.setattr("virtomate.services.storage.pools.get_pool", fail)
    with open_session(lab.uri) as session:
        results = clone_domains(
            Run(session, session, Progress(), CancelToken()), CloneRequest("original", ("a", "b"), mode=Mode.LINKED)
        )

    assert [result.status for result in results] == ["cloned"] * 2


def test_automatic_names(lab: Lab, virtomate: Program) -> None:
    """Names are the first that neither a domain nor a volume has, and several runs at once get different ones."""
    make_original(lab)
    lab.define(domain("original-clone"))
    (lab.pool.path / "original-clone-3.qcow2").write_bytes(b"precious")

    (first,) = complete(virtomate("domain-clone", "--mode", "linked", "--auto-name", "original", json=True))
    runs = [
        virtomate.start(
            "domain-clone", "--mode", "linked", "--auto-name", "--count", "3", "--jobs", "2", "original", json=True
        )
        for _ in range(4)
    ]
    clones = [clone for run in runs for clone in complete(run.wait())]

    assert first["name"] == "original-clone-2"
    assert len({clone["name"] for clone in clones}) == 12
    assert {clone["name"] for clone in clones}.isdisjoint({"original-clone", "original-clone-2", "original-clone-3"})
    assert (lab.pool.path / "original-clone-3.qcow2").read_bytes() == b"precious"
    assert len(names(lab)) == 15
    assert {item["clone"]["status"] for item in virtomate("domain-list", json=True).json if item["clone"]} == {
        "finished"
    }


def test_space_is_added_up(root_lab: Lab, virtomate: Program) -> None:
    """What several clones and pools on one file system need is compared all together with what there is."""
    pool = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    inner = pool.path / "inner"
    inner.mkdir()
    other = root_lab.make_pool("other", inner)
    first = pool.raw("one.raw", 20 * MIB, data_bytes=20 * MIB)
    second = other.raw("two.raw", 20 * MIB, data_bytes=20 * MIB)
    root_lab.define(domain("original", disks=[disk(first, "raw"), disk(second, "raw", "vdb")]))
    before = root_lab.inventory()

    result = virtomate("domain-clone", "--count", "2", "original", "web", json=True)

    assert result.status == 1, str(result)
    assert result.json["type"] == "NoSpaceError"
    assert "80.0 MiB are needed for 2 clones" in result.json["message"]
    assert "'other' and 'small' share a file system" in result.json["message"]
    assert "--mode linked" in result.json["hint"]
    # what was asked for is no advice
    overlays = virtomate("domain-clone", "--mode", "linked", "--count", "100", "original", "web", json=True)
    assert overlays.json["type"] == "NoSpaceError"
    assert "--mode linked" not in overlays.json["hint"]
    unchanged(before, root_lab)
    complete(virtomate("domain-clone", "original", "web", json=True))


def test_dry_run_of_several(lab: Lab, virtomate: Program) -> None:
    """A plan of several clones tells all of them, with what they need, and changes nothing."""
    make_original(lab)
    before = lab.inventory()

    machine = virtomate("domain-clone", "--dry-run", "--count", "3", "original", "web", json=True)
    human = virtomate("domain-clone", "--dry-run", "--count", "3", "original", "web")

    assert [(clone["name"], clone["status"]) for clone in machine.json] == [
        (f"web-{number}", "planned") for number in (1, 2, 3)
    ]
    (need,) = machine.json[0]["space"]
    assert need["pool"] == lab.pool.name
    assert 0 < need["needed"] < need["available"]
    assert [clone["space"][0]["total_needed"] for clone in machine.json] == [3 * need["needed"]] * 3
    assert human.stdout.splitlines()[-1].startswith("3 clones need ")
    assert len({clone["interfaces"][0]["mac"] for clone in machine.json}) == 3
    assert [line for line in human.stdout.splitlines() if line.startswith("Would")] == [
        f"Would clone original to web-{number} (copy)" for number in (1, 2, 3)
    ]
    unchanged(before, lab)


def test_progress_of_several(lab: Lab, virtomate: Program) -> None:
    """A front end learns beforehand how much there is to do, and of which clone each volume is."""
    make_original(lab)

    result = virtomate("--progress", "json", "domain-clone", "original", "a", "b", json=True)

    events = [json.loads(line) for line in result.stderr.splitlines()]
    started = {event["volume"]: event["total"] for event in events if event["event"] == "started"}
    assert started.keys() == {"a/vda", "b/vda"}
    assert events[0] == {"event": "expected", "total": sum(started.values())}
    assert {event["volume"] for event in events if event["event"] == "finished"} == started.keys()


def test_saved_definitions_differ_in_nothing_but_identity(lab: Lab, virtomate: Program) -> None:
    """Of two clones made together, nothing differs but what has to."""
    make_original(lab)
    complete(virtomate("domain-clone", "--mode", "linked", "original", "aa", "bb", json=True))

    documents = [lab.connection.lookupByName(name).XMLDesc(EVERYTHING) for name in ("aa", "bb")]
    lines = [
        [line for line in document.splitlines() if "virtomate:" not in line and "xmlns:virtomate" not in line]
        for document in documents
    ]

    different = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
    assert [pair[0].split()[0] for pair in different] == [
        "<name>aa</name>",
        *(
            part
            for part in (
                "<uuid>" + documents[0].split("<uuid>")[1].split("<")[0] + "</uuid>",
                "<source",
                "<mac",
                "<mac",
            )
        ),
    ]


def test_started_by_the_dozen(lab: Lab, virtomate: Program) -> None:
    """Complete clones are started, and --wait finds their agents; one that has none is kept and reported."""
    path = lab.pool.qcow2("original.qcow2", marker="original")
    lab.define(domain("original", disks=[disk(path)], interfaces=[interface()], guest=lab.guest, agent=True))
    silent = lab.pool.qcow2("silent.qcow2", 8 * MIB)
    lab.define(domain("silent", disks=[disk(silent)]))

    result = virtomate(
        "domain-clone", "--mode", "linked", "--start", "--wait", "agent,200", "original", "a", "b", json=True
    )
    clones = complete(result)
    missed = virtomate("domain-clone", "--wait", "ip,0.5", "silent", "mute", json=True)

    assert [clone["started"] for clone in clones] == [True, True]
    for clone in clones:
        # neither a loopback interface nor link-local addresses
        assert [item["hwaddr"] for item in clone["addresses"]] == [clone["interfaces"][0]["mac"]]
        assert not [item for item in clone["addresses"][0]["addresses"] if item["address"].startswith("fe80:")]
        assert lab.connection.lookupByName(clone["name"]).isActive()
    assert missed.status == 125, str(missed)
    (mute,) = missed.json
    assert (mute["status"], mute["started"], mute["addresses"]) == ("cloned", True, [])
    assert mute["error"]["type"] == "TimeoutError"
    assert lab.connection.lookupByName("mute").state()[0] == libvirt.VIR_DOMAIN_RUNNING


def test_waited_for_by_address(root_lab: Lab, virtomate: Program) -> None:
    """--wait ip ends with the address that the network gave to the clone's own MAC address."""
    root_lab.make_network()
    path = root_lab.pool.qcow2("original.qcow2", marker="original")
    network = interface(type_="network", source="lab")
    root_lab.define(
        domain("original", disks=[disk(path)], interfaces=[network], guest=root_lab.guest, cmdline="lab.dhcp")
    )

    (made,) = complete(virtomate("domain-clone", "--start", "--wait", "ip,200", "original", "web", json=True))

    (found,) = made["addresses"]
    assert found["hwaddr"] == made["interfaces"][0]["mac"]
    assert found["addresses"][0]["address"].startswith("192.168.77.")


ASLEEP = """
<network>
  <name>as leep</name><forward mode='open'/><bridge name='asleep0'/><ip address='192.168.78.1' netmask='255.255.255.0'/>
</network>"""
ON_NETWORK = "<interface type='network'><source network='{}'/></interface></devices>"
NO_MEDIUM = (
    "<disk type='file' device='cdrom'><source file='/nonexistent/install.iso'/><target dev='sda' bus='sata'/>"
    "<readonly/></disk></devices>"
)


@pytest.mark.parametrize(
    ("devices", "reason", "hint"),
    [
        (ON_NETWORK.format("nowhere"), "'nowhere'", "There is no network 'nowhere'. Connect the clone to another one "),
        (ON_NETWORK.format("as leep"), "'as leep' is not active", "virsh net-start 'as leep'; virsh start web"),
        (NO_MEDIUM, "/nonexistent/install.iso", "Mend that, then start it: virsh start web."),
    ],
    ids=["network that is not there", "network that is not active", "medium that is not there"],
)
def test_clone_that_cannot_be_started_is_kept(
    root_lab: Lab, virtomate: Program, devices: str, reason: str, hint: str
) -> None:
    """A failing start does not take the clone with it; the error says that, why it failed, and what to do."""
    path = make_original(root_lab)
    definition = root_lab.connection.lookupByName("original").XMLDesc(EVERYTHING)
    root_lab.connection.lookupByName("original").undefine()
    network = root_lab.connection.networkDefineXML(ASLEEP)
    try:
        root_lab.define(definition.replace("</devices>", devices))

        result = virtomate("domain-clone", "--mode", "linked", "--start", "original", "web", json=True)
    finally:
        network.undefine()

    assert result.status == 1, str(result)
    (clone,) = result.json
    assert (clone["status"], clone["started"]) == ("cloned", False)
    assert reason in clone["error"]["message"]
    assert clone["error"]["message"].endswith("; the clone is complete, and is kept")
    assert reaching(root_lab.uri, hint) in clone["error"]["hint"]
    assert image_info(Path(clone["disks"][0]["clone"]["path"]))["backing-filename"] == str(path)
    assert names(root_lab) == ["original", "web"]
