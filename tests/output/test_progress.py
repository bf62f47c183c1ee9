"""Progress as JSON lines, as notes, and not at all."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from virtomate.output.bars import BarProgress
from virtomate.output.progress import JsonProgress, NoteProgress, make_progress
from virtomate.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Task


def _use(progress: Progress) -> None:
    progress.started("vda", 100)
    progress.started("vdb", 10)
    progress.advanced("vda", 50)
    progress.note("a \x1b[31m note")
    progress.finished("vda")
    progress.finished("vdb")
    progress.close()


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is one JSON object a line, with the bytes done and to do."""
    _use(JsonProgress())

    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        {"event": "started", "volume": "vda", "bytes": 0, "total": 100},
        {"event": "started", "volume": "vdb", "bytes": 0, "total": 10},
        {"event": "progress", "volume": "vda", "bytes": 50, "total": 100},
        {"event": "note", "message": "a \x1b[31m note"},
        {"event": "finished", "volume": "vda", "bytes": 100, "total": 100},
        {"event": "finished", "volume": "vdb", "bytes": 10, "total": 10},
    ]


def shown_tasks(bars: BarProgress) -> list[Task]:
    """Return the lines on the screen."""
    return [] if bars._bars is None else bars._bars.tasks


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Have rich take stderr for a terminal of 100 columns; return what it shows, without escape codes."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    return lambda: re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)


def test_waiting_at_a_terminal(terminal: Callable[[], str]) -> None:
    """A line tells what is waited for and for how long by now, in the place of the bars."""
    bars = BarProgress()
    bars.started("vda", 10)
    bars.finished("vda")
    since = time.monotonic() - 3
    bars.waiting("web\x1b-1", since)
    assert [task.description for task in shown_tasks(bars)] == ["web\\x1b-1"]
    bars.note("a note")
    bars.close()

    shown = terminal()
    seconds = [int(found) for found in re.findall(r"web\\x1b-1 (\d+) s", shown)]
    assert seconds[0] >= 3
    assert seconds[-1] <= time.monotonic() - since + 1
    assert "a note\n" in shown
    assert shown_tasks(bars) == []


@pytest.mark.parametrize("is_expected", [True, False])
@pytest.mark.usefixtures("terminal")
def test_bars_stand_in_the_order_of_names(is_expected: bool) -> None:
    """Whichever began first, bars are sorted by name, numbers in names by their value; the total is the last."""
    bars = BarProgress()
    if is_expected:
        bars.expected(1000, 3)
    for name in ("web-10/vda", "web-2/vdb", "web-2/vda"):
        bars.started(name, 10)
    bars.advanced("web-10/vda", 4)

    tasks = shown_tasks(bars)
    bars.close()
    assert [task.description for task in tasks] == ["web-2/vda", "web-2/vdb", "web-10/vda", "total"]
    assert (tasks[-1].completed, tasks[-1].total) == (4, 1000 if is_expected else 30)


@pytest.mark.parametrize("kind", [JsonProgress, NoteProgress])
def test_waiting_where_nobody_looks_on(
    kind: type[JsonProgress | NoteProgress], capsys: pytest.CaptureFixture[str]
) -> None:
    """A log and a front end have a clock of their own: they get the note that says what is waited for."""
    progress = kind()
    progress.waiting("web-1", since=0.0)
    progress.close()

    assert capsys.readouterr() == ("", "")


def test_json_lines_of_several_clones(capsys: pytest.CaptureFixture[str]) -> None:
    """How much there is to do is told beforehand, and what will never be complete is told, too."""
    progress = JsonProgress()
    progress.expected(300, 2)
    progress.started("web-1/vda", 100)
    progress.dropped("web-1/vda")

    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        {"event": "expected", "total": 300},
        {"event": "started", "volume": "web-1/vda", "bytes": 0, "total": 100},
        {"event": "dropped", "volume": "web-1/vda"},
    ]


@pytest.mark.parametrize(
    ("style", "quiet", "expected"),
    [
        ("auto", False, NoteProgress),
        ("auto", True, Progress),
        ("none", False, NoteProgress),
        ("none", True, Progress),
        ("bar", True, Progress),
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


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("auto", "Note: a \\x1b[31m remark\n"),
        ("json", '{"event":"note","message":"a \\u001b[31m remark"}\n'),
        ("none", "Note: a \\x1b[31m remark\n"),
    ],
)
def test_remark(style: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A remark is told apart from what happens at the moment, and is a note for front ends."""
    make_progress(style, quiet=False).remark("a \x1b[31m remark")

    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("style", ["auto", "bar", "none"])
def test_quiet(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet shows nothing, neither bars nor notes."""
    _use(make_progress(style, quiet=True))
    make_progress(style, quiet=True).remark("a remark")

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


def test_bars_show_names_as_they_are(terminal: Callable[[], str]) -> None:
    """Bars and notes go to stderr; a name is never markup, and a note's control characters are spelled out."""
    bars = make_progress("bar", quiet=False)

    bars.started("[red]vda[/red]", 100)
    bars.started("vdb\x07", 0)
    bars.advanced("[red]vda[/red]", 40)
    bars.note("a [bold]note[/bold] \x07")
    bars.finished("[red]vda[/red]")
    bars.finished("vdb\x07")
    bars.close()

    shown = terminal()
    assert "[red]vda[/red]" in shown
    assert "a [bold]note[/bold] \\x07" in shown
    assert "\x07" not in shown
    assert "total" in shown


def test_bars_can_be_closed_before_anything_began() -> None:
    """A clone that is refused closes bars that never were."""
    make_progress("bar", quiet=False).close()


@pytest.mark.usefixtures("terminal")
def test_bars_of_several_clones_make_room() -> None:
    """Where it is known how much there is to do, the total stays and complete volumes give up their lines."""
    bars = BarProgress()
    bars.expected(1000, 50)
    for number in range(50):
        bars.started(f"web-{number}/vda", 20)
        bars.advanced(f"web-{number}/vda", 10)
        assert [task.description for task in shown_tasks(bars)] == [f"web-{number}/vda", "total"]
        if number % 2:
            bars.dropped(f"web-{number}/vda")
        else:
            bars.finished(f"web-{number}/vda")
    (total,) = shown_tasks(bars)
    assert (total.completed, total.total) == (500, 1000)
    bars.close()


def test_bars_of_volumes_without_bytes(terminal: Callable[[], str]) -> None:
    """Where nothing is copied, bars count volumes and show neither bytes nor a rate."""
    bars = BarProgress()
    bars.expected(0, 4)
    for number in range(2):
        bars.started(f"web-{number}/vda", 0)
        bars.finished(f"web-{number}/vda")
    (total,) = shown_tasks(bars)
    assert (total.completed, total.total) == (2, 4)
    bars.close()

    shown = terminal()
    assert "50%" in shown
    assert "/s" not in shown
    assert not re.search(r"\d/\d", shown)


def test_bar_of_a_single_volume_without_bytes(terminal: Callable[[], str]) -> None:
    """The bar of an overlay is empty or full; a volume with bytes beside it shows them."""
    bars = BarProgress()
    bars.started("vda", 0)
    bars.started("nvram", 2048)
    bars.finished("vda")
    assert [(task.description, round(task.percentage)) for task in shown_tasks(bars)] == [
        ("nvram", 0),
        ("vda", 100),
        ("total", 0),
    ]
    bars.advanced("nvram", 1024)
    bars.close()

    shown = terminal().replace("\r", "\n").splitlines()
    assert any(re.search(r"nvram .* 1.0/2.0 KiB", line) for line in shown)
    assert not [line for line in shown if line.startswith("vda") and ("KiB" in line or "/s" in line or "bytes" in line)]
