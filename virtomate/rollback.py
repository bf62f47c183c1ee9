"""The undo stack: actions that undo, in reverse order, everything that was made, unless the work commits."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from virtomate.errors import VirtomateError
from virtomate.notices import Leftover, Notice, notice

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class Rollback:
    """Undo actions of one transaction.

    An action is pushed when the thing to remove exists, or just before a call that may end half way; then the action
    finds out whether there is anything to undo.
    """

    def __init__(self) -> None:
        self._actions: list[tuple[str, Callable[[], None]]] = []
        self._leftovers: list[Notice] = []

    @property
    def leftovers(self) -> tuple[Notice, ...]:
        """Return what could not be undone so far, with the reasons."""
        return tuple(self._leftovers)

    def push(self, leftover: str, undo: Callable[[], None]) -> None:
        """Remember an action, and a phrase for the thing that stays behind if the action raises a VirtomateError."""
        self._actions.append((leftover, undo))

    def commit(self) -> None:
        """Keep what was made."""
        self._actions.clear()

    def run(self, awaiting: Callable[[str], AbstractContextManager[object]] = nullcontext) -> tuple[Notice, ...]:
        """Undo everything, newest first, within `awaiting` and a phrase for each action; return the leftovers."""
        while self._actions:
            leftover, undo = self._actions.pop()
            try:
                with awaiting(f"the removal of {leftover}"):
                    undo()
            except Exception as error:  # noqa: BLE001 - the other actions must still run
                reason = error.message if isinstance(error, VirtomateError) else repr(error)
                self._leftovers.append(notice(Leftover.UNREMOVED, leftover, reason=reason))
        return self.leftovers
