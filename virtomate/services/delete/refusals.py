"""Why domains are not deleted: all that are refused for one reason are named in one sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from virtomate.errors import IllegalStateError, NotFoundError, combined_error
from virtomate.services.selection import unmatched_error
from virtomate.words import quoted, shutdown_commands, undefine_command, virtomate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from virtomate.errors import VirtomateError


@dataclass
class Refusals:
    """What is wrong with the domains that are to be deleted, so that one run tells of all of it.

    Attributes:
        missing: Names of domains that do not exist, with the error.
        unmatched: Patterns that match the name of no clone.
        strangers: Names of domains that are not clones, with whether they have the state of a TPM.
        active: Names of domains that use their disks, with their states.
        in_the_making: Names of clones that a process is still making or deleting, with its PID.
        others: All other errors.
        where: Name of the connection.
    """

    where: str = ""
    missing: dict[str, NotFoundError] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    strangers: dict[str, bool] = field(default_factory=dict)
    active: dict[str, str] = field(default_factory=dict)
    in_the_making: dict[str, int] = field(default_factory=dict)
    others: list[VirtomateError] = field(default_factory=list)

    def raise_if_any(self) -> None:
        """Raise one error that tells of everything; a NotFoundError if all that is wrong are missing domains."""
        errors: list[VirtomateError] = []
        if len(self.missing) > 1:
            message = f"there are no domains {quoted(self.missing)} on {self.where}"
            hint = f"{virtomate('domain-list')} shows the domains of this connection."
            errors.append(NotFoundError(message, hint=hint))
        else:
            errors += self.missing.values()
        if self.unmatched:
            errors.append(unmatched_error(tuple(self.unmatched), self.where, "clone", "--clones"))
        if self.strangers:
            errors.append(_strangers(self.strangers))
        if self.active:
            errors.append(_active(self.active))
        if self.in_the_making:
            errors.append(_in_the_making(self.in_the_making))
        errors += self.others
        if errors:
            raise combined_error(errors)


def _domains_are(names: Collection[str]) -> str:
    return f"domain {quoted(names)} is" if len(names) == 1 else f"domains {quoted(names)} are"


def _strangers(names: Mapping[str, bool]) -> IllegalStateError:
    clone = "a clone" if len(names) == 1 else "clones"
    command = undefine_command(*(names if len(names) == 1 else ()), has_tpm=any(names.values()))
    return IllegalStateError(
        f"{_domains_are(names)} not {clone} made by virtomate, and only those are deleted",
        hint=f"{command} removes a domain's definition and leaves its volumes.",
    )


def _active(states: Mapping[str, str]) -> IllegalStateError:
    them = "it" if len(states) == 1 else "them"
    commands = "; ".join(shutdown_commands(name, state) for name, state in states.items())
    return IllegalStateError(
        f"{_domains_are(states)} {' or '.join(dict.fromkeys(states.values()))}, and must be shut off to be deleted",
        hint=f"--force of domain-delete ends {them} at once. Or shut {them} down first: {commands}",
    )


def _in_the_making(pids: Mapping[str, int]) -> IllegalStateError:
    by = ", ".join(dict.fromkeys(str(pid) for pid in pids.values()))
    process = "process" if len(set(pids.values())) == 1 else "processes"
    return IllegalStateError(
        f"{_domains_are(pids)} still being made or deleted by {process} {by}",
        hint="Wait for it to end, or interrupt it: it cleans up after itself.",
    )
