"""The token that signals set and that long work looks at, and waiting that the token ends."""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from virtomate.errors import InterruptedBySignalError, TimedOutError, VirtomateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")

_LOOK_EVERY_SECONDS = 0.05
_FIRST_INTERVAL_SECONDS = 0.02
_LAST_INTERVAL_SECONDS = 0.5
_INTERVAL_GROWTH = 1.5


class StoppedError(VirtomateError):
    """Work stopped because other work failed. Users never see this error, but that failure."""


class CancelToken:
    """Tells long work to stop; setting the token raises nothing.

    A signal handler calls `interrupt`; the work calls `check` between its steps, and `wait` instead of sleeping. A
    token stops with its parent, and can be stopped alone when one of several jobs fails. Until the work calls `begin`,
    which sets `has_begun` of the topmost token, nothing has been changed, and a signal may end the program at once.

    There is no lock: the signal handler can run in the middle of any of these methods.
    """

    def __init__(self, parent: CancelToken | None = None) -> None:
        self._parent = parent
        self._root: CancelToken = self if parent is None else parent._root  # noqa: SLF001 - another token
        self._is_stopped = False
        self.has_begun = False
        self._signal_number: int | None = None
        self._awaited: list[str] = []

    def begin(self) -> None:
        """Note that the work will change something, and then complete or undo the change; raise as `check` does."""
        # Set before the check, and `interrupt` in the opposite order: one of the two sees the other.
        self._root.has_begun = True
        self.check()

    @contextmanager
    def awaiting(self, what: str) -> Iterator[None]:
        """Remember, during the block, a phrase for the work that keeps the program from ending."""
        awaited = self._root._awaited  # noqa: SLF001 - another token
        awaited.append(what)
        try:
            yield
        finally:
            awaited.remove(what)

    @property
    def awaited(self) -> tuple[str, ...]:
        """Return phrases for the work that keeps the program from ending at the moment."""
        return tuple(self._root._awaited)  # noqa: SLF001 - another token

    def interrupt(self, signal_number: int) -> None:
        """Remember the first signal and stop."""
        self._signal_number = self._signal_number or signal_number
        self._is_stopped = True

    def stop(self) -> None:
        """Stop because other work failed."""
        self._is_stopped = True

    @property
    def signal_number(self) -> int | None:
        """Return the first signal that arrived, or None."""
        if self._signal_number is None and self._parent is not None:
            return self._parent.signal_number
        return self._signal_number

    @property
    def is_set(self) -> bool:
        """Return whether the work should stop."""
        return self._is_stopped or (self._parent is not None and self._parent.is_set)

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over or the token is set, and return whether the work should stop."""
        deadline = time.monotonic() + seconds
        while not self.is_set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_EVERY_SECONDS))
        return self.is_set

    def check(self) -> None:
        """Raise if the work should stop.

        Raises:
            InterruptedBySignalError: A signal arrived.
            StoppedError: Other work failed.
        """
        if self.signal_number is not None:
            raise InterruptedBySignalError(self.signal_number)
        if self.is_set:
            raise StoppedError("stopped, since other work failed")


def backoff(
    seconds: float, cancel: CancelToken | None = None, longest_seconds: float = _LAST_INTERVAL_SECONDS
) -> Iterator[float]:
    """Yield the seconds left: at once, then after growing intervals, and a last time when the time is over.

    With 0 seconds there is one turn. The token ends the waiting, and raises as `CancelToken.check` does; an undo passes
    no token, since only the time may end its waiting.
    """
    sleep = time.sleep if cancel is None else cancel.wait
    deadline = time.monotonic() + seconds
    interval = _FIRST_INTERVAL_SECONDS
    while True:
        if cancel is not None:
            cancel.check()
        yield max(0.0, deadline - time.monotonic())
        left = deadline - time.monotonic()
        if left <= 0:
            return
        sleep(min(interval, left))
        interval = min(interval * _INTERVAL_GROWTH, longest_seconds)


def call_interruptibly(call: Callable[[], Result], cancel: CancelToken, seconds: float | None = None) -> Result:
    """Make a call in another thread and return its result, so that a signal need not wait for a long call.

    Python handles no signal while its main thread is inside libvirt. When a signal ends the waiting, the connection
    that the call uses may be busy for some seconds more.

    Raises:
        InterruptedBySignalError: A signal arrived.
        TimedOutError: The call did not return in time.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises the error
            errors.append(error)
        done.set()

    deadline = math.inf if seconds is None else time.monotonic() + seconds
    threading.Thread(target=work, name="libvirt-call", daemon=True).start()
    while not done.wait(_LOOK_EVERY_SECONDS):
        cancel.check()
        if time.monotonic() >= deadline:
            from virtomate.words import counted  # noqa: PLC0415 - help and completion name no times

            raise TimedOutError(f"libvirt did not answer within {counted(seconds or 0, 'second')}")
    if errors:
        raise errors[0]
    return results[0]
