"""Progress for those who watch: bars at a terminal, JSON lines for a front end, notes otherwise."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TextIO

from virtomate.output.json import dump
from virtomate.output.text import printable
from virtomate.progress import Progress


def make_progress(style: str, *, quiet: bool) -> Progress:
    """The progress for a style.

    Args:
        style: `auto`, `bar`, `json` or `none`; `auto` means bars where stderr is a terminal that can show them.
        quiet: Neither bars nor notes, whatever the style; JSON lines are asked for explicitly and stay.
    """
    if style == "json":
        return JsonProgress(sys.stderr)
    if quiet:
        return Progress()
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    if not is_dumb and (style == "bar" or (style == "auto" and sys.stderr.isatty())):
        # rich costs a tenth of a second, which a script need not pay
        from virtomate.output.bars import BarProgress  # noqa: PLC0415

        return BarProgress()
    return NoteProgress(sys.stderr)


class NoteProgress(Progress):
    """Shows notes as lines and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def note(self, text: str) -> None:
        """Write the note."""
        # who closed our stderr does not want to know, and a clone does not fail for that
        with suppress(OSError):
            self._stream.write(f"{printable(text)}\n")
            self._stream.flush()


class JsonProgress(Progress):
    """Writes one JSON object a line for each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._totals: dict[str, int] = {}

    def expected(self, total_bytes: int, volume_count: int) -> None:  # noqa: ARG002 - volumes have their own events
        """Write the number of bytes of all volumes together."""
        self._write({"event": "expected", "total": total_bytes})

    def started(self, volume: str, total_bytes: int) -> None:
        """Write that a volume begins."""
        self._totals[volume] = total_bytes
        self._write({"event": "started", "volume": volume, "bytes": 0, "total": total_bytes})

    def advanced(self, volume: str, done_bytes: int) -> None:
        """Write how far a volume is."""
        self._write({"event": "progress", "volume": volume, "bytes": done_bytes, "total": self._totals.get(volume, 0)})

    def finished(self, volume: str) -> None:
        """Write that a volume is complete."""
        total = self._totals.get(volume, 0)
        self._write({"event": "finished", "volume": volume, "bytes": total, "total": total})

    def dropped(self, volume: str) -> None:
        """Write that a volume will never be complete."""
        self._write({"event": "dropped", "volume": volume})

    def note(self, text: str) -> None:
        """Write a note."""
        self._write({"event": "note", "message": text})

    def waiting(self, what: str, since: float) -> None:
        """Nothing: whoever reads the lines has a clock."""

    def close(self) -> None:
        """Nothing is left open."""

    def _write(self, event: dict[str, str | int]) -> None:
        # reentrant, since a signal's handler may have a note while a line is being written
        with self._lock, suppress(OSError):
            self._stream.write(dump(event, pretty=False) + "\n")
            self._stream.flush()
