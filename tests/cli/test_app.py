"""What a signal does to a command, and what is said of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, cast

import pytest

from virtomate.cli import signals as module
from virtomate.cli.abandoned import program_in_guest, to_repeat, unfinished_clones, unfinished_import
from virtomate.cli.app import App
from virtomate.cli.options import Settings
from virtomate.cli.signals import Signals
from virtomate.errors import EXIT_LEFTOVERS, InterruptedBySignalError
from virtomate.words import Reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.cli.abandoned import Abandoned
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
    signals, notes = Signals(), list[str]()
    calls: dict[object, str | None] = {"a call": None}
    signals.note, signals.calls = notes.append, lambda: dict(calls)
    silent = "libvirt does not answer yet. Another Ctrl-C ends virtomate at once, and leaves what was begun."

    def work() -> None:
        signals.cancel.begin()
        os.kill(os.getpid(), signal.SIGINT)
        await_sign(lambda: notes.count(silent) == 1)
        calls.clear()
        await_sign(lambda: not signals._seen_calls)
        calls["another call"] = None
        await_sign(lambda: notes.count(silent) == 2)

    signals.watch(work)

    assert notes == ["Interrupted, cleaning up…", silent, silent]


@pytest.mark.parametrize(
    ("calls", "subject"),
    [
        ({"question": "the guest agent of domain 'web'"}, "The guest agent of domain 'web'"),
        ({"question": "the guest agent of domain 'web'", "a call": None}, "libvirt"),
    ],
)
def test_who_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, calls: dict[object, str | None], subject: str
) -> None:
    """A guest agent that takes long is not told as libvirt's silence, and Ctrl-C ends the program all the same."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.05)
    signals, notes, ended = Signals(), list[str](), threading.Event()
    signals.note, signals.calls = notes.append, lambda: calls

    def work() -> None:
        signals.cancel.begin()
        os.kill(os.getpid(), signal.SIGINT)
        await_sign(lambda: len(notes) > 1)
        os.kill(os.getpid(), signal.SIGINT)
        # a call that does not return
        ended.wait(WAIT_SECONDS)

    before = [(number, signal.getsignal(number)) for number in module._SIGNALS]
    try:
        with pytest.raises(InterruptedBySignalError) as caught:
            signals.watch(work)
    finally:
        ended.set()
        for number, handler in before:
            signal.signal(number, handler)

    assert notes[1:] == [
        f"{subject} does not answer yet. Another Ctrl-C ends virtomate at once, and leaves what was begun."
    ]
    (left,) = caught.value.leftovers
    assert dict(left.details)["reason"].lower() == f"{subject} did not answer".lower()
    assert (caught.value.exit_status, caught.value.hint) == (EXIT_LEFTOVERS, None)


LISTS, DELETES = "virtomate -c qemu:///system domain-list --clones", "virtomate -c qemu:///system domain-delete"


@pytest.mark.parametrize(
    ("abandoned", "hint"),
    [
        (
            unfinished_clones(None),
            (
                f"When libvirt answers again, {LISTS} shows unfinished clones, and {DELETES} removes what is left of "
                "such a clone."
            ),
        ),
        # what a clone for another host leaves may be on the host of the original
        (
            unfinished_clones("qemu+ssh://b/system"),
            (
                f"When libvirt answers again, virtomate -c qemu+ssh://b/system domain-list --clones and {LISTS} show "
                f"unfinished clones, and virtomate -c qemu+ssh://b/system domain-delete and {DELETES} remove what is "
                "left of such a clone."
            ),
        ),
        (
            unfinished_import("default", "a.img"),
            (
                f"Volume 'a.img' in storage pool 'default' may be incomplete. When libvirt answers again, {DELETES} "
                f"removes it, together with the domain virtomate-import-… that {LISTS} shows."
            ),
        ),
        (
            program_in_guest("web"),
            (
                "The program may go on in the guest of domain 'web', and its output may stay there, in files whose "
                "names begin with /tmp/virtomate-."
            ),
        ),
        (
            to_repeat("which completes the reset"),
            "When libvirt answers again, run the same command again, which completes the reset.",
        ),
    ],
)
def test_hint_fits_the_command(abandoned: Abandoned, hint: str) -> None:
    """What is left, and what can be done about it, depends on the command; only some commands leave clones."""
    told = module._abandonment(signal.SIGINT, "libvirt", abandoned).hint

    assert told is not None
    assert Reach("qemu:///system", None).fill(told) == hint


def test_hint_where_libvirt_answers() -> None:
    """Where a guest agent alone is silent, the hint does not wait for libvirt."""
    error = module._abandonment(signal.SIGINT, "the guest agent of domain 'a'", to_repeat("which completes the reset"))

    assert error.hint == "Afterwards, run the same command again, which completes the reset."


def await_sign(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "It never came to this"
        time.sleep(0.01)
