"""Originals that run: they are shut down, cloned and started again, and no kill makes anybody forget to start them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import (
    Refusal,
    Watched,
    check_refusal,
    error_of,
    paused,
    start_clone,
    unchanged,
    wait_for,
    wait_until_still,
)
from tests.functional.support import cloned
from tests.lab import Lab, Program, disk, domain, images, interface, running
from tests.lab.guest import RunningGuest
from tests.lab.images import MIB
from tests.lab.processes import has_unread, qemu_of
from tests.lab.program import Background

# Much longer than it takes.
WORDS = ("--shutdown", "--shutdown-timeout", "100")


@pytest.fixture
def web(lab: Lab) -> Any:
    """A running domain `web` without a guest, which `obey` shuts off when it is asked to shut down."""
    path = lab.pool.qcow2("web.qcow2", 128 * MIB, data_bytes=48 * MIB)
    found = lab.define(domain("web", disks=[disk(path)], interfaces=[interface()]))
    found.create()
    return found


@pytest.fixture
def guest(lab: Lab) -> Iterator[RunningGuest]:
    """The running guest of a domain `web`, whose agent answers and can shut it down."""
    path = lab.pool.qcow2("web.qcow2", 128 * MIB, data_bytes=48 * MIB)
    lab.define(domain("web", disks=[disk(path)], interfaces=[interface()], guest=lab.guest, agent=True))
    with running(lab.connection, "web") as started:
        started.wait_for_agent()
        yield started


def names(lab: Lab) -> set[str]:
    """The names of all domains."""
    return {found.name() for found in lab.connection.listAllDomains()}


def record(web: Any) -> str:
    """The name of the domain that records a restart."""
    return f"virtomate-restart-{web.UUIDString()}"


def obey(watched: Watched, web: Any) -> None:
    """Shut the domain off when a run, which has recorded the restart, says that it asks for that."""
    watched.wait_for_event("note")
    web.destroy()


def files(lab: Lab) -> set[Path]:
    """The files in the pool."""
    return set(lab.pool.path.iterdir())


def test_guest_is_shut_down_and_started_again(lab: Lab, guest: RunningGuest, virtomate: Program) -> None:
    """The guest shuts down by itself, both clones are those of a domain that is off, and the original runs again."""
    run_before = guest.domain.ID()
    result = virtomate("--progress", "json", "domain-clone", *WORDS, "web", "a", "b", json=True)

    assert result.status == 0, str(result)
    assert [clone["restarted"] for clone in result.json] == [True, True]
    assert [event["message"] for event in result.progress if event["event"] == "note"] == [
        "shutting down domain 'web', 100 seconds at most",
        "started domain 'web' again",
    ]
    assert guest.domain.isActive()
    assert lab.connection.lookupByName("web").ID() != run_before
    assert names(lab) == {"web", "a", "b"}
    guest.domain.destroy()
    for clone in result.json:
        source, copy = (Path(clone["disks"][0][side]["path"]) for side in ("source", "clone"))
        assert images.same_content(source, "qcow2", copy, "qcow2")


def test_kill_while_a_guest_shuts_down(lab: Lab, guest: RunningGuest, virtomate: Program) -> None:
    """A run that was killed right after it had asked the guest has left the record, which one command carries out."""
    kill(virtomate.pausing("virDomainShutdown").start("domain-clone", *WORDS, "web", "a"))
    wait_for(lambda: not guest.domain.isActive(), "the guest has shut down")
    listed = virtomate("domain-list", "--clones").stdout
    assert f"{record(guest.domain)}  shut-off" in listed
    assert "web (copy), unfinished" in listed

    result = virtomate("domain-delete", record(guest.domain))

    assert (result.status, result.stderr) == (0, ""), str(result)
    started = "started 'web' again, which an interrupted run had shut down"
    assert result.stdout == f"Deleted {record(guest.domain)}\n  {started}\n"
    assert guest.domain.isActive()
    assert names(lab) == {"web"}


def kill(run: Background) -> None:
    """Kill a run that stands still."""
    wait_until_still(run.process.pid)
    run.signal(signal.SIGKILL)
    run.process.wait()


def test_kill_while_copying_is_made_good_by_domain_delete(lab: Lab, web: Any, virtomate: Program) -> None:
    """Deleting the unfinished clone starts the original that the killed run had shut down."""
    before = files(lab)
    watched = start_clone(virtomate, *WORDS, "web", "a")
    obey(watched, web)
    kill(watched.run)
    assert names(lab) == {"web", "a", record(web)}

    result = virtomate("domain-delete", "a", json=True)

    assert result.status == 0, str(result)
    assert result.json[0]["restarted"] == "web"
    assert web.isActive()
    assert (names(lab), files(lab)) == ({"web"}, before)


def test_kill_before_the_restart_is_made_good_by_the_next_clone(lab: Lab, web: Any, virtomate: Program) -> None:
    """Where the clone was complete, the next run of domain-clone clones the original that is off, and starts it."""
    watched = start_clone(virtomate, *WORDS, "web", "a", moment="virDomainCreate")
    obey(watched, web)
    kill(watched.run)
    web.destroy()
    assert names(lab) == {"web", "a", record(web)}

    refused = virtomate("domain-clone", "--mode", "linked", "web", "b", json=True)
    assert (refused.status, refused.json["type"]) == (1, "IllegalStateError"), str(refused)
    assert f"domain-delete {record(web)}" in refused.json["hint"]
    planned = virtomate("domain-clone", "--dry-run", "web", "b", json=True)
    assert planned.json[0]["restarted"] is True
    assert not web.isActive()
    result = virtomate("domain-clone", "web", "b")

    assert result.status == 0, str(result)
    assert "a virtomate that was killed may have shut down domain 'web': it is started again" in result.stderr
    assert "original  started again\n" in result.stdout
    assert web.isActive()
    assert names(lab) == {"web", "a", "b"}


def test_restart_that_is_not_wanted_any_more(lab: Lab, web: Any, virtomate: Program) -> None:
    """--shutdown --no-restart drops what a killed run has left to do, and then a linked clone is possible."""
    kill(virtomate.pausing("virDomainShutdown").start("domain-clone", *WORDS, "web", "a"))
    web.destroy()

    result = virtomate("domain-clone", *WORDS, "--no-restart", "--mode", "linked", "web", "b", json=True)

    assert cloned(result)["restarted"] is False
    assert not web.isActive()
    assert names(lab) == {"web", "b"}


def test_restart_that_is_not_needed_any_more(lab: Lab, web: Any, virtomate: Program) -> None:
    """What a killed run has left to do is dropped in silence when the original is found running."""
    kill(virtomate.pausing("virDomainShutdown").start("domain-clone", *WORDS, "web", "a"))
    assert names(lab) == {"web", record(web)}

    clone = cloned(virtomate("domain-clone", "--live", "--mode", "linked", "web", "b", json=True))

    assert "restarted" not in clone
    assert web.isActive()
    assert record(web) not in names(lab)
    web.destroy()
    clone = cloned(virtomate("domain-clone", "web", "c", json=True))
    assert "restarted" not in clone
    assert not web.isActive()


def test_deletion_of_a_restart_that_is_not_needed_any_more(lab: Lab, web: Any, virtomate: Program) -> None:
    """An original that somebody else has started is left alone when the record of its restart is deleted."""
    kill(virtomate.pausing("virDomainShutdown").start("domain-clone", *WORDS, "web", "a"))

    deleted = virtomate("domain-delete", record(web), json=True)

    assert deleted.status == 0, str(deleted)
    assert "restarted" not in deleted.json[0]
    assert web.isActive()
    assert record(web) not in names(lab)


def test_original_that_is_left_shut_off(lab: Lab, web: Any, virtomate: Program) -> None:
    """--no-restart leaves it shut off, without a record."""
    run = virtomate.pausing("virDomainShutdown").start("domain-clone", *WORDS, "--no-restart", "web", "a")
    with paused(run):
        assert names(lab) == {"web"}
        web.destroy()
    result = run.wait()

    assert result.status == 0, str(result)
    assert "original  shut off\n" in result.stdout
    assert not web.isActive()


def test_dry_run_shuts_nothing_down(lab: Lab, web: Any, virtomate: Program) -> None:
    """A plan says what would become of the original, and leaves it running."""
    before = lab.inventory()
    human = virtomate("domain-clone", "--shutdown", "--dry-run", "web", "a")
    machine = virtomate("domain-clone", "--shutdown", "--no-restart", "--dry-run", "web", "a", json=True)
    printed = virtomate("domain-clone", "--shutdown", "--print-xml", "web", "a")

    assert "original  shut down for cloning, then started again\n" in human.stdout, str(human)
    assert machine.json[0]["restarted"] is False
    assert printed.stdout.startswith("<domain"), str(printed)
    assert web.isActive()
    unchanged(before, lab)


def test_original_that_is_off_already(web: Any, virtomate: Program) -> None:
    """An original that is shut off is cloned as ever, linked clones included, and stays so."""
    web.destroy()

    clone = cloned(virtomate("domain-clone", "--shutdown", "--mode", "linked", "web", "a", json=True))

    assert "restarted" not in clone
    assert not web.isActive()


@pytest.mark.parametrize(
    ("words", "kind", "message", "hint"),
    [
        (("web", "a"), "IllegalStateError", "must be shut off to be cloned", "--shutdown shuts it down"),
        (("--mode", "linked", "web", "a"), "IllegalStateError", "would be started again", "--no-restart"),
        (("--disk", "vda=linked", "web", "a"), "IllegalStateError", "destroy the linked clone", "--no-restart"),
        (("web", "web"), "Conflict", "there is already a domain 'web'", "another name"),
        (("--disk", "vda=name=web.qcow2", "web", "a"), "Conflict", "web.qcow2", "name"),
        (("--pool", "none", "web", "a"), "NotFoundError", "'none'", "pool-list"),
        (("--transfer", "server", "--bandwidth", "9", "web", "a"), "UnsupportedError", "--bandwidth", "stream"),
        (("--mac", "keep", "--fail-on", "any", "web", "a"), "RefusedWarningError", "same-mac", "--fail-on"),
    ],
)
def test_refusal_leaves_the_original_running(
    lab: Lab, web: Any, virtomate: Program, words: tuple[str, ...], kind: str, message: str, hint: str
) -> None:
    """What can be refused while the original runs is refused then."""
    before = lab.inventory()
    shutdown = () if words == ("web", "a") else ("--shutdown",)
    result = virtomate("domain-clone", *shutdown, *words, json=True)

    assert result.status == 1, str(result)
    error = error_of(result)
    assert error["type"] == kind
    assert message in error["message"]
    assert hint in error["hint"]
    assert web.isActive()
    unchanged(before, lab)


def test_live_and_shutdown_are_offered_for_a_freeze(lab: Lab, web: Any, virtomate: Program) -> None:
    """A running original is frozen as it is, or shut down for that; a paused one would not hear the latter."""
    before = lab.inventory()
    words = ("domain-clone", "--freeze", "--mode", "linked", "web", "a")

    running = error_of(virtomate(*words, json=True))
    web.suspend()
    paused = error_of(virtomate(*words, json=True))

    assert running["hint"].startswith(
        "--live clones it as it is. --shutdown shuts it down, and starts it again after cloning. Shut it down first: "
    )
    assert paused["hint"].startswith("--live clones it as it is. Shut it down first: ")
    web.resume()
    unchanged(before, lab)


def test_states_that_cannot_be_shut_down(lab: Lab, web: Any, virtomate: Program) -> None:
    """A guest that cannot hear is not asked, and what libvirt would forget or restart is left alone."""
    lab.connection.createXML(domain("passing", disks=[disk(lab.pool.qcow2("passing.qcow2", MIB))]), 0)
    transient = Refusal("IllegalStateError", ("transient",), ("virsh dumpxml passing",))
    check_refusal(lab, virtomate, ("domain-clone", "--shutdown", "passing", "a"), transient)
    web.suspend()
    is_paused = Refusal("IllegalStateError", ("is paused",), ("virsh resume web",))
    check_refusal(lab, virtomate, ("domain-clone", "--shutdown", "web", "a"), is_paused)
    web.resume()
    document = web.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for event in ("poweroff", "reboot"):
        document = document.replace(f"<on_{event}>destroy", f"<on_{event}>restart")
    lab.define(document)
    restarts = Refusal("IllegalStateError", ("restarts it when its guest powers off",), ("virsh edit web",))
    check_refusal(lab, virtomate, ("domain-clone", "--shutdown", "web", "a"), restarts)


def test_guest_that_does_not_shut_down(lab: Lab, web: Any, virtomate: Program) -> None:
    """After the time that it was given nothing has changed, and the hint says what may still come."""
    before = lab.inventory()
    result = virtomate("domain-clone", "--shutdown", "--shutdown-timeout", "0.5", "web", "a", json=True)

    assert result.status == 1, str(result)
    error = error_of(result)
    assert error["type"] == "TimeoutError"
    assert error["message"] == "domain 'web' did not shut down within 0.5 seconds"
    assert "--shutdown-timeout" in error["hint"]
    assert "cannot be taken back" in error["hint"]
    assert web.isActive()
    unchanged(before, lab)


def test_interruption_while_waiting(lab: Lab, web: Any, virtomate: Program) -> None:
    """Whoever gives up waiting is told that the guest may still shut down; nothing is left of the clone."""
    before = lab.inventory()
    watched = Watched(virtomate.start("--progress", "json", "domain-clone", *WORDS, "web", "a", json=True))
    watched.wait_for_event("note")
    watched.run.signal(signal.SIGINT)
    result = watched.run.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert "cannot be taken back" in error_of(result)["hint"]
    assert web.isActive()
    unchanged(before, lab)


def test_interruption_while_copying(lab: Lab, web: Any, virtomate: Program) -> None:
    """A signal after the shutdown undoes the clone, and the original runs again."""
    before = files(lab)
    watched = start_clone(virtomate, *WORDS, "web", "a")
    obey(watched, web)
    with paused(watched.run):
        assert names(lab) == {"web", "a", record(web)}
        watched.run.signal(signal.SIGTERM)
    result = watched.run.wait()

    assert result.status == -signal.SIGTERM, str(result)
    assert result.json[0]["restarted"] is True
    assert web.isActive()
    assert (names(lab), files(lab)) == ({"web"}, before)


def test_guest_that_ends_while_it_is_being_asked(root_lab: Lab, web: Any, virtomate: Program) -> None:
    """A request that libvirt reports as failed, since QEMU ended before QEMU answered, is no reason to give up."""
    process = qemu_of(web)
    run = virtomate.pausing("virConnectListAllStoragePools").start("domain-clone", *WORDS, "web", "a", json=True)
    with paused(run):
        os.kill(process, signal.SIGSTOP)
    wait_for(lambda: has_unread(process), "libvirt has asked QEMU, which stands still")
    os.kill(process, signal.SIGKILL)
    result = run.wait()

    assert cloned(result)["restarted"] is True
    assert web.isActive()
    assert names(root_lab) == {"web", "a"}


def test_refusal_after_the_shutdown(lab: Lab, web: Any, virtomate: Program) -> None:
    """What can be refused only after the shutdown, such as a name that was taken meanwhile, starts the original."""
    run = virtomate.pausing("virDomainShutdown").start("domain-clone", *WORDS, "web", "a", json=True)
    with paused(run):
        lab.define(domain("a"))
        web.destroy()
    result = run.wait()

    assert result.status == 1, str(result)
    assert error_of(result)["type"] == "Conflict"
    assert web.isActive()
    assert names(lab) == {"web", "a"}


def test_original_that_cannot_be_started_again(lab: Lab, web: Any, virtomate: Program) -> None:
    """The clone is complete all the same, the leftovers name the original, and one command starts it in the end."""
    document = web.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    watched = start_clone(virtomate, *WORDS, "web", "a")
    obey(watched, web)
    with paused(watched.run):
        lab.define(document.replace("</os>", "<kernel>/nowhere/at/all</kernel></os>"))
    result = watched.run.wait()

    assert result.status == 3, str(result)
    (clone,) = result.json
    assert (clone["status"], clone["restarted"]) == ("cloned", False)
    assert "could not be started again" in clone["error"]["message"]
    assert [item["code"] for item in clone["error"]["notices"]] == ["shut-off-original"]
    assert f"domain-delete {record(web)}" in clone["error"]["hint"]
    again = virtomate("domain-delete", record(web), json=True)
    assert (again.status, record(web) in names(lab)) == (3, True), str(again)
    lab.define(document)
    assert virtomate("domain-delete", record(web), json=True).json[0]["restarted"] == "web"
    assert web.isActive()
    assert names(lab) == {"web", "a"}


def test_two_runs_do_not_shut_down_one_original(lab: Lab, web: Any, virtomate: Program) -> None:
    """While one run has the original shut off, no other clones it, since it will be started."""
    watched = start_clone(virtomate, *WORDS, "web", "a")
    obey(watched, web)
    with paused(watched.run):
        for words in ((), ("--shutdown",)):
            result = virtomate("domain-clone", *words, "web", "b", json=True)
            assert (result.status, result.json["type"]) == (1, "IllegalStateError"), str(result)
            assert "another virtomate" in result.json["message"]
        deleted = virtomate("domain-delete", record(web), json=True)
        assert deleted.status == 1, str(deleted)

    assert watched.run.wait().status == 0
    assert web.isActive()
    assert names(lab) == {"web", "a"}


def test_original_that_somebody_else_shuts_off(lab: Lab, web: Any, virtomate: Program) -> None:
    """Who finds the original off after recording the restart does not start it: it may be a base by now."""
    run = virtomate.pausing("virConnectListAllStoragePools").start("domain-clone", *WORDS, "web", "a", json=True)
    with paused(run):
        web.destroy()
        cloned(virtomate("domain-clone", "--mode", "linked", "web", "b", json=True))
    result = run.wait()

    assert result.status == 1, str(result)
    assert "was shut off by somebody else" in error_of(result)["message"]
    assert not web.isActive()
    assert names(lab) == {"web", "b"}


def test_snapshot_of_an_original_that_has_to_be_started_again(web: Any, virtomate: Program) -> None:
    """A snapshot inside of an image is not copied while another run is about to start the original."""
    web.destroy()
    web.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>", 0)
    web.create()
    watched = start_clone(virtomate, *WORDS, "web", "a")
    obey(watched, web)
    with paused(watched.run):
        result = virtomate("domain-clone", "--snapshot", "s", "web", "b", json=True)
        assert (result.status, result.json["type"]) == (1, "IllegalStateError"), str(result)
        assert "another virtomate" in result.json["message"]
        watched.run.signal(signal.SIGKILL)

    clone = cloned(virtomate("domain-clone", "--snapshot", "s", "web", "b", json=True))

    assert clone["restarted"] is True
    assert web.isActive()
