"""Progress bars."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.constrain import Constrain
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from virtomate.output.text import printable
from virtomate.progress import Progress as Listener
from virtomate.words import binary_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.progress import Task, TaskID

_TOTAL = "total"

# room for two `^C` and a blank
_MARGIN = 5

# how many columns a bar takes, and how many everything takes
_BAR_WIDTH = 30
_FULL_WIDTH = 70


class _Bars(Progress):
    """Bars in the order of their names, with room at the end of the line for the `^C` that a terminal writes there.

    Without that room `^C` wraps the line, and rich removes the line with `^C` instead of the bar.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        # before the constructor of rich draws the bars
        self._terminal = console
        super().__init__(*columns, console=console, transient=True)

    @property
    def tasks(self) -> list[Task]:
        return sorted(super().tasks, key=_place)

    def get_renderable(self) -> RenderableType:
        return Constrain(super().get_renderable(), max(1, self._terminal.width - _MARGIN))


class BarProgress(Listener):
    """A line for each volume with bytes, rate and time left, and a line for the total of several volumes.

    If the total is known beforehand, complete volumes make room for the next volumes. Without bytes to copy (overlays
    and reflinks), bars count volumes.
    """

    def __init__(self) -> None:
        # NO_COLOR: rich moves the bars as usual, without colours
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._lock = threading.RLock()
        self._bars: Progress | None = None
        self._total: TaskID | None = None
        self._expected: tuple[int, int] | None = None
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._finished_count = 0

    def expected(self, total_bytes: int, volume_count: int) -> None:
        """Show a line for all volumes from the beginning."""
        with self._lock:
            self._expected = total_bytes, volume_count

    def started(self, volume: str, total_bytes: int) -> None:
        """Show a line for the volume."""
        with self._lock:
            self._totals[volume] = total_bytes
            self._done[volume] = 0
            bars = self._bars or self._show(*_columns(self._console.width - _MARGIN))
            self._tasks[volume] = bars.add_task(printable(volume), total=total_bytes or 1, has_bytes=total_bytes > 0)
            if self._total is None and (self._expected is not None or len(self._totals) > 1):
                self._total = bars.add_task(_TOTAL, total=0, has_bytes=False, is_total=True)
            self._update_total()

    def advanced(self, volume: str, done_bytes: int) -> None:
        """Move the volume's bar."""
        with self._lock:
            self._done[volume] = done_bytes
            if self._bars is not None:
                self._bars.update(self._tasks[volume], completed=done_bytes)
            self._update_total()

    def finished(self, volume: str) -> None:
        """Fill the volume's bar."""
        with self._lock:
            total_bytes = self._done[volume] = self._totals[volume]
            self._finished_count += 1
            if self._bars is not None:
                self._bars.update(self._tasks[volume], completed=total_bytes or 1)
                if self._expected is not None:
                    self._bars.remove_task(self._tasks[volume])
            self._update_total()

    def dropped(self, volume: str) -> None:
        """Remove the volume's bar, and subtract what was copied to the volume."""
        with self._lock:
            self._done[volume] = 0
            if self._bars is not None:
                self._bars.remove_task(self._tasks[volume])
            self._update_total()

    def note(self, text: str) -> None:
        """Write a line above the bars."""
        self._console.print(printable(text), markup=False, highlight=False)

    def waiting(self, what: str, since: float) -> None:
        """Replace the bars by what is waited for, and the seconds since then."""
        with self._lock:
            self.close()
            columns = TextColumn("{task.description}", markup=False, table_column=_one_line()), _SecondsColumn(since)
            self._show(*columns).add_task(printable(what))

    @property
    def tasks(self) -> list[Task]:
        """The lines on the screen."""
        return [] if self._bars is None else self._bars.tasks

    def close(self) -> None:
        """Remove the bars."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = self._total = None

    def _show(self, *columns: ProgressColumn) -> Progress:
        self._bars = _Bars(self._console, *columns)
        self._bars.start()
        return self._bars

    def _update_total(self) -> None:
        if self._bars is None or self._total is None:
            return
        total_bytes, count = self._expected or (sum(self._totals.values()), len(self._totals))
        done = sum(self._done.values()) if total_bytes else self._finished_count
        self._bars.update(self._total, total=total_bytes or count, completed=done, has_bytes=total_bytes > 0)


class _SizeColumn(DownloadColumn):
    """The bytes of a volume, if bytes are copied."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["has_bytes"] else Text()


class _RateColumn(ProgressColumn):
    """Bytes per second, in the units of sizes; the rate column of rich has other units."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None or not task.fields["has_bytes"] else f"{binary_size(int(speed))}/s")


class _SecondsColumn(ProgressColumn):
    """The seconds since the waiting began."""

    def __init__(self, since: float) -> None:
        super().__init__()
        self._since = since

    def render(self, _task: Task) -> Text:
        return Text(f"{max(0.0, time.monotonic() - self._since):.0f} s")


def _place(task: Task) -> tuple[bool, Iterable[tuple[int, str]]]:
    """Return the key that sorts by name, `web-2` before `web-10`; the total is the last line."""
    parts = re.findall(r"[0-9]+|[^0-9]+", task.description)
    return "is_total" in task.fields, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """Return the columns of a line that fit into this width of the terminal."""
    name = TextColumn("{task.description}", markup=False, table_column=_one_line(max_width=max(1, width // 3)))
    percentage = TaskProgressColumn(table_column=_one_line())
    if width < _BAR_WIDTH:
        return name, percentage
    bar = BarColumn(bar_width=None)
    time_left = TimeRemainingColumn(compact=True, table_column=_one_line())
    if width < _FULL_WIDTH:
        return name, bar, percentage, time_left
    size = _SizeColumn(binary_units=True, table_column=_one_line())
    return name, bar, percentage, size, _RateColumn(table_column=_one_line()), time_left


def _one_line(max_width: int | None = None) -> Column:
    return Column(no_wrap=True, max_width=max_width)
