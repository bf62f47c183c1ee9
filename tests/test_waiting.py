"""Waiting: for what changes elsewhere, and for calls that take long."""

from __future__ import annotations

import signal
import threading

import pytest

from virtomate.cancel import CancelToken, StoppedError, backoff, call_interruptibly
from virtomate.errors import InterruptedBySignalError, NotFoundError, TimedOutError

FOREVER_SECONDS = 3600.0


class Clock:
    """A clock that only sleeping moves, and that sets a token when it has gone so far."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of waiting loops."""
    clock = Clock()
    monkeypatch.setattr("virtomate.cancel.time", clock)
    return clock


def test_waiting_of_no_time_is_one_turn(clock: Clock) -> None:
    """With 0 seconds there is one look, and no pause."""
    assert list(backoff(0)) == [0.0]
    assert clock.pauses == []


def test_pauses_grow_and_the_last_look_comes_when_the_time_is_over(clock: Clock) -> None:
    """The first pauses are short, none is longer than half a second, and all together are the time that was given."""
    left = list(backoff(5))

    assert left[0] == pytest.approx(5)
    assert left[-1] == pytest.approx(0)
    assert left == sorted(left, reverse=True)
    assert clock.pauses[0] < 0.1 < clock.pauses[-2] == max(clock.pauses) <= 0.5
    assert sum(clock.pauses) == pytest.approx(5)


def test_no_turn_after_a_signal() -> None:
    """A signal ends the waiting at once, also while a pause lasts."""
    cancel = CancelToken()
    turns = backoff(FOREVER_SECONDS, cancel)
    next(turns)
    cancel.interrupt(signal.SIGTERM)

    with pytest.raises(InterruptedBySignalError):
        next(turns)


def test_no_turn_after_a_failure_elsewhere() -> None:
    """What was stopped does not begin to wait."""
    cancel = CancelToken()
    cancel.stop()

    with pytest.raises(StoppedError):
        next(backoff(FOREVER_SECONDS, cancel))


@pytest.fixture
def stuck() -> threading.Event:
    """What a call waits for that does not return."""
    return threading.Event()


def test_result_and_error_of_a_call_are_its_own() -> None:
    """What an interruptible call returns or raises comes through."""

    def fail() -> None:
        raise NotFoundError("gone")

    assert call_interruptibly(lambda: 42, CancelToken()) == 42
    with pytest.raises(NotFoundError, match="gone"):
        call_interruptibly(fail, CancelToken())


def test_signal_ends_the_waiting_for_a_call(stuck: threading.Event) -> None:
    """A signal is not kept waiting by a call that does not return."""
    cancel = CancelToken()
    threading.Timer(0.05, lambda: cancel.interrupt(signal.SIGINT)).start()

    with pytest.raises(InterruptedBySignalError):
        call_interruptibly(lambda: stuck.wait(FOREVER_SECONDS), cancel)
    stuck.set()


def test_call_that_takes_too_long(stuck: threading.Event) -> None:
    """A call that does not return in its time is given up."""
    with pytest.raises(TimedOutError):
        call_interruptibly(lambda: stuck.wait(FOREVER_SECONDS), CancelToken(), 0.05)
    stuck.set()
