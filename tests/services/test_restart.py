"""Originals that have to be started again: whatever happens, either they run, or a record says that they have to."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.services.transaction.fakes import FakeHost, Fault
from virtomate.cancel import CancelToken
from virtomate.definition import codec
from virtomate.definition.provenance import DomainReference
from virtomate.enums import Mode, Status
from virtomate.errors import IllegalStateError, InterruptedBySignalError, NotFoundError, TimedOutError, VirtomateError
from virtomate.hypervisor.connection import Connection
from virtomate.progress import Progress
from virtomate.services import restart as service
from virtomate.services.clone.original import Source
from virtomate.services.clone.shutdown import while_shut_off
from virtomate.services.clone_records import CloneRequest, CloneResult, Shutdown
from virtomate.services.restart import drop_served, is_owed, record_name, restart_owed
from virtomate.services.transaction import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.hypervisor.session import Session

UUID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
ORIGINAL = DomainReference("web", UUID)
RECORD = record_name(ORIGINAL)
DEFINITION = codec.parse_definition(
    f"<domain type='qemu'><name>web</name><uuid>{UUID}</uuid><os><type arch='x86_64'>hvm</type></os></domain>"
)
# more than any of these runs makes
MOST_CALLS = 40


class Killed(BaseException):
    """The process has ended."""


def source(*, active: bool = True, owed: bool = False) -> Source:
    """The original as it was read."""
    return Source(
        ORIGINAL,
        DEFINITION,
        has_managed_save=False,
        snapshot_count=0,
        external_snapshot_count=0,
        not_carried_over=(),
        is_active=active,
        is_owed=owed,
    )


def session_of(host: FakeHost) -> Session:
    """A session on a host."""

    @contextmanager
    def borrow() -> Iterator[Connection]:
        yield Connection(cast("Any", host))

    return cast("Session", SimpleNamespace(connection=Connection(cast("Any", host)), borrow=borrow))


def run_on(host: FakeHost, cancel: CancelToken | None = None) -> Run:
    """What a command works with."""
    session = session_of(host)
    return Run(session, session, Progress(), cancel or CancelToken())


def host_with(*, active: bool = True) -> FakeHost:
    """A host with the original."""
    host = FakeHost()
    host.add("web", UUID).active = active
    return host


def result() -> CloneResult:
    """A complete clone."""
    return CloneResult(Status.CLONED, "a", "uuid", ORIGINAL, Mode.COPY, (), None, (), (), (), 0.0)


def clone(
    host: FakeHost, original: Source, shutdown: Shutdown | None, run: Run | None = None
) -> tuple[CloneResult, ...]:
    """Clone the original, which has to be shut off for that."""

    def make() -> tuple[CloneResult, ...]:
        assert not web(host).active
        host.call("clone", lambda: None)
        return (result(), result())

    return while_shut_off(run or run_on(host), original, CloneRequest("web", shutdown=shutdown), make)


def web(host: FakeHost) -> Any:
    """The original."""
    return next(domain for domain in host.domains if domain.title == "web")


def names(host: FakeHost) -> set[str]:
    """The names of all domains."""
    return {domain.title for domain in host.domains}


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is taken for another one, and that of the record for one that has ended."""
    monkeypatch.setattr(service, "this_process", lambda: None)
    monkeypatch.setattr(service, "may_be_running", lambda _maker: False)


def test_original_runs_again() -> None:
    """It was off while it was cloned, and no record is left."""
    host = host_with()
    run_before = web(host)

    results = clone(host, source(), Shutdown(10))

    assert [item.restarted for item in results] == [True, True]
    assert run_before.active
    assert names(host) == {"web"}


def test_no_restart() -> None:
    """Where nothing is to be started again, nothing is recorded."""
    host = host_with()

    results = clone(host, source(), Shutdown(10, restarts=False))

    assert [item.restarted for item in results] == [False, False]
    assert not web(host).active
    assert host.calls.get("define", 0) == 0


def every_moment() -> list[tuple[str, int]]:
    """Every call of a run, as its name and its number."""
    moments: list[tuple[str, int]] = []
    host = host_with()
    plain = host.call

    def call(name: str, carry_out: Any) -> Any:
        moments.append((name, host.calls.get(name, 0)))
        return plain(name, carry_out)

    host.call = call  # type: ignore[method-assign]
    clone(host, source(), Shutdown(10))
    assert 8 < len(moments) < MOST_CALLS
    return moments


@pytest.mark.usefixtures("dead")
@pytest.mark.parametrize(("name", "number"), every_moment())
def test_kill_after_any_call(name: str, number: int) -> None:
    """Whenever the run is killed, the original runs, or its record says that it has to be started, and it is."""
    host = host_with()

    def kill(_host: FakeHost) -> None:
        raise Killed

    host.meanwhile[name, number] = kill
    with pytest.raises(Killed):
        clone(host, source(), Shutdown(10))
    host.meanwhile.clear()

    said: list[str] = []
    is_recorded = is_owed(Connection(cast("Any", host)), ORIGINAL)
    assert web(host).active or is_recorded
    was_off = not web(host).active
    assert restart_owed(session_of(host), ORIGINAL, said.append) is was_off
    assert web(host).active
    assert RECORD not in names(host)


@pytest.mark.usefixtures("dead")
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize(("name", "number"), every_moment())
def test_fault_at_any_call(name: str, number: int, fault: Fault) -> None:
    """Whatever call fails, the original runs again, or the error names it and the record stays."""
    host = host_with()
    host.faults[name, number] = fault
    run = run_on(host)
    errors: list[VirtomateError] = []
    try:
        errors += [item.error for item in clone(host, source(), Shutdown(0), run) if item.error is not None]
    except VirtomateError as error:
        errors.append(error)
    host.faults.clear()
    said: list[str] = []

    if not web(host).active:
        assert "shut-off-original" in {item.code for error in errors for item in error.leftovers}
        assert restart_owed(session_of(host), ORIGINAL, said.append)
    assert web(host).active


@pytest.mark.usefixtures("dead")
@pytest.mark.parametrize("call", ["start", "undefine"])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.CARRIED_OUT])
def test_connection_that_breaks_during_the_restart(call: str, fault: Fault) -> None:
    """Over another connection the original is started after all, and the result says so."""
    host = host_with()
    host.faults[call, 0] = fault

    results = clone(host, source(), Shutdown(60.0))

    assert [(item.restarted, item.error) for item in results] == [(True, None)] * 2
    assert web(host).active
    assert names(host) == {"web"}


def test_owed_restart_is_taken_over() -> None:
    """The next run clones the original, which is off, and starts it."""
    host = host_with()
    host.meanwhile["shut down", 0] = lambda _host: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        clone(host, source(), Shutdown(10))
    host.meanwhile.clear()

    results = clone(host, source(active=False, owed=True), None)

    assert results[0].restarted is True
    assert web(host).active
    assert names(host) == {"web"}


@pytest.mark.usefixtures("dead")
@pytest.mark.parametrize("is_active", [True, False])
def test_original_that_somebody_else_starts(*, is_active: bool) -> None:
    """The record of a killed run goes when the original runs, since nobody has to start it; else the record stays."""
    host = host_with()
    host.meanwhile["shut down", 0] = lambda _host: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        clone(host, source(), Shutdown(10))
    web(host).active = is_active

    drop_served(session_of(host), ORIGINAL)

    assert web(host).active is is_active
    assert (RECORD in names(host)) is not is_active


def test_record_of_a_run_that_goes_on_stays() -> None:
    """While the run that recorded the restart may go on, nobody else removes the record."""
    host = host_with()
    host.meanwhile["shut down", 0] = lambda _host: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        clone(host, source(), Shutdown(10))

    drop_served(session_of(host), ORIGINAL)

    assert RECORD in names(host)


def test_run_that_goes_on_is_given_way() -> None:
    """The record of a process that may still run keeps others from cloning; this process' own does not."""
    host = host_with()
    connection = Connection(cast("Any", host))
    seen: list[bool] = []
    said: list[str] = []

    def look(_host: FakeHost) -> None:
        seen.append(is_owed(connection, ORIGINAL))
        text = web_record(host).text
        web_record(host).text = text.replace('started="', 'started="9')
        seen.append(is_owed(connection, ORIGINAL))
        web_record(host).text = text.replace('host="', 'host="another-')
        with pytest.raises(IllegalStateError, match="another virtomate"):
            is_owed(connection, ORIGINAL)
        seen.append(restart_owed(session_of(host), ORIGINAL, said.append))
        web_record(host).text = text

    host.meanwhile["clone", 0] = look
    clone(host, source(), Shutdown(10))

    assert seen == [False, True, False]
    assert [f"delete '{RECORD}' to start the domain again" in text for text in said] == [True]
    assert web(host).active


def web_record(host: FakeHost) -> Any:
    """The record of the restart."""
    return next(domain for domain in host.domains if domain.title == RECORD)


def test_record_of_another_run_is_respected() -> None:
    """Of two runs that begin at once, the second does not ask the guest."""
    host = host_with()
    started: list[str] = []

    def other(_host: FakeHost) -> None:
        with pytest.raises(IllegalStateError, match="another virtomate"):
            clone(host, source(), Shutdown(10))
        started.append("refused")

    host.meanwhile["rename", 0] = other
    clone(host, source(), Shutdown(10))

    assert started == ["refused"]
    assert host.calls["shut down"] == 1
    assert web(host).active


def test_guest_that_stays_up() -> None:
    """A guest that ignores the request is left alone after the time that it was given, and nothing is left."""
    host = host_with()
    host.meanwhile["shut down", 0] = lambda _host: setattr(web(host), "active", True)

    with pytest.raises(TimedOutError, match=r"within 0\.1 seconds") as caught:
        clone(host, source(), Shutdown(0.1))

    assert "cannot be taken back" in str(caught.value.hint)
    assert names(host) == {"web"}


def test_guest_that_ignores_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that boots ignores the request, and follows one that comes later."""
    monkeypatch.setattr("virtomate.services.clone.shutdown._REQUEST_EVERY_SECONDS", 0.05)
    host = host_with()
    host.meanwhile["shut down", 0] = lambda _host: setattr(web(host), "active", True)

    clone(host, source(), Shutdown(60))

    assert host.calls["shut down"] == 2
    assert web(host).active


def test_signal_while_the_guest_stays_up() -> None:
    """A signal ends the waiting; the hint says what may still happen."""
    host = host_with()
    cancel = CancelToken()

    def stay(_host: FakeHost) -> None:
        web(host).active = True
        cancel.interrupt(2)

    host.meanwhile["shut down", 0] = stay
    with pytest.raises(InterruptedBySignalError) as caught:
        clone(host, source(), Shutdown(60), run_on(host, cancel))

    assert "cannot be taken back" in str(caught.value.hint)
    assert names(host) == {"web"}


def test_original_that_is_gone() -> None:
    """An original that somebody undefined meanwhile is not started, and not missed."""
    host = host_with()
    host.meanwhile["clone", 0] = lambda _host: host.domains.remove(web(host))

    results = clone(host, source(), Shutdown(10))

    assert results[0].restarted is False
    assert names(host) == set()


def test_failure_of_cloning_and_of_the_restart() -> None:
    """What cloning failed of comes first, and the original that is off is named as well."""
    host = host_with()
    host.faults["start", 0] = Fault.REFUSED

    def fail() -> tuple[CloneResult, ...]:
        raise NotFoundError("a volume is missing")

    with pytest.raises(NotFoundError, match="a volume is missing; domain 'web'") as caught:
        while_shut_off(run_on(host), source(), CloneRequest("web", shutdown=Shutdown(10)), fail)

    assert caught.value.exit_status == 3
    assert f"domain-delete {RECORD}" in str(caught.value.hint)
    assert RECORD in names(host)
