"""Signals and kills at any moment: a clone is complete or not there, or one command removes what is left of it."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import (
    TRANSFERS,
    Refusal,
    Watched,
    check_refusal,
    consent,
    error_of,
    halted,
    make_big_source,
    midway,
    paused,
    reaching,
    start_clone,
    unchanged,
)
from tests.lab import Inventory, Lab, Program, Result, disk, domain, images
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from tests.lab.program import Background

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "interrupted by SIGTERM",
    signal.SIGHUP: "interrupted by SIGHUP",
}

# Every way to make a clone, as the words that ask for it.
WAYS = {
    "host": ("--transfer", "host"),
    "stream": ("--transfer", "stream"),
    "server": ("--transfer", "server"),
    "linked": ("--mode", "linked"),
    "reflink": ("--mode", "reflink"),
}

SAMPLE_MOMENTS = 8
SWEEP_MOMENTS = 36


@pytest.fixture(scope="module")
def big(session_lab: Lab) -> Iterator[Path]:
    """A domain `big` with a disk that takes a while to copy; its path."""
    mark = session_lab.mark()
    yield make_big_source(session_lab, session_lab.pool)
    session_lab.return_to(mark)


@pytest.fixture(scope="module")
def mixed(session_lab: Lab) -> Iterator[str]:
    """A domain with two disks and an NVRAM in no pool, where reflinks work if the lab has that; its name."""
    mark = session_lab.mark()
    pool = session_lab.pools.get("xfs", session_lab.pool)
    raw = pool.raw("mixed.raw", 128 * MIB, data_bytes=96 * MIB)
    qcow2 = pool.qcow2("mixed-2.qcow2", 64 * MIB, data_bytes=32 * MIB)
    store = session_lab.make_directory("mixed-nvram") / "mixed_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    session_lab.define(domain("mixed", disks=[disk(raw, "raw"), disk(qcow2, target="vdb")], firmware=nvram(store)))
    yield "mixed"
    session_lab.return_to(mark)


def target_of(lab: Lab, name: str) -> Path:
    """Return the path of the disk of a clone of `big`."""
    return lab.pool.path / f"{name}.raw"


def is_there(lab: Lab, name: str) -> bool:
    """Tell whether there is a domain of this name."""
    return name in {found.name() for found in lab.connection.listAllDomains()}


def listing(virtomate: Program, name: str) -> dict[str, Any]:
    """Return what `domain-list` says of a domain."""
    (found,) = (item for item in virtomate("domain-list", json=True).json if item["name"] == name)
    return dict(found)


def discard(lab: Lab, name: str) -> None:
    """Remove a finished clone as a person would, by hand."""
    found = lab.connection.lookupByName(name)
    document = found.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    found.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    for pool in lab.pools.values():
        pool.refresh()
        for volume in pool.handle.listAllVolumes():
            if f"'{volume.path()}'" in document:
                volume.delete()


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_signal_in_the_middle_of_a_copy_undoes_all(
    lab: Lab, virtomate: Program, transfer: str, number: signal.Signals
) -> None:
    """A signal in the middle of a copy leaves nothing behind, and the program ends by that signal."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", transfer, "big", "web")

    with midway(lab, watched, transfer, target_of(lab, "web")):
        # While it is held, the daemon does not answer.
        assert transfer == "server" or is_there(lab, "web")
        watched.run.signal(number)
    result = watched.run.wait()

    assert result.status == -number, str(result)
    (clone,) = result.json
    assert clone["status"] == "interrupted"
    assert clone["error"]["type"] == "Interrupted"
    assert clone["error"]["message"] == WORDS[number]
    assert "leftovers" not in clone["error"]
    unchanged(before, lab)


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_second_signal_does_not_stop_the_undoing(lab: Lab, virtomate: Program, transfer: str) -> None:
    """The first signal decides how it ends; more of them, during the undoing, only hear what is being waited for."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", transfer, "big", "web")

    with midway(lab, watched, transfer, target_of(lab, "web")):
        watched.run.signal(signal.SIGTERM)
    watched.wait_for_event("note")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if watched.run.running:
            watched.run.signal(number)
    result = watched.run.wait()

    assert result.status == -signal.SIGTERM, str(result)
    unchanged(before, lab)


@pytest.mark.usefixtures("big")
def test_two_signals_at_once(lab: Lab, virtomate: Program) -> None:
    """Two signals that arrive together undo once, and the program ends by one of them."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", "host", "big", "web")

    with midway(lab, watched, "host", target_of(lab, "web")):
        watched.run.signal(signal.SIGINT)
        watched.run.signal(signal.SIGTERM)
    result = watched.run.wait()

    assert result.status in {-signal.SIGINT, -signal.SIGTERM}, str(result)
    unchanged(before, lab)


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("json", [True, False], ids=["json", "human"])
def test_interruption_is_explained(lab: Lab, virtomate: Program, json: bool) -> None:
    """Whoever interrupts is told that it was noticed, and at the end that nothing was made."""
    words = ("--progress", "none", "domain-clone", "--transfer", "stream", "big", "web")
    run = virtomate.pausing("vda").start(*words, json=json)
    with paused(run):
        assert target_of(lab, "web").exists()
        run.signal(signal.SIGINT)
    result = run.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert result.stderr.startswith("Interrupted, cleaning up…")
    if json:
        assert error_of(result)["type"] == "Interrupted"
    else:
        assert result.stdout == ""
        assert "Error: interrupted\n" in result.stderr
    assert "Traceback" not in result.stderr


def test_ignored_signals_stay_ignored(lab: Lab, big: Path, virtomate: Program) -> None:
    """What the caller ignores, as nohup and background jobs of scripts do, does not interrupt."""
    words = ("--progress", "json", "domain-clone", "--transfer", "host", "big", "web")
    argv = virtomate.pausing("vda").argv(*words, json=True)
    shell = ["sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh"]
    with Background([*shell, *argv], virtomate.env(), virtomate.directory) as run:
        watched = Watched(run)
        with midway(lab, watched, "host", target_of(lab, "web")):
            run.signal(signal.SIGINT)
            run.signal(signal.SIGHUP)
        result = run.wait()

    assert result.status == 0, str(result)
    assert images.same_content(big, "raw", target_of(lab, "web"), "raw")


def hit_python(result: Result) -> bool:
    """Tell whether a signal ended Python before it had come to the program, which says so in a way of its own."""
    return result.status == 1 and result.stderr.startswith(("Fatal Python error: init_", "Could not import runpy"))


def check_whole_or_gone(lab: Lab, before: Inventory, result: Result, name: str, number: int) -> bool:
    """See that a clone is complete or that everything is as before, and that the run told which; tell it, too."""
    is_whole = is_there(lab, name)
    if hit_python(result):
        assert not is_whole
    else:
        assert result.status in {0, -number}, str(result)
        is_array = result.stdout != "" and isinstance(result.json, list)
        assert (is_array and result.json[0]["status"] == "cloned") == is_whole, str(result)
        assert is_whole or result.status != 0, str(result)
    if is_whole:
        discard(lab, name)
    unchanged(before, lab)
    return is_whole


def duration(virtomate: Program, lab: Lab, source: str, words: tuple[str, ...]) -> float:
    """Return how long an undisturbed run takes."""
    result = virtomate("domain-clone", *words, source, "measured", json=True)
    assert result.status == 0, str(result)
    discard(lab, "measured")
    return result.seconds


def sweep_signals(lab: Lab, virtomate: Program, source: str, words: tuple[str, ...], moments: int) -> None:
    """Interrupt runs at moments spread evenly from their beginning to their end."""
    seconds = duration(virtomate, lab, source, words)
    before = lab.inventory()
    for moment in range(moments):
        number = SIGNALS[moment % len(SIGNALS)]
        run = virtomate.start("domain-clone", *words, source, "web", json=True)
        time.sleep(seconds * moment / (moments - 1))
        if run.running:
            run.signal(number)
        check_whole_or_gone(lab, before, run.wait(), "web", number)


@pytest.mark.parametrize("way", ["host", "server"])
def test_signals_spread_over_a_run(lab: Lab, mixed: str, virtomate: Program, way: str) -> None:
    """Whenever a signal comes, the clone is complete or not there."""
    sweep_signals(lab, virtomate, mixed, WAYS[way], SAMPLE_MOMENTS // 2)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", WAYS)
def test_signals_at_every_moment(root_lab: Lab, mixed: str, virtomate: Program, way: str) -> None:
    """Whenever a signal comes, in whichever mode, the clone is complete or not there."""
    words = WAYS[way]
    if way == "server":
        # QEMU's own image would have to be converted, raw ones and NVRAM are copied.
        words = ("--transfer", "server")
    sweep_signals(root_lab, virtomate, mixed, words, SWEEP_MOMENTS)


def stop_stale_pools(lab: Lab, virtomate: Program, source: str) -> None:
    """Where a run was killed before its first claim or after its last, have the next run stop its temporary pool."""
    if any(pool.name().startswith("virtomate-clone-") for pool in lab.connection.listAllStoragePools()):
        assert virtomate("domain-clone", source, "next", json=True).status == 0
        discard(lab, "next")


def check_left_by_kill(
    lab: Lab, virtomate: Program, before: Inventory, name: str, source: str, words: Sequence[str] = ()
) -> str:
    """See what a killed run left, remove it as its user would, and see that everything is as before.

    Returns:
        What it was: nothing, unfinished or finished.
    """
    # libvirt builds a volume for long, and what is tried meanwhile has to cope with that
    if "server" not in words or not is_there(lab, name):
        lab.hypervisor.wait_until_idle()
    if not is_there(lab, name):
        stop_stale_pools(lab, virtomate, source)
        unchanged(before, lab)
        return "nothing"
    if listing(virtomate, name)["clone"]["status"] == "finished":
        discard(lab, name)
        stop_stale_pools(lab, virtomate, source)
        unchanged(before, lab)
        return "finished"
    with pytest.raises(libvirt.libvirtError):
        lab.connection.lookupByName(name).create()
    again = virtomate("domain-clone", source, name, json=True)
    assert again.status == 1, again
    assert again.json["type"] == "Conflict"
    assert reaching(lab.uri, f"virtomate domain-delete {name}") in again.json["hint"]
    deleted = virtomate("domain-delete", *consent(words), name, json=True)
    assert deleted.status == 0, deleted
    assert deleted.json[0]["name"] == name
    unchanged(before, lab)
    return "unfinished"


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_killed_run_is_cleared_up_by_one_command(lab: Lab, virtomate: Program, transfer: str) -> None:
    """What SIGKILL leaves is an unfinished clone that cannot be started and that domain-delete removes."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", transfer, "big", "web")
    with midway(lab, watched, transfer, target_of(lab, "web")):
        watched.run.signal(signal.SIGKILL)
        watched.run.process.wait()

    shown = listing(virtomate, "web")
    assert shown["state"] == "shut-off"
    assert shown["clone"]["status"] == "unfinished"
    assert shown["clone"]["source"]["name"] == "big"
    assert "big (copy), unfinished" in virtomate("domain-list").stdout
    assert target_of(lab, "web").exists()
    assert check_left_by_kill(lab, virtomate, before, "web", "big", (transfer,)) == "unfinished"


def sweep_kills(lab: Lab, virtomate: Program, source: str, words: tuple[str, ...], moments: int) -> set[str]:
    """Kill runs at moments spread evenly from their beginning to their end, and clear up after each."""
    seconds = duration(virtomate, lab, source, words)
    before = lab.inventory()
    found = set()
    for moment in range(moments):
        run = virtomate.start("domain-clone", *words, source, "web", json=True)
        time.sleep(seconds * moment / (moments - 1))
        run.signal(signal.SIGKILL)
        run.wait()
        found.add(check_left_by_kill(lab, virtomate, before, "web", source, words))
    return found


@pytest.mark.parametrize("way", ["host", "server"])
def test_kills_spread_over_a_run(lab: Lab, mixed: str, virtomate: Program, way: str) -> None:
    """Whenever a run is killed, one command at most puts the host back to what it was."""
    sweep_kills(lab, virtomate, mixed, WAYS[way], SAMPLE_MOMENTS // 2)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
def test_kills_at_every_moment(root_lab: Lab, mixed: str, virtomate: Program, way: str) -> None:
    """Whenever a run is killed, in whichever mode, one command at most puts the host back to what it was."""
    assert "unfinished" in sweep_kills(root_lab, virtomate, mixed, WAYS[way], SWEEP_MOMENTS)


# Two at a time: some are done when others begin.
SEVERAL = ("web-1", "web-2", "web-3", "web-4")
SEVERAL_WORDS = ("--jobs", "2", "mixed", *SEVERAL)


def several_there(virtomate: Program) -> dict[str, str]:
    """Return what there is of several clones: their status by their name."""
    listed = virtomate("domain-list", json=True).json
    return {item["name"]: item["clone"]["status"] for item in listed if item["name"] in SEVERAL}


def clear_several(lab: Lab, virtomate: Program, before: Inventory, there: dict[str, str], words: Sequence[str]) -> None:
    """Delete what there is of several clones with one command, and see that everything is as before."""
    if there:
        deleted = virtomate("domain-delete", "--yes", *consent(words), *there, json=True)
        assert deleted.status == 0, deleted
    stop_stale_pools(lab, virtomate, "mixed")
    unchanged(before, lab)


def sweep_several(
    lab: Lab, virtomate: Program, words: tuple[str, ...], moments: int, numbers: Sequence[int]
) -> set[str]:
    """Signal runs of several clones at moments spread evenly from beginning to end, and clear up after each.

    Returns:
        Which statuses clones were left in.
    """
    seconds = 0.0
    # the slower one, so that the last moments are at the end also on a machine that has other work
    for _ in range(2):
        measured = virtomate("domain-clone", *words, *SEVERAL_WORDS, json=True)
        assert measured.status == 0, str(measured)
        seconds = max(seconds, measured.seconds)
        assert virtomate("domain-delete", "--yes", *SEVERAL, json=True).status == 0
    before = lab.inventory()
    found = set()
    for moment in range(moments):
        number = numbers[moment % len(numbers)]
        run = virtomate.start("domain-clone", *words, *SEVERAL_WORDS, json=True)
        time.sleep(1.2 * seconds * moment / (moments - 1))
        for _ in range(1 + moment % 2):
            # every second time twice in quick succession
            if run.running:
                run.signal(number)
        result = run.wait()
        if "server" not in words:
            lab.hypervisor.wait_until_idle()
        there = several_there(virtomate)
        found |= set(there.values())
        if number == signal.SIGKILL:
            check_killed(lab, virtomate, there)
        else:
            check_interrupted(result, there, number)
        clear_several(lab, virtomate, before, there, words)
    return found


def check_killed(lab: Lab, virtomate: Program, there: dict[str, str]) -> None:
    """See that unfinished clones cannot be started, and keep their names."""
    for name, status in there.items():
        if status == "unfinished":
            with pytest.raises(libvirt.libvirtError):
                lab.connection.lookupByName(name).create()
            again = virtomate("domain-clone", "mixed", name, json=True)
            assert again.json["type"] == "Conflict"


def check_interrupted(result: Result, there: dict[str, str], number: int) -> None:
    """See that every clone is complete or not there, and that the run told which."""
    if hit_python(result):
        assert not there, str(result)
        return
    assert result.status in {0, -number}, str(result)
    assert set(there.values()) <= {"finished"}, str(result)
    if result.stdout == "" or isinstance(result.json, dict):
        # it came before anything was claimed, or even while the program was being loaded
        assert (result.status, there) == (-number, {}), str(result)
        return
    told = {clone["name"]: clone["status"] for clone in result.json}
    assert tuple(told) == SEVERAL
    assert {name for name, how in told.items() if how == "cloned"} == set(there), str(result)
    assert set(told.values()) <= {"cloned", "interrupted"}, str(result)
    assert result.status != 0 or "interrupted" not in told.values(), str(result)


@pytest.mark.usefixtures("mixed")
def test_signals_spread_over_several_clones(lab: Lab, virtomate: Program) -> None:
    """Whenever a signal comes, each of several clones is complete or not there, and the run tells which."""
    sweep_several(lab, virtomate, WAYS["linked"], SAMPLE_MOMENTS // 2, SIGNALS)


@pytest.mark.usefixtures("mixed")
def test_kills_spread_over_several_clones(lab: Lab, virtomate: Program) -> None:
    """Whenever a run of several clones is killed, one command removes all that there is of them."""
    sweep_several(lab, virtomate, WAYS["linked"], SAMPLE_MOMENTS // 2, [signal.SIGKILL])


@pytest.mark.stress
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("way", WAYS)
def test_signals_at_every_moment_of_several_clones(root_lab: Lab, virtomate: Program, way: str) -> None:
    """Whenever a signal comes, in whichever mode, each of several clones is complete or not there."""
    sweep_several(root_lab, virtomate, WAYS[way], SWEEP_MOMENTS, SIGNALS)


@pytest.mark.stress
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("way", WAYS)
def test_kills_at_every_moment_of_several_clones(root_lab: Lab, virtomate: Program, way: str) -> None:
    """Whenever a run of several clones is killed, in whichever mode, one command removes all that there is of them."""
    assert "unfinished" in sweep_several(root_lab, virtomate, WAYS[way], SWEEP_MOMENTS, [signal.SIGKILL])


@pytest.fixture
def unfinished(big: Path, lab: Lab, virtomate: Program) -> str:
    """An unfinished clone of `big`, left by a killed run; its name."""
    assert big.exists()
    watched = start_clone(virtomate, "--transfer", "host", "big", "web")
    with midway(lab, watched, "host", target_of(lab, "web")):
        watched.run.signal(signal.SIGKILL)
        watched.run.process.wait()
    return "web"


@pytest.mark.parametrize("json", [True, False], ids=["json", "human"])
def test_delete_leaves_what_took_a_volumes_place(lab: Lab, unfinished: str, virtomate: Program, json: bool) -> None:
    """A file that somebody put in place of a volume since is left and reported; the rest goes."""
    target = target_of(lab, unfinished)
    other = lab.pool.path / "other"
    other.write_bytes(b"precious")
    other.rename(target)

    result = virtomate("domain-delete", unfinished, json=json)

    assert result.status == 3, str(result)
    if json:
        (leftover,) = error_of(result)["leftovers"]
        assert str(target) in leftover
        assert "hint" in error_of(result)
    else:
        assert result.stdout == ""
        assert "Left behind:\n" in result.stderr
        assert str(target) in result.stderr
    assert target.read_bytes() == b"precious"
    assert not is_there(lab, unfinished)


def test_delete_of_a_volume_that_is_gone(lab: Lab, unfinished: str, virtomate: Program) -> None:
    """What somebody removed by hand already is no obstacle."""
    target_of(lab, unfinished).unlink()

    result = virtomate("domain-delete", unfinished, json=True)

    assert (result.status, result.json[0]["removed"]) == (0, []), str(result)
    assert not is_there(lab, unfinished)


def test_delete_by_uuid(lab: Lab, unfinished: str, virtomate: Program) -> None:
    """An unfinished clone can be named by its UUID."""
    uuid = lab.connection.lookupByName(unfinished).UUIDString()

    result = virtomate("domain-delete", uuid, json=True)

    assert result.status == 0, str(result)
    (document,) = result.json
    assert (document["status"], document["name"], document["uuid"]) == ("deleted", unfinished, uuid)
    assert [item for item in document["removed"] if str(target_of(lab, unfinished)) in item]
    assert not is_there(lab, unfinished)
    assert not target_of(lab, unfinished).exists()


def test_delete_with_its_pool_stopped_keeps_the_record(lab: Lab, unfinished: str, virtomate: Program) -> None:
    """Where the volume cannot be reached the claim stays; the hint says how to reach it, and the command works then."""
    lab.pool.handle.destroy()

    first = virtomate("domain-delete", unfinished, json=True)
    lab.pool.handle.create()
    second = virtomate("domain-delete", unfinished, json=True)

    assert first.status == 3, first
    assert any(str(target_of(lab, unfinished)) in item for item in error_of(first)["leftovers"])
    start, delete = f"virsh pool-start {lab.pool.name}", f"virtomate domain-delete {unfinished}"
    cure = f"Start it: {reaching(lab.uri, start)}. Then run {reaching(lab.uri, delete)} again."
    assert error_of(first)["hint"] == cure
    assert second.status == 0, second
    assert not is_there(lab, unfinished)


def test_delete_refuses_a_copied_record(lab: Lab, unfinished: str, virtomate: Program) -> None:
    """A record that another tool carried over to another domain gives no right to delete that domain's things."""
    claim = lab.connection.lookupByName(unfinished)
    document = claim.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    uuid = claim.UUIDString()
    # As virt-clone does: another name and UUID, and the metadata as they were.
    copied = document.replace(f"<name>{unfinished}</name>", "<name>other</name>").replace(f"<uuid>{uuid}</uuid>", "")
    lab.define(copied)

    check_refusal(
        lab,
        virtomate,
        ("domain-delete", "other"),
        Refusal("IllegalStateError", ("'other'", "not a clone"), ("virsh undefine --keep-nvram other",)),
    )
    assert listing(virtomate, "other")["clone"] is None


def test_delete_refuses_while_the_clone_is_being_made(lab: Lab, big: Path, virtomate: Program) -> None:
    """A claim whose maker is at work is left alone; the clone gets finished."""
    watched = start_clone(virtomate, "--transfer", "host", "big", "web")
    with midway(lab, watched, "host", target_of(lab, "web")):
        check_refusal(
            lab,
            virtomate,
            ("domain-delete", "web"),
            Refusal("IllegalStateError", ("'web'", str(watched.run.process.pid)), ("interrupt",)),
        )
    result = watched.run.wait()

    assert result.status == 0, str(result)
    assert images.same_content(big, "raw", target_of(lab, "web"), "raw")


@pytest.mark.usefixtures("big")
def test_nothing_of_a_run_outlives_it(lab: Lab, virtomate: Program) -> None:
    """A halted and interrupted run ends by itself once it goes on, with no process or file of its own left."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", "stream", "big", "web")
    with midway(lab, watched, "stream", target_of(lab, "web")), halted(watched.run):
        watched.run.signal(signal.SIGTERM)
    assert watched.run.wait().status == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(watched.run.process.pid, 0)
    unchanged(before, lab)
