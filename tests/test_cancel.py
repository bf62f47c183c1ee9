"""The token that signals set, and waiting: for what changes elsewhere, and for calls that take long."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.clock import Clock
from virtomate.cancel import CancelToken, StoppedError, backoff, call_interruptibly
from virtomate.errors import InterruptedBySignalError, NotFoundError, TimedOutError
from virtomate.notices import Leftover, Notice

FOREVER_SECONDS = 3600.0


def test_fresh_token_lets_work_go_on() -> None:
    """Nothing is set until something happens."""
    token = CancelToken()

    token.check()

    assert not token.is_set
    assert token.signal_number is None
    assert not token.wait(0)


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "interrupted by SIGTERM"),
        (signal.SIGHUP, 129, "interrupted by SIGHUP"),
    ],
    ids=str,
)
def test_signal_decides_the_exit_status(number: signal.Signals, status: int, words: str) -> None:
    """Work that a signal stopped ends with 128 plus its number; a signal other than Ctrl-C's is named."""
    token = CancelToken()
    token.interrupt(number)

    with pytest.raises(InterruptedBySignalError, match=f"^{words}$") as caught:
        token.check()

    assert caught.value.exit_status == status
    assert caught.value.signal_number == number


def test_leftovers_outrank_the_signal() -> None:
    """An interruption that could not clean up ends with 3."""
    error = InterruptedBySignalError(signal.SIGINT)
    error.leftovers = (Notice(Leftover.CLAIM, "x"),)

    assert error.exit_status == 3


def test_first_signal_counts() -> None:
    """A second signal during the undo does not change what is reported."""
    token = CancelToken()
    token.interrupt(signal.SIGTERM)
    token.interrupt(signal.SIGINT)

    assert token.signal_number == signal.SIGTERM


def test_stop_is_no_interruption() -> None:
    """Work that is stopped because something else failed says so, and not that a signal came."""
    token = CancelToken()
    token.stop()

    with pytest.raises(StoppedError):
        token.check()
    assert token.signal_number is None


def test_child_follows_its_parent() -> None:
    """A signal that reaches the parent stops every child."""
    parent = CancelToken()
    child = CancelToken(parent)
    parent.interrupt(signal.SIGINT)

    assert child.is_set
    assert child.signal_number == signal.SIGINT
    with pytest.raises(InterruptedBySignalError):
        child.check()


def test_parent_and_siblings_do_not_follow_a_child() -> None:
    """One of several jobs can be stopped alone."""
    parent = CancelToken()
    child, sibling = CancelToken(parent), CancelToken(parent)
    child.stop()

    assert child.is_set
    assert not parent.is_set
    assert not sibling.is_set


def test_signal_outranks_a_stop() -> None:
    """Where a job was stopped and a signal came too, the signal is reported."""
    parent = CancelToken()
    child = CancelToken(parent)
    child.stop()
    parent.interrupt(signal.SIGHUP)

    with pytest.raises(InterruptedBySignalError):
        child.check()


def test_wait_tells_that_work_should_stop() -> None:
    """A wait on a child returns true when the parent was set before, whether or not it was woken by it."""
    parent = CancelToken()
    child = CancelToken(parent)
    parent.stop()

    assert child.wait(0)


def test_wait_ends_when_the_token_is_set() -> None:
    """Somebody who sleeps on the token is woken by it."""
    token = CancelToken()
    answers: list[bool] = []
    sleeper = threading.Thread(target=lambda: answers.append(token.wait(60)))
    sleeper.start()
    token.interrupt(signal.SIGINT)
    sleeper.join(timeout=30)

    assert answers == [True]


def test_work_that_has_begun_is_asked() -> None:
    """Whoever begins to change something, as part of whichever job, says so to all."""
    token = CancelToken()
    assert not token.has_begun

    CancelToken(CancelToken(token)).begin()

    assert token.has_begun


def test_nothing_is_begun_after_a_signal() -> None:
    """Where a signal came first, the program may be ending already."""
    token = CancelToken()
    token.interrupt(signal.SIGTERM)

    with pytest.raises(InterruptedBySignalError):
        CancelToken(token).begin()


def test_what_is_awaited_is_known_meanwhile() -> None:
    """Jobs say what has to be waited for, each for itself, and no longer than that is so."""
    token = CancelToken()
    with CancelToken(token).awaiting("a"), token.awaiting("b"):
        with token.awaiting("a"):
            assert list(token.awaited) == ["a", "b", "a"]
        assert sorted(token.awaited) == ["a", "b"]

    assert not token.awaited


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


def test_pauses_grow_to_the_length_that_is_given(clock: Clock) -> None:
    """Who asks for shorter pauses gets them."""
    list(backoff(2, longest_seconds=0.1))

    assert max(clock.pauses) == 0.1
    assert sum(clock.pauses) == pytest.approx(2)


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
