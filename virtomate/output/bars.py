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
    from rich.progress import Task

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
        self.start()

    @property
    def tasks(self) -> list[Task]:
        return sorted(super().tasks, key=_place)

    def get_renderable(self) -> RenderableType:
        return Constrain(super().get_renderable(), max(1, self._terminal.width - _MARGIN))

    def add(self, name: str, total_bytes: int) -> Task:
        """Add a bar; without bytes to copy, the bar is empty or full, and counts as one byte of the total."""
        number = self.add_task(name, total=total_bytes or 1, has_bytes=total_bytes > 0)
        return next(task for task in self.tasks if task.id == number)


class BarProgress(Listener):
    """A line for each volume with bytes, rate and time left, and a line for the total of several volumes.

    If the total is known beforehand, complete volumes make room for the next volumes. Without bytes to copy (overlays
    and reflinks), the total counts volumes.
    """

    def __init__(self) -> None:
        # NO_COLOR: rich moves the bars as usual, without colours
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._lock = threading.RLock()
        self._bars: _Bars | None = None
        self._total: Task | None = None
        self._expected: int | None = None
        self._tasks: dict[str, Task] = {}

    def expected(self, total_bytes: int, volume_count: int) -> None:
        """Show a line for all volumes from the beginning."""
        with self._lock:
            self._expected = total_bytes or volume_count

    def started(self, volume: str, total_bytes: int) -> None:
        """Show a line for the volume."""
        with self._lock:
            bars = self._bars = self._bars or _Bars(self._console, *_columns(self._console.width - _MARGIN))
            self._tasks[volume] = bars.add(printable(volume), total_bytes)
            if self._total is None and (self._expected is not None or len(self._tasks) > 1):
                self._total = bars.add(_TOTAL, 0)
            self._update_total(bars)

    def advanced(self, volume: str, done_bytes: int) -> None:
        """Move the volume's bar."""
        self._move(volume, done_bytes)

    def finished(self, volume: str) -> None:
        """Fill the volume's bar."""
        self._move(volume, self._tasks[volume].total or 0, is_over=self._expected is not None)

    def dropped(self, volume: str) -> None:
        """Remove the volume's bar, and subtract what was copied to the volume."""
        self._move(volume, 0, is_over=True)

    def note(self, text: str) -> None:
        """Write a line above the bars."""
        self._console.print(printable(text), markup=False, highlight=False)

    def remark(self, text: str) -> None:
        """Write a line above the bars, as where there are none."""
        self.note(f"Note: {text}")

    def waiting(self, what: str, since: float) -> None:
        """Replace the bars by what is waited for, and the seconds since then."""
        with self._lock:
            self.close()
            name = TextColumn("{task.description}", markup=False, table_column=_one_line())
            self._bars = _Bars(self._console, name, _SecondsColumn(since))
            self._bars.add(printable(what), 0)

    def close(self) -> None:
        """Remove the bars."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = self._total = None

    def _move(self, volume: str, completed: float, *, is_over: bool = False) -> None:
        with self._lock:
            if self._bars is not None:
                task = self._tasks[volume]
                self._bars.update(task.id, completed=completed)
                if is_over:
                    self._bars.remove_task(task.id)
                self._update_total(self._bars)

    def _update_total(self, bars: _Bars) -> None:
        if self._total is not None:
            tasks = self._tasks.values()
            bars.update(
                self._total.id,
                total=self._expected or sum(task.total or 0 for task in tasks),
                completed=sum(task.completed for task in tasks),
                has_bytes=any(task.fields["has_bytes"] for task in tasks),
            )


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
    return task.description == _TOTAL, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


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
