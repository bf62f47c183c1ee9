"""Progress as JSON lines, as notes, and not at all."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from typing import TYPE_CHECKING

import pytest

from virtomate.output.bars import BarProgress
from virtomate.output.line import LineProgress
from virtomate.output.progress import JsonProgress, NoteProgress, make_progress
from virtomate.progress import NullProgress

if TYPE_CHECKING:
    from virtomate.progress import Progress


def _use(progress: Progress) -> None:
    progress.started("vda", 100)
    progress.started("vdb", 10)
    progress.advanced("vda", 50)
    progress.note("a \x1b[31m note")
    progress.finished("vda")
    progress.finished("vdb")
    progress.close()


def test_json_lines() -> None:
    """Each event is one JSON object a line, with the bytes done and to do."""
    stream = io.StringIO()
    _use(JsonProgress(stream))

    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "started", "volume": "vda", "bytes": 0, "total": 100},
        {"event": "started", "volume": "vdb", "bytes": 0, "total": 10},
        {"event": "progress", "volume": "vda", "bytes": 50, "total": 100},
        {"event": "note", "message": "a \x1b[31m note"},
        {"event": "finished", "volume": "vda", "bytes": 100, "total": 100},
        {"event": "finished", "volume": "vdb", "bytes": 10, "total": 10},
    ]


def test_waiting_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line tells what is waited for and how long by now, goes on by itself, and leaves nothing."""
    monkeypatch.setattr("virtomate.output.line._TICK_SECONDS", 0.001)
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    now = iter(range(100, 1_000_000))
    progress = LineProgress(stream, clock=lambda: float(next(now)))

    progress.waiting("web\x1b-1", since=97.0)
    while "  5 s" not in stream.getvalue():
        time.sleep(0.001)
    progress.note("a note")
    progress.close()
    ended = stream.getvalue()
    time.sleep(0.05)

    assert ended.startswith("\rweb\\x1b-1  3 s\rweb\\x1b-1  4 s\rweb\\x1b-1  5 s")
    assert "\ra note\n" in ended
    assert ended.endswith((" \r", "a note\n"))
    assert stream.getvalue() == ended


def test_waiting_at_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there are bars, that line is there as well."""
    progress = BarProgress()
    progress.waiting("web-1", since=time.monotonic())
    progress.note("a note")
    progress.close()

    text = capsys.readouterr().err
    assert text.startswith("\rweb-1  0 s")
    assert "a note\n" in text


@pytest.mark.parametrize("kind", [JsonProgress, NoteProgress])
def test_waiting_where_nobody_looks_on(kind: type[JsonProgress | NoteProgress]) -> None:
    """A log and a front end have a clock of their own: they get the note that says what is waited for."""
    stream = io.StringIO()
    progress = kind(stream)
    progress.waiting("web-1", since=0.0)
    progress.close()

    assert stream.getvalue() == ""


def test_json_lines_of_several_clones() -> None:
    """How much there is to do is told beforehand, and what will never be complete is told, too."""
    stream = io.StringIO()
    progress = JsonProgress(stream)
    progress.expected(300)
    progress.started("web-1/vda", 100)
    progress.dropped("web-1/vda")

    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "expected", "total": 300},
        {"event": "started", "volume": "web-1/vda", "bytes": 0, "total": 100},
        {"event": "dropped", "volume": "web-1/vda"},
    ]


@pytest.mark.parametrize(
    ("style", "quiet", "expected"),
    [
        ("auto", False, NoteProgress),
        ("auto", True, NullProgress),
        ("none", False, NoteProgress),
        ("none", True, NullProgress),
        ("bar", True, NullProgress),
        ("json", False, JsonProgress),
        ("json", True, JsonProgress),
    ],
)
def test_style_in_a_pipe(style: str, quiet: bool, expected: type) -> None:
    """Where no terminal is there are no bars; quiet silences all but what was asked for by name."""
    assert type(make_progress(style, quiet=quiet)) is expected


def test_auto_in_a_pipe_shows_notes_only(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a log gets no bars, but the notes, and those cannot drive the terminal that shows it."""
    _use(make_progress("auto", quiet=False))

    captured = capsys.readouterr()
    assert captured.err == "a \\x1b[31m note\n"
    assert captured.out == ""


@pytest.mark.parametrize("style", ["auto", "bar", "none"])
def test_quiet(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet shows nothing, neither bars nor notes."""
    _use(make_progress(style, quiet=True))

    assert capsys.readouterr() == ("", "")


def test_dumb_terminal_gets_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor gets notes."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")

    assert type(make_progress("auto", quiet=False)) is NoteProgress
    assert type(make_progress("bar", quiet=False)) is NoteProgress


def test_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets bars."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")

    assert type(make_progress("auto", quiet=False)).__name__ == "BarProgress"
    monkeypatch.setenv("NO_COLOR", "1")
    assert type(make_progress("auto", quiet=False)).__name__ == "BarProgress"


def test_bars_show_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars and notes go to stderr; a name is never markup, and a note's control characters are spelled out."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bars = make_progress("bar", quiet=False)

    bars.started("[red]vda[/red]", 100)
    bars.started("vdb\x07", 0)
    bars.advanced("[red]vda[/red]", 40)
    bars.note("a [bold]note[/bold] \x07")
    bars.finished("[red]vda[/red]")
    bars.finished("vdb\x07")
    bars.close()

    shown = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "[red]vda[/red]" in shown
    assert "a [bold]note[/bold] \\x07" in shown
    assert "\x07" not in shown
    assert "total" in shown


def test_bars_can_be_closed_before_anything_began() -> None:
    """A clone that is refused closes bars that never were."""
    make_progress("bar", quiet=False).close()


def test_bars_of_several_clones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is known how much there is to do, the total stays and complete volumes give up their lines."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bars = BarProgress()
    bars.expected(1000)
    for number in range(50):
        bars.started(f"web-{number}/vda", 20)
        bars.advanced(f"web-{number}/vda", 10)
        assert [task.description for task in bars.tasks] == ["total", f"web-{number}/vda"]
        if number % 2:
            bars.dropped(f"web-{number}/vda")
        else:
            bars.finished(f"web-{number}/vda")
    (total,) = bars.tasks
    assert (total.completed, total.total) == (500, 1000)
    bars.close()


class FakeClock:
    """A clock that a test moves on."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_line_is_written_over_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without escape codes: all volumes are in one line, a note stands above it, and in the end nothing is left."""
    monkeypatch.setenv("COLUMNS", "60")
    clock, stream = FakeClock(), io.StringIO()
    progress = LineProgress(stream, clock)

    progress.started("vda", 4 << 20)
    clock.now = 1
    progress.advanced("vda", 1 << 20)
    progress.started("evil\x1b", 4 << 20)
    clock.now = 2
    progress.advanced("evil\x1b", 3 << 20)
    progress.note("SIGINT")
    progress.close()

    first, second, erased, note, *rest = stream.getvalue().split("\r")[1:]
    assert first == "vda  25%  1.0 MiB of 4.0 MiB  1.0 MiB/s"
    assert second == "2 volumes  50%  4.0 MiB of 8.0 MiB  2.0 MiB/s"
    assert (erased.strip(), note, rest) == ("", "SIGINT\n", [])
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("columns", ["1", "10", "40"])
def test_line_fits(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """A line that goes on in the next one could not be written over."""
    monkeypatch.setenv("COLUMNS", columns)
    clock, stream = FakeClock(), io.StringIO()
    progress = LineProgress(stream, clock)
    progress.started("x" * 50, 1)
    clock.now = 1
    progress.advanced("x" * 50, 1)
    progress.close()

    assert all(len(line) <= max(1, int(columns) - 1) for line in stream.getvalue().split("\r"))
