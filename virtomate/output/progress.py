"""Progress for those who watch: bars at a terminal, JSON lines for a front end, notes otherwise."""

from __future__ import annotations

import os
import sys
import threading

from virtomate.output.json import dump
from virtomate.output.streams import tell
from virtomate.output.text import printable, styled
from virtomate.progress import Progress


def make_progress(style: str, *, quiet: bool) -> Progress:
    """Return the progress for a style; `auto` means bars at a terminal, and `quiet` silences all but JSON lines."""
    if style == "json":
        return JsonProgress()
    if quiet:
        return Progress()
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    if not is_dumb and (style == "bar" or (style == "auto" and sys.stderr.isatty())):
        # rich takes a tenth of a second, which a script need not pay
        from virtomate.output.bars import BarProgress  # noqa: PLC0415

        return BarProgress()
    return NoteProgress()


class NoteProgress(Progress):
    """Shows notes as lines and nothing else."""

    def note(self, text: str) -> None:
        """Write the note."""
        tell(f"{printable(text)}\n")

    def remark(self, text: str) -> None:
        """Write the remark, with a word before it that sets it apart from what happens at the moment."""
        tell(f"{styled('Note:', 'note')} {printable(text)}\n")


class JsonProgress(Progress):
    """Writes one JSON object a line for each event."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}

    def expected(self, total_bytes: int, volume_count: int) -> None:  # noqa: ARG002 - volumes have their own events
        """Write the number of bytes of all volumes together."""
        self._write("expected", total=total_bytes)

    def started(self, volume: str, total_bytes: int) -> None:
        """Write that a volume begins."""
        self._totals[volume] = total_bytes
        self._write("started", volume=volume, bytes=0, total=total_bytes)

    def advanced(self, volume: str, done_bytes: int) -> None:
        """Write how far a volume is."""
        self._write("progress", volume=volume, bytes=done_bytes, total=self._totals.get(volume, 0))

    def finished(self, volume: str) -> None:
        """Write that a volume is complete."""
        total = self._totals.get(volume, 0)
        self._write("finished", volume=volume, bytes=total, total=total)

    def dropped(self, volume: str) -> None:
        """Write that a volume will never be complete."""
        self._write("dropped", volume=volume)

    def note(self, text: str) -> None:
        """Write a note."""
        self._write("note", message=text)

    def remark(self, text: str) -> None:
        """Write a remark as a note."""
        self.note(text)

    def _write(self, event: str, **more: str | int) -> None:
        with self._lock:
            tell(f"{dump({'event': event, **more}, pretty=False)}\n")
