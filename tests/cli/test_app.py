"""What a signal does to a command, and what is said of it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, cast

from virtomate.cli import signals as module
from virtomate.cli.app import App
from virtomate.cli.options import Settings
from virtomate.cli.signals import Signals
from virtomate.words import Reach

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from virtomate.hypervisor.session import Session

WAIT_SECONDS = 60.0


def test_signals_are_noted_only_during_work() -> None:
    """Before the work there is nothing to clean up, and after the work there is nothing either."""
    settings = Settings()
    app = App(settings, cast("Session", None))
    seen = [settings.signals.note]
    with app.working():
        seen.append(settings.signals.note)
    seen.append(settings.signals.note)

    assert [note is None for note in seen] == [True, False, True]


def interrupted(signals: Signals, notes: list[str], *numbers: signal.Signals) -> str:
    """Work that has begun to change something when signals arrive, and ends when they have been noticed."""
    signals.cancel.begin()
    for count, number in enumerate(numbers, start=1):
        os.kill(os.getpid(), number)
        while not signals.cancel.is_set or (signals.note is not None and len(notes) < count):
            signals.cancel.wait(0.01)
    return "result"


def test_notes_say_what_is_waited_for() -> None:
    """The first signal and the next ones have a sentence, with what libvirt is in the middle of."""
    signals, notes = Signals(), list[str]()
    signals.note = notes.append

    with signals.cancel.awaiting("libvirt to finish writing 'a'"):
        result = signals.watch(lambda: interrupted(signals, notes, signal.SIGTERM, signal.SIGINT))

    awaited = "Waiting for libvirt to finish writing 'a'."
    assert (result, signals.cancel.signal_number) == ("result", signal.SIGTERM)
    assert notes == [f"Interrupted by SIGTERM, cleaning up… {awaited}", f"Still cleaning up… {awaited}"]


def test_nothing_is_said_after_the_work() -> None:
    """A Ctrl-C while a result is written does not claim that something is cleaned up."""
    signals, notes = Signals(), list[str]()

    assert signals.watch(lambda: interrupted(signals, notes, signal.SIGINT)) == "result"

    assert (signals.cancel.signal_number, notes) == (signal.SIGINT, [])


def test_each_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of libvirt takes the offer back, until another call does not return."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.05)
    signals, notes, calls = Signals(), list[str](), ["a call"]
    signals.note, signals.calls = notes.append, lambda: list(calls)
    silent = "libvirt does not answer yet. Another Ctrl-C ends virtomate at once, and leaves what was begun."

    def work() -> None:
        signals.cancel.begin()
        os.kill(os.getpid(), signal.SIGINT)
        await_sign(lambda: notes.count(silent) == 1)
        calls.clear()
        await_sign(lambda: not signals._seen_calls)
        calls.append("another call")
        await_sign(lambda: notes.count(silent) == 2)

    signals.watch(work)

    assert notes == ["Interrupted, cleaning up…", silent, silent]


def test_what_is_left_on_two_hosts_is_found_on_both() -> None:
    """What a clone for another host leaves may be on the host of the original."""
    hint = module._abandonment(signal.SIGINT, "qemu+ssh://b/system").hint

    assert hint is not None
    assert Reach("qemu:///system", None).fill(hint) == (
        "When libvirt answers again, virtomate -c qemu+ssh://b/system domain-list --clones and "
        "virtomate -c qemu:///system domain-list --clones show unfinished clones, and "
        "virtomate -c qemu+ssh://b/system domain-delete and virtomate -c qemu:///system domain-delete remove what is "
        "left of such a clone."
    )


def await_sign(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "It never came to this"
        time.sleep(0.01)
