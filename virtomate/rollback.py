"""The undo stack: what was made is unmade in reverse order unless the work commits."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from virtomate.errors import VirtomateError
from virtomate.notices import Leftover, Notice, notice

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


def _unnoticed(_what: str) -> AbstractContextManager[None]:
    return nullcontext()


class Rollback:
    """Undo actions of one transaction.

    An action is pushed when the thing that it undoes exists, or just before a call that may end half way; then the
    action finds out whether there is anything to undo.
    """

    def __init__(self) -> None:
        self._actions: list[tuple[str, Callable[[], None]]] = []
        self._leftovers: list[Notice] = []

    @property
    def leftovers(self) -> tuple[Notice, ...]:
        """What could not be undone so far, with the reason."""
        return tuple(self._leftovers)

    def push(self, leftover: str, undo: Callable[[], None]) -> None:
        """Remember how to undo something.

        Args:
            leftover: A phrase that names what stays behind if the action fails.
            undo: Removes it, or raises a VirtomateError where that is not possible.
        """
        self._actions.append((leftover, undo))

    def commit(self) -> None:
        """Keep what was made."""
        self._actions.clear()

    def run(self, awaiting: Callable[[str], AbstractContextManager[None]] = _unnoticed) -> tuple[Notice, ...]:
        """Undo everything, newest first, and return what could not be undone with the reason.

        Args:
            awaiting: Entered for each action, with a phrase that says what has to be waited for.
        """
        while self._actions:
            leftover, undo = self._actions.pop()
            try:
                with awaiting(f"the removal of {leftover}"):
                    undo()
            except VirtomateError as error:
                self._leftovers.append(notice(Leftover.UNREMOVED, leftover, reason=error.message))
            except Exception as error:  # noqa: BLE001 - whatever goes wrong with one, the others are still undone
                self._leftovers.append(notice(Leftover.UNREMOVED, leftover, reason=repr(error)))
        return self.leftovers
