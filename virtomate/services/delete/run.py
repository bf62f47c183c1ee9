"""Deleting clones, unfinished and finished ones: plan, seize, remove, undefine.

Everything is looked at, and every refusal made, before the first thing is touched. Then, one clone after the other: a
definition that cannot be started takes the clone's place and lists what was made for it, as that of an unfinished clone
does; what is on the list is removed; and the definition goes last. Whatever ends the run, that definition says what is
left, and the same command finishes the work.
"""

from __future__ import annotations

import logging
import math
import os
import posixpath
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from virtomate.advice import virsh, virtomate
from virtomate.definition import codec
from virtomate.definition.provenance import Artifact, find_provenance, half_deleted_definition, with_provenance
from virtomate.enums import ArtifactKind, ArtifactState, DeletionStatus
from virtomate.errors import (
    ConflictError,
    ConnectionLostError,
    IllegalStateError,
    InternalError,
    InterruptedBySignalError,
    NotFoundError,
    VirtomateError,
)
from virtomate.hypervisor.defining import define_domain
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.services.delete.kept_definitions import keep_definition
from virtomate.services.delete.plan import SAVED_STATE, in_use
from virtomate.services.delete.records import DeletionResult
from virtomate.services.storage.artifacts import locked, name_artifact, remove_artifact, stop_temporary_pool
from virtomate.services.storage.owner import this_process
from virtomate.services.storage.pools import refresh_all
from virtomate.services.storage.references import scan_references
from virtomate.services.storage.temporary_pools import TemporaryPools
from virtomate.waiting import backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress
    from virtomate.services.delete.plan import Deletion, DeletionPlan, Going
    from virtomate.services.storage.cache import ReferenceCache

_LOG = logging.getLogger(__name__)


def delete_clones(
    session: Session, plan: DeletionPlan, progress: Progress, cancel: CancelToken
) -> tuple[DeletionResult, ...]:
    """Delete clones, one after the other; a volume that libvirt is still building is waited for.

    A signal lets the one at hand come to its end, unless that is waited for, and keeps the others as they are.

    Returns:
        How it went, in the order in which they were named.
    """
    cancel.begin()
    run = _Run(session, plan.references.cache, progress, cancel)
    by_uuid = {deletion.uuid: deletion for deletion in plan.deletions}
    results: dict[str, DeletionResult] = {}
    for uuid in plan.order:
        in_the_way = [by_uuid[other].name for other in by_uuid[uuid].needs if results[other].error is not None]
        results[uuid] = run.delete(by_uuid[uuid], in_the_way)
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

    def __init__(self, session: Session, seen: ReferenceCache, progress: Progress, cancel: CancelToken) -> None:
        self._session = session
        self._progress = progress
        self._cancel = cancel
        self._pools = TemporaryPools()
        self._seen = seen
        self._lighter_pools: set[str] = set()
        self._has_said_to_wait = False

    def delete(self, deletion: Deletion, in_the_way: list[str]) -> DeletionResult:
        """Delete one clone, unless a signal arrived or one of those that have to go before is still there."""
        tally = _Tally()
        status, error, kept = DeletionStatus.DELETED, None, deletion.kept_disks
        try:
            self._cancel.check()
            _require_nobody(deletion, in_the_way)
            with self._cancel.awaiting(f"the deletion of '{deletion.name}'"):
                self._delete(deletion, tally)
        except Exception as unforeseen:  # noqa: BLE001 - the others still have their turn
            error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            is_interrupted = isinstance(error, InterruptedBySignalError)
            status, kept = (DeletionStatus.INTERRUPTED if is_interrupted else DeletionStatus.FAILED), ()
            if tally.is_seized and not error.leftovers:
                error.leftovers = (f"domain '{deletion.name}', an unfinished clone",)
        return DeletionResult(status, deletion.name, deletion.uuid, tuple(tally.removed), kept, error)

    def have_libvirt_count(self) -> None:
        """Have libvirt count what the pools have left, once for all that was deleted.

        By itself it subtracts what each volume took, also where a reflink shared that with others.
        """
        if self._lighter_pools:
            with suppress(VirtomateError):
                refresh_all(self._session.connection, self._lighter_pools)

    def _delete(self, deletion: Deletion, tally: _Tally) -> None:
        _LOG.info("deleting %r", deletion.name)
        connection = self._session.connection
        artifacts = [going.made for going in deletion.going]
        # From before the look at who uses them: whoever links to them now fails, and who did before is seen.
        with locked(connection, artifacts, deletion.provenance.artifact_token):
            claim = self._seize(connection, deletion, tally)
            try:
                self._require_free(deletion, claim)
            except Exception:
                self._give_back(self._session.connection, deletion, claim, tally)
                raise
            self._remove_all(connection, deletion, claim, tally)
            # before the definition goes, which records them
            self._try_to_stop_pools(tally)
        if tally.failed and deletion.provenance.finished and not tally.removed:
            self._give_back(connection, deletion, claim, tally)
            self._cancel.check()
            raise IllegalStateError(
                f"the clone '{deletion.name}' is kept, since nothing that was made for it could be removed: "
                + "; ".join(tally.failed),
                hint="Mend that, then run the command again.",
            )
        if tally.failed or deletion.unreachable:
            raise self._incomplete(deletion, tally)
        _undefine(connection, deletion, claim)
        tally.is_seized = False
        if deletion.has_managed_save:
            tally.removed.append(SAVED_STATE)
        tally.removed += deletion.records
        if tally.replaced or deletion.foreign:
            raise ConflictError(
                f"{_kind(deletion)} '{deletion.name}' was removed, but files that are not certainly its own are in the "
                "place of some of its volumes",
                hint="They are left as they are. See whose they are.",
                leftovers=(*deletion.foreign, *tally.replaced),
            )

    def _require_free(self, deletion: Deletion, claim: Provenance) -> None:
        """Look again at who uses what is going to be removed: much may have happened since the plan.

        Raises:
            IllegalStateError: Somebody does, or the clone was started.
        """
        connection = self._session.connection
        _require_seized(connection, deletion, claim)
        artifacts = [going.made for going in deletion.going]
        references = scan_references(connection, {deletion.uuid: artifacts}, self._seen)
        for made in artifacts:
            users = references.users(made)
            if users:
                raise in_use(deletion.name, made, list(users))

    def _seize(self, connection: Connection, deletion: Deletion, tally: _Tally) -> Provenance:
        """Put a definition in the clone's place that cannot be started, and that another run finds changed.

        A run that is still making the clone somewhere finds its claim gone, and does not finish.
        """
        domain = _require_inactive(_get(connection, deletion))
        if domain.inactive_definition() != deletion.text:
            raise _changed(deletion)
        directories = {posixpath.dirname(going.made.path) for going in deletion.going if going.is_outside}
        pools = tuple(
            Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, self._pools.name(directory), None, directory)
            for directory in sorted(directories)
        )
        seized = deletion.provenance._replace(
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
        tally.is_seized = True
        try:
            define_domain(connection, domain.name, codec.unparse_definition(definition))
            # libvirt says nothing when two do this at once
            _require_ours(connection, deletion, seized)
        except ConnectionLostError:
            # libvirt may have carried it out all the same
            raise
        except VirtomateError:
            tally.is_seized = False
            raise
        return seized

    def _remove_all(self, connection: Connection, deletion: Deletion, claim: Provenance, tally: _Tally) -> None:
        """Remove everything that the plan found to be the clone's own, newest first."""
        for going in reversed(deletion.going):
            self._try_to_remove(going.made, tally, partial(self._remove, connection, deletion, claim, going))
        for made in deletion.provenance.made:
            if made.kind is ArtifactKind.POOL:
                # of a run that was killed
                self._try_to_remove(made, tally, partial(stop_temporary_pool, connection, made))

    def _try_to_stop_pools(self, tally: _Tally) -> None:
        try:
            self._pools.stop(self._session.connection)
        except VirtomateError as error:
            tally.failed.append(f"temporary storage pool ({error.message})")

    def _try_to_remove(self, made: Artifact, tally: _Tally, remove: Callable[[], bool]) -> None:
        try:
            if remove():
                tally.removed.insert(0, name_artifact(made))
                if made.kind is ArtifactKind.VOLUME:
                    self._lighter_pools.add(made.pool)
        except ConflictError as error:
            tally.replaced.append(f"{name_artifact(made)} ({error.message})")
        except VirtomateError as error:
            tally.failed.append(f"{name_artifact(made)} ({error.message})")

    def _remove(self, connection: Connection, deletion: Deletion, claim: Provenance, going: Going) -> bool:
        made = going.made
        if going.is_outside:
            made = made._replace(pool=self._pools.start(connection, posixpath.dirname(made.path)).name)

        _require_seized(connection, deletion, claim)
        return remove_artifact(connection, made, claim.artifact_token, {going.verdict}, self._turns(deletion, claim))

    def _incomplete(self, deletion: Deletion, tally: _Tally) -> VirtomateError:
        """The error that lists what could not be removed."""
        error: VirtomateError
        if self._cancel.signal_number is not None:
            error = InterruptedBySignalError(self._cancel.signal_number)
        else:
            error = IllegalStateError(
                f"not everything that belongs to {_kind(deletion)} '{deletion.name}' could be removed",
                hint=f"Mend that, then run {virtomate('domain-delete', deletion.name)} again.",
            )
        claim = f"domain '{deletion.name}', an unfinished clone (kept as the record of these)"
        error.leftovers = (*deletion.foreign, *tally.replaced, *deletion.unreachable, *tally.failed, claim)
        return error

    def _give_back(self, connection: Connection, deletion: Deletion, claim: Provenance, tally: _Tally) -> None:
        """Put the clone's own definition back, since nothing of it has been removed.

        A clone that was started meanwhile gets it back, too: it would have none that it can be started with again.

        Raises:
            VirtomateError: It could not be put back; the leftovers name the file that holds that of a finished clone.
        """
        try:
            domain = _require_ours(connection, deletion, claim)
        except (IllegalStateError, NotFoundError):
            # Somebody else's by now, who must not be told to put the definition back.
            tally.is_seized = False
            raise
        except VirtomateError as error:
            _keep(deletion, error, tally)
            raise
        try:
            define_domain(connection, domain.name, _named(deletion, domain.name))
        except VirtomateError as error:
            _keep(deletion, error, tally)
            raise
        tally.is_seized = False

    def _turns(self, deletion: Deletion, claim: Provenance) -> Iterator[float]:
        """Yield when to try to remove a file: at once, and while libvirt still writes it, until a signal comes."""
        yield 0.0
        if not self._has_said_to_wait:
            self._progress.note("waiting for libvirt to finish a volume that it is still writing")
            self._has_said_to_wait = True
        with suppress(InterruptedBySignalError):
            for left in backoff(math.inf, self._cancel):
                self._require_free(deletion, claim)
                yield left


def _keep(deletion: Deletion, error: VirtomateError, tally: _Tally) -> None:
    """Keep the definition of a finished clone that libvirt did not take back, and tell where."""
    if not deletion.provenance.finished:
        return
    path = keep_definition(deletion.name, deletion.text)
    claim = f"domain '{deletion.name}', an unfinished clone by now"
    if path is None:
        error.leftovers = (
            *tally.failed,
            f"{claim}, whose definition could be kept nowhere: {_without_passwords(deletion.text)}",
        )
        return
    error.leftovers = (*tally.failed, f"{claim}, whose definition is kept in '{path}'")
    advice = f"{virsh('define', path)} gives the clone its definition back."
    error.hint = advice if error.hint is None else f"{error.hint} {advice}"


def _named(deletion: Deletion, name: str) -> str:
    """The clone's own definition, under the name that the domain has now."""
    if name == deletion.name:
        return deletion.text
    definition = codec.parse_definition(deletion.text)
    return codec.unparse_definition(definition._replace(domain={**definition.domain, "name": name}))


def _without_passwords(text: str) -> str:
    """The text of a definition without the passwords of its displays: it goes to terminals and logs."""
    first, *rest = text.split(" passwd='")
    return first + "".join(piece.partition("'")[2] for piece in rest)


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
    return _require_inactive(_require_ours(connection, deletion, claim))


def _require_inactive(domain: Domain) -> Domain:
    if domain.is_active():
        raise IllegalStateError(
            f"domain '{domain.name}' was started meanwhile", hint="Shut it down, then run the command again."
        )
    return domain


def _require_ours(connection: Connection, deletion: Deletion, claim: Provenance) -> Domain:
    domain = _get(connection, deletion)
    found = find_provenance(domain.inactive_definition_without_secrets(), domain.uuid)
    if found is None or found.token != claim.token or found.finished:
        raise _changed(deletion)
    return domain


def _undefine(connection: Connection, deletion: Deletion, claim: Provenance) -> None:
    """Undefine what was put in the clone's place, if it still is that."""
    if find_domain_by_uuid(connection, deletion.uuid) is None:
        return
    _require_seized(connection, deletion, claim).undefine_with_state()
