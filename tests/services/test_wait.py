"""Waiting: for calls that take long, and for addresses that are of use."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tests.output.records import STARTED
from virtomate.cancel import CancelToken
from virtomate.errors import AgentUnresponsiveError, InterruptedBySignalError, NotFoundError, TimedOutError
from virtomate.kinds import WaitFor
from virtomate.progress import NullProgress
from virtomate.records import Address, DomainInterface, Wait
from virtomate.services.interfaces import has_usable_address
from virtomate.services.startup import wait_for_clones
from virtomate.services.wait import interruptible

FOREVER_SECONDS = 3600.0
LOOPBACK = DomainInterface("lo", "00:00:00:00:00:00", (Address("IPv4", "127.0.0.1", 8),))


@pytest.fixture
def stuck() -> threading.Event:
    """What a call waits for that does not return."""
    return threading.Event()


def test_result_and_error_of_a_call_are_its_own() -> None:
    """What an interruptible call returns or raises comes through."""

    def fail() -> None:
        raise NotFoundError("gone")

    assert interruptible(lambda: 42, CancelToken()) == 42
    with pytest.raises(NotFoundError, match="gone"):
        interruptible(fail, CancelToken())


def test_signal_ends_the_waiting_for_a_call(stuck: threading.Event) -> None:
    """A signal is not kept waiting by a call that does not return."""
    cancel = CancelToken()
    threading.Timer(0.05, lambda: cancel.interrupt(signal.SIGINT)).start()

    with pytest.raises(InterruptedBySignalError):
        interruptible(lambda: stuck.wait(FOREVER_SECONDS), cancel)
    stuck.set()


def test_call_that_takes_too_long(stuck: threading.Event) -> None:
    """A call that does not return in its time is given up."""
    with pytest.raises(TimedOutError):
        interruptible(lambda: stuck.wait(FOREVER_SECONDS), CancelToken(), 0.05)
    stuck.set()


def test_clones_that_do_not_answer_are_told_the_time_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first clone that is waited for leaves the others no time, and all of them are reported alike."""

    def fail(_domain: object) -> None:
        raise AgentUnresponsiveError("it is not connected")

    monkeypatch.setattr("virtomate.services.wait.ping_agent", fail)
    monkeypatch.setattr("virtomate.services.startup.find_domain", lambda _, uuid: SimpleNamespace(name=uuid))
    session: Any = SimpleNamespace(connection=None)

    results = wait_for_clones(session, (STARTED, STARTED), Wait(WaitFor.AGENT, 0.1), NullProgress(), CancelToken())

    assert [str(result.error).partition("did not answer ")[2] for result in results] == ["within 0.1 seconds"] * 2


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.1.2", "fe80::1%eth0", "fe80::1"])
def test_addresses_that_only_their_guest_can_use(address: str) -> None:
    """Loopback and link-local addresses are not waited for."""
    assert not has_usable_address((LOOPBACK, _interface(address), DomainInterface("eth1", None, ())))


@pytest.mark.parametrize("address", ["192.168.77.10", "10.0.0.1", "2001:db8::1", "fd00::1"])
def test_usable_addresses(address: str) -> None:
    """An address that others can reach is of use, a private one included."""
    assert has_usable_address((LOOPBACK, _interface(address)))


def _interface(address: str) -> DomainInterface:
    return DomainInterface("eth0", "52:54:00:00:00:01", (Address("IPv4", address, 24),))
