"""The token that signals set and that long work looks at."""

from __future__ import annotations

import time

from virtomate.errors import InterruptedBySignalError, StoppedError

_LOOK_EVERY_SECONDS = 0.05


class CancelToken:
    """Tells long work to stop; setting it raises nothing.

    A signal handler calls `interrupt`; the work calls `check` between its steps, and `wait` instead of sleeping. A
    token made with `child` is stopped with its parent, and can be stopped alone when one of several jobs fails.

    There is no lock in it: a handler may interrupt anything, this very code and another handler included.
    """

    def __init__(self, parent: CancelToken | None = None) -> None:
        self._parent = parent
        self._is_stopped = False
        self._signal_number: int | None = None

    def child(self) -> CancelToken:
        """A token that is stopped with this one."""
        return CancelToken(self)

    def interrupt(self, signal_number: int) -> None:
        """Remember the first signal and stop."""
        if self._signal_number is None:
            self._signal_number = signal_number
        self._is_stopped = True

    def stop(self) -> None:
        """Stop because something else failed."""
        self._is_stopped = True

    @property
    def signal_number(self) -> int | None:
        """The first signal that arrived, or None."""
        if self._signal_number is None and self._parent is not None:
            return self._parent.signal_number
        return self._signal_number

    @property
    def is_set(self) -> bool:
        """Whether the work should stop."""
        return self._is_stopped or (self._parent is not None and self._parent.is_set)

    def wait(self, seconds: float) -> bool:
        """Sleep, but not much longer than until the token is set; return whether the work should stop."""
        deadline = time.monotonic() + seconds
        while not self.is_set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_EVERY_SECONDS))
        return self.is_set

    def check(self) -> None:
        """Raise if the work should stop.

        Raises:
            InterruptedBySignalError: A signal arrived.
            StoppedError: Something beside this work failed.
        """
        if self.signal_number is not None:
            raise InterruptedBySignalError(self.signal_number)
        if self.is_set:
            raise StoppedError("stopped, since something else failed")
