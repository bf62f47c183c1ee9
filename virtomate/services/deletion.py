"""Deleting clones, unfinished and finished ones: plan, seize, remove, undefine.

Everything is looked at, and every refusal made, before the first thing is touched. Then, one clone after the other: a
definition that cannot be started takes the clone's place and lists what was made for it, as that of an unfinished clone
does; what is on the list is removed; and the definition goes last. Whatever ends the run, that definition says what is
left, and the same command finishes the work.
"""

from __future__ import annotations

import logging
import os
import posixpath
import shlex
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.provenance import find_provenance, half_deleted_definition, with_provenance
from virtomate.errors import (
    ConflictError,
    IllegalStateError,
    InternalError,
    InterruptedBySignalError,
    NotFoundError,
    VirtomateError,
)
from virtomate.hypervisor.domains import define_domain, find_domain_by_uuid
from virtomate.kinds import DeletionStatus, MadeKind, MadeState
from virtomate.records import DeletionResult, Made
from virtomate.services.deletion_plan import SAVED_STATE
from virtomate.services.maker import this_process
from virtomate.services.pools import refresh_all
from virtomate.services.removal import name_made, remove_made
from virtomate.services.temporary_pools import TemporaryPools

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.progress import Progress
    from virtomate.records import Provenance
    from virtomate.services.deletion_plan import Deletion, DeletionPlan
    from virtomate.services.session import Session
    from virtomate.services.storage import References

_LOG = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.2


def delete_clones(
    session: Session, plan: DeletionPlan, progress: Progress, cancel: CancelToken
) -> tuple[DeletionResult, ...]:
    """Delete clones, one after the other; a volume that libvirt is still building is waited for.

    A signal lets the one at hand come to its end, unless that is waited for, and keeps the others as they are.

    Returns:
        How it went, in the order in which they were named.
    """
    run = _Run(session, plan.references, progress, cancel)
    by_uuid = {deletion.uuid: deletion for deletion in plan.deletions}
    results: dict[str, DeletionResult] = {}
    for uuid in plan.order:
        in_the_way = [by_uuid[other].name for other in by_uuid[uuid].needs if results[other].error is not None]
        results[uuid] = run.delete(by_uuid[uuid], in_the_way)
    leftover = run.stop_pools()
    if leftover is not None:
        last = plan.order[-1]
        error = results[last].error or leftover
        if error is not leftover:
            error.leftovers = (*error.leftovers, *leftover.leftovers)
        results[last] = replace(results[last], status=DeletionStatus.FAILED, error=error)
    run.have_libvirt_count()
    return tuple(results[deletion.uuid] for deletion in plan.deletions)


@dataclass
class _Tally:
    """What became of one clone so far.

    Attributes:
        replaced: What is another's by now, each a phrase with the reason.
        failed: What could not be removed, likewise.
        is_seized: Whether the definition that is not the clone's own stands in its place.
    """

    removed: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    is_seized: bool = False


class _Run:
    """The deletions of one run."""

    def __init__(self, session: Session, references: References, progress: Progress, cancel: CancelToken) -> None:
        self._session = session
        self._references = references
        self._progress = progress
        self._cancel = cancel
        self._pools = TemporaryPools()
        self._lighter_pools: set[str] = set()
        self._has_said_to_wait = False

    def delete(self, deletion: Deletion, in_the_way: list[str]) -> DeletionResult:
        """Delete one clone, unless a signal arrived or one of those that have to go before is still there."""
        tally = _Tally()
        status, error, kept = DeletionStatus.DELETED, None, deletion.kept_disks
        try:
            self._cancel.check()
            _require_nobody(deletion, in_the_way)
            self._delete(deletion, tally)
        except Exception as unforeseen:  # noqa: BLE001 - the others still have their turn
            error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            is_interrupted = isinstance(error, InterruptedBySignalError)
            status, kept = (DeletionStatus.INTERRUPTED if is_interrupted else DeletionStatus.FAILED), ()
            if tally.is_seized and not error.leftovers:
                error.leftovers = (f"domain '{deletion.name}', an unfinished clone",)
        return DeletionResult(status, deletion.name, deletion.uuid, tuple(tally.removed), kept, error)

    def stop_pools(self) -> VirtomateError | None:
        """Stop the temporary pools; return what became of that if it did not work."""
        try:
            self._pools.stop(self._session.connection)
        except VirtomateError as error:
            error.leftovers = (f"temporary storage pool ({error.message})",)
            return error
        return None

    def have_libvirt_count(self) -> None:
        """Have libvirt count what the pools have left, once for all that was deleted.

        By itself it subtracts what each volume took, also where a reflink shared that with others.
        """
        with suppress(VirtomateError):
            refresh_all(self._session.connection, self._lighter_pools)

    def _delete(self, deletion: Deletion, tally: _Tally) -> None:
        connection = self._session.connection
        _LOG.info("deleting %r", deletion.name)
        claim = self._seize(connection, deletion)
        tally.is_seized = True
        if deletion.has_managed_save:
            # libvirt would start the clone from it, whatever its definition says by now
            _get(connection, deletion).remove_managed_save()
        has_removed = self._remove_all(connection, claim, tally)
        if deletion.has_managed_save:
            tally.removed.append(SAVED_STATE)
        if tally.failed and deletion.provenance.finished and not has_removed:
            self._give_back(connection, deletion, claim, tally)
        if tally.failed:
            raise self._incomplete(deletion, tally)
        _undefine(connection, deletion, claim)
        tally.is_seized = False
        tally.removed += deletion.records
        if tally.replaced:
            raise ConflictError(
                f"{_kind(deletion)} '{deletion.name}' was removed, but files that are not its own have taken the place "
                "of some of its volumes",
                hint="They are left as they are. See whose they are.",
                leftovers=tuple(tally.replaced),
            )

    def _seize(self, connection: Connection, deletion: Deletion) -> Provenance:
        """Put a definition in the clone's place that cannot be started, and that another run finds changed.

        A run that is still making the clone somewhere finds its claim gone, and does not finish.
        """
        domain = _get(connection, deletion)
        if domain.inactive_definition() != deletion.text or domain.is_active():
            raise _changed(deletion)
        directories = {
            posixpath.dirname(made.path)
            for made in deletion.provenance.made
            if made.kind is MadeKind.NVRAM and self._references.pools.find(made.pool) is None
        }
        pools = tuple(
            Made(MadeKind.POOL, MadeState.PLANNED, self._pools.name(directory), None, directory)
            for directory in sorted(directories)
        )
        seized = replace(
            deletion.provenance,
            finished=False,
            token=os.urandom(16).hex(),
            maker=this_process(),
            made=(*pools, *deletion.provenance.made),
        )
        definition = codec.parse_definition(deletion.text)
        if deletion.provenance.finished:
            definition = half_deleted_definition(domain.name, seized, definition.domain)
        else:
            definition = with_provenance(definition, seized)
        define_domain(connection, domain.name, codec.unparse_definition(definition))
        # libvirt says nothing when two do this at once
        _require_seized(connection, deletion, seized)
        return seized

    def _remove_all(self, connection: Connection, claim: Provenance, tally: _Tally) -> bool:
        """Remove everything on the record, newest first; return whether anything has been removed."""
        for made in reversed(claim.made):
            if made.kind is MadeKind.POOL and self._pools.has(made.pool):
                continue
            try:
                if remove_made(
                    connection,
                    made,
                    claim,
                    self._wait,
                    pool_over=lambda directory: self._pools.start(connection, directory),
                    user_of=self._name_user,
                ):
                    tally.removed.insert(0, name_made(made))
                    if made.kind is MadeKind.VOLUME:
                        self._lighter_pools.add(made.pool)
            except ConflictError as error:
                tally.replaced.append(f"{name_made(made)} ({error.message})")
            except VirtomateError as error:
                tally.failed.append(f"{name_made(made)} ({error.message})")
        return bool(tally.removed)

    def _incomplete(self, deletion: Deletion, tally: _Tally) -> VirtomateError:
        """The error that lists what could not be removed."""
        error: VirtomateError
        if self._cancel.signal_number is not None:
            error = InterruptedBySignalError(self._cancel.signal_number)
        else:
            error = IllegalStateError(
                f"not everything that belongs to {_kind(deletion)} '{deletion.name}' could be removed",
                hint=f"Mend that, then run virtomate domain-delete {shlex.quote(deletion.name)} again.",
            )
        claim = f"domain '{deletion.name}', an unfinished clone (kept as the record of these)"
        error.leftovers = (*tally.replaced, *tally.failed, claim)
        return error

    def _give_back(self, connection: Connection, deletion: Deletion, claim: Provenance, tally: _Tally) -> None:
        """Put the clone's own definition back, since nothing of it has been removed.

        Raises:
            IllegalStateError: It is back, and this is why it is not deleted.
            InterruptedBySignalError: Likewise, since nobody wanted to wait any longer.
        """
        _require_seized(connection, deletion, claim)
        define_domain(connection, deletion.name, deletion.text)
        tally.is_seized = False
        self._cancel.check()
        raise IllegalStateError(
            f"the clone '{deletion.name}' is kept, since nothing that was made for it could be removed: "
            + "; ".join(tally.failed),
            hint="Mend that, then run the command again.",
        )

    def _name_user(self, made: Made) -> str | None:
        users = self._references.users(made)
        return users[0].says if users else None

    def _wait(self, error: VirtomateError) -> None:
        """Wait for libvirt until a signal comes, and say once that it is being waited for."""
        if not self._has_said_to_wait:
            self._progress.note("waiting for libvirt to finish a volume that it is still writing")
            self._has_said_to_wait = True
        if self._cancel.wait(_INTERVAL_SECONDS):
            raise error


def _get(connection: Connection, deletion: Deletion) -> Domain:
    domain = find_domain_by_uuid(connection, deletion.uuid)
    if domain is None:
        raise NotFoundError(f"domain '{deletion.name}' is not there any more")
    return domain


def _require_nobody(deletion: Deletion, in_the_way: list[str]) -> None:
    if in_the_way:
        names = ", ".join(f"'{name}'" for name in in_the_way)
        raise IllegalStateError(f"'{deletion.name}' is kept, since {names} could not be deleted and uses it")


def _kind(deletion: Deletion) -> str:
    return "the clone" if deletion.provenance.finished else "the unfinished clone"


def _changed(deletion: Deletion) -> IllegalStateError:
    return IllegalStateError(f"domain '{deletion.name}' was changed by somebody else meanwhile")


def _require_seized(connection: Connection, deletion: Deletion, claim: Provenance) -> Domain:
    domain = _get(connection, deletion)
    found = find_provenance(domain.inactive_definition_without_secrets(), domain.uuid)
    if found is None or found.token != claim.token or found.finished or domain.is_active():
        raise _changed(deletion)
    return domain


def _undefine(connection: Connection, deletion: Deletion, claim: Provenance) -> None:
    """Undefine what was put in the clone's place, if it still is that."""
    if find_domain_by_uuid(connection, deletion.uuid) is None:
        return
    _require_seized(connection, deletion, claim).undefine_with_state()
