"""Deleting clones, unfinished and finished ones: plan, ask, put a placeholder, remove, undefine.

Everything is looked at, and every refusal made, before the first file is touched. Then the clones are deleted one after
the other: a placeholder takes the clone's place and lists what was made for the clone; the artifacts on the list are
removed; the placeholder goes last. Whatever ends the run, the placeholder says what is left, and the same command
finishes the work.
"""

from __future__ import annotations

import logging
import math
import posixpath
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken, backoff
from virtomate.definition.provenance import Artifact
from virtomate.duplication.transfers.backup import RESUMED, await_closed, end_backup
from virtomate.enums import ArtifactKind, ArtifactState, DeletionStatus
from virtomate.errors import ConflictError, IllegalStateError, InternalError, InterruptedBySignalError, VirtomateError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.notices import Kept, Leftover, Notice, named, notice
from virtomate.services.delete.keepers import hand_over, take_back
from virtomate.services.delete.placeholder import Placeholder
from virtomate.services.delete.plan import in_use, plan_deletion
from virtomate.services.delete.records import Consent, DeletionResult
from virtomate.services.quiesce import thaw_own, thawed_note
from virtomate.services.restart import restart_owed, start_again, with_restart_failed
from virtomate.services.storage import TemporaryPools, listed_pools, refresh_all, stop_stale_pools
from virtomate.services.storage.artifacts import (
    Verdict,
    locked,
    name_artifact,
    remove_artifact,
    stop_temporary_pool,
)
from virtomate.services.storage.references import scan_references
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress
    from virtomate.services.delete.plan import DeletionPlan
    from virtomate.services.delete.records import Deletion, DoomedThing, Selection
    from virtomate.services.storage.references import ReferenceCache

_LOG = logging.getLogger(__name__)
_NO_CONSENT = Consent()


def delete_clones(
    session: Session,
    selection: Selection,
    progress: Progress,
    cancel: CancelToken,
    *,
    consent: Consent = _NO_CONSENT,
    agree: Callable[[DeletionPlan], bool],
    warn: Callable[[tuple[Notice, ...]], None],
) -> tuple[DeletionResult, ...] | None:
    """Delete the selected clones, if somebody agrees to what would be deleted.

    Args:
        session: Where the clones are.
        selection: The clones.
        progress: Is told what is waited for.
        cancel: A signal lets the current clone be deleted, unless libvirt has to be waited for, and keeps the others.
        consent: What is deleted without a question.
        agree: Asks about everything else; may raise.
        warn: Is told at once which definitions were restored, and before the question what could not be looked at.

    Returns:
        How deleting went, in the order of the plan; None if nobody agreed and nothing was deleted.

    Raises:
        VirtomateError: The plan refuses something, or something has changed since the question.
    """
    plan = plan_deletion(session.connection, selection, cancel, warn)
    warn(plan.warnings)
    if not plan.is_covered_by(consent):
        if not agree(plan):
            return None
        agreed = plan.without_figures
        plan = plan_deletion(session.connection, selection, cancel, warn)
        if plan.without_figures != agreed:
            raise IllegalStateError("what would be deleted has changed since the question", "Run the command again.")
    return execute_plan(session, plan, progress, cancel)


def execute_plan(
    session: Session, plan: DeletionPlan, progress: Progress, cancel: CancelToken
) -> tuple[DeletionResult, ...]:
    """Delete clones as planned, one after the other, and return how that went, in the order of their names."""
    cancel.begin()
    run = _Run(session, plan.references.cache, progress, cancel)
    by_uuid = {deletion.uuid: deletion for deletion in plan.deletions}
    results: dict[str, DeletionResult] = {}
    for uuid in plan.order:
        in_the_way = [by_uuid[other].name for other in by_uuid[uuid].needs if results[other].error is not None]
        results[uuid] = _CloneDeletion(run, by_uuid[uuid]).execute(in_the_way)
    # by itself libvirt subtracts what each volume took, also where a reflink shared that with others
    refresh_all(session, run.lighter_pools)
    # not before: what is left of an unfinished clone may be in one
    stop_stale_pools(session)
    for base in plan.freed:
        if all(results[uuid].status is DeletionStatus.DELETED for uuid in base.users):
            last = max(base.users, key=plan.order.index)
            results[last] = results[last]._replace(kept=(*results[last].kept, base.told))
    return tuple(results[deletion.uuid] for deletion in plan.deletions)


class _Run:
    """What the deletions of one run share; `lighter_pools` are names of pools from which a volume was removed."""

    def __init__(self, session: Session, cache: ReferenceCache, progress: Progress, cancel: CancelToken) -> None:
        self.session = session
        self.cache = cache
        self.cancel = cancel
        self.pools = TemporaryPools(session)
        self.lighter_pools: set[str] = set()
        self.note = progress.note
        self._has_said_to_wait = False

    def undo_backup(self, record: Provenance) -> None:
        """Thaw the guest, and end the backup, that a killed run has left: it would go on when its volumes are gone."""
        if record.finished or not (record.backed_up or record.freezes):
            return
        if thaw_own(self.session.connection, record.source.uuid, record.artifact_token or ""):
            self.note(thawed_note(record.source.name))
        if not record.backed_up:
            return
        if end_backup(self.session.connection, record.source.uuid, record.backed_up):
            self.note(RESUMED.format(record.source.name))
        # nothing is removed that QEMU still has open
        await_closed(self.session.connection, record.source.uuid)

    def say_to_wait(self) -> None:
        """Say once that libvirt is waited for."""
        if not self._has_said_to_wait:
            self.note("waiting for libvirt to finish a volume that it is still writing, or that is still open")
            self._has_said_to_wait = True


class _CloneDeletion:
    """The deletion of one clone: its plan, and what was removed, was replaced by others, or could not be removed."""

    def __init__(self, run: _Run, deletion: Deletion) -> None:
        self._run = run
        self._deletion = deletion
        self._placeholder = Placeholder(run.session, deletion)
        self._removed: list[str] = []
        self._replaced: list[Notice] = []
        self._failed: list[Notice] = []
        self._cures = dict.fromkeys(deletion.cures)
        self._restarted: str | None = None

    def execute(self, in_the_way: list[str]) -> DeletionResult:
        """Delete the clone, unless a signal arrived or a clone that must be deleted before is still there."""
        deletion, cancel = self._deletion, self._run.cancel
        status, kept = DeletionStatus.DELETED, deletion.kept_things
        error: VirtomateError | None = None
        try:
            cancel.check()
            with cancel.awaiting(f"the deletion of '{deletion.name}'"):
                self._delete(in_the_way)
        except Exception as unforeseen:  # noqa: BLE001 - the other clones still have their turn
            error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            is_interrupted = isinstance(error, InterruptedBySignalError)
            status, kept = (DeletionStatus.INTERRUPTED if is_interrupted else DeletionStatus.FAILED), ()
            if self._placeholder.is_there and not error.leftovers:
                error = error.adding(leftovers=(Notice(Leftover.CLAIM, deletion.name),))
        if not (deletion.is_finished or status is DeletionStatus.INTERRUPTED):
            error = self._start_original_again(error)
        return DeletionResult(status, deletion.name, deletion.uuid, tuple(self._removed), kept, self._restarted, error)

    def _start_original_again(self, error: VirtomateError | None) -> VirtomateError | None:
        """Start the original if the run that left the clone unfinished had shut it down; return the error of it all."""
        original = self._deletion.provenance.source
        try:
            if restart_owed(self._run.session, original, self._run.note):
                self._restarted = original.name
        except VirtomateError as cause:
            return with_restart_failed(error, original, cause)
        return error

    def _delete(self, in_the_way: list[str]) -> None:
        deletion, run = self._deletion, self._run
        if in_the_way:
            names = ", ".join(f"'{name}'" for name in in_the_way)
            raise IllegalStateError(f"'{deletion.name}' is kept, since {names} could not be deleted and uses it")
        _LOG.info("deleting %r", deletion.name)
        if deletion.state is not None:
            self._end_domain()
        run.undo_backup(deletion.provenance)
        # From before the look at the users: whoever links to the files now fails, and who did before is seen.
        with locked(run.session.connection, deletion.artifacts, deletion.provenance.artifact_token):
            self._placeholder.take_place(self._pools_to_start())
            try:
                self._require_free()
                hand_over(run.session.connection, deletion)
            except Exception:
                self._give_back()
                raise
            self._remove_all()
            # before the placeholder, which records the pools
            run.pools.stop()
            self._failed += run.pools.left
        if self._failed and deletion.is_finished and not self._removed:
            self._give_back()
            run.cancel.check()
            raise IllegalStateError(
                f"the clone '{deletion.name}' is kept, since nothing that was made for it could be removed: "
                + named(self._failed),
                hint=self._cure("the command"),
            )
        if self._failed or deletion.unreachable:
            raise self._incomplete()
        if deletion.provenance.restarts:
            self._restart()
        self._placeholder.undefine()
        self._removed += [thing.what for thing in deletion.doomed if thing.artifact is None and thing.entry is None]
        if self._replaced or deletion.foreign:
            raise ConflictError(
                f"{_kind(deletion)} '{deletion.name}' was removed, but files that are not certainly its own are in the "
                "place of some of its volumes",
                hint="They are left as they are. See whose they are.",
                leftovers=(*deletion.foreign, *self._replaced),
            )

    def _give_back(self) -> None:
        """Give the clone its definition back, and its bases."""
        deletion = self._deletion
        if deletion.handed:
            take_back(self._run.session.connection, deletion.uuid, deletion.provenance)
        self._placeholder.give_back(tuple(self._failed))

    def _end_domain(self) -> None:
        """End the running clone; its definition stays, and so does the record in it."""
        domain = find_domain_by_uuid(self._run.session.connection, self._deletion.uuid)
        if domain is not None and domain.is_active():
            _LOG.info("ending %r", domain.name)
            domain.end()

    def _restart(self) -> None:
        """Start the original again, which is all that this record is for."""
        original = self._deletion.provenance.source
        try:
            if start_again(self._run.session.connection, original):
                self._restarted = original.name
        except VirtomateError as cause:
            raise with_restart_failed(None, original, cause) from cause

    def _pools_to_start(self) -> tuple[Artifact, ...]:
        """Return the temporary pools for artifacts in no storage pool, as lines for the record."""
        things = (thing for thing in self._deletion.doomed if thing.is_outside)
        directories = {posixpath.dirname(thing.artifact.path) for thing in things if thing.artifact is not None}
        return tuple(
            Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, self._run.pools.name(directory), None, directory)
            for directory in sorted(directories)
        )

    def _require_free(self) -> None:
        """Raise IllegalStateError if an artifact is used by now, or the clone was started since the plan."""
        deletion, run = self._deletion, self._run
        self._placeholder.require()
        references = scan_references(run.session.connection, {deletion.uuid: deletion.artifacts}, run.cache)
        for made in deletion.artifacts:
            if users := references.users(made):
                raise in_use(deletion.name, made, users)

    def _remove_all(self) -> None:
        """Remove everything that the plan found to be the clone's own, newest first."""
        for thing in reversed(self._deletion.doomed):
            if thing.artifact is not None and self._attempt(thing.what, partial(self._remove, thing, thing.artifact)):
                self._removed.insert(0, thing.what)
                if thing.artifact.kind is ArtifactKind.VOLUME:
                    self._run.lighter_pools.add(thing.artifact.pool)
        for thing in self._deletion.doomed:
            # a finished clone of which nothing could be removed stays whole
            is_next = thing.entry is not None and not self._failed
            if is_next and self._attempt(thing.what, partial(self._remove_entry, thing)):
                self._removed.append(thing.what)
        connection = self._run.session.connection
        # a killed run has left them, for all of its clones; what failed here needs them again
        pools = [made for made in self._deletion.provenance.made if made.kind is ArtifactKind.POOL and not self._failed]
        needed = listed_pools(connection, but=self._deletion.uuid) if pools else frozenset()
        for made in pools:
            stop = partial(stop_temporary_pool, connection, made)
            if made.pool not in needed and self._attempt(name_artifact(made), stop):
                self._removed.insert(0, name_artifact(made))

    def _attempt(self, what: str, remove: Callable[[], bool | None]) -> bool:
        """Call a function that removes something; note why it failed, and return whether it removed something."""
        try:
            return bool(remove())
        except ConflictError as error:
            self._replaced.append(notice(Kept.FOREIGN, what, reason=error.message))
        except VirtomateError as error:
            self._failed.append(notice(Leftover.UNREMOVED, what, reason=error.message))
            if error.hint is not None:
                self._cures[error.hint] = None
        return False

    def _remove(self, thing: DoomedThing, made: Artifact) -> bool:
        run = self._run
        if thing.is_outside:
            made = made._replace(pool=run.pools.over(posixpath.dirname(made.path)).name)
        self._placeholder.require()
        token = self._deletion.provenance.artifact_token
        accepted = () if thing.verdict is None else (thing.verdict, Verdict.PROVED)
        return remove_artifact(run.session.connection, made, token, accepted, self._turns())

    def _remove_entry(self, thing: DoomedThing) -> bool:
        from virtomate.services.host_entries import remove_entry  # noqa: PLC0415 - few clones have an entry

        self._placeholder.require()
        return thing.entry is not None and remove_entry(self._run.session.connection, thing.entry)

    def _turns(self) -> Iterator[float]:
        """Yield when to try to remove a file: at once, and while libvirt still writes it, until a signal comes."""
        yield 0.0
        self._run.say_to_wait()
        with suppress(InterruptedBySignalError):
            for left in backoff(math.inf, self._run.cancel):
                self._require_free()
                yield left

    def _cure(self, command: str) -> str:
        """Return what to do about what could not be removed, and then."""
        if not self._cures:
            return f"Fix the cause, then run {command} again."
        return " ".join((*(f"{cure.removesuffix('.')}." for cure in self._cures), f"Then run {command} again."))

    def _incomplete(self) -> VirtomateError:
        """Return the error that lists what could not be removed."""
        deletion, cancel = self._deletion, self._run.cancel
        name = deletion.name
        error: VirtomateError = IllegalStateError(
            f"not everything that belongs to {_kind(deletion)} '{name}' could be removed",
            hint=self._cure(virtomate("domain-delete", name)),
        )
        if cancel.signal_number is not None:
            error = InterruptedBySignalError(cancel.signal_number)
        claim = Notice(Leftover.CLAIM, name)
        return error.adding(leftovers=(*deletion.foreign, *self._replaced, *deletion.unreachable, *self._failed, claim))


def _kind(deletion: Deletion) -> str:
    return "the clone" if deletion.is_finished else "the unfinished clone"
