"""A clock for tests of waiting."""

from __future__ import annotations


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
