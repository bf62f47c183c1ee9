"""Why domains are not deleted: all that are refused for one reason are named in one sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from virtomate.errors import IllegalStateError, NotFoundError, combined_error
from virtomate.words import quoted, shutdown_commands, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.errors import VirtomateError


@dataclass
class Refusals:
    """What is wrong with the domains that are to be deleted, so that one run tells of all of it.

    Attributes:
        missing: Names of domains that are not there, with the error.
        strangers: Names of domains that are not clones.
        active: Names of domains that use their disks, with their states.
        in_the_making: Names of clones that a process is still making, with its PID.
        others: Whatever else is wrong.
        where: Name of the connection.
    """

    where: str = ""
    missing: dict[str, NotFoundError] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    active: dict[str, str] = field(default_factory=dict)
    in_the_making: dict[str, int] = field(default_factory=dict)
    others: list[VirtomateError] = field(default_factory=list)

    def raise_if_any(self) -> None:
        """Tell of everything, if anything is wrong.

        Raises:
            NotFoundError: Nothing is wrong but domains that are not there.
            VirtomateError: Something else is.
        """
        errors: list[VirtomateError | None] = [
            _missing(self.missing, self.where) if self.missing else None,
            _strangers(self.strangers) if self.strangers else None,
            _active(self.active) if self.active else None,
            _in_the_making(self.in_the_making) if self.in_the_making else None,
            *self.others,
        ]
        if found := [error for error in errors if error is not None]:
            raise combined_error(found)


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
