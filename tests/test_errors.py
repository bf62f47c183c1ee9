"""The exit status of a run in which several things failed."""

from __future__ import annotations

import signal

import pytest

from virtomate.errors import (
    IllegalStateError,
    InterruptedBySignalError,
    VirtomateError,
    combined_exit_status,
)

FAILED = IllegalStateError("m")
LEFT = IllegalStateError("m", leftovers=("x",))
STOPPED = InterruptedBySignalError(signal.SIGTERM)


class NoAnswerError(VirtomateError):
    """Stands for what ends with 125."""

    _exit_status = 125


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], 0),
        ([FAILED], 1),
        ([FAILED, STOPPED], 143),
        ([STOPPED, LEFT, FAILED], 3),
        ([NoAnswerError("m")], 125),
        ([NoAnswerError("m"), FAILED], 1),
        ([NoAnswerError("m"), STOPPED], 143),
    ],
)
def test_combined_exit_status(errors: list[VirtomateError], expected: int) -> None:
    """Leftovers outrank signals, they outrank failures, and those outrank an agent that did not answer."""
    assert combined_exit_status(errors) == expected
    assert combined_exit_status(reversed(errors)) == expected
