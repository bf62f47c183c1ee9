"""Signals: the command works in a thread of its own, and the main thread waits for its end, and for signals.

Python handles a signal in its main thread alone, and there only between two instructions. So the main thread makes no
call of libvirt, which may hang.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from virtomate.cancel import CancelToken
from virtomate.errors import InterruptedBySignalError, signal_cause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from virtomate.cli.abandoned import Abandoned

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_END = b"\0"

_SILENCE = -1

# After a signal, how long one call of libvirt's may take until another Ctrl-C ends the program.
_PATIENCE_SECONDS = 3.0

_LIBVIRT = "libvirt"


class Signals:
    """What SIGINT, SIGTERM and SIGHUP do to a command.

    Attributes:
        cancel: The token that the first signal sets.
        note: Shows a sentence to the person who waits for the command's end; None while nothing has to be cleaned up.
        close: Leaves the screen clean when the program ends at once.
        abandon: Ends the child processes that would outlive the program, when the program ends at once.
        calls: Returns a mark for each call of libvirt's that has not returned, with who has to answer it; None stands
            for libvirt itself.
        abandoned: What the command leaves when the program ends at once; None if there is nothing to say.
        has_left_command: Whether the program ends at once, so that nothing more of the command is shown.
    """

    def __init__(self) -> None:
        self.cancel = CancelToken()
        self.note: Callable[[str], None] | None = None
        self.close: Callable[[], None] = lambda: None
        self.abandon: Callable[[], None] = lambda: None
        self.calls: Callable[[], Mapping[object, str | None]] = dict
        self.abandoned: Abandoned | None = None
        self.has_left_command = False
        self._seen_calls: Mapping[object, str | None] = {}
        self._next_look: float | None = None
        self._has_offered = False

    def watch(self, work: Callable[[], Result]) -> Result:
        """Do some work in a thread, and return its result or raise its error; ignored signals stay ignored (nohup).

        Work that has begun to change something is waited for, however many signals come, unless libvirt or a guest
        does not answer: then the user is told that another Ctrl-C ends the program.

        Raises:
            InterruptedBySignalError: A signal arrived before that, or that Ctrl-C. The work may still go on in its
                thread. From now on, signals have their usual effect, so that the next signal ends the program.
        """
        results: list[Result] = []
        errors: list[BaseException] = []

        def do(end: int) -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001 - the main thread raises the error again
                errors.append(error)
            os.write(end, _END)

        with _Caught() as caught:
            threading.Thread(target=do, args=(caught.writer,), name="command", daemon=True).start()
            while number := caught.wait(self._next_look):
                if number == _SILENCE:
                    self._offer_to_end()
                else:
                    self._take(number, caught)
        for number in caught.rest():
            self.cancel.interrupt(number)
        if errors:
            raise errors[0]
        return results[0]

    def _take(self, number: int, caught: _Caught) -> None:
        is_repeated = self.cancel.signal_number is not None
        if not is_repeated:
            self._seen_calls, self._next_look = self.calls(), time.monotonic() + _PATIENCE_SECONDS
        # before the command can notice the signal, and again in case that the command has begun meanwhile
        self.has_left_command = not self.cancel.has_begun
        self.cancel.interrupt(number)
        self.has_left_command = not self.cancel.has_begun
        if self.has_left_command:
            caught.let_go()
            self.abandon()
            raise InterruptedBySignalError(number)
        if number == signal.SIGINT and self._has_offered and (silent := self._find_silent()) is not None:
            self.has_left_command = True
            caught.let_go()
            self.close()
            self.abandon()
            raise _abandonment(number, silent, self.abandoned)
        if (note := self.note) is not None:
            does = "Still cleaning up…" if is_repeated else f"Interrupted{signal_cause(number)}, cleaning up…"
            awaited = ", and for ".join(self.cancel.awaited)
            # the terminal may be gone, but the work still has to end
            with suppress(OSError):
                note(f"{does} Waiting for {awaited}." if awaited else does)

    def _find_silent(self) -> str | None:
        """Return who has not answered a call that was seen before; None if nobody is waited for so long."""
        silent = [who or _LIBVIRT for call, who in self.calls().items() if call in self._seen_calls]
        # without libvirt, nothing is heard of a guest
        return _LIBVIRT if _LIBVIRT in silent else min(silent, default=None)

    def _offer_to_end(self) -> None:
        """Say that another Ctrl-C ends the program, if somebody has not answered since the last look."""
        silent = self._find_silent()
        self._seen_calls, self._next_look = self.calls(), time.monotonic() + _PATIENCE_SECONDS
        if silent is None:
            # a later silence is told of again
            self._has_offered = False
        elif not self._has_offered and (note := self.note) is not None:
            self._has_offered = True
            with suppress(OSError):
                # libvirt's own name stays small
                subject = silent if silent == _LIBVIRT else f"{silent[:1].upper()}{silent[1:]}"
                note(
                    f"{subject} does not answer yet. Another Ctrl-C ends virtomate at once, and leaves what was begun."
                )


def _abandonment(number: int, who: str, abandoned: Abandoned | None) -> InterruptedBySignalError:
    """Return the error for a program that leaves what it has begun, since somebody does not answer."""
    from virtomate.notices import Leftover, notice  # noqa: PLC0415 - most daemons answer

    hint = None
    if abandoned is not None:
        when = "When libvirt answers again" if who == _LIBVIRT else "Afterwards"
        cure = f"{when}, {abandoned.cure}." if abandoned.cure else ""
        hint = " ".join(part for part in (abandoned.remains, cure) if part)
    return InterruptedBySignalError(number).adding(
        hint=hint, leftovers=(notice(Leftover.UNREMOVED, "what was begun", reason=f"{who} did not answer"),)
    )


def _is_readable(descriptor: int, seconds: float) -> bool:
    import select  # noqa: PLC0415 - few commands are interrupted

    return bool(select.select([descriptor], [], [], seconds)[0])


class _Caught:
    """Signals, read from a pipe: any thread may get a signal, and only the pipe reliably wakes up the main thread."""

    def __enter__(self) -> Self:
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        self._reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self._woken_before = signal.set_wakeup_fd(self.writer)
        for number in self._before:
            signal.signal(number, lambda _number, _frame: None)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._woken_before)

    def wait(self, deadline: float | None) -> int:
        """Return the number of the next signal, 0 when the work has ended, or `_SILENCE` at the deadline."""
        while deadline is None or _is_readable(self._reader, max(0.0, deadline - time.monotonic())):
            number = os.read(self._reader, 1)[0]
            if not number or number in self._before:
                return number
        return _SILENCE

    def rest(self) -> list[int]:
        """Return the signals that arrived after the end of the work. No more can arrive."""
        os.set_blocking(self._reader, False)
        numbers: list[int] = []
        with suppress(BlockingIOError):
            while True:
                numbers += os.read(self._reader, 1)
        os.close(self._reader)
        os.close(self.writer)
        return [number for number in numbers if number in self._before]

    def let_go(self) -> None:
        """Give the signals their usual effect."""
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        self._before.clear()
