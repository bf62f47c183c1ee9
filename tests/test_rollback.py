"""The undo stack."""

from __future__ import annotations

from functools import partial

import pytest

from virtomate.cancel import CancelToken
from virtomate.errors import ConnectionLostError, IllegalStateError, VirtomateError
from virtomate.notices import Leftover, Notice
from virtomate.output.messages import sentence, sentences
from virtomate.rollback import Rollback


def _fail(message: str) -> None:
    raise IllegalStateError(message)


def _crash(message: str) -> None:
    raise RuntimeError(message)


def test_undo_runs_newest_first() -> None:
    """What was made last is unmade first, since it may rest on what was made before."""
    undone: list[str] = []
    rollback = Rollback()
    for name in ("a", "b", "c"):
        rollback.push(name, partial(undone.append, name))

    assert rollback.run() == ()
    assert undone == ["c", "b", "a"]


def test_commit_keeps_everything() -> None:
    """After a commit nothing is undone."""
    undone: list[str] = []
    rollback = Rollback()
    rollback.push("a", partial(undone.append, "a"))

    rollback.commit()

    assert rollback.run() == ()
    assert undone == []


def test_undo_runs_once() -> None:
    """A second run finds nothing to do, and still knows what was left."""
    undone: list[str] = []
    rollback = Rollback()
    rollback.push("a", partial(undone.append, "a"))
    rollback.push("b", partial(_fail, "busy"))

    assert sentences(rollback.run()) == sentences(rollback.run()) == ["b (busy)"]
    assert undone == ["a"]


def test_failed_undo_is_named_and_does_not_stop_the_others() -> None:
    """What cannot be undone is reported with the reason, in the order of the attempts; the rest is undone."""
    undone: list[str] = []
    rollback = Rollback()
    rollback.push("a", partial(undone.append, "a"))
    rollback.push("volume 'b'", partial(_fail, "busy"))
    rollback.push("c", partial(undone.append, "c"))
    rollback.push("pool 'd'", partial(_fail, "gone"))

    assert sentences(rollback.run()) == ["pool 'd' (gone)", "volume 'b' (busy)"]
    assert sentences(rollback.leftovers) == ["pool 'd' (gone)", "volume 'b' (busy)"]
    assert undone == ["c", "a"]


def test_undo_sees_what_could_not_be_undone_before_it() -> None:
    """An action may look at the leftovers so far: a claim stays while it is the record of what is left."""
    seen: list[list[str]] = []
    rollback = Rollback()
    rollback.push("claim", lambda: seen.append(sentences(rollback.leftovers)))
    rollback.push("volume", partial(_fail, "busy"))

    rollback.run()

    assert seen == [["volume (busy)"]]


def test_unforeseen_error_in_an_undo_does_not_stop_the_others() -> None:
    """An undo that fails in a way nobody thought of leaves its own thing behind, and not everything else as well."""
    undone: list[str] = []
    rollback = Rollback()
    rollback.push("a", partial(undone.append, "a"))
    rollback.push("b", partial(_crash, "nobody thought of it"))

    (leftover,) = rollback.run()

    assert sentence(leftover).startswith("b (")
    assert undone == ["a"]


@pytest.mark.parametrize(("failures", "is_left"), [(0, False), (1, False), (2, False), (3, True)])
def test_undo_whose_connection_breaks_is_repeated(failures: int, is_left: bool) -> None:
    """An undo is run again over another connection, unless the connections go on breaking."""
    errors = [ConnectionLostError("lost")] * failures
    undone: list[str] = []
    rollback = Rollback()

    def undo() -> None:
        if errors:
            raise errors.pop()
        undone.append("volume")

    rollback.push("volume", undo)

    assert bool(rollback.run()) is is_left
    assert undone == ([] if is_left else ["volume"])


@pytest.mark.parametrize(("leftovers", "status"), [((), 1), ((Notice(Leftover.CLAIM, "x"),), 3)])
def test_leftovers_outrank_the_failure(leftovers: tuple[Notice, ...], status: int) -> None:
    """The exit status tells whether something was left behind."""
    assert VirtomateError("failed", leftovers=leftovers).exit_status == status


def test_what_is_being_undone_can_be_told() -> None:
    """Each action is announced while it runs."""
    cancel = CancelToken()
    told: list[tuple[str, ...]] = []
    rollback = Rollback()
    for name in ("a", "b"):
        rollback.push(name, lambda: told.append(cancel.awaited))

    rollback.run(cancel.awaiting)

    assert told == [("the removal of b",), ("the removal of a",)]
    assert cancel.awaited == ()
