"""Waiting: for what changes elsewhere, and for calls that do not return soon."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from virtomate.errors import TimedOutError
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.cancel import CancelToken

Result = TypeVar("Result")

_LOOK_EVERY_SECONDS = 0.05
_FIRST_INTERVAL_SECONDS = 0.02
_LAST_INTERVAL_SECONDS = 0.5
_INTERVAL_GROWTH = 1.5


def backoff(seconds: float, cancel: CancelToken | None = None) -> Iterator[float]:
    """Yield the seconds left: at once, then after growing intervals, and a last time when the time is over.

    Args:
        seconds: How long to wait; with 0, there is one turn.
        cancel: Ends the waiting. An undo has none: only the time ends its waiting.

    Raises:
        InterruptedBySignalError: A signal arrived.
        StoppedError: Something beside this work failed.
    """
    deadline = time.monotonic() + seconds
    interval = _FIRST_INTERVAL_SECONDS
    while True:
        if cancel is not None:
            cancel.check()
        yield max(0.0, deadline - time.monotonic())
        left = deadline - time.monotonic()
        if left <= 0:
            return
        pause = min(interval, left)
        if cancel is None:
            time.sleep(pause)
        else:
            cancel.wait(pause)
        interval = min(interval * _INTERVAL_GROWTH, _LAST_INTERVAL_SECONDS)


def call_interruptibly(call: Callable[[], Result], cancel: CancelToken, seconds: float | None = None) -> Result:
    """Make a call that may take long without keeping a signal waiting.

    Python handles no signal while its main thread is inside libvirt, so another thread makes the call. When a signal
    ends the waiting, the connection that the call uses may be busy for some seconds more.

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
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
            errors.append(error)
        done.set()

    deadline = None if seconds is None else time.monotonic() + seconds
    threading.Thread(target=work, name="libvirt-call", daemon=True).start()
    while not done.wait(_LOOK_EVERY_SECONDS):
        cancel.check()
        if deadline is not None and time.monotonic() >= deadline:
            raise TimedOutError(f"libvirt did not answer within {counted(seconds or 0, 'second')}")
    if errors:
        raise errors[0]
    return results[0]
