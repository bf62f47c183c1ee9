"""What tests of failures and interruptions share: refusals, and runs that are caught in the middle of a copy."""

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pexpect

from tests.lab import Inventory, Lab, Pool, Program, Result, disk, domain, interface
from tests.lab.held_reads import HeldReads
from tests.lab.images import MIB, allocated_bytes
from tests.lab.program import Background

TRANSFERS = ("host", "stream", "server")

# Enough that a copy can be caught in the middle: it takes a third of a second at least.
BIG_BYTES = 320 * MIB

# libvirt reads a MiB at a time, and a few times to find out what a file is.
READS_BEFORE_THE_MIDDLE = 64

WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Refusal:
    """How a refused command says so.

    Attributes:
        type: The JSON type.
        message: What the sentence names.
        hint: What the hint names; its commands without the connection that they have to name.
    """

    type: str
    message: tuple[str, ...]
    hint: tuple[str, ...]


def check_refusal(
    lab: Lab, virtomate: Program, words: tuple[str | Path, ...], refusal: Refusal, uri: str | None = None
) -> None:
    """Run a command that is refused, for people and as JSON, and see that it says so and changed nothing."""
    before = lab.inventory()
    human = virtomate(*words, uri=uri)
    machine = virtomate(*words, json=True, uri=uri)
    unchanged(before, lab)

    assert (human.status, human.stdout) == (1, ""), human
    assert (machine.status, machine.stderr) == (1, ""), machine
    check_error(error_of(machine), human, refusal, uri or str(virtomate.uri))


def reaching(uri: str, commands: str) -> str:
    """Return commands of virsh's and ours as a hint has them that are to reach this hypervisor."""
    return re.sub(r"\b(virsh|virtomate) ", lambda found: f"{found[1]} -c {shlex.quote(uri)} ", commands)


def check_error(error: dict[str, Any], human: Result, refusal: Refusal, uri: str) -> None:
    """See that an error is one sentence with a hint, the same in both forms, and names what it should."""
    assert error["type"] == refusal.type
    assert "leftovers" not in error
    for part in refusal.message:
        assert part in error["message"]
    assert "\n" not in error["message"]
    assert "hint" in error, f"There is no hint: {error}"
    for part in refusal.hint:
        assert reaching(uri, part) in error["hint"]
    assert human.stderr == f"Error: {error['message']}\nHint: {error['hint']}\n"


def error_of(result: Result) -> dict[str, Any]:
    """Return the error of a run with `--json`: all that there is before the claim, a part of the clone after it."""
    document = result.json
    if isinstance(document, dict):
        return document
    (clone,) = document
    assert clone["status"] in {"failed", "interrupted"}, result
    error: dict[str, Any] = clone["error"]
    return error


def unchanged(before: Inventory, lab: Lab) -> None:
    """See that the host is as it was."""
    difference = before.difference(lab.inventory())
    assert not difference, difference


def wait_for(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"It never came to this: {what}"
        time.sleep(0.002)


@dataclass
class Watched:
    """A run with `--progress json`, whose events are read while it goes on.

    Attributes:
        held: What keeps libvirt in the middle of reading, where libvirt copies; None where nothing does.
    """

    run: Background
    held: HeldReads | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _rest: bytes = b""

    def wait_for_event(self, kind: str) -> dict[str, Any]:
        """Read until an event of this kind comes."""
        stderr = self.run.process.stderr
        assert stderr is not None
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                self.events.append(json.loads(line))
                if self.events[-1]["event"] == kind:
                    return self.events[-1]
            # Past the file object, which would keep what `Background.wait` is to read.
            chunk = os.read(stderr.fileno(), 65536)
            assert chunk, f"It ended without '{kind}': {self.events} {self.run.wait()}"
            self._rest += chunk


def start_clone(virtomate: Program, *words: str | Path, json: bool = True, moment: str = "vda") -> Watched:
    """Start `domain-clone` with progress that can be followed, to stand still at a moment; see `Program.pausing`.

    Where libvirt does the work, it is libvirt that does not get further than to the middle, until `midway` holds it.
    """
    words = ("--progress", "json", "domain-clone", *words)
    if "server" not in words:
        return Watched(virtomate.pausing(moment).start(*words, json=json))
    held = None
    # an ordinary user cannot hold others
    if os.geteuid() == 0:
        held = HeldReads(_only_disk(str(virtomate.uri), str(words[-2])), READS_BEFORE_THE_MIDDLE)
        held.hold()
    # on a busy machine, a command with ordinary patience would say that libvirt does not answer
    return Watched(virtomate.pausing("never").start(*words, json=json), held)


def _only_disk(uri: str, name: str) -> Path:
    """Return the path of a domain's disk."""
    connection = libvirt.open(uri)
    (source,) = ET.fromstring(connection.lookupByName(name).XMLDesc()).iterfind("devices/disk/source")
    connection.close()
    return Path(source.attrib["file"])


def consent(words: Sequence[str | Path]) -> list[str]:
    """Return what `domain-delete` wants for a killed run with these words: half a copy of libvirt's proves nothing."""
    return ["--yes-unproved"] if "server" in words else []


def wait_until_still(process: int) -> None:
    """Wait until a process has stopped."""
    wait_for(lambda: _state(process) in "TZ", "it stands still")
    assert _state(process) == "T", "It ended instead"


def is_alive(process: int) -> bool:
    """Tell whether a process is there that has not ended; nobody may have waited for a process that has."""
    try:
        return _state(process) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def paused(run: Background) -> Iterator[None]:
    """Wait until a run stands still by itself, and let it go on at the end of the block."""
    wait_for(lambda: not run.running or _state(run.process.pid) == "T", "it stands still")
    assert run.running, f"It ended instead: {run.wait()}"
    with halted(run):
        yield


@contextmanager
def halted(run: Background) -> Iterator[None]:
    """Let a run stand still for the time of the block; what it is sent meanwhile arrives at its end."""
    run.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if run.running:
            run.signal(signal.SIGCONT)


@contextmanager
def held_daemon(lab: Lab) -> Iterator[None]:
    """Let the daemon stand still for the time of the block."""
    lab.hypervisor.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        lab.hypervisor.signal(signal.SIGCONT)


def make_big_source(lab: Lab, pool: Pool, name: str = "big") -> Path:
    """Define a domain whose one raw disk takes a while to copy, and return the disk's path.

    Its end is a hole: a copy of a full image would take all of its space from the beginning, and not tell how far it
    is.
    """
    path = pool.raw(f"{name}.raw", BIG_BYTES + 64 * MIB, extents=[(offset, MIB) for offset in range(0, BIG_BYTES, MIB)])
    lab.define(domain(name, disks=[disk(path, "raw")], interfaces=[interface()]))
    return path


@contextmanager
def midway(lab: Lab, watched: Watched, transfer: str, target: Path) -> Iterator[None]:
    """Hold a run in the middle of copying a big disk for the time of the block.

    Where libvirt does the work, it is the daemon that is held: the run waits for it and can be sent signals.
    """
    if transfer == "server":
        watched.wait_for_event("started")
        wait_for(lambda: target.exists() and allocated_bytes(target) > 0, f"{target} is being written")
        with held_daemon(lab):
            if watched.held is not None:
                watched.held.release()
            assert 0 < allocated_bytes(target) < BIG_BYTES, "The copy was over before it could be caught"
            yield
    else:
        event = watched.wait_for_event("progress")
        with paused(watched.run):
            assert 0 < event["bytes"] < BIG_BYTES <= event["total"]
            assert 0 < allocated_bytes(target) < BIG_BYTES
            yield


class Question:
    """The command at a terminal, which asks."""

    def __init__(self, virtomate: Program, *words: str) -> None:
        argv = virtomate.argv("domain-delete", *words)
        self.child = pexpect.spawn(
            argv[0], argv[1:], env=virtomate.env(), cwd=str(virtomate.directory), encoding="utf-8", timeout=120
        )
        self.child.expect_exact("[y/N]: ")
        self.text = str(self.child.before)

    def answer(self, text: str) -> tuple[int, str]:
        """Answer it, and return the status, as subprocess does, and what came after."""
        self.child.send(text)
        self.child.expect(pexpect.EOF)
        self.child.close()
        status = self.child.exitstatus if self.child.exitstatus is not None else -int(self.child.signalstatus or 0)
        return status, str(self.child.before)
