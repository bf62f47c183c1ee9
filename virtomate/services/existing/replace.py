"""Clones that are deleted before new clones get their names, by the rules of `domain-delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import DeletionStatus
from virtomate.errors import IllegalStateError, UsageError, combined_error
from virtomate.hypervisor.domains import find_domain, find_domain_by_name
from virtomate.notices import named
from virtomate.paths import normalise
from virtomate.services.clone import errors_of
from virtomate.services.clone_parts import ReplacedClone
from virtomate.services.clone_records import GivingWay
from virtomate.services.delete import Selection, execute_plan, plan_deletion
from virtomate.words import quoted, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from virtomate.errors import VirtomateError
    from virtomate.notices import Notice
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.delete import Deletion, DeletionPlan, DeletionResult
    from virtomate.services.transaction import Run


def plan_replacement(
    run: Run, requests: tuple[CloneRequest, ...], warn: Callable[[tuple[Notice, ...]], None]
) -> Replacement | None:
    """Plan the deletion of the clones that have the names of new clones; None where no domain has such a name.

    The requests, for one original, are the consent to delete finished clones. Files of which nothing proves that they
    were made for a clone are not covered.

    Raises:
        NotFoundError: There is no original of that name or UUID.
        UsageError: The original itself has the name of a clone.
        IllegalStateError: A domain may not be deleted, or `domain-delete` would ask.
        InterruptedBySignalError: A signal arrived.
    """
    connection = run.target.connection
    original = find_domain(run.source.connection, requests[0].source)
    names = (name for request in requests for name in request.names)
    found = [domain for name in names if (domain := find_domain_by_name(connection, name)) is not None]
    if not found:
        return None
    if not run.has_two_hosts and original.uuid in {domain.uuid for domain in found}:
        raise UsageError(f"'{original.name}' is to be cloned, and cannot be replaced by its clone")
    with errors_of(requests[0].target_uri):
        plan = plan_deletion(connection, Selection(tuple(domain.uuid for domain in found)), run.cancel, warn)
        warn(plan.warnings)
        _refuse_doubtful(plan)
    if run.has_two_hosts:
        from virtomate.services.existing.seen_here import refuse_used_here  # noqa: PLC0415 - for --to

        refuse_used_here(run, plan)
    return Replacement(run, plan)


def _refuse_doubtful(plan: DeletionPlan) -> None:
    """Raise IllegalStateError for clones that only a person may delete."""
    refusals: list[VirtomateError] = []
    for deletion in plan.deletions:
        delete = virtomate("domain-delete", deletion.name)
        if alien := (*deletion.foreign, *deletion.unreachable):
            refusals.append(
                IllegalStateError(
                    f"the clone '{deletion.name}' cannot be replaced: {named(alien)}", hint=f"{delete} says more."
                )
            )
        if doubts := [thing.what for thing in deletion.doomed if thing.doubt is not None]:
            refusals.append(
                IllegalStateError(
                    f"the clone '{deletion.name}' cannot be replaced: nothing proves that these were made for it: "
                    f"{', '.join(doubts)}",
                    hint=f"Look at them, then delete the clone: {virtomate('domain-delete', deletion.name)}",
                )
            )
    if refusals:
        raise combined_error(refusals)


class Replacement:
    """The deletion of clones that give way to new clones, and how it went."""

    def __init__(self, run: Run, plan: DeletionPlan) -> None:
        self._run = run
        self._plan = plan
        self._results: tuple[DeletionResult, ...] = ()

    @property
    def giving_way(self) -> GivingWay:
        """What stands in the way of the new clones until the deletion."""
        return GivingWay(
            frozenset(deletion.uuid for deletion in self._plan.deletions),
            frozenset(normalise(made.path) for deletion in self._plan.deletions for made in deletion.artifacts),
            frozenset(
                thing.entry for deletion in self._plan.deletions for thing in deletion.doomed if thing.entry is not None
            ),
        )

    def make_room(self, plans: Sequence[object]) -> Mapping[str, VirtomateError]:
        """Delete the clones, unless that was done before; return by name the errors for those that are still there.

        Where images below them are left, the first clone has the error.
        """
        if plans and not self._results:
            self._results = execute_plan(self._run.target, self._plan, self._run.progress, self._run.cancel)
        errors: dict[str, VirtomateError] = {}
        for result in self._results:
            if result.error is not None:
                # the domain with images of a running original is deleted after the clones that rest on it
                name = self._results[0].name if self._is_moment(result) else result.name
                errors.setdefault(name, result.error)
        return errors

    def _is_moment(self, result: DeletionResult) -> bool:
        return any(item.uuid == result.uuid and item.provenance.is_moment for item in self._plan.deletions)

    def planned(self, result: CloneResult) -> CloneResult:
        """Return a planned clone with the clone that it will replace."""
        deletion = next((item for item in self._plan.deletions if item.name == result.name), None)
        if deletion is None:
            return result
        freed = tuple(base.told for base in self._plan.freed if deletion.uuid in base.users)
        removed = tuple(thing.what for thing in deletion.doomed)
        return result._replace(replaced=_replaced(deletion, removed, (*deletion.kept_disks, *freed)))

    def done(self, result: CloneResult) -> CloneResult:
        """Return a clone, or the attempt, with the clone that was deleted before; the error of an attempt says so."""
        gone = next((item for item in self._deleted if item.name == result.name), None)
        deletion = next((item for item in self._plan.deletions if item.name == result.name), None)
        if gone is None or deletion is None:
            return result
        error = result.error
        if error is not None and error not in {item.error for item in self._results} and not result.is_complete:
            error = error.adding(_told([gone.name], error))
        return result._replace(replaced=_replaced(deletion, gone.removed, gone.kept), error=error)

    def explained(self, error: VirtomateError) -> VirtomateError:
        """Return the error that ended all clones, which says what was deleted before."""
        names = [item.name for item in self._deleted if not self._is_moment(item)]
        return error.adding(_told(names, error)) if names else error

    @property
    def _deleted(self) -> tuple[DeletionResult, ...]:
        return tuple(item for item in self._results if item.status is DeletionStatus.DELETED)


def _replaced(deletion: Deletion, removed: tuple[str, ...], kept: tuple[Notice, ...]) -> ReplacedClone:
    return ReplacedClone(deletion.uuid, deletion.provenance.source, deletion.provenance.mode, removed, kept)


def _told(names: list[str], error: VirtomateError) -> str:
    clones = f"clone {quoted(names)} was" if len(names) == 1 else f"clones {quoted(names)} were"
    rest = "" if error.leftovers or len(names) > 1 else ", so that neither is left"
    return f"; the former {clones} deleted before{rest}"
