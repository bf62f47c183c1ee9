"""Clones of a domain that runs, with the file systems of its guest frozen when the copy begins."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from tests.functional.runs import error_of, wait_for, wait_until_still
from tests.functional.support import clone, clone_path, cloned, refused
from tests.functional.test_live import has_job, is_running, remove_clones
from tests.lab import Lab, Program, disk, domain, running
from tests.lab.images import MIB
from tests.lab.mounts import make_file_system
from tests.lab.ordinary_user import OrdinaryUser
from tests.lab.program import Background
from tests.lab.programs import require_program
from tests.lab.ssh import SshServer
from virtomate.cancel import CancelToken
from virtomate.definition.provenance import Owner
from virtomate.definition.quiesce_mark import QuiesceMark, read_mark, write_mark
from virtomate.errors import IllegalStateError
from virtomate.hypervisor import freeze, watchdog
from virtomate.hypervisor.connection import Connection
from virtomate.hypervisor.domains import Domain

NAMESPACE = "urn:virtomate:quiesce:1"
# of an ext4 file system: where its superblock says what a reader must understand, and that its journal is needed
FEATURES = slice(1024 + 0x60, 1024 + 0x64)
RECOVER = 0x4


@pytest.fixture
def virtomate(virtomate: Program) -> Program:
    """The program, with more patience for guests than users have."""
    return virtomate.pausing("never")


@pytest.fixture(scope="module")
def writing_guest(session_lab: Lab) -> Iterator[str]:
    """The name of a domain whose guest has an agent, and writes to a file system on its disk vdb all the time."""
    mark = session_lab.mark()
    pool = session_lab.pool
    system = pool.qcow2("original.qcow2", 8 * MIB)
    data = pool.path / "original-data.raw"
    make_file_system("ext4", data, 32 * MIB)
    pool.refresh()
    disks = [disk(system), disk(data, "raw", "vdb")]
    session_lab.define(
        domain("original", disks=disks, guest=session_lab.guest, agent=True, cmdline="lab.mount", memory_mib=256)
    )
    with running(session_lab.connection, "original") as started:
        started.wait_for_agent()
        yield "original"
    session_lab.return_to(mark)


@pytest.fixture
def original(lab: Lab, writing_guest: str) -> Iterator[Any]:
    """That domain; a test that fails leaves its guest thawed and running for the next one."""
    found = lab.connection.lookupByName(writing_guest)
    yield found
    with suppress(libvirt.libvirtError):
        found.resume()
    with suppress(libvirt.libvirtError):
        agent(found, "guest-fsfreeze-thaw")


def agent(found: Any, command: str) -> Any:
    """Have the guest agent carry out a command."""
    answer = libvirt_qemu.qemuAgentCommand(found, json.dumps({"execute": command}), 60, 0)
    return json.loads(answer)["return"]


def is_frozen(found: Any) -> bool:
    """Tell whether the guest is frozen."""
    return bool(agent(found, "guest-fsfreeze-status") == "frozen")


def mark_of(found: Any) -> str | None:
    """Return the mark of a freeze on a domain."""
    with suppress(libvirt.libvirtError):
        return str(found.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE))
    return None


def needs_journal(image: Path) -> bool:
    """Tell whether the file system in an image was not whole, so that who mounts it has to replay its journal."""
    head = image.read_bytes()[:2048]
    return bool(int.from_bytes(head[FEATURES], "little") & RECOVER)


def check(image: Path) -> int:
    """Return the status of a check of the file system in an image, which repairs nothing."""
    words = [require_program("e2fsck", "e2fsprogs"), "-f", "-n", str(image)]
    return subprocess.run(words, capture_output=True, check=False).returncode


def require_untouched(found: Any) -> None:
    """Make sure that a domain runs on, its guest writes, and neither a backup nor a freeze nor its mark is left."""
    assert is_running(found)
    assert not has_job(found)
    assert not is_frozen(found)
    assert mark_of(found) is None
    written = found.blockStats("vdb")[3]
    wait_for(lambda: found.blockStats("vdb")[3] > written, "the guest goes on writing")


def names(lab: Lab) -> list[str]:
    """Return the names of all domains and volumes; the guest changes the content of its own all the time."""
    domains = [found.name() for found in lab.connection.listAllDomains()]
    return sorted([*domains, *(f"{pool.name}/{volume}" for pool in lab.pools.values() for volume in pool.volumes())])


def test_file_systems_are_whole(virtomate: Program, original: Any) -> None:
    """With an agent the file systems in the clone are whole, and without the freeze their journal is needed."""
    frozen = clone(virtomate, "--live")

    assert (frozen["consistency"], frozen["warnings"]) == ("filesystem", [])
    assert frozen["frozen_seconds"] > 0
    assert not needs_journal(clone_path(frozen, "vdb"))
    assert check(clone_path(frozen, "vdb")) == 0
    require_untouched(original)

    torn = cloned(virtomate("domain-clone", "--live", "--quiesce", "off", "original", "torn", json=True))
    assert (torn["consistency"], torn["frozen_seconds"]) == ("crash", None)
    assert needs_journal(clone_path(torn, "vdb"))
    assert remove_clones(virtomate) == {"finished"}


@pytest.mark.stress
@pytest.mark.usefixtures("original")
def test_guests_of_clones(lab: Lab, virtomate: Program) -> None:
    """The guest of a clone mounts the file system without a repair; without the freeze its journal is replayed."""
    for quiesce, is_repaired in (("require", False), ("off", True)):
        clone(virtomate, "--live", "--quiesce", quiesce)
        with running(lab.hypervisor.connect(), "clone") as guest:
            guest.wait_for_agent()
            said = virtomate("guest-run", "clone", "dmesg").stdout
        assert "mounted filesystem" in said
        assert ("EXT4-fs (vdb): recovery complete" in said) is is_repaired
        assert remove_clones(virtomate) == {"finished"}


def test_dry_run_freezes_nothing(lab: Lab, virtomate: Program, original: Any) -> None:
    """The plan says that the file systems would be frozen."""
    before = names(lab)
    words = ("domain-clone", "--live", "--dry-run", "original", "clone")
    (plan,) = virtomate(*words, json=True).json

    assert (plan["consistency"], plan["frozen_seconds"]) == ("filesystem", None)
    assert "guest  file systems to be frozen for the moment" in virtomate(*words).stdout
    assert names(lab) == before
    require_untouched(original)


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_several_clones_of_one_freeze(virtomate: Program, original: Any, mode: str) -> None:
    """Several clones have one freeze, and say so."""
    words = ("--live", "--quiesce", "require", "--mode", mode, "--count", "2", "original", "c")
    result = virtomate("domain-clone", *words, json=True)

    assert result.status == 0, str(result)
    assert {item["consistency"] for item in result.json} == {"filesystem"}
    (seconds,) = {item["frozen_seconds"] for item in result.json}
    assert seconds > 0
    for document in result.json:
        path = document["disks"][1]["clone" if mode == "copy" else "source"]["path"]
        assert not needs_journal(Path(path))
    require_untouched(original)
    assert remove_clones(virtomate) == {"finished"}


@pytest.mark.parametrize("quiesce", ["auto", "require"])
def test_freeze_of_others(virtomate: Program, original: Any, quiesce: str) -> None:
    """A freeze that somebody else has made serves as well, and is left to them."""
    agent(original, "guest-fsfreeze-freeze")
    document = clone(virtomate, "--live", "--quiesce", quiesce)

    assert is_frozen(original)
    assert mark_of(original) is None
    agent(original, "guest-fsfreeze-thaw")
    assert (document["consistency"], document["frozen_seconds"]) == ("filesystem", None)
    assert not needs_journal(clone_path(document, "vdb"))
    assert remove_clones(virtomate) == {"finished"}


def test_paused_original(lab: Lab, virtomate: Program, original: Any) -> None:
    """The agent of a paused domain cannot answer: the disks are as after a power cut, or there is no clone."""
    original.suspend()
    before = lab.inventory()
    error = refused(
        lab, before, virtomate("domain-clone", "--live", "--quiesce", "require", "original", "clone", json=True)
    )
    result = virtomate("domain-clone", "--live", "original", "clone")
    original.resume()

    assert error["message"].endswith("cannot be frozen, as --quiesce require demands: it is paused")
    assert "--quiesce auto" in error["hint"]
    assert result.status == 0, str(result)
    assert "guest  file systems not frozen, disks as after a power cut" in result.stdout
    assert result.stderr == "Note: the file systems of the guest are not frozen: it is paused\n"
    assert remove_clones(virtomate) == {"finished"}


def test_quiesce_needs_live(virtomate: Program) -> None:
    """What is about the guest of a running original is refused without --live, and so is any other value."""
    result = virtomate("domain-clone", "--quiesce", "auto", "a", "b")
    assert result.status == 2
    assert "--quiesce is for an original that runs, and needs --live" in result.stderr

    result = virtomate("domain-clone", "--live", "--quiesce", "maybe", "a", "b")
    assert result.status == 2
    assert "'maybe' is not one of 'auto', 'require', 'off'" in result.stderr


def watchdogs(virtomate: Program) -> list[int]:
    """Return the processes that watch over guests for runs of this program."""
    home = f"HOME={virtomate.directory / 'home'}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if b"virtomate.hypervisor.watchdog" in words and home in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


@contextmanager
def caught(virtomate: Program, moment: str) -> Iterator[tuple[Background, int]]:
    """Have a run clone the original, which stands still at a moment, and yield it with its watchdog."""
    run = virtomate.pausing(moment).start("domain-clone", "--live", "original", "clone", json=True)
    wait_until_still(run.process.pid)
    (watching,) = watchdogs(virtomate)
    yield run, watching
    wait_for(lambda: watchdogs(virtomate) == [], "the watchdog ends")


# the function after which the run is killed, and whether the guest is frozen then
MOMENTS = {"marked": "virDomainSetMetadata", "frozen": "freeze", "begun": "virDomainBackupBegin"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_freeze(lab: Lab, virtomate: Program, original: Any, moment: str) -> None:
    """After kill -9 the watchdog thaws the guest, whatever else is sent to it, and the domain runs on."""
    before = names(lab)
    with caught(virtomate, MOMENTS[moment]) as (run, watching):
        assert is_frozen(original) is (moment != "marked")
        assert mark_of(original) is not None
        assert os.getsid(watching) not in {os.getsid(run.process.pid), os.getsid(0)}
        # a child could be killed with the process that started it
        assert children(run.process.pid) == []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(watching, number)
        run.signal(signal.SIGKILL)
        run.wait()

    assert not is_frozen(original)
    assert mark_of(original) is None
    assert remove_clones(virtomate) == {"unfinished"}
    require_untouched(original)
    assert names(lab) == before


@pytest.mark.parametrize("way", ["deletion", "next run"])
def test_watchdog_is_killed_too(lab: Lab, virtomate: Program, original: Any, way: str) -> None:
    """Where everything was killed, the deletion of the unfinished clone thaws, and so does the next run."""
    before = names(lab)
    with caught(virtomate, "freeze") as (run, watching):
        os.kill(watching, signal.SIGKILL)
        run.signal(signal.SIGKILL)
        run.wait()
    assert is_frozen(original)

    if way == "deletion":
        result = virtomate("domain-delete", "clone")
    else:
        result = virtomate("domain-clone", "--live", "--quiesce", "require", "original", "next")

    assert result.status == 0, str(result)
    assert "thawed the file systems of domain 'original', which a virtomate that was killed had frozen" in result.stderr
    require_untouched(original)
    remove_clones(virtomate)
    assert names(lab) == before


def test_interrupted_in_the_freeze(lab: Lab, virtomate: Program, original: Any) -> None:
    """Ctrl-C while the guest is frozen thaws it, and leaves nothing."""
    before = names(lab)
    with caught(virtomate, "freeze") as (run, _):
        run.signal(signal.SIGINT)
        run.signal(signal.SIGCONT)
        result = run.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert "leftovers" not in error_of(result)
    require_untouched(original)
    assert names(lab) == before


def test_member_of_the_group(root_lab: Lab, nobody: OrdinaryUser, original: Any) -> None:
    """Whoever may talk to libvirt alone has the guest frozen, too."""
    root_lab.pool.path.chmod(0o755)
    document = cloned(nobody("domain-clone", "--live", "--quiesce", "require", "original", "clone"))

    assert document["consistency"] == "filesystem"
    assert not needs_journal(clone_path(document, "vdb"))
    require_untouched(original)
    assert nobody("domain-delete", "--yes", "--yes-unproved", "clone").status == 0


@pytest.fixture
def over_ssh(root_lab: Lab) -> Iterator[str]:
    """The URI of the lab's hypervisor through an SSH server."""
    with SshServer(root_lab.directory / "ssh", root_lab.workspace.cache) as server:
        yield server.uri(root_lab.hypervisor)


def test_over_ssh(virtomate: Program, original: Any, over_ssh: str) -> None:
    """The watchdog has an SSH link of its own."""
    words = ("domain-clone", "--live", "--quiesce", "require", "--trust-pool", "original", "clone")
    document = cloned(virtomate(*words, json=True, uri=over_ssh))

    assert document["consistency"] == "filesystem"
    require_untouched(original)
    assert remove_clones(virtomate) == {"finished"}


def test_link_breaks_in_the_freeze(lab: Lab, virtomate: Program, original: Any, over_ssh: str) -> None:
    """Where the link breaks, the error says that the guest may be frozen and what to do; here the watchdog thaws."""
    before = names(lab)
    words = ("domain-clone", "--live", "--trust-pool", "original", "clone")
    run = virtomate.pausing("freeze").start(*words, json=True, uri=over_ssh)
    wait_until_still(run.process.pid)
    for link in children(run.process.pid):
        os.kill(link, signal.SIGKILL)
    run.signal(signal.SIGCONT)
    result = run.wait()
    wait_for(lambda: watchdogs(virtomate) == [], "the watchdog ends")

    assert result.status == 1, str(result)
    error = error_of(result)
    assert "may still be frozen" in error["message"]
    assert "domfsthaw original" in error["hint"]
    require_untouched(original)
    assert names(lab) == before


def test_time_of_the_watchdog(lab: Lab, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over the watchdog thaws although the process that froze the guest still runs."""
    monkeypatch.setattr(watchdog, "THAW_AFTER_SECONDS", 0.1)
    domain_ = Domain(original)
    mark = QuiesceMark("some token", domain_.run_id, Owner("host", 1, 2))
    freeze.put_mark(domain_, write_mark(mark))
    assert read_mark(freeze.find_mark(domain_)) == mark
    assert freeze.freeze(domain_) == 1
    with watchdog.start_watchdog(Connection(lab.connection), domain_.uuid, "some token", CancelToken()):
        wait_for(lambda: mark_of(original) is None, "the watchdog thaws")
    require_untouched(original)


def test_watchdog_thaws_no_freeze_of_others(
    lab: Lab, virtomate: Program, original: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watchdog leaves the guest as it is that has the mark of another run."""
    monkeypatch.setenv("HOME", virtomate.env()["HOME"])
    domain_ = Domain(original)
    agent(original, "guest-fsfreeze-freeze")
    freeze.put_mark(domain_, write_mark(QuiesceMark("other token", domain_.run_id, Owner("host", 1, 2))))
    with watchdog.start_watchdog(Connection(lab.connection), domain_.uuid, "some token", CancelToken()):
        assert len(watchdogs(virtomate)) == 1
    wait_for(lambda: watchdogs(virtomate) == [], "the watchdog ends")
    assert is_frozen(original)
    freeze.clear_mark(domain_)


def test_watchdog_that_cannot_connect(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog that cannot connect is refused with the reason, and asks nobody."""
    uri = f"qemu+unix:///system?socket={lab.directory}/nowhere"
    monkeypatch.setattr(Connection, "name", uri)
    with pytest.raises(IllegalStateError, match="does not start: cannot connect to qemu"):
        watchdog.start_watchdog(Connection(lab.connection), "uuid", "some token", CancelToken())
