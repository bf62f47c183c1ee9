"""Text for people."""

from __future__ import annotations

import logging

import pytest

from virtomate.output.log import start_log
from virtomate.output.text import aligned, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("web-1 ü \u65e5 \U0001f600", "web-1 ü \u65e5 \U0001f600"),
        ("[red]x[/red]", "[red]x[/red]"),
        (":smile:", ":smile:"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("a\udcff", r"a\udcff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    """What could drive a terminal or turn the direction of writing is spelled out; everything else stays."""
    assert printable(text) == expected


def test_printable_text_can_be_written_everywhere() -> None:
    """No character of Unicode gets through that breaks a line or cannot be encoded."""
    for number in range(0x110000):
        shown = printable(chr(number))
        assert len(shown.splitlines()) == 1
        assert shown.encode()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([("a",)], ["a"]),
        (
            [("Name", "State"), ("a", "running"), ("longer name", "x")],
            ["Name         State", "a            running", "longer name  x"],
        ),
        ([("a", ""), ("bb", "")], ["a", "bb"]),
    ],
)
def test_aligned(rows: list[tuple[str, ...]], expected: list[str]) -> None:
    """Columns stand below each other, and no line ends in blanks."""
    assert aligned(rows) == expected


def test_log_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What a guest's agent or a definition says is spelled out; lines of ours stay lines."""
    logger = logging.getLogger("virtomate")
    handlers = list(logger.handlers)
    start_log("info", is_json=False)
    try:
        logger.info("the agent says %s", "\x1b[2Jhello\u202e")
    finally:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)

    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "\\x1b[2Jhello\\u202e\n" in text
