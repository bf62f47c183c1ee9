"""The limit on what the transfers of a run write in a second, all of them together."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.cancel import CancelToken

# A piece takes this long at most, so that the rate is even and a signal is noticed. So much time in which nothing was
# written is made up for, since content comes in bursts.
_SHORT_SECONDS = 0.25


class Pace:
    """Spreads bytes over time. The transfers of a run share one pace, and each waits for its own bytes.

    Args:
        rate_bytes: Bytes in a second; 0 means no limit.
        clock: Tells the time in seconds.
    """

    def __init__(self, rate_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate_bytes = rate_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._due = clock()

    def piece(self, length_bytes: int) -> int:
        """Return how many of these bytes to write at a time."""
        if not self.rate_bytes:
            return length_bytes
        return min(length_bytes, max(1, int(self.rate_bytes * _SHORT_SECONDS)))

    def keep(self, written_bytes: int, cancel: CancelToken) -> None:
        """Wait until the bytes that were just written are due, or the work should stop."""
        if not self.rate_bytes:
            return
        with self._lock:
            now = self._clock()
            self._due = max(self._due + written_bytes / self.rate_bytes, now - _SHORT_SECONDS)
            left = self._due - now
        if left > 0:
            cancel.wait(left)


UNLIMITED = Pace(0)
