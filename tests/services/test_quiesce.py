"""Guests whose file systems are frozen: whatever fails, they are thawed, or the watchdog is left to thaw them."""

# The methods of the fake have the names and meanings of what they stand for.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.clock import Clock
from virtomate.cancel import CancelToken
from virtomate.definition.provenance import Owner
from virtomate.definition.quiesce_mark import QuiesceMark, read_mark, write_mark
from virtomate.enums import Consistency, Quiesce
from virtomate.errors import (
    AgentUnresponsiveError,
    ConnectionLostError,
    HypervisorError,
    IllegalStateError,
    InterruptedBySignalError,
    NoAgentError,
    ProgramError,
    VirtomateError,
)
from virtomate.services import quiesce
from virtomate.services.quiesce import Guest, StillFrozenError, begin_frozen, examine_guest, thaw_abandoned, thaw_own

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

TOKEN = "uuid:token"
RUN_ID = 7
OTHERS = write_mark(QuiesceMark("other token", RUN_ID, Owner("elsewhere", 1, 2)))
REFUSED = ProgramError("the agent does not freeze")
SILENT = AgentUnresponsiveError("the agent does not answer")
LOST = ConnectionLostError("the connection was lost")
NO_JOB = HypervisorError("libvirt does not begin")


@dataclass
class FakeGuest:
    """A guest, its agent and its watchdog.

    Attributes:
        count: How many file systems it has.
        busy: How many times it does not answer before it thaws.
        faults: What a step raises: its name, after `late ` if the step is carried out all the same.
        steps: What was done.
        was_rescued: Whether the watchdog had to thaw.
    """

    count: int = 2
    busy: int = 0
    frozen: bool = False
    mark: str | None = None
    state_: str = "running"
    faults: dict[str, VirtomateError] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    was_rescued: bool = False
    is_watched: bool = False
    cancel: CancelToken = field(default_factory=CancelToken)
    meanwhile: Callable[[], None] = lambda: None

    name = "web"
    uuid = "uuid"
    run_id = RUN_ID

    def state(self) -> str:
        return self.state_

    def is_active(self) -> bool:
        return True

    def _do(self, step: str) -> None:
        self.steps.append(step)
        if (fault := self.faults.get(step)) is not None:
            raise fault

    def is_frozen(self, _domain: object) -> bool:
        self._do("look")
        return self.frozen

    def count_file_systems(self, _domain: object) -> int:
        return self.count

    def freeze(self, _domain: object) -> int:
        self._do("freeze")
        assert self.is_watched
        assert self.mark is not None
        self.frozen = True
        if (fault := self.faults.get("late freeze")) is not None:
            raise fault
        return self.count

    def thaw(self, _domain: object) -> int:
        self._do("thaw")
        self.busy -= 1
        if self.busy >= 0:
            raise SILENT
        was_frozen, self.frozen = self.frozen, False
        return self.count if was_frozen else 0

    def find_mark(self, _domain: object) -> str | None:
        return self.mark

    def put_mark(self, _domain: object, element: str) -> None:
        self._do("mark")
        self.mark = element

    def clear_mark(self, _domain: object) -> None:
        self._do("unmark")
        self.mark = None

    def start_watchdog(self, _connection: object, _uuid: str, token: str, _cancel: CancelToken) -> Self:
        self._do("watch")
        assert token == TOKEN
        self.is_watched = True
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.is_watched:
            self.was_rescued = True
            self.is_watched = False

    def dismiss(self) -> None:
        self.is_watched = False

    def begin(self) -> None:
        self._do("begin")
        self.meanwhile()

    def clone(self, *, is_required: bool = False) -> Any:
        """Begin a backup of it."""
        guest = Guest(cast("Connection", None), cast("Domain", self), TOKEN, is_required, self.cancel)
        return begin_frozen(guest, self.begin)


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> FakeGuest:
    """A guest that answers."""
    made = FakeGuest()
    monkeypatch.setattr("virtomate.cancel.time", Clock())
    monkeypatch.setattr(quiesce, "freeze", made)
    monkeypatch.setattr(quiesce, "start_watchdog", made.start_watchdog)
    monkeypatch.setattr(quiesce, "find_domain_by_uuid", lambda *_: made)
    return made


def test_backup_begins_in_the_freeze(guest: FakeGuest) -> None:
    """The watchdog comes first, then the mark; the thaw follows at once."""
    start = guest.clone()

    assert guest.steps == ["look", "watch", "mark", "freeze", "begin", "thaw", "unmark"]
    assert (start.consistency, start.problem) == (Consistency.FILESYSTEM, "")
    assert start.frozen_seconds is not None
    assert not guest.was_rescued


# what fails, and what the backup's start says of it; None where it does not begin, whether that is required or not
FAILURES: dict[str, tuple[str, VirtomateError, str | None]] = {
    "agent is silent": ("look", SILENT, SILENT.message),
    "watchdog does not start": ("watch", IllegalStateError("it does not start"), "it does not start"),
    "mark is refused": ("mark", HypervisorError("no mark"), "no mark"),
    "freeze is refused": ("freeze", REFUSED, REFUSED.message),
    "agent hangs before the freeze": ("freeze", SILENT, SILENT.message),
    "agent hangs after the freeze": ("late freeze", SILENT, SILENT.message),
    "connection is lost at the look": ("look", LOST, None),
    "connection is lost at the freeze": ("late freeze", LOST, None),
    "backup does not begin": ("begin", NO_JOB, None),
    "signal": ("watch", InterruptedBySignalError(2), None),
}


@pytest.mark.parametrize("is_required", [False, True])
@pytest.mark.parametrize("case", FAILURES)
def test_failure(guest: FakeGuest, case: str, *, is_required: bool) -> None:
    """Nothing stays frozen, and no mark; what need not be frozen is as after a power cut, and says why."""
    step, error, problem = FAILURES[case]
    guest.faults[step] = error

    if problem is None or is_required:
        with pytest.raises(VirtomateError) as caught:
            guest.clone(is_required=is_required)
        assert error.message in caught.value.message
        assert problem is None or "as --quiesce require demands" in caught.value.message
        assert problem is None or "begin" not in guest.steps
    else:
        start = guest.clone()
        assert (start.consistency, start.frozen_seconds, start.problem) == (Consistency.CRASH, None, problem)
        assert guest.steps.count("begin") == 1
    assert not guest.frozen
    assert guest.mark is None
    # after a refused mark there is nothing to thaw, and the watchdog finds no mark
    assert not guest.was_rescued or step == "mark"


@pytest.mark.parametrize("step", ["thaw", "unmark"])
@pytest.mark.parametrize("fault", [SILENT, LOST, REFUSED])
def test_thaw_fails(guest: FakeGuest, step: str, fault: VirtomateError) -> None:
    """The watchdog is left to thaw, the mark stays, and the error says what to do."""
    guest.faults[step] = fault

    with pytest.raises(StillFrozenError, match="may still be frozen") as caught:
        guest.clone()

    assert "virsh domfsthaw web" in str(caught.value.hint)
    assert guest.was_rescued
    assert guest.mark is not None


def test_busy_agent_is_asked_to_thaw_again(guest: FakeGuest) -> None:
    """An agent that is late with the freeze, or busy, thaws in the end; the backup begins without the freeze."""
    guest.busy = 3
    guest.faults["late freeze"] = SILENT

    assert guest.clone().consistency is Consistency.CRASH
    assert guest.steps.count("thaw") == 4
    assert guest.steps.count("begin") == 1
    assert (guest.frozen, guest.mark, guest.was_rescued) == (False, None, False)


def test_thaw_fails_after_another_failure(guest: FakeGuest) -> None:
    """Both are told of."""
    guest.faults |= {"begin": NO_JOB, "thaw": SILENT}

    with pytest.raises(HypervisorError) as caught:
        guest.clone()

    assert caught.value.message.startswith(f"{NO_JOB.message}; the file systems of the guest of domain 'web' may still")
    assert guest.was_rescued


def test_thaw_after_a_silent_freeze_fails(guest: FakeGuest) -> None:
    """A backup does not begin where nobody knows whether the guest is frozen."""
    guest.faults |= {"late freeze": SILENT, "thaw": SILENT}

    with pytest.raises(StillFrozenError):
        guest.clone()

    assert "begin" not in guest.steps
    assert guest.was_rescued


def test_signal_in_the_freeze(guest: FakeGuest) -> None:
    """The backup does not begin, and the guest is thawed."""
    guest.cancel.interrupt(2)

    with pytest.raises(InterruptedBySignalError):
        guest.clone()

    assert "begin" not in guest.steps
    assert not guest.frozen


@pytest.mark.parametrize("is_required", [False, True])
@pytest.mark.parametrize("case", ["nothing to freeze", "thawed too early"])
def test_freeze_that_does_not_count(guest: FakeGuest, case: str, *, is_required: bool) -> None:
    """Disks are as after a power cut if no file system was frozen, or not until the backup had begun."""
    if case == "nothing to freeze":
        guest.count = 0
    else:
        guest.meanwhile = lambda: setattr(guest, "frozen", False)

    if is_required:
        with pytest.raises(IllegalStateError, match="as --quiesce require demands"):
            guest.clone(is_required=True)
    else:
        assert guest.clone().consistency is Consistency.CRASH
    assert not guest.frozen
    assert guest.mark is None


@pytest.mark.parametrize("is_required", [False, True])
@pytest.mark.parametrize("ends_early", [False, True])
def test_freeze_of_others(guest: FakeGuest, *, is_required: bool, ends_early: bool) -> None:
    """Somebody else's freeze counts if it lasts, and is never thawed."""
    guest.frozen = True
    if ends_early:
        guest.meanwhile = lambda: setattr(guest, "frozen", False)

    if ends_early and is_required:
        with pytest.raises(IllegalStateError, match="somebody else had frozen them"):
            guest.clone(is_required=True)
    else:
        start = guest.clone(is_required=is_required)
        assert start.consistency is (Consistency.CRASH if ends_early else Consistency.FILESYSTEM)
        assert start.frozen_seconds is None
    assert guest.steps == ["look", "begin", "look"]


def test_other_run_freezes(guest: FakeGuest) -> None:
    """What another run has marked is neither frozen nor thawed, and the mark stays."""
    guest.mark = OTHERS

    start = guest.clone()

    assert start.problem == "process 1 on host 'elsewhere' is freezing or thawing them"
    assert guest.steps == ["look", "begin"]
    assert guest.mark == OTHERS


def test_somebody_else_is_faster(guest: FakeGuest) -> None:
    """An agent that refuses, since somebody else froze at that moment, is not told to thaw."""
    guest.faults["freeze"] = REFUSED
    guest.clone()

    assert "thaw" not in guest.steps


OBSTACLES: dict[str, tuple[dict[str, Any], str]] = {
    "no agent": ({"faults": {"look": NoAgentError("has no guest agent")}}, "has no guest agent"),
    "silent agent": ({"faults": {"look": SILENT}}, SILENT.message),
    "agent without the command": ({"faults": {"look": REFUSED}}, REFUSED.message),
    "nothing mounted": ({"count": 0}, "the guest has mounted no file system that can be frozen"),
    "paused": ({"state_": "paused"}, "it is paused"),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_obstacle(guest: FakeGuest, case: str) -> None:
    """What is known before is said before: a reason for auto, a refusal for require; off asks nothing."""
    values, reason = OBSTACLES[case]
    for name, value in values.items():
        setattr(guest, name, value)
    domain = cast("Domain", guest)

    assert examine_guest(domain, Quiesce.AUTO) == (Quiesce.OFF, reason)
    with pytest.raises(IllegalStateError, match=reason):
        examine_guest(domain, Quiesce.REQUIRE)
    asked = len(guest.steps)
    assert examine_guest(domain, Quiesce.OFF) == (Quiesce.OFF, "")
    assert len(guest.steps) == asked


def test_lost_connection_is_no_obstacle(guest: FakeGuest) -> None:
    """Where the connection broke, nothing is known."""
    guest.faults["look"] = LOST
    with pytest.raises(ConnectionLostError):
        examine_guest(cast("Domain", guest), Quiesce.AUTO)


def own_mark(*, run_id: int = RUN_ID, host: str = "elsewhere") -> str:
    """The mark of a run."""
    return write_mark(QuiesceMark(TOKEN, run_id, Owner(host, 1, 2)))


@pytest.mark.parametrize(
    ("mark", "is_thawed"),
    [(own_mark(), True), (OTHERS, False), (None, False), (own_mark(run_id=RUN_ID - 1), False), ("<freeze/>", False)],
    ids=["own", "other", "none", "earlier run of the domain", "unreadable"],
)
def test_only_an_own_freeze_is_thawed(guest: FakeGuest, mark: str | None, *, is_thawed: bool) -> None:
    """An undo and a deletion thaw what was frozen for that very clone, in this run of the domain."""
    guest.frozen, guest.mark = True, mark

    assert thaw_own(cast("Connection", None), "uuid", TOKEN) is is_thawed
    assert guest.frozen is not is_thawed
    assert guest.mark == (None if is_thawed else mark)


def test_thawed_by_now(guest: FakeGuest) -> None:
    """Where somebody has thawed it already, only the mark is removed."""
    guest.mark = own_mark()

    assert not thaw_own(cast("Connection", None), "uuid", TOKEN)
    assert guest.steps == ["look", "unmark"]


@pytest.mark.parametrize("is_alive", [False, True])
def test_freeze_of_a_run_that_ended(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch, *, is_alive: bool) -> None:
    """The next run thaws what an ended run has frozen, and leaves that of a run that may go on."""
    monkeypatch.setattr(quiesce, "may_be_running", lambda _maker: is_alive)
    guest.frozen, guest.mark = True, OTHERS

    assert thaw_abandoned(cast("Domain", guest)) is not is_alive
    assert guest.frozen is is_alive


def test_mark_of_a_host_with_a_strange_name() -> None:
    """A mark can be read again, whatever it holds."""
    mark = QuiesceMark("a'b\"<", 3, Owner("ho&st", 1, 2))

    assert read_mark(write_mark(mark)) == mark
    assert read_mark("<freeze run='3'") is None
    assert read_mark(None) is None


def test_domain_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An original that is gone or off has no freeze."""
    for found in (None, SimpleNamespace(is_active=lambda: False)):
        monkeypatch.setattr(quiesce, "find_domain_by_uuid", lambda *_, found=found: found)
        assert not thaw_own(cast("Connection", None), "uuid", TOKEN)
