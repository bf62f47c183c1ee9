"""The plan of a deletion: what goes with each clone, in which order, and every reason not to touch anything."""

from __future__ import annotations

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from virtomate.errors import IllegalStateError
from virtomate.services.delete.refusals import Refusals
from virtomate.services.delete.snapshots import advise_merging
from virtomate.services.delete.survey import SAVED_STATE, read_clones, survey
from virtomate.services.storage.artifacts import name_artifact
from virtomate.services.storage.references import scan_references
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from virtomate.cancel import CancelToken
    from virtomate.definition.provenance import Artifact
    from virtomate.hypervisor.connection import Connection
    from virtomate.notices import Notice
    from virtomate.services.delete.records import Consent, Deletion
    from virtomate.services.delete.survey import Clone
    from virtomate.services.storage.references import Reference, References

# How many users of a volume a refusal names.
_NAMED_USERS = 3


class DeletionPlan(NamedTuple):
    """What will be deleted.

    Attributes:
        deletions: In the order in which the clones were named.
        order: UUIDs in the order in which the clones are deleted.
        references: Who uses what.
    """

    deletions: tuple[Deletion, ...]
    order: tuple[str, ...]
    references: References

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What could not be looked at."""
        return self.references.warnings

    @property
    def doubts(self) -> tuple[str, ...]:
        """Phrases for what would be removed although nothing proves that it was made for the clone."""
        return tuple(
            f"{thing.what} of '{deletion.name}'"
            for deletion in self.deletions
            for thing in deletion.doomed
            if thing.doubt is not None
        )

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of what somebody may still want: finished clones, and what has other disks or a managed-save image."""
        return tuple(
            deletion.name
            for deletion in self.deletions
            if deletion.is_finished
            or deletion.kept_disks
            or any(thing.what == SAVED_STATE for thing in deletion.doomed)
        )

    def is_covered_by(self, consent: Consent) -> bool:
        """Return whether everything may be deleted without a question."""
        return (consent.finished or not self.wanted) and (consent.unproved or not self.doubts)


def plan_deletion(
    connection: Connection,
    names: tuple[str, ...],
    cancel: CancelToken,
    warn: Callable[[tuple[Notice, ...]], None] = lambda _restored: None,
) -> DeletionPlan:
    """Plan the deletion of clones, each given by name or UUID; no file is changed.

    All domains and volumes are looked at once, however many clones there are. A clone whose deletion was killed before
    a file was removed gets its definition back at once, also if the plan is refused then; `warn` is told.

    Raises:
        UsageError: A clone is named twice.
        NotFoundError: There is no such domain.
        IllegalStateError: A domain is not a clone, is active or still being made, or another domain or image uses one
            of its artifacts.
        InterruptedBySignalError: A signal arrived.
    """
    clones = read_clones(connection, names, cancel, warn)
    references = scan_references(connection, {clone.domain.uuid: clone.provenance.made for clone in clones})
    cancel.check()
    refusals, deletions = Refusals(), []
    for clone in clones:
        try:
            deletions.append(survey(connection, clone, references))
        except IllegalStateError as error:
            refusals.others.append(error)
    refusals.raise_if_any()
    deletions = _with_needs(deletions, references, clones)
    try:
        order = tuple(TopologicalSorter({deletion.uuid: deletion.needs for deletion in deletions}).static_order())
    except CycleError as error:
        raise IllegalStateError("these clones use each other's volumes, so that none can be deleted first") from error
    return DeletionPlan(tuple(deletions), order, references)


def _with_needs(deletions: list[Deletion], references: References, clones: list[Clone]) -> list[Deletion]:
    """Find out which clone must be deleted before which.

    Raises:
        IllegalStateError: Something that stays uses an artifact.
    """
    owners = {made.path: deletion.uuid for deletion in deletions for made in deletion.artifacts}
    uuids = {deletion.uuid for deletion in deletions}
    needs: defaultdict[str, set[str]] = defaultdict(set)
    refusals = Refusals()
    for deletion, clone in zip(deletions, clones, strict=True):
        for made in deletion.artifacts:
            staying = []
            for user in references.users(made):
                uuid = user.domain_uuid if user.domain_uuid in uuids else owners.get(user.path or "")
                if uuid is None:
                    staying.append(user)
                elif uuid != deletion.uuid:
                    needs[deletion.uuid].add(uuid)
            if staying:
                refusals.others.append(in_use(deletion.name, made, staying, _advise(clone, staying, references)))
    refusals.raise_if_any()
    return [deletion._replace(needs=frozenset(needs[deletion.uuid])) for deletion in deletions]


def _advise(clone: Clone, users: Iterable[Reference], references: References) -> str | None:
    """Return how the clone's own images can be merged, where only such images rest on its volume."""
    images = [user.path for user in users]
    if None in images:
        return None
    return advise_merging(clone.domain, clone.definition.domain, references.pools, [image for image in images if image])


def in_use(name: str, made: Artifact, users: Sequence[Reference], advice: str | None = None) -> IllegalStateError:
    """Return the error that names who uses an artifact of the clone with this name."""
    named = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(named):
        named.append(f"and {len(users) - len(named)} more")
    return IllegalStateError(
        f"{name_artifact(made)} of '{name}' cannot be deleted: {', '.join(named)}",
        hint=advice or "Delete the named domain or volume first. A clone can be named in the same command.",
    )
