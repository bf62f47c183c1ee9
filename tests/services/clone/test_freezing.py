"""The names of overlays for disks of an original, and what becomes of a freeze after its clones were made."""

from __future__ import annotations

from itertools import islice
from typing import Any, cast

import pytest

from tests.output.records import CLONED
from virtomate.duplication.transfers.backup import BackupStart
from virtomate.enums import Consistency, Status
from virtomate.errors import IllegalStateError
from virtomate.notices import CloneWarning, Leftover, Notice, notice
from virtomate.services.clone.freezing import make_frozen, overlay_names


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("web.qcow2", ["web-overlay.qcow2", "web-overlay-2.qcow2", "web-overlay-3.qcow2"]),
        ("web.RAW", ["web-overlay.qcow2", "web-overlay-2.qcow2"]),
        ("web", ["web-overlay.qcow2"]),
        ("web.v1.img", ["web.v1-overlay.qcow2"]),
        ("web-overlay.qcow2", ["web-overlay-2.qcow2", "web-overlay-3.qcow2"]),
        ("web-overlay-9.qcow2", ["web-overlay-10.qcow2"]),
        # no numbers of ours
        ("web-overlay-0.qcow2", ["web-overlay-0-overlay.qcow2"]),
        ("web-overlays.qcow2", ["web-overlays-overlay.qcow2"]),
    ],
)
def test_overlay_names(base: str, expected: list[str]) -> None:
    """An overlay is named after its base, and an overlay on an overlay has the next number."""
    assert list(islice(overlay_names(base), len(expected))) == expected


def test_long_names_are_cut() -> None:
    """The name of an overlay fits into a file name, and no letter is cut in the middle."""
    for base in ("a" * 255, "\u00fc" * 127):
        for name in islice(overlay_names(base), 12):
            assert len(name.encode()) <= 255
            assert name.startswith(base[:100])


STAYS = notice(Leftover.FROZEN, "original", reason="it runs")
FAILED = CLONED._replace(status=Status.FAILED, error=IllegalStateError("no"))
LEFT = FAILED._replace(error=IllegalStateError("no", leftovers=(Notice(Leftover.CLAIM, "web"),)))
WRITABLE = notice(CloneWarning.WRITABLE_BASE, "/base", reason="seen later")


class FakeFreeze:
    """A freeze that notes what is done with it."""

    warnings: tuple[Notice, ...] = ()
    start: BackupStart | None = None

    def __init__(self) -> None:
        self.calls: list[str] = []

    def undo(self) -> tuple[Notice, ...]:
        """Undo it."""
        self.calls.append("undo")
        return (STAYS,)

    def keep(self) -> tuple[Notice, ...]:
        """Keep it."""
        self.calls.append("keep")
        return (WRITABLE,)

    def give_up(self, reason: str) -> tuple[Notice, ...]:
        """Undo nothing."""
        self.calls.append("give up")
        return (STAYS._replace(subject=reason),)


def made(freeze: FakeFreeze, *results: Any) -> Any:
    """Make clones with these results."""

    def make() -> Any:
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    return make_frozen(cast("Any", freeze), (), make)


def test_one_clone_keeps_the_freeze() -> None:
    """The warnings about bases are added to all clones, unless the plan has warned of the same base."""
    freeze = FakeFreeze()
    warned = CLONED._replace(warnings=(WRITABLE._replace(details=()),))

    assert made(freeze, FAILED, CLONED, warned)[1:] == (CLONED._replace(warnings=(*CLONED.warnings, WRITABLE)), warned)
    assert freeze.calls == ["keep"]


def test_clones_are_of_the_moment_of_the_freeze() -> None:
    """How the disks were when they moved is told of all clones, with the warning about that."""
    freeze = FakeFreeze()
    freeze.start = BackupStart(Consistency.FILESYSTEM, 0.25)
    freeze.warnings = (notice(CloneWarning.UNFROZEN, "original", reason="no agent"),)

    (result,) = made(freeze, CLONED)

    assert (result.consistency, result.frozen_seconds) == (Consistency.FILESYSTEM, 0.25)
    assert result.warnings == (*CLONED.warnings, *freeze.warnings, WRITABLE)


def test_without_a_clone_the_freeze_is_undone() -> None:
    """What stays is among the leftovers of the first failure."""
    freeze = FakeFreeze()

    first, second = made(freeze, FAILED, FAILED)

    assert first.error.leftovers == (STAYS,)
    assert second == FAILED
    assert freeze.calls == ["undo"]


def test_freeze_stays_below_what_is_left_of_a_clone() -> None:
    """An overlay of a clone that could not be removed rests on a base."""
    freeze = FakeFreeze()

    (first,) = made(freeze, LEFT)

    assert len(first.error.leftovers) == 2
    assert freeze.calls == ["give up"]


def test_a_raised_error_undoes_the_freeze() -> None:
    """As for a single clone whose name was taken meanwhile."""
    freeze = FakeFreeze()

    with pytest.raises(IllegalStateError) as caught:
        made(freeze, IllegalStateError("no"))

    assert caught.value.leftovers == (STAYS,)
    assert freeze.calls == ["undo"]
