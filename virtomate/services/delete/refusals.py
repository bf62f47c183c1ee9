"""Why domains are not deleted: all that are refused for one reason are named in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.advice import virsh, virtomate
from virtomate.errors import IllegalStateError, NotFoundError, combined_error
from virtomate.services.storage import shutdown_commands
from virtomate.words import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.errors import VirtomateError


class Refusals:
    """Collects what is wrong with the domains that are to be deleted, so that one run tells of all of it."""

    def __init__(self) -> None:
        self._missing: dict[str, NotFoundError] = {}
        self._where = ""
        self._strangers: list[str] = []
        self._active: dict[str, str] = {}
        self._in_the_making: dict[str, int] = {}
        self._others: list[VirtomateError] = []

    def add_missing(self, name: str, error: NotFoundError, where: str) -> None:
        """There is no domain of this name on that connection."""
        self._missing[name] = error
        self._where = where

    def add_stranger(self, name: str) -> None:
        """The domain is no clone of ours."""
        self._strangers.append(name)

    def add_active(self, name: str, state: str) -> None:
        """The domain is running, or in another state in which it uses its disks."""
        self._active[name] = state

    def add_in_the_making(self, name: str, pid: int) -> None:
        """A process is still making the clone."""
        self._in_the_making[name] = pid

    def add(self, error: VirtomateError) -> None:
        """Something else is wrong."""
        self._others.append(error)

    def raise_if_any(self) -> None:
        """Tell of everything, if anything is wrong.

        Raises:
            NotFoundError: Nothing is wrong but domains that are not there.
            VirtomateError: Something else is.
        """
        errors: list[VirtomateError] = []
        if self._missing:
            errors.append(_missing(self._missing, self._where))
        if self._strangers:
            errors.append(_strangers(self._strangers))
        if self._active:
            errors.append(_active(self._active))
        if self._in_the_making:
            errors.append(_in_the_making(self._in_the_making))
        errors += self._others
        if errors:
            raise combined_error(errors)


def _missing(errors: Mapping[str, NotFoundError], where: str) -> NotFoundError:
    if len(errors) == 1:
        return next(iter(errors.values()))
    return NotFoundError(
        f"there are no domains {quoted(errors)} on {where}",
        hint=f"{virtomate('domain-list')} shows the domains of this connection.",
    )


def _strangers(names: list[str]) -> IllegalStateError:
    if len(names) == 1:
        are, command = f"domain '{names[0]}' is not a clone", virsh("undefine", names[0])
    else:
        are, command = f"domains {quoted(names)} are not clones", virsh("undefine")
    return IllegalStateError(
        f"{are} made by virtomate, and only those are deleted",
        hint=f"{command} removes a domain's definition and leaves its volumes.",
    )


def _active(states: Mapping[str, str]) -> IllegalStateError:
    are, what = ("is", "domain") if len(states) == 1 else ("are", "domains")
    them = "it" if len(states) == 1 else "them"
    commands = "; ".join(shutdown_commands(name, state) for name, state in states.items())
    return IllegalStateError(
        f"{what} {quoted(states)} {are} {' or '.join(dict.fromkeys(states.values()))}, and must be shut off to be "
        "deleted",
        hint=f"Shut {them} down first: {commands}",
    )


def _in_the_making(pids: Mapping[str, int]) -> IllegalStateError:
    names = list(pids)
    are = f"domain '{names[0]}' is" if len(names) == 1 else f"domains {quoted(names)} are"
    by = ", ".join(dict.fromkeys(str(pid) for pid in pids.values()))
    process = "process" if len(set(pids.values())) == 1 else "processes"
    return IllegalStateError(
        f"{are} still being made by {process} {by}",
        hint="Wait for it to end, or interrupt it: it cleans up after itself.",
    )
