"""The listener that long work reports to."""

from __future__ import annotations


class Progress:
    """Listens to long work; this class does nothing. Several threads call a listener, but only one for each volume."""

    def expected(self, total_bytes: int, volume_count: int) -> None:
        """Hear how many bytes will be copied to how many volumes; volumes begin and end one after another."""

    def started(self, volume: str, total_bytes: int) -> None:
        """Hear that a volume begins to be written, and how many bytes will be copied to the volume."""

    def advanced(self, volume: str, done_bytes: int) -> None:
        """Hear how many bytes of the volume have been written."""

    def finished(self, volume: str) -> None:
        """Hear that the volume is complete."""

    def dropped(self, volume: str) -> None:
        """Hear that the volume will never be complete."""

    def note(self, text: str) -> None:
        """Hear a sentence for a waiting user."""

    def remark(self, text: str) -> None:
        """Hear a sentence about what is being made, which stays true when it is complete."""

    def waiting(self, what: str, since: float) -> None:
        """Hear a word for what the work waits for, and since when by `time.monotonic`; `close` ends the waiting."""

    def close(self) -> None:
        """Leave the screen clean: nothing more comes for now."""
