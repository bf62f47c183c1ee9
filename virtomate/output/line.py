"""Progress in one line that is written over and over, without any escape code."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from virtomate.output.text import printable
from virtomate.words import binary_size

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL_SECONDS = 0.1
_DEFAULT_COLUMNS = 80
_TICK_SECONDS = 1.0
# Room for two `^C`, which a terminal writes behind the line
_MARGIN = 5


class LineProgress:
    """A line with percentage, bytes and rate of all volumes together, or with what is waited for, and how long."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        # reentrant, since a signal's handler may have a note while a line is being written
        self._lock = threading.RLock()
        self._begin: float | None = None
        self._shown_at = 0.0
        self._width = 0
        self._expected_bytes: int | None = None
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        # set when what is waited for has come
        self._has_come = threading.Event()

    def expected(self, total_bytes: int) -> None:
        """Count up to this from the beginning."""
        self._expected_bytes = total_bytes

    def started(self, volume: str, total_bytes: int) -> None:
        """Count the volume."""
        with self._lock:
            self._begin = self._clock() if self._begin is None else self._begin
            self._totals[volume] = total_bytes
            self.advanced(volume, 0)

    def advanced(self, volume: str, done_bytes: int) -> None:
        """Show how far all of them are."""
        with self._lock:
            self._done[volume] = done_bytes
            now = self._clock()
            if self._begin is not None and now - self._shown_at >= _INTERVAL_SECONDS:
                self._shown_at = now
                self._show(self._text(now - self._begin))

    def finished(self, volume: str) -> None:
        """Count the volume as complete."""
        self.advanced(volume, self._totals[volume])

    def dropped(self, volume: str) -> None:
        """Count nothing of the volume."""
        self.advanced(volume, 0)

    def note(self, text: str) -> None:
        """Write a line above."""
        with self._lock:
            self.clear()
            self._write(f"{printable(text)}\n")

    def clear(self) -> None:
        """Take the line away until there is something new to show."""
        with self._lock:
            self._show("")

    def waiting(self, what: str, since: float) -> None:
        """Show what is waited for and for how long by now, once a second."""
        has_come = threading.Event()
        with self._lock:
            self._has_come = has_come

        def show() -> None:
            with self._lock:
                if not has_come.is_set():
                    text = f"{printable(what)}  {max(0.0, self._clock() - since):.0f} s"
                    self._show(text[: max(1, self._columns() - _MARGIN)])

        def go_on() -> None:
            while not has_come.wait(_TICK_SECONDS):
                show()

        show()
        threading.Thread(target=go_on, name="waiting", daemon=True).start()

    def close(self) -> None:
        """Take the line away."""
        with self._lock:
            self._has_come.set()
            self.clear()
            self._begin = None

    def _text(self, seconds: float) -> str:
        done = sum(self._done.values())
        total = max(done, self._expected_bytes or sum(self._totals.values()))
        name = next(iter(self._totals)) if len(self._totals) == 1 else f"{len(self._totals)} volumes"
        percentage = f"{100 * done // total if total else 0}%"
        parts = [printable(name), percentage, f"{binary_size(done)} of {binary_size(total)}"]
        if seconds > 0:
            parts.append(f"{binary_size(int(done / seconds))}/s")
        # what does not fit into a line cannot be written over
        return "  ".join(parts)[: max(1, self._columns() - _MARGIN)]

    def _columns(self) -> int:
        with suppress(ValueError):
            return max(2, int(os.environ["COLUMNS"])) if "COLUMNS" in os.environ else self._terminal_columns()
        return _DEFAULT_COLUMNS

    def _terminal_columns(self) -> int:
        with suppress(OSError):
            # some say that they have none
            return max(2, os.get_terminal_size(self._stream.fileno()).columns or _DEFAULT_COLUMNS)
        return _DEFAULT_COLUMNS

    def _show(self, text: str) -> None:
        """Write the line over the one before; without text leave an empty one."""
        if text or self._width:
            blank = " " * min(self._width + _MARGIN - 1, self._columns() - 1)
            self._write(f"\r{text.ljust(self._width)}" if text else f"\r{blank}\r")
            self._width = len(text)

    def _write(self, text: str) -> None:
        # who closed our stderr does not want to know
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
