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
from collections import defaultdict
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition.provenance import (
    find_provenance,
    half_deleted_definition,
    read_provenance,
    with_provenance,
)
from virtomate.definition.volume import normalise
from virtomate.duplication.evidence import observe
from virtomate.errors import (
    ConflictError,
    IllegalStateError,
    InternalError,
    InterruptedBySignalError,
    NotFoundError,
    UsageError,
    VirtomateError,
)
from virtomate.hypervisor.domains import define_domain, find_domain, find_domain_by_uuid
from virtomate.kinds import DeletionStatus, MadeKind, MadeState
from virtomate.records import DeletionPreview, DeletionResult, DoomedThing, Made
from virtomate.services.maker import is_running, this_process
from virtomate.services.removal import name_made, object_to, remove_made
from virtomate.services.temporary_pools import TemporaryPools
from virtomate.services.usage import scan_usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.progress import Progress
    from virtomate.records import Provenance
    from virtomate.services.session import Session
    from virtomate.services.usage import Usage, User

_LOG = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.2
_SAVED_STATE = "saved state"
_RECORD = "record of "
# How many users of a volume a refusal names.
_NAMED_USERS = 3


@dataclass(frozen=True)
class Deletion:
    """The deletion of one clone.

    Attributes:
        text: Its definition as libvirt gave it, passwords included.
        going: What was made for it, is certainly what was made, and so will be removed.
        kept_disks: Its disks, and its NVRAM, that cloning did not make, each a phrase.
        needs: UUIDs of the clones that have to be gone before, since they use what goes with this one.
    """

    preview: DeletionPreview
    provenance: Provenance
    text: str
    going: tuple[Made, ...]
    kept_disks: tuple[str, ...]
    has_managed_save: bool
    needs: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Name of the clone."""
        return self.preview.name

    @property
    def uuid(self) -> str:
        """Its UUID."""
        return self.preview.uuid


@dataclass(frozen=True)
class DeletionPlan:
    """What will be deleted.

    Attributes:
        deletions: In the order in which the clones were named.
        order: UUIDs in the order in which they have to go.
        usage: Who uses what.
    """

    deletions: tuple[Deletion, ...]
    order: tuple[str, ...]
    usage: Usage

    @property
    def previews(self) -> tuple[DeletionPreview, ...]:
        """What would be done, for whoever has to agree."""
        return tuple(deletion.preview for deletion in self.deletions)

    @property
    def needs_consent(self) -> bool:
        """Whether finished clones are among them, which somebody may still want."""
        return any(preview.is_finished for preview in self.previews)


def plan_deletion(connection: Connection, names: tuple[str, ...], cancel: CancelToken) -> DeletionPlan:
    """Plan the deletion of clones, each given by name or UUID; nothing is changed by it.

    All domains and volumes are looked at once, however many clones there are.

    Raises:
        UsageError: A clone is named twice.
        NotFoundError: There is no such domain.
        IllegalStateError: One is no clone, is active or still being made, or something else uses what was made for it.
        InterruptedBySignalError: A signal arrived.
    """
    drafts: dict[str, _Draft] = {}
    for name in names:
        draft = _Draft(find_domain(connection, name))
        if draft.domain.uuid in drafts:
            raise UsageError(f"domain '{draft.domain.name}' is named twice")
        drafts[draft.domain.uuid] = draft
        cancel.check()
    usage = scan_usage(connection, {uuid: draft.provenance.made for uuid, draft in drafts.items()})
    cancel.check()
    deletions = _with_needs(tuple(draft.finish(usage) for draft in drafts.values()), usage)
    try:
        order = tuple(TopologicalSorter({deletion.uuid: deletion.needs for deletion in deletions}).static_order())
    except CycleError as error:
        raise IllegalStateError("these clones use each other's volumes, so that none can be deleted first") from error
    return DeletionPlan(deletions, order, usage)


def delete_clones(
    session: Session, plan: DeletionPlan, progress: Progress, cancel: CancelToken
) -> tuple[DeletionResult, ...]:
    """Delete clones, one after the other; a volume that libvirt is still building is waited for.

    A signal lets the one at hand come to its end, unless that is waited for, and keeps the others as they are.

    Returns:
        How it went, in the order in which they were named.
    """
    run = _Run(session, plan.usage, progress, cancel)
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
    return tuple(results[deletion.uuid] for deletion in plan.deletions)


class _Draft:
    """A clone that may be deleted, as far as it can be told without looking at others."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.text = domain.inactive_definition()
        self.definition = codec.parse_definition(self.text)
        quoted = shlex.quote(domain.name)
        provenance = read_provenance(self.definition)
        if provenance is None:
            raise IllegalStateError(
                f"domain '{domain.name}' is not a clone made by virtomate, and only those are deleted",
                hint=f"virsh undefine {quoted} removes a domain's definition and leaves its volumes.",
            )
        if domain.is_active():
            raise IllegalStateError(
                f"domain '{domain.name}' is {domain.state()}, and must be shut off to be deleted",
                hint=f"Shut it down first: virsh shutdown {quoted}",
            )
        if not provenance.finished and provenance.maker is not None and is_running(provenance.maker):
            raise IllegalStateError(
                f"domain '{domain.name}' is still being made by process {provenance.maker.pid}",
                hint="Wait for it to end, or interrupt it: it cleans up after itself.",
            )
        self.provenance = provenance

    def finish(self, usage: Usage) -> Deletion:
        """Look at everything that was made for it, and at what libvirt keeps of it.

        Raises:
            IllegalStateError: Something cannot be looked at, so that deleting would leave it behind without a record.
        """
        kept_disks = (
            *_foreign_disks(self.definition, self.provenance, usage),
            *_foreign_nvram(self.definition, self.provenance, usage),
        )
        doomed, kept, going = [], [*kept_disks], []
        for made in self.provenance.made:
            if made.kind is MadeKind.POOL or made.evidence is None:
                continue
            volume = None
            if self._require_pool(made, usage):
                volume = usage.volume(made)
                if volume is None:
                    # somebody removed it by hand
                    continue
                is_unseen = made.evidence.inode is not None and observe(volume).inode is None
                if is_unseen and self.provenance.finished:
                    raise IllegalStateError(
                        f"{name_made(made)} of '{self.domain.name}' could be seen when it was made, and cannot be seen "
                        "from here now, so nobody knows whether it is still the same",
                        hint="Run virtomate on the host of that libvirt, as a user who can see the file.",
                    )
                if (objection := object_to(made, volume, self.provenance)) is not None:
                    kept.append(f"{name_made(made)} ({objection})")
                    continue
            going.append(made)
            doomed.append(DoomedThing(name_made(made), None if volume is None else volume.allocation))
        doomed += [DoomedThing(what) for what in _state_of(self.domain)]
        return Deletion(
            DeletionPreview(
                name=self.domain.name,
                uuid=self.domain.uuid,
                is_finished=self.provenance.finished,
                source=self.provenance.source,
                mode=self.provenance.mode,
                doomed=tuple(doomed),
                kept=tuple(kept),
            ),
            provenance=self.provenance,
            text=self.text,
            going=tuple(going),
            kept_disks=kept_disks,
            has_managed_save=self.domain.has_managed_save(),
        )

    def _require_pool(self, made: Made, usage: Usage) -> bool:
        """Whether the volume can be looked at in its pool.

        What an unfinished clone has in a pool that is not there stays on its record; a finished one is still whole, and
        is left so.
        """
        known = usage.pools.find(made.pool)
        if known is not None and known.is_active:
            return True
        if self.provenance.finished and (known is not None or made.kind is MadeKind.VOLUME):
            what = "is not there" if known is None else "is not active"
            start = f"Start it: virsh pool-start {shlex.quote(made.pool)}"
            raise IllegalStateError(
                f"{name_made(made)} of '{self.domain.name}' cannot be deleted: its storage pool '{made.pool}' {what}",
                hint="virsh pool-list --all shows the pools." if known is None else start,
            )
        return False


def _foreign_disks(definition: Definition, provenance: Provenance, usage: Usage) -> Iterator[str]:
    """The disks that cloning did not make; what is read-only is nothing that anybody would miss."""
    own = {made.path for made in provenance.made}
    for disk in readers.disks(definition.domain):
        path = disk.path
        if path is None and disk.pool is not None and disk.volume is not None:
            path = usage.pools.path_of(disk.pool, disk.volume)
        is_own = path is not None and normalise(path) in own
        if not (is_own or disk.is_readonly or disk.is_empty):
            yield f"disk {disk.target} ({disk.location}), which cloning did not make"


def _foreign_nvram(definition: Definition, provenance: Provenance, usage: Usage) -> Iterator[str]:
    """An NVRAM that cloning did not make: where the original had none yet, libvirt makes one at the clone's start."""
    nvram = readers.nvram(definition.domain)
    if nvram is None or nvram.type != "file" or not nvram.path:
        return
    path = normalise(nvram.path)
    if path not in {made.path for made in provenance.made} and usage.is_there(path):
        yield f"NVRAM '{path}', which cloning did not make"


def _state_of(domain: Domain) -> Iterator[str]:
    """What libvirt keeps of a domain beside its definition."""
    if domain.has_managed_save():
        yield _SAVED_STATE
    for count, what in ((domain.snapshot_count(), "snapshot"), (domain.checkpoint_count(), "checkpoint")):
        if count:
            yield f"{_RECORD}{count} {what}{'s' if count > 1 else ''}"


def _with_needs(deletions: tuple[Deletion, ...], usage: Usage) -> tuple[Deletion, ...]:
    """Find out which clone has to go before which; refuse where something that stays uses what goes.

    Raises:
        IllegalStateError: That is so.
    """
    owners = {made.path: deletion.uuid for deletion in deletions for made in deletion.going}
    uuids = set(owners.values()) | {deletion.uuid for deletion in deletions}
    needs: defaultdict[str, set[str]] = defaultdict(set)
    for deletion in deletions:
        for made in deletion.going:
            staying = []
            for user in usage.users(made):
                uuid = user.domain_uuid if user.domain_uuid in uuids else owners.get(user.path or "")
                if uuid is None:
                    staying.append(user)
                elif uuid != deletion.uuid:
                    needs[deletion.uuid].add(uuid)
            if staying:
                raise _in_use(deletion, made, staying)
    return tuple(replace(deletion, needs=frozenset(needs[deletion.uuid])) for deletion in deletions)


def _in_use(deletion: Deletion, made: Made, users: list[User]) -> IllegalStateError:
    named = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(named):
        named.append(f"so do {len(users) - len(named)} more")
    return IllegalStateError(
        f"{name_made(made)} of '{deletion.name}' cannot be deleted: {', '.join(named)}",
        hint="Delete that first. Clones that use it can be named in the same command.",
    )


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

    def __init__(self, session: Session, usage: Usage, progress: Progress, cancel: CancelToken) -> None:
        self._session = session
        self._usage = usage
        self._progress = progress
        self._cancel = cancel
        self._pools = TemporaryPools()
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
            tally.removed.append(_SAVED_STATE)
        if tally.failed and deletion.provenance.finished and not has_removed:
            self._give_back(connection, deletion, claim, tally)
        if tally.failed:
            raise self._incomplete(deletion, tally)
        _undefine(connection, deletion, claim)
        tally.is_seized = False
        tally.removed += [thing.what for thing in deletion.preview.doomed if thing.what.startswith(_RECORD)]
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
            if made.kind is MadeKind.NVRAM and self._usage.pools.find(made.pool) is None
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
                    tally.removed.append(name_made(made))
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
        users = self._usage.users(made)
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
