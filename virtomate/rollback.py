"""The undo stack: actions that undo, in reverse order, everything that was made, unless the work commits."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, TypeVar

from virtomate.errors import ConnectionLostError, VirtomateError
from virtomate.notices import Leftover, Notice, notice

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

Result = TypeVar("Result")

# A new connection may break as well.
_ATTEMPTS = 3


class Rollback:
    """Undo actions of one transaction.

    An action is pushed when the thing to remove exists, or just before a call that may end half way; then the action
    finds out whether there is anything to undo. So an action can be run again if its connection breaks.
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
                    persist(undo)
            except Exception as error:  # noqa: BLE001 - the other actions must still run
                reason = error.message if isinstance(error, VirtomateError) else repr(error)
                self._leftovers.append(notice(Leftover.UNREMOVED, leftover, reason=reason))
        return self.leftovers


def persist(undo: Callable[[], Result]) -> Result:
    """Undo something, and do so again while the connection breaks: a session then opens another one.

    Raises:
        VirtomateError: What `undo` raises; where no connection can be opened, that is a NoConnectionError.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(ConnectionLostError):
            return undo()
    return undo()
