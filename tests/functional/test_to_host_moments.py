"""Clones on another host whose links break, or whose run is killed, at any message to either of the hosts."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.functional.runs import reaching
from tests.functional.test_to_host import nothing_happened
from tests.lab import Inventory, Lab, Program, disk, domain, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from tests.lab.relay import Fate, Moment, Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.far import Far
    from tests.lab.program import Result

# the hosts by their numbers
HERE, THERE = 0, 1
# the number of the procedure in libvirt's remote_protocol.x
DELETE_VOLUME = 94
UNPROVED = "it may be a copy that libvirt did not finish"
TEMPORARY = "virtomate-clone-"


def told_by(result: Result) -> Any:
    """Return the error of a run, also that of a clone that is complete."""
    return result.json[0]["error"] if isinstance(result.json, list) else result.json


@dataclass
class Stage:
    """Two hosts that are reached through a relay, an original, and how both were before."""

    lab: Lab
    far: Far
    virtomate: Program
    relay: Relay
    words: tuple[str, ...]
    before: tuple[Inventory, Inventory]

    def run(self, moment: Moment | None = None, name: str = "clone") -> Result:
        """Clone the original, and let something happen at a moment."""
        self.relay.begin(moment)
        words = ("domain-clone", "--to", self.relay.uri(THERE), *self.words, "original", name)
        run = self.virtomate.start(*words, json=True, uri=self.relay.uri(HERE))
        if moment is not None and moment.fate is Fate.KILL:
            self.relay.victims.put(run.process.pid)
        return run.wait()

    def clones(self) -> dict[tuple[int, str], str]:
        """Return the statuses of all clones and images by host and name."""
        self.relay.begin()
        found: dict[tuple[int, str], str] = {}
        for number, host in enumerate((self.lab.hypervisor, self.far.host)):
            host.wait_until_idle()
            if {item.name() for item in host.connection.listAllDomains()} != self.before[number].domains.keys():
                listed = self.virtomate("domain-list", "--clones", json=True, uri=self.relay.uri(number)).json
                found |= {(number, item["name"]): item["clone"]["status"] for item in listed}
        return found

    def clear(self) -> None:
        """Delete what there is, as a user would, and see that both hosts are as before."""
        for number, name in self.clones():
            # without a look at the files, nothing proves whose a raw volume is
            words = ("domain-delete", "--yes", "--yes-unproved", name)
            deleted = self.virtomate(*words, json=True, uri=self.relay.uri(number))
            assert deleted.status == 0, str(deleted)
        hosts = (self.lab.connection, self.far.host.connection)
        if any(pool.name().startswith(TEMPORARY) for host in hosts for pool in host.listAllStoragePools()):
            # the next run stops them
            again = self.run(name="next")
            assert again.status == 0, str(again)
            deleted = self.virtomate("domain-delete", "--yes", "--yes-unproved", "next", uri=self.relay.uri(THERE))
            assert deleted.status == 0, str(deleted)
        nothing_happened(self.lab, self.far, self.before)

    def check(self, moment: Moment) -> set[str]:
        """Let something happen at a moment, see what is left and that all of it can be removed; return its statuses."""
        result = self.run(moment)
        left = self.clones()
        finished = {key for key, status in left.items() if status == "finished"}
        assert finished <= {(THERE, "clone")}, f"{moment}: {left} {result}"
        if moment.fate is Fate.KILL:
            assert result.status in {0, -9}, f"{moment}: {result}"
        elif result.status == 0:
            assert left.keys() == finished, f"{moment}: {left} {result}"
        elif not left.keys() - finished:
            told = told_by(result).get("leftovers", [])
            # a host that is gone does not say that the clone is complete
            assert finished or all(TEMPORARY in item for item in told), f"{moment}: {left} {result}"
            assert moment.fate is Fate.GONE or not told, f"{moment}: {left} {result}"
        else:
            # what is left is told
            assert result.status == 3, f"{moment}: {left} {result}"
            error = told_by(result)
            # nothing proves whose a volume is that libvirt made when its answer did not come
            assert moment.fate is Fate.GONE or UNPROVED in str(error["leftovers"]), f"{moment}: {left} {result}"
            for number, name in left.keys() - finished:
                assert reaching(self.relay.uri(number), f"virtomate domain-delete {name}") in error["hint"]
        if left.get((THERE, "clone")) == "unfinished":
            again = self.run()
            assert told_by(again)["type"] == "Conflict", f"{moment}: {again}"
            assert reaching(self.relay.uri(THERE), "virtomate domain-delete clone") in told_by(again)["hint"]
        self.clear()
        return set(left.values())


def define_plain(lab: Lab) -> tuple[str, ...]:
    """Define `original` with a raw disk and NVRAM, which go to the other host as they are."""
    path = lab.pool.raw("original.raw", 2 * MIB, data_bytes=MIB)
    variables = lab.make_directory("nvram") / "original_VARS.fd"
    variables.write_bytes(OVMF_TEMPLATE.read_bytes())
    text = domain("original", disks=[disk(path, "raw")], interfaces=[interface()], firmware=nvram(variables))
    lab.define(text)
    return ()


def define_chain(lab: Lab) -> tuple[str, ...]:
    """Define `original` with an overlay, of which an image is made first."""
    base = lab.pool.qcow2("base.qcow2", 2 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(lab.pool.overlay("original.qcow2", base))]))
    return ()


def define_running(lab: Lab) -> tuple[str, ...]:
    """Define `original` with a qcow2, and start it."""
    lab.define(domain("original", disks=[disk(lab.pool.qcow2("original.qcow2", 2 * MIB, data_bytes=MIB))])).create()
    return ("--live",)


SHAPES: dict[str, Callable[[Lab], tuple[str, ...]]] = {
    "plain": define_plain,
    "chain": define_chain,
    "live": define_running,
}


@contextmanager
def staged(lab: Lab, far: Far, virtomate: Program, shape: str) -> Iterator[Stage]:
    """Set the stage."""
    words = SHAPES[shape](lab)
    with Relay(lab.hypervisor, far.host) as relay:
        yield Stage(lab, far, virtomate, relay, words, (lab.inventory(), far.inventory()))


@pytest.mark.parametrize("shape", ["plain", "chain"])
def test_some_moments(root_lab: Lab, far: Far, virtomate: Program, shape: str) -> None:
    """A link that breaks, and a kill, leave nothing that cannot be removed, on the one host or on the other."""
    with staged(root_lab, far, virtomate, shape) as stage:
        assert stage.run().status == 0
        count = len(stage.relay.messages)
        stage.clear()
        for part, fate in ((0.6, Fate.KILL), (0.8, Fate.CUT)):
            stage.check(Moment(int(count * part), fate, is_answered=True))


def test_command_for_what_is_left_reaches_its_host(root_lab: Lab, far: Far, virtomate: Program) -> None:
    """If the host of the original is gone, the hint names the command for the images there, not for the other host."""
    with staged(root_lab, far, virtomate, "chain") as stage:
        assert stage.run().status == 0
        number = stage.relay.messages.index((HERE, DELETE_VOLUME)) + 1
        stage.clear()
        assert stage.check(Moment(number, Fate.GONE)) == {"finished", "unfinished"}


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_moment(
    root_lab: Lab, far: Far, virtomate: Program, shape: str, fate: Fate, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whenever a link breaks, a host is gone or the run is killed, what is left is told and can be removed."""
    with staged(root_lab, far, virtomate, shape) as stage:
        assert stage.run().status == 0
        count = len(stage.relay.messages)
        stage.clear()
        found: set[str] = set()
        # that a host is gone before a message is the same as that it is gone after the one before
        ways = (True,) if fate is Fate.GONE else (False, True)
        for number in range(1, count + 1):
            for is_answered in ways:
                found |= stage.check(Moment(number, fate, is_answered))
    with capsys.disabled():
        print(f"\n{shape}, {fate.value}: {count} messages, {len(ways)} times each: nothing was left")
    assert fate is Fate.CUT or "unfinished" in found
