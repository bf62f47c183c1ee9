"""Several runs at once, and others who meddle while a clone is being made."""

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import (
    TRANSFERS,
    consent,
    error_of,
    make_big_source,
    midway,
    reaching,
    start_clone,
    unchanged,
    wait_for,
)
from tests.lab import Lab, Pool, Program, disk, domain, images, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from virtomate.errors import NoConnectionError
from virtomate.hypervisor import connection, session
from virtomate.hypervisor.connection import Connection

MODES = ("copy", "linked", "reflink")


@pytest.fixture(scope="module")
def big(session_lab: Lab) -> Iterator[Path]:
    """A domain `big` with a disk that takes a while to copy; its path."""
    mark = session_lab.mark()
    yield make_big_source(session_lab, session_lab.pool)
    session_lab.return_to(mark)


def pool_for(lab: Lab, mode: str) -> Pool:
    """Return a pool in which this mode works."""
    if mode == "reflink" and not lab.privileged:
        pytest.skip("needs root: a file system with reflinks")
    return lab.pools["xfs"] if mode == "reflink" else lab.pool


def attributes(document: str, element: str, attribute: str) -> list[str]:
    """Return an attribute of all elements of a name, by the spelling that libvirt uses."""
    pieces = document.split(f"<{element} ")[1:]
    return [piece.split(f"{attribute}='")[1].split("'")[0] for piece in pieces]


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_one_name_goes_to_one_run(lab: Lab, virtomate: Program, mode: str) -> None:
    """Of two runs with one NEWNAME at the same moment one makes the clone; the other refuses and touches nothing."""
    path = lab.pool.raw("src.raw", 64 * MIB, data_bytes=48 * MIB)
    lab.define(domain("src", disks=[disk(path, "raw")]))
    before = lab.pool.volumes()

    for turn in range(4):
        name = f"web-{turn}"
        runs = [virtomate.start("domain-clone", "--mode", mode, "src", name, json=True) for _ in range(2)]
        results = sorted((run.wait() for run in runs), key=lambda result: result.status)

        assert [result.status for result in results] == [0, 1], [str(result) for result in results]
        winner, loser = results
        assert error_of(loser)["type"] == "Conflict"
        # What the loser meets first depends on how far the winner is: its domain, its volume or the file of that.
        assert name in error_of(loser)["message"]
        (clone,) = winner.json
        assert lab.connection.lookupByName(name).UUIDString() == clone["uuid"]
        copy = clone["disks"][0]["clone"]
        assert images.same_content(path, "raw", Path(copy["path"]), copy["format"])
    listed = virtomate("domain-list", json=True).json
    assert {item["clone"]["status"] for item in listed if item["clone"]} == {"finished"}
    assert len(lab.pool.volumes()) == len(before) + 4


def clone_at_once(lab: Lab, virtomate: Program, mode: str, count: int) -> None:
    """Clone one domain several times at once from as many processes."""
    pool = pool_for(lab, mode)
    path = pool.qcow2("src.qcow2", 32 * MIB, data_bytes=8 * MIB)
    store = lab.make_directory("vars") / "src_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    lab.define(domain("src", disks=[disk(path)], interfaces=[interface(), interface()], firmware=nvram(store)))
    before = lab.inventory()

    runs = [virtomate.start("domain-clone", "--mode", mode, "src", f"web-{i}", json=True) for i in range(count)]
    results = [run.wait() for run in runs]

    assert [result.status for result in results] == [0] * count, [str(item) for item in results if item.status]
    found = [lab.connection.lookupByName(f"web-{i}") for i in range(count)]
    documents = [item.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) for item in found]
    macs = [mac for document in documents for mac in attributes(document, "mac", "address")]
    assert len(macs) == len(set(macs)) == 2 * count
    assert len({item.UUIDString() for item in found}) == count
    paths = {disk["clone"]["path"] for result in results for disk in result.json[0]["disks"]}
    assert len(paths) == count
    assert all(images.same_content(path, "qcow2", Path(other), "qcow2") for other in paths)
    assert all((store.parent / f"web-{i}_VARS.fd").read_bytes() == store.read_bytes() for i in range(count))
    # No pool stays behind, and the source is what it was.
    after = lab.inventory()
    assert after.pools.keys() == before.pools.keys()
    assert after.domains["src"] == before.domains["src"]


@pytest.mark.parametrize("mode", MODES)
def test_several_clones_of_one_source_at_once(lab: Lab, virtomate: Program, mode: str) -> None:
    """Runs side by side all succeed, and no two clones share an identity, a volume or an NVRAM."""
    clone_at_once(lab, virtomate, mode, 6)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", MODES)
def test_twenty_clones_of_one_source_at_once(lab: Lab, virtomate: Program, mode: str) -> None:
    """Twenty runs side by side all succeed, and no two clones share an identity, a volume or an NVRAM."""
    clone_at_once(lab, virtomate, mode, 20)


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("transfer", ["host", "stream"])
def test_source_started_meanwhile(lab: Lab, virtomate: Program, transfer: str) -> None:
    """While a source whose file is seen is copied, it cannot be started: a torn copy is never handed out."""
    source = lab.connection.lookupByName("big")
    watched = start_clone(virtomate, "--transfer", transfer, "big", "web")

    held = midway(lab, watched, transfer, lab.pool.path / "web.raw")
    with held, pytest.raises(libvirt.libvirtError, match="lock"):
        source.create()
    result = watched.run.wait()

    assert result.status == 0, str(result)


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_source_written_meanwhile(lab: Lab, virtomate: Program, transfer: str) -> None:
    """When a file of the source is written to while it is copied, the clone fails and nothing of it is left."""
    path = make_big_source(lab, lab.pool, "src")
    watched = start_clone(virtomate, "--transfer", transfer, "src", "web")
    before = None

    with midway(lab, watched, transfer, lab.pool.path / "web.raw"), path.open("r+b") as file:
        file.write(b"changed")
    result = watched.run.wait()

    assert result.status == 1, str(result)
    error = error_of(result)
    assert error["type"] == "SourceChangedError"
    assert str(path) in error["message"]
    assert "leftovers" not in error
    before = lab.inventory()
    assert "web" not in before.domains
    assert not (lab.pool.path / "web.raw").exists()
    assert path.read_bytes().startswith(b"changed")


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_daemon_dies_in_the_middle(lab: Lab, virtomate: Program, transfer: str) -> None:
    """When the daemon is gone, what cannot be undone is named, and domain-delete does it once the daemon is back."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", transfer, "big", "web")
    with midway(lab, watched, transfer, lab.pool.path / "web.raw"):
        lab.hypervisor.kill()
    result = watched.run.wait()
    lab.hypervisor.start()

    assert result.status == 3, str(result)
    error = error_of(result)
    assert error["type"] == "libvirtError"
    assert any(str(lab.pool.path / "web.raw") in item for item in error["leftovers"])
    assert any("domain 'web'" in item for item in error["leftovers"])
    assert reaching(lab.uri, "virtomate domain-delete web") in error["hint"]
    assert "Traceback" not in result.stderr
    deleted = virtomate("domain-delete", *consent((transfer,)), "web", json=True)
    assert deleted.status == 0, deleted
    lab.pool.refresh()
    unchanged(before, lab)


@pytest.mark.usefixtures("big")
def test_daemon_restarts_in_the_middle(lab: Lab, virtomate: Program) -> None:
    """When the daemon dies and is back at once, the run undoes what it made or names what is left."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", "stream", "big", "web")
    with midway(lab, watched, "stream", lab.pool.path / "web.raw"):
        lab.hypervisor.kill()
        lab.hypervisor.start()
    result = watched.run.wait()

    assert result.status in {1, 3}, str(result)
    if result.status == 3:
        assert virtomate("domain-delete", "web").status == 0
    lab.pool.refresh()
    unchanged(before, lab)


def test_connection_comes_back_with_a_daemon_that_restarts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An undo waits for a daemon that refuses connections while it restarts; once in vain is enough."""
    opened: list[bool] = []

    def connect(*words: Any, **named: Any) -> Connection:
        opened.append(False)
        found = connection.connect(*words, **named)
        opened[-1] = True
        return found

    monkeypatch.setattr(session, "connect", connect)
    # the lab's host is a child of this process, too
    monkeypatch.setattr(session, "end_programs", lambda: None)
    monkeypatch.setattr(session, "_RESTART_SECONDS", 60.0)
    with ThreadPoolExecutor(1) as threads, session.open_session(lab.uri) as mine:
        lost = mine.connection
        lab.hypervisor.kill()
        wait_for(lambda: not lost.is_alive, "the connection is lost")
        coming = threads.submit(mine.connect)
        wait_for(lambda: len(opened) > 2, "the connection is refused")
        lab.hypervisor.start()
        coming.result()
        assert (opened[1], opened[-1]) == (False, True)

    monkeypatch.setattr(session, "_RESTART_SECONDS", 0.2)
    with session.open_session(lab.uri) as mine:
        lost = mine.connection
        lab.hypervisor.kill()
        wait_for(lambda: not lost.is_alive, "the connection is lost")
        for _ in range(2):
            opened.clear()
            with pytest.raises(NoConnectionError):
                mine.connect()
    assert opened == [False]
    lab.hypervisor.start()


@pytest.fixture
def immutable(root_lab: Lab) -> Iterator[Any]:
    """A function that makes a file undeletable until the test ends."""
    made: list[Path] = []

    def change(path: Path, flag: str) -> None:
        subprocess.run(["chattr", flag, path], check=True, capture_output=True)

    def make(path: Path) -> None:
        change(path, "+i")
        made.append(path)

    yield make
    for path in made:
        if path.exists():
            change(path, "-i")
    assert root_lab.privileged


@pytest.mark.parametrize("json_", [True, False], ids=["json", "human"])
def test_undo_that_fails_is_reported(root_lab: Lab, big: Path, virtomate: Program, immutable: Any, json_: bool) -> None:
    """An undo that fails keeps the first error, lists what is left and how to be rid of it, and the status is 3."""
    before = root_lab.inventory()
    target = root_lab.pool.path / "web.raw"
    watched = start_clone(virtomate, "--transfer", "host", "big", "web", json=json_)
    with midway(root_lab, watched, "host", target):
        immutable(target)
        watched.run.signal(signal.SIGTERM)
    result = watched.run.wait()

    assert result.status == 3, str(result)
    if json_:
        error = error_of(result)
    else:
        assert result.stdout == ""
        error = next(event for event in map(json.loads, result.stderr.splitlines()) if event["event"] == "error")
    assert error["type"] == "Interrupted"
    assert "SIGTERM" in error["message"]
    volume, claim = error["leftovers"]
    assert str(target) in volume
    assert "domain 'web'" in claim
    assert reaching(root_lab.uri, "virtomate domain-delete web") in error["hint"]

    blocked = virtomate("domain-delete", "web", json=True)
    assert blocked.status == 3, blocked
    assert any(str(target) in item for item in error_of(blocked)["leftovers"])
    assert target.exists()
    assert root_lab.connection.lookupByName("web")

    subprocess.run(["chattr", "-i", target], check=True, capture_output=True)
    deleted = virtomate("domain-delete", "web", json=True)
    assert deleted.status == 0, deleted
    unchanged(before, root_lab)
    assert big.exists()


def test_pool_busy_with_another_build_is_waited_out(lab: Lab, big: Path, virtomate: Program) -> None:
    """A clone is made, and another one undone, beside a build that keeps their pool from being refreshed."""
    path = lab.pool.raw("small.raw", MIB)
    lab.define(domain("small", disks=[disk(path, "raw")]))
    slow = start_clone(virtomate, "--transfer", "server", "big", "slow")
    slow.wait_for_event("started")
    target = lab.pool.path / "slow.raw"
    wait_for(lambda: target.exists() and images.allocated_bytes(target) > 0, "libvirt builds")

    clone = virtomate("domain-clone", "small", "web", json=True)
    refused = virtomate("domain-clone", "--transfer", "server", "--mode", "reflink", "small", "other", json=True)
    if slow.held is not None:
        assert slow.run.running
        slow.held.release()

    assert clone.status == 0, clone
    assert refused.status == 1, refused
    assert slow.run.wait().status == 0
    assert images.same_content(big, "raw", lab.pool.path / "slow.raw", "raw")
    assert sorted(found.name() for found in lab.connection.listAllDomains()) == ["big", "slow", "small", "web"]
    assert lab.pool.volumes() == ["big.raw", "slow.raw", "small.raw", "web.raw"]


@pytest.mark.parametrize("has_its_uuid", [False, True])
def test_claim_taken_over_is_left_alone(lab: Lab, big: Path, virtomate: Program, has_its_uuid: bool) -> None:
    """Who finds another domain under the clone's name when the copy is done leaves that domain as it is."""
    watched = start_clone(virtomate, "--transfer", "host", "big", "web")
    with midway(lab, watched, "host", lab.pool.path / "web.raw"):
        claim = lab.connection.lookupByName("web")
        uuid = claim.UUIDString() if has_its_uuid else None
        claim.undefine()
        lab.define(domain("web", uuid_=uuid, description="somebody else's"))
        other = lab.connection.lookupByName("web").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    result = watched.run.wait()

    # what has the clone's UUID may be a claim that somebody wrote to, which only a person can tell
    assert result.status == (3 if has_its_uuid else 1), str(result)
    assert error_of(result)["type"] == "IllegalStateError"
    assert lab.connection.lookupByName("web").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == other
    assert not (lab.pool.path / "web.raw").exists()
    assert big.exists()


def test_volume_of_a_stranger_is_not_undone(lab: Lab, big: Path, virtomate: Program) -> None:
    """A file that somebody puts in place of the new volume while it is written is not deleted by the undo."""
    target = lab.pool.path / "web.raw"
    watched = start_clone(virtomate, "--transfer", "host", "big", "web")
    with midway(lab, watched, "host", target):
        stranger = lab.pool.path / "stranger"
        stranger.write_bytes(b"precious")
        stranger.rename(target)
        watched.run.signal(signal.SIGINT)
    result = watched.run.wait()

    assert result.status == 3, str(result)
    assert any(str(target) in item for item in error_of(result)["leftovers"])
    assert target.read_bytes() == b"precious"
    assert virtomate("domain-delete", "web").status == 3
    assert target.read_bytes() == b"precious"
    assert big.exists()
