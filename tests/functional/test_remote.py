"""Every command works over SSH, and notices a link that dies."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.functional.runs import (
    BIG_BYTES,
    Watched,
    error_of,
    make_big_source,
    midway,
    paused,
    wait_for,
    wait_until_still,
)
from tests.functional.support import unchanged
from tests.functional.test_terminal import Terminal
from tests.lab import Lab, Program, disk, domain, images, interface, running
from tests.lab.images import MIB, file_digest
from virtomate.cli.root import root
from virtomate.errors import NoConnectionError
from virtomate.hypervisor.connection import connect

if TYPE_CHECKING:
    from tests.lab import Hypervisor
    from tests.lab.program import Background, Result
    from tests.lab.ssh import SshServer

NAMES = """
import sys
from virtomate.services import completion as names
names._LIMIT_SECONDS = 60
print(names.list_names(names.Kind.DOMAIN, sys.argv[1]), names.list_names(names.Kind.POOL, sys.argv[1]))
"""


def commands() -> set[str]:
    """Every command that asks libvirt."""
    return {f"{group.name}-{command}" for group in root.groups for command in group.commands}


def define_guest(lab: Lab) -> None:
    """Define a domain `web` with a guest that has an agent and an address."""
    lab.make_network()
    interfaces = [interface(type_="network", source="lab")]
    lab.define(domain("web", guest=lab.guest, agent=True, cmdline="lab.dhcp", interfaces=interfaces, memory_mib=256))


def test_every_command_works_over_ssh(root_lab: Lab, sshd: SshServer, virtomate: Program, tmp_path: Path) -> None:
    """Each command does there what it does here."""
    uri = sshd.uri(root_lab.hypervisor)
    file = images.make_raw(tmp_path / "file.raw", 8 * MIB, data_bytes=MIB)
    path = root_lab.pool.raw("original.raw", 8 * MIB)
    seed = images.make_iso(root_lab.pool.path / "any.iso", "cidata")
    root_lab.pool.refresh()
    drive = disk(seed, "raw", "sda", bus="sata", device="cdrom", read_only=True)
    root_lab.define(domain("original", disks=[disk(path, "raw"), drive]))
    define_guest(root_lab)
    assert virtomate("domain-clone", "--mode", "linked", "original", "linked").status == 0
    make_big_source(root_lab, root_lab.pool)
    words = ("--progress", "json", "domain-clone", "--transfer", "stream", "big", "half")
    watched = Watched(virtomate.pausing("vda").start(*words, json=True, uri=uri))
    with midway(root_lab, watched, "stream", root_lab.pool.path / "half.raw"):
        watched.run.signal(signal.SIGKILL)
        watched.run.process.wait()
    with running(root_lab.connection, "web") as guest:
        guest.wait_for_agent()
        results = {
            words[0]: virtomate(*words, json=True, uri=uri)
            for words in [
                ("domain-list",),
                ("domain-clone", "original", "clone"),
                ("domain-delete", "half"),
                ("domain-flatten", "clone"),
                ("domain-rebase", "--base", path, "linked"),
                ("domain-reset", "linked"),
                ("domain-verify", "linked"),
                ("domain-template", "original"),
                ("domain-iface-list", "--source", "agent", "web"),
                ("guest-ping", "web"),
                ("guest-run", "web", "echo", "hello"),
                ("pool-list",),
                ("volume-list", root_lab.pool.name),
                ("volume-import", file, root_lab.pool.name),
            ]
        }

    assert results.keys() == commands()
    assert [str(result) for result in results.values() if result.status != 0] == []
    said = {name: result.json for name, result in results.items()}
    assert {item["name"] for item in said["domain-list"]} == {"original", "linked", "web", "big", "half"}
    assert said["domain-clone"][0]["disks"][0]["clone"]["volume"] == "clone.raw"
    (warning,) = said["domain-clone"][0]["warnings"]
    assert warning.startswith(f"disk sda ({seed}) has the label 'cidata'")
    assert said["domain-delete"][0]["removed"] == [f"volume '{root_lab.pool.path / 'half.raw'}'"]
    assert said["domain-flatten"][0]["status"] == "unchanged"
    assert said["domain-iface-list"][0]["addresses"]
    assert said["guest-run"]["stdout"] == "hello\n"
    assert root_lab.pool.name in {item["name"] for item in said["pool-list"]}
    assert {"big.raw", "clone.raw", "original.raw"} <= {item["name"] for item in said["volume-list"]}
    assert said["volume-import"]["volume"]["name"] == "file.raw"
    completed = subprocess.run(
        [sys.executable, "-c", NAMES, uri], env=virtomate.env(), capture_output=True, text=True, check=True
    )
    assert completed.stdout == f"{['big', 'clone', 'linked', 'original', 'web']} {sorted(root_lab.pools)}\n"


def test_import_reaches_a_host_whose_files_are_not_seen(
    root_lab: Lab, sshd: SshServer, virtomate: Program, tmp_path: Path
) -> None:
    """The content goes through the connection and nowhere else, and what is interrupted is removed there."""
    file = images.make_raw(tmp_path / "big.raw", BIG_BYTES, data_bytes=BIG_BYTES)
    with root_lab.make_host("far") as far:
        make_far_pool(far)
        there = far.on_host("/var/lib/libvirt/images/big.raw")
        words = ("volume-import", file, "images")
        run = virtomate.pausing("big.raw").start(*words, json=True, uri=sshd.uri(far))
        with paused(run):
            assert there.exists()
            run.signal(signal.SIGTERM)
        interrupted = run.wait()
        is_removed = not there.exists()
        again = virtomate(*words, json=True, uri=sshd.uri(far))

        assert (interrupted.status, is_removed) == (-signal.SIGTERM, True), str(interrupted)
        assert again.status == 0, str(again)
        assert file_digest(there) == file_digest(file)


@pytest.mark.parametrize(
    ("option", "says", "hint"),
    [
        ("UserKnownHostsFile=/dev/null", "Host key verification failed", "or get to know it: ssh -p {port} {user}"),
        ("PubkeyAuthentication=no", "Permission denied (", "Give ssh a key or a password that the host accepts"),
    ],
)
def test_hint_fits_what_ssh_says(root_lab: Lab, sshd: SshServer, option: str, says: str, hint: str) -> None:
    """Where ssh does not get in, its message is there, and the hint is about that."""
    uri = sshd.uri(root_lab.hypervisor)
    command = dict(parse_qsl(urlsplit(uri).query))["command"]
    wrapper = sshd.directory / "other-ssh"
    # what stands first counts
    wrapper.write_text(f'#!/bin/sh\nexec {command} -o {option} "$@"\n')
    wrapper.chmod(0o755)

    with pytest.raises(NoConnectionError) as caught:
        connect(uri.replace(f"command={command}", f"command={wrapper}"))

    assert says in caught.value.message
    assert hint.format(port=sshd.port, user=f"{getpass.getuser()}@127.0.0.1 true") in str(caught.value.hint)


def make_far_pool(far: Hypervisor) -> None:
    """Make the pool `images` on a host of its own."""
    xml = "<pool type='dir'><name>images</name><target><path>/var/lib/libvirt/images</path></target></pool>"
    far.connection.storagePoolDefineXML(xml).create()


def test_every_command_notices_a_dead_link(root_lab: Lab, sshd: SshServer, virtomate: Program, tmp_path: Path) -> None:
    """When the other end falls silent, each command says so by itself, and names what it could not clean up."""
    file = images.make_raw(tmp_path / "file.raw", 64 * MIB, data_bytes=64 * MIB)
    path = root_lab.pool.raw("original.raw", 8 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    define_guest(root_lab)
    root_lab.connection.lookupByName("web").create()
    # At the second call each is in the midst of things; the two that make something are to have made it.
    cases: list[tuple[int, tuple[str, ...]]] = [
        (0, ("domain-list",)),
        (2, ("domain-list",)),
        (42, ("domain-clone", "original", "clone")),
        (2, ("domain-delete", "original")),
        (2, ("domain-flatten", "original")),
        (2, ("domain-rebase", "--base", str(path), "original")),
        (2, ("domain-reset", "original")),
        (2, ("domain-template", "original")),
        (2, ("domain-verify", "original")),
        (2, ("domain-iface-list", "web")),
        (2, ("guest-ping", "web")),
        (2, ("guest-run", "web", "true")),
        (2, ("pool-list",)),
        (2, ("volume-list", root_lab.pool.name)),
        (14, ("volume-import", str(file), root_lab.pool.name)),
    ]
    assert {words[0] for _, words in cases} == commands()

    runs: list[Background] = []
    for last_call, words in cases:
        runs.append(virtomate.start(*words, json=True, uri=sshd.uri(root_lab.hypervisor, last_call)))
        # One after the other, since so many at once could keep a busy machine from connecting in time.
        wait_for(lambda: sshd.count_dead_links() == len(runs), "the link is dead")
    sshd.freeze()
    results = [run.wait() for run in runs]

    opening, *others = results
    assert (opening.status, error_of(opening)["type"]) == (1, "libvirtError"), str(opening)
    assert "no answer" in error_of(opening)["message"]
    for (_, words), result in zip(cases[1:], others, strict=True):
        error = error_of(result)
        assert error["type"] == "libvirtError", str(result)
        assert "the connection to libvirt was lost" in error["message"], str(result)
        made = {"domain-clone": "clone.raw", "volume-import": "file.raw"}.get(words[0])
        assert result.status == (1 if made is None else 3), str(result)
        assert made is None or any(made in leftover for leftover in error["leftovers"]), str(result)
    wait_for(lambda: sshd.clients() == [], "every ssh has ended")


def test_a_link_that_is_cut_is_mended_for_the_undo(
    root_lab: Lab, sshd: SshServer, virtomate: Program, tmp_path: Path
) -> None:
    """When only the link breaks, and a new one can be had, nothing is left behind."""
    file = images.make_raw(tmp_path / "big.raw", BIG_BYTES, data_bytes=BIG_BYTES)
    uri = sshd.uri(root_lab.hypervisor)

    run = virtomate.pausing("big.raw").start("volume-import", file, root_lab.pool.name, json=True, uri=uri)
    with paused(run):
        for child in Path(f"/proc/{run.process.pid}/task").glob("*/children"):
            for pid in child.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
    result = run.wait()

    assert (result.status, result.json["type"]) == (1, "libvirtError"), str(result)
    assert "the connection to libvirt was lost" in result.json["message"]
    assert "leftovers" not in result.json
    assert root_lab.pool.volumes() == []


# Numbers of procedures in libvirt's remote_protocol.x.
CREATE_VOLUME = 93
DELETE_VOLUME = 94
UNDEFINE_DOMAIN = 231


def interrupt_clone(sshd: SshServer, virtomate: Program, uri: str, *words: str) -> tuple[Result, list[int]]:
    """Interrupt a clone when its first volume has been created; return how it ended, and its calls."""
    run = virtomate.pausing("virStorageVolCreateXML").start("domain-clone", *words, json=True, uri=uri)
    wait_until_still(run.process.pid)
    run.signal(signal.SIGTERM)
    run.signal(signal.SIGCONT)
    return run.wait(), sshd.calls(uri)


@pytest.mark.parametrize("is_answered", [False, True], ids=["before", "after"])
def test_link_that_is_cut_during_the_undo(
    root_lab: Lab, sshd: SshServer, virtomate: Program, is_answered: bool
) -> None:
    """An undo goes on over a new link, whether or not libvirt has removed what it was asked to when the link broke."""
    root_lab.define(domain("original", disks=[disk(root_lab.pool.qcow2("original.qcow2", 8 * MIB))]))
    words = ("--mode", "linked", "original", "clone")
    before = root_lab.inventory()
    _, calls = interrupt_clone(sshd, virtomate, sshd.uri(root_lab.hypervisor), *words)

    for procedure in (DELETE_VOLUME, UNDEFINE_DOMAIN):
        number = calls.index(procedure) + 1
        uri = sshd.uri(root_lab.hypervisor, cuts={number: is_answered})
        result, made = interrupt_clone(sshd, virtomate, uri, *words)

        assert len(made) > len(calls), "the undo had to look again"
        assert result.status == -signal.SIGTERM, str(result)
        assert "leftovers" not in error_of(result), str(result)
        unchanged(root_lab, before)


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_link_that_is_cut_at_every_call(
    root_lab: Lab, sshd: SshServer, virtomate: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever call breaks the link, from the creation of a volume to the end of its undo, nothing is left."""
    root_lab.define(domain("original", disks=[disk(root_lab.pool.qcow2("original.qcow2", 8 * MIB))]))
    words = ("--mode", "linked", "original", "clone")
    before = root_lab.inventory()
    _, calls = interrupt_clone(sshd, virtomate, sshd.uri(root_lab.hypervisor), *words)
    created = calls.index(CREATE_VOLUME)
    for number in range(created + 2, len(calls) + 1):
        for is_answered in (False, True):
            uri = sshd.uri(root_lab.hypervisor, cuts={number: is_answered})
            result, _ = interrupt_clone(sshd, virtomate, uri, *words)

            assert result.status == -signal.SIGTERM, f"{number}, {is_answered}: {result}"
            unchanged(root_lab, before)
    with capsys.disabled():
        print(f"\ncut at calls {created + 2} to {len(calls)}, twice each: nothing was left")


@pytest.mark.parametrize("words", [("domain-list",), ("domain-clone", "original", "clone")], ids=lambda words: words[0])
def test_ctrl_c_ends_the_waiting_for_a_host(
    root_lab: Lab, sshd: SshServer, virtomate: Program, words: tuple[str, ...]
) -> None:
    """At a terminal, where SSH may be asking for a password, a silent host is waited for, and Ctrl-C ends that."""
    terminal = Terminal(virtomate, *words, "-c", sshd.uri(root_lab.hypervisor, 0))
    wait_for(lambda: sshd.count_dead_links() == 1, "the host is silent")
    terminal.child.send("\x03")
    status, shown = terminal.finish()

    assert status == -signal.SIGINT, shown
    assert "Traceback" not in shown
    wait_for(lambda: sshd.clients() == [], "ssh has ended")
