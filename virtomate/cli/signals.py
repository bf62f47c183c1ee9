"""Signals: the command works in a thread of its own, and the main thread waits for its end, and for signals.

Python handles a signal in its main thread alone, and there only between two instructions. So the main thread makes no
call of libvirt, which may hang.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from virtomate.cancel import CancelToken
from virtomate.errors import InterruptedBySignalError, signal_cause

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_END = b"\0"


class Signals:
    """What SIGINT, SIGTERM and SIGHUP do to a command.

    Attributes:
        cancel: The token that the first signal sets.
        note: Shows a sentence to the person who waits for the command's end; None while nothing has to be cleaned up.
        abandon: Ends the child processes that would outlive the program, when the program ends at once.
        has_left_command: Whether the program ends at once, so that nothing more of the command is shown.
    """

    def __init__(self) -> None:
        self.cancel = CancelToken()
        self.note: Callable[[str], None] | None = None
        self.abandon: Callable[[], None] = lambda: None
        self.has_left_command = False

    def watch(self, work: Callable[[], Result]) -> Result:
        """Do some work in a thread, and return its result or raise its error; ignored signals stay ignored (nohup).

        Work that has begun to change something is waited for, however many signals come.

        Raises:
            InterruptedBySignalError: A signal arrived before that. The work may still go on in its thread. From now on,
                signals have their usual effect, so that the next signal ends the program.
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
            while number := caught.wait():
                self._take(number, caught)
        for number in caught.rest():
            self.cancel.interrupt(number)
        if errors:
            raise errors[0]
        return results[0]

    def _take(self, number: int, caught: _Caught) -> None:
        is_repeated = self.cancel.signal_number is not None
        # before the command can notice the signal, and again in case that the command has begun meanwhile
        self.has_left_command = not self.cancel.has_begun
        self.cancel.interrupt(number)
        self.has_left_command = not self.cancel.has_begun
        if self.has_left_command:
            caught.let_go()
            self.abandon()
            raise InterruptedBySignalError(number)
        if (note := self.note) is not None:
            does = "Still cleaning up…" if is_repeated else f"Interrupted{signal_cause(number)}, cleaning up…"
            awaited = ", and for ".join(self.cancel.awaited)
            # the terminal may be gone, but the work still has to end
            with suppress(OSError):
                note(f"{does} Waiting for {awaited}." if awaited else does)


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

    def wait(self) -> int:
        """Return the number of the next signal, or 0 when the work has ended."""
        while (number := os.read(self._reader, 1)[0]) and number not in self._before:
            pass
        return number

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
