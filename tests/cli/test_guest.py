"""The commands about guests: what of a command line is whose. Nothing here needs a guest."""

from __future__ import annotations

import json

import click
import pytest

from virtomate.cli import guest as command_line
from virtomate.cli import run

GUEST_WORDS = ["ls", "-v", "--json", "-c", "x", "--", "-h"]


def parsed(*words: str) -> dict[str, object]:
    """What guest-run makes of these words."""
    command = command_line.guest.commands["run"]
    with command.make_context("guest-run", list(words), obj=None) as context:
        return context.params


@pytest.mark.parametrize("before", [[], ["--stdin"], ["--timeout", "3"], ["--timeout=3"], ["-c", "u"], ["-cu", "-e"]])
@pytest.mark.parametrize("between", [[], ["-e"], ["-ec", "vm"], ["-l", "info", "--stdin"], ["--connection=u"]])
@pytest.mark.parametrize("mark", [[], ["--"]])
def test_everything_from_the_program_on_is_the_guests(before: list[str], between: list[str], mark: list[str]) -> None:
    """Options before the program are ours, before and after the domain; all that follows the program is its own."""
    params = parsed(*before, "web", *between, *mark, *GUEST_WORDS)

    assert (params["domain"], params["program"]) == ("web", "ls")
    assert params["arguments"] == tuple(GUEST_WORDS[1:])
    assert params["has_stdin"] == ("--stdin" in [*before, *between])
    assert params["encode"] == ("-e" in [*before, *between] or "-ec" in between)
    assert params["timeout_seconds"] == (3.0 if any("--timeout" in word for word in before) else None)


@pytest.mark.parametrize("mark", [[], ["--"]])
def test_domain_that_looks_like_an_option(mark: list[str]) -> None:
    """A domain may begin with a hyphen behind `--`, and the program may have one of its own."""
    params = parsed("--", "-web", *mark, *GUEST_WORDS)

    assert (params["domain"], params["program"], params["arguments"]) == ("-web", "ls", tuple(GUEST_WORDS[1:]))


@pytest.mark.parametrize("words", [[], ["web"], ["web", "--"], ["web", "--stdin"], ["web", "--timeout"]])
def test_program_is_missing(words: list[str]) -> None:
    """Without a program there is nothing to run."""
    with pytest.raises(click.UsageError):
        parsed(*words)


@pytest.mark.parametrize("words", [["guest-ping", "--wait"], ["guest-run", "--timeout"]])
@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "", "1_0", "1e308"])
def test_what_is_no_time(words: list[str], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no number of seconds is named, and what was expected."""
    assert run([*words, value, "web", "ls"][: 4 + (words[0] == "guest-run")]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"'{value}' is not a number of seconds" in captured.err


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Base64 is for JSON, and JSON lines on stderr leave no room for what a guest writes there."""
    assert run(["guest-run", "-e", "web", "ls"]) == 2
    encode = capsys.readouterr()
    assert run(["--progress", "json", "guest-run", "web", "ls"]) == 2
    progress = capsys.readouterr()

    assert (encode.out, progress.out) == ("", "")
    assert "--json" in encode.err
    assert json.loads(progress.err)["type"] == "UsageError"


def test_word_that_is_not_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    """What no message to an agent can hold is refused before libvirt is asked."""
    assert run(["-c", "test:///nothing.xml", "guest-run", "web", "echo", "\udcff"]) == 2

    assert "not UTF-8" in capsys.readouterr().err
