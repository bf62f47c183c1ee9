"""What long work tells about itself, and the object that listens to nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listens to long work; calls come from several threads, each volume from one."""

    def expected(self, total_bytes: int) -> None:
        """Volumes will begin and end one after another; all together, so many bytes will be written."""

    def started(self, volume: str, total_bytes: int) -> None:
        """A volume begins to be written; the total is what will be written, in bytes."""

    def advanced(self, volume: str, done_bytes: int) -> None:
        """So many bytes of the volume have been written."""

    def finished(self, volume: str) -> None:
        """The volume is complete."""

    def dropped(self, volume: str) -> None:
        """The volume will never be complete."""

    def note(self, text: str) -> None:
        """Something that a waiting person wants to know."""

    def waiting(self, what: str, since: float) -> None:
        """Something is waited for, of which nothing can be told but how long; it ends with `close`.

        Args:
            what: What it is, in a word.
            since: Since when, by `time.monotonic`.
        """

    def close(self) -> None:
        """Nothing more will come for now; leave the screen clean."""


class NullProgress:
    """Listens to nothing."""

    def expected(self, total_bytes: int) -> None:
        """Ignore it."""

    def started(self, volume: str, total_bytes: int) -> None:
        """Ignore it."""

    def advanced(self, volume: str, done_bytes: int) -> None:
        """Ignore it."""

    def finished(self, volume: str) -> None:
        """Ignore it."""

    def dropped(self, volume: str) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def waiting(self, what: str, since: float) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Do nothing."""
