"""The programs that change guests in images: what is kept of their output."""

import os
import sys
from subprocess import Popen

import pytest

from virtomate.cancel import CancelToken
from virtomate.duplication import appliance
from virtomate.duplication.appliance import Outcome, run_in_appliance

KEPT = 200


def run(script: str) -> tuple[Outcome, list[str]]:
    """Run a program in Python in place of virt-sysprep; how it ended, and what was heard of it."""
    heard: list[str] = []
    return run_in_appliance([sys.executable, "-c", script], CancelToken(), heard.append), heard


@pytest.mark.parametrize("count", [KEPT - 1, KEPT, KEPT + 1, 2 * KEPT])
def test_last_lines_are_kept(count: int) -> None:
    """All lines are heard; the last 200 are kept."""
    outcome, heard = run(f"for number in range({count}): print(number)")

    assert heard == [str(number) for number in range(count)]
    assert outcome == Outcome(0, tuple(heard[-KEPT:]))


@pytest.mark.parametrize(
    ("end", "expected"),
    [("", ["a", "the reason"]), ("\\n", ["a", "the reason"]), ("\\r\\n\\n", ["a", "the reason", ""])],
)
def test_last_line_may_be_unfinished(end: str, expected: list[str]) -> None:
    """What a program says before it fails counts, whether or not it ends the line."""
    outcome, heard = run(f"import sys; sys.stdout.write('a\\nthe reason{end}'); sys.exit(3)")

    assert heard == expected
    assert outcome == Outcome(3, tuple(expected))


def test_last_line_of_what_leaves_its_appliance() -> None:
    """The same where a process that the program leaves behind has the output open."""
    script = """
import os, signal, sys
if os.fork() == 0:
    signal.pause()
sys.stdout.write("the reason")
sys.stdout.flush()
os._exit(1)
"""
    outcome, heard = run(script)

    assert (outcome, heard) == (Outcome(1, ("the reason",)), ["the reason"])


def test_all_is_said_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that says something and ends after the look for output, but before the look for its end, is heard."""

    def ended(process: Popen[bytes]) -> bool:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return True

    monkeypatch.setattr(appliance, "_has_ended", ended)

    outcome, heard = run("import time; time.sleep(0.5); print('late')")

    assert (outcome, heard) == (Outcome(0, ("late",)), ["late"])
