"""What a run ends with in which several things failed: the exit status, and one error."""

from __future__ import annotations

import inspect
import signal

import pytest

from virtomate import errors
from virtomate.errors import (
    ConflictError,
    IllegalStateError,
    InterruptedBySignalError,
    VirtomateError,
    combined_error,
    combined_exit_status,
)
from virtomate.notices import Leftover, Notice

FAILED = IllegalStateError("m")
LEFT = IllegalStateError("m", leftovers=(Notice(Leftover.CLAIM, "x"),))
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


def test_one_error_of_several() -> None:
    """Every sentence and every hint is told once; the type is that of all of them, if they have one."""
    taken = ConflictError("'a' is taken", "Choose another.")
    same = combined_error([taken, ConflictError("'b' is taken", "Choose another."), ConflictError("'c' is taken")])
    mixed = combined_error([taken, FAILED])

    assert (type(same), same.message) == (ConflictError, "'a' is taken; 'b' is taken; 'c' is taken")
    assert same.hint == "Choose another."
    assert (type(mixed), mixed.message, mixed.hint) == (IllegalStateError, "'a' is taken; m", "Choose another.")
    assert combined_error([taken]) is taken
    assert combined_error([FAILED, FAILED]).hint is None


def _lines(error: type[VirtomateError], depth: int = 0) -> list[tuple[int, str, str, str]]:
    """An error and those below it, as the tree of errors has them."""
    status = "128+" if error is InterruptedBySignalError else str(error._exit_status)
    below = [kind for kind in error.__subclasses__() if kind.__module__ == errors.__name__]
    line = (depth, error.__name__, error.json_type, status)
    return [line, *(line for kind in below for line in _lines(kind, depth + 1))]


def test_tree_of_errors() -> None:
    """The tree that the module opens with has every error in its place, with its JSON type and its exit status."""
    tree = []
    for line in inspect.getdoc(errors).splitlines()[4:]:  # type: ignore[union-attr]
        if not line:
            break
        name, kind, status, *_ = line.split()
        tree.append(((len(line) - len(line.lstrip()) - 6) // 2 + 1, name, kind, status))

    assert tree == _lines(VirtomateError)[1:]
    assert len(tree) > 20
