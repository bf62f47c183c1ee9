"""The freeze of an original: its disks move onto overlays, so that its former volumes become bases for linked clones.

The order is: the record with its journal, the overlays, the disks in the definition, the mark, the end of the record.
Whenever a run is killed, the original can be started and reads what it read before: an empty overlay reads as its base.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.definition import codec, file_readers
from virtomate.definition import freeze as marks
from virtomate.definition.lower_images import LowerImage, fingerprint_base
from virtomate.definition.provenance import Artifact, read_provenance
from virtomate.definition.rewrite import NewSource
from virtomate.duplication.host_images import alone_with
from virtomate.duplication.overlays import holds_nothing, read_here
from virtomate.enums import ArtifactKind, ArtifactState, Mode
from virtomate.errors import ConflictError, IllegalStateError, InternalError, VirtomateError
from virtomate.hypervisor.changes import set_metadata_element, update_disk
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.notices import CloneWarning, Leftover, Notice, notice
from virtomate.rollback import Rollback, persist
from virtomate.services.linked.base import remove_write_bits
from virtomate.services.linked.freeze_record import (
    busy,
    definitions_of,
    find_disk,
    mark_original,
    record_name,
    record_uuid,
)
from virtomate.services.linked.record import write_record
from virtomate.services.origins import find_record
from virtomate.services.storage import describe, read_pools
from virtomate.services.storage.artifacts import OWN, remove_artifact
from virtomate.services.storage.references import scan_references
from virtomate.services.transaction import (
    Claim,
    create_volumes,
    duplicating,
    guarded,
    new_journal,
    release_unless_needed,
    require_off,
)
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from virtomate.definition.codec import Definition
    from virtomate.definition.freeze import FrozenDisk
    from virtomate.definition.provenance import DomainReference, Provenance
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.backup import BackupStart
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.storage import PoolIndex
    from virtomate.services.transaction import Guard, Run

_LOG = logging.getLogger(__name__)
_UNDO_WAIT_SECONDS = 30


class OvertakenError(ConflictError):
    """Another run freezes the original, or its disks have changed since the plan."""


class DiskMove(NamedTuple):
    """A disk of the original that moves onto an overlay: its target, and how the overlay on its volume is made."""

    target: str
    way: Duplication


class FreezePlan(NamedTuple):
    """What freezes an original.

    Attributes:
        definition: The definition of the original, with its record if it is a clone.
        moves: The disks that move.
        bases: All volumes that become bases, or stay bases because their overlays hold nothing yet.
    """

    original: DomainReference
    definition: Definition
    moves: tuple[DiskMove, ...]
    bases: tuple[VolumeDescription, ...]


class Freeze:
    """The freeze of one original, and its undo, by one thread.

    Attributes:
        start: How the disks of a running original were when they moved; None where no disk has moved in that way.
    """

    def __init__(self, run: Run, plan: FreezePlan) -> None:
        self.start: BackupStart | None = None
        self._run = run
        self._plan = plan
        self._claim = Claim(
            run.source, record_name(plan.original), _new_journal(plan), plan.definition.domain, is_uuid_given=True
        )
        # the definition before the first disk moved
        self._former: Definition | None = None
        self._is_moving = self._is_made = False

    def make(self) -> None:
        """Move the disks onto overlays.

        Raises:
            OvertakenError: Another run freezes the original, or its disks have changed, since the plan.
            VirtomateError: The original could not be frozen; what could not be undone is among the leftovers.
        """
        plan, run, claim = self._plan, self._run, self._claim
        if not plan.moves:
            return
        run.cancel.begin()
        undo = Rollback()
        release = (f"domain '{claim.name}', the record of the freeze", partial(release_unless_needed, claim, undo))
        undo.push(*release)
        try:
            connection = run.source.connection
            with self._guarded() as guard:
                self._take()
                guard.refuse_deletion(connection)
                for volume in create_volumes(run, tuple(duplicating(move.way) for move in plan.moves), claim, undo):
                    volume.fill(connection, run.cancel)
                claim.require_intact()
                guard.require_unchanged(connection)
                run.cancel.check()
                # from here on, only a look at the definition tells which overlays are disks
                undo.commit()
                self._is_moving = True
                self._move()
            mark_original(self._original(), map(frozen_disk, self._plan.moves), claim.provenance.made)
            claim.release()
            self._is_made = True
        except Exception as unforeseen:
            error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            leftovers = undo.run(run.cancel.awaiting) if not self._is_moving else self._reverse()
            raise _with_leftovers(error, plan.original, leftovers) from unforeseen

    def undo(self) -> tuple[Notice, ...]:
        """Move the disks back, unless the original runs or was written to; return what stays."""
        if not self._is_made:
            return ()
        try:
            persist(self._take)
        except VirtomateError as error:
            return (self._stays(error.message),)
        return self._reverse()

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """Warnings about the moment in which the disks moved."""
        if self.start is None or not self.start.problem:
            return ()
        return (notice(CloneWarning.UNFROZEN, self._plan.original.name, reason=self.start.problem),)

    @property
    def bases(self) -> dict[str, VolumeDescription]:
        """The volumes that have become bases, by their paths."""
        return {move.way.source.path: move.way.source for move in self._plan.moves}

    def give_up(self, reason: str) -> tuple[Notice, ...]:
        """Return what stays if nothing is undone."""
        return (self._stays(reason),) if self._is_made else ()

    def keep(self) -> tuple[Notice, ...]:
        """Take away the write bits of the bases, for the original stays frozen; return warnings about that."""
        warnings = []
        for base in self._plan.bases:
            try:
                obstacle = remove_write_bits(_look(self._run.source.connection, base.pool, base.name)).obstacle
            except VirtomateError as error:
                # the clones are complete all the same
                obstacle = error.message
            if obstacle is not None:
                warnings.append(notice(CloneWarning.WRITABLE_BASE, base.path, reason=obstacle))
        return tuple(warnings)

    def _guarded(self) -> AbstractContextManager[Guard]:
        """Watch over the original and its images until the disks have moved."""
        images = {image.path: image for move in self._plan.moves for image in (move.way.source, *move.way.below)}
        require = partial(require_off, original=self._plan.original)
        return guarded(self._run.source.connection, require, images.values())

    def _take(self) -> None:
        try:
            self._claim.take()
        except ConflictError as error:
            other = busy(self._plan.original)
            raise OvertakenError(other.message, other.hint) from error

    def _original(self) -> Domain:
        domain = find_domain_by_uuid(self._run.source.connection, self._plan.original.uuid)
        if domain is None:
            raise IllegalStateError(f"domain '{self._plan.original.name}' was undefined while it was being frozen")
        return domain

    def _move(self) -> None:
        """Change the sources of the disks, each if it is still the one of the plan."""
        domain, pools = self._original(), read_pools(self._run.source.connection)
        for move in self._plan.moves:
            # libvirt cannot compare and replace in one call: nothing stands between the two
            definition = codec.parse_definition(domain.inactive_definition())
            position = require_disk(domain.name, definition, move, pools)
            self._former = self._former or definition
            _LOG.info("moving disk %s of %r onto %s", move.target, domain.name, move.way.place.path)
            update_disk(domain, marks.moved_disk(definition.domain, position, new_source(move)))
        # a guest that was started meanwhile writes to the bases
        require_off(self._run.source.connection, self._plan.original)

    def _reverse(self) -> tuple[Notice, ...]:
        """Move the disks back and remove the overlays and the record; return what stays.

        Nothing moves back while the original, or anything else, may use an overlay or a base.
        """
        with self._run.cancel.awaiting(f"the undo of the freeze of '{self._plan.original.name}'"):
            try:
                return persist(self._try_to_reverse)
            except Exception as unforeseen:  # noqa: BLE001 - the first error is the one to report
                return (
                    self._stays(unforeseen.message if isinstance(unforeseen, VirtomateError) else repr(unforeseen)),
                )

    def _try_to_reverse(self) -> tuple[Notice, ...]:
        connection, claim = self._run.source.connection, self._claim
        domain = find_domain_by_uuid(connection, self._plan.original.uuid)
        pools = read_pools(connection)
        definitions = () if domain is None else definitions_of(domain)
        made = {item.path: item for item in claim.provenance.made}
        moved = [
            move for move in self._plan.moves if find_disk(definitions, made[move.way.place.path], pools) == move.target
        ]
        with ExitStack() as stack:
            reason = None
            if moved:
                runs = domain is not None and domain.is_active()
                reason = f"domain '{self._plan.original.name}' runs" if runs else self._why_not(stack, moved)
            if reason is None and domain is not None and moved:
                self._move_back(domain, moved)
            left = [made[move.way.place.path] for move in self._plan.moves if reason is None or move not in moved]
            for artifact in left:
                remove_artifact(connection, artifact, claim.token, OWN, backoff(_UNDO_WAIT_SECONDS))
        if reason is not None and domain is not None:
            kept = [made[move.way.place.path] for move in moved]
            mark_original(domain, [frozen_disk(move) for move in moved], kept)
        claim.release()
        return () if reason is None else (self._stays(reason),)

    def _why_not(self, stack: ExitStack, moved: list[DiskMove]) -> str | None:
        """Return why disks cannot move back; if they can, QEMU's locks on all images are held until the stack ends."""
        connection, plan = self._run.source.connection, self._plan
        for move in moved:
            for path in (move.way.place.path, move.way.source.path):
                try:
                    descriptor = stack.enter_context(alone_with(path)) if connection.is_local else None
                except IllegalStateError as error:
                    return error.message
                if descriptor is None:
                    return f"'{path}' cannot be locked here"
                if path == move.way.place.path and not holds_nothing(
                    partial(read_here, descriptor), move.way.source.capacity
                ):
                    return f"'{path}' was written to"
        if self._original().is_active():
            return f"domain '{plan.original.name}' runs"
        return self._find_user(moved)

    def _find_user(self, moved: list[DiskMove]) -> str | None:
        """Return who else uses an overlay or a base."""
        made = {item.path: item for item in self._claim.provenance.made}
        overlays = [made[move.way.place.path] for move in moved]
        bases = [
            Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, base.pool, base.name, base.path)
            for base in (move.way.source for move in moved)
        ]
        references = scan_references(self._run.source.connection, {self._plan.original.uuid: (*overlays, *bases)})
        own = {item.path for item in overlays}
        for item in (*overlays, *bases):
            for user in references.users(item):
                if user.domain_uuid != self._claim.provenance.uuid and (user.path is None or user.path not in own):
                    return f"{user.says.removesuffix(' it')} ('{item.path}')"
        return None

    def _move_back(self, domain: Domain, moved: list[DiskMove]) -> None:
        if self._former is None:
            raise AssertionError("no disk was moved")
        for move in reversed(moved):
            definition = codec.parse_definition(domain.inactive_definition())
            position = disk_position(definition, move.target)
            update_disk(domain, marks.returned_disk(definition.domain, position, self._former.domain))
        former = marks.read_freeze_mark(self._former)
        set_metadata_element(
            domain, marks.NAMESPACE, marks.PREFIX, None if former is None else marks.freeze_mark_element(former)
        )
        record = find_record(domain)
        overlays = {move.way.place.path for move in moved}
        if record is not None and any(made.path in overlays for made in record.made):
            kept = tuple(made for made in record.made if made.path not in overlays)
            write_record(domain, record._replace(made=kept))
        self._is_made = False

    def _stays(self, reason: str) -> Notice:
        return notice(Leftover.FROZEN, self._plan.original.name, reason=reason)


def frozen_disk(move: DiskMove) -> FrozenDisk:
    """Return what the mark of the original says of a disk that has moved."""
    base = move.way.source
    below = tuple(LowerImage(lower.path, fingerprint_base(lower)) for lower in move.way.below)
    return marks.FrozenDisk(
        move.target, move.way.place.path, base.path, base.format, fingerprint_base(base), base.mode, below
    )


def _new_journal(plan: FreezePlan) -> Provenance:
    """Return the journal; the overlays of a clone get the token of the clone, which owns them from then on."""
    made = tuple(duplicating(move.way).planned() for move in plan.moves)
    journal = new_journal(record_uuid(plan.original.uuid), plan.original, Mode.LINKED, made)._replace(freezes=True)
    record = read_provenance(plan.definition)
    if record is None or record.mark is None:
        return journal
    return journal._replace(owner=record.uuid, mark=record.mark)


def new_source(move: DiskMove) -> NewSource:
    """Return the overlay as the source of the disk."""
    place = move.way.place
    return NewSource(place.path, place.pool, place.name, "qcow2")


def require_disk(name: str, definition: Definition, move: DiskMove, pools: PoolIndex) -> int:
    """Return the position of a disk that is to move, or raise OvertakenError if the disk is another one by now."""
    position = disk_position(definition, move.target)
    disk = file_readers.disks(definition.domain)[position]
    path = disk.path or pools.path_of(disk.pool or "", disk.volume or "")
    if path is None or not pools.is_same_file(path, move.way.source.path):
        raise OvertakenError(
            f"disk {move.target} of domain '{name}' was changed while the domain was being frozen", hint="Try again."
        )
    return position


def disk_position(definition: Definition, target: str) -> int:
    """Return the position of a disk, or raise OvertakenError if the definition has no such disk any more."""
    disks = file_readers.disks(definition.domain)
    position = next((disk.position for disk in disks if disk.target == target), None)
    if position is None:
        raise OvertakenError(f"disk {target} was removed while the domain was being frozen", hint="Try again.")
    return position


def _look(connection: Connection, pool: str, name: str) -> VolumeDescription:
    return describe(get_pool(connection, pool), get_volume(connection, pool, name)).description


def _with_leftovers(error: VirtomateError, original: DomainReference, leftovers: tuple[Notice, ...]) -> VirtomateError:
    if not leftovers:
        return error
    hint = None
    if any(item.code is not Leftover.FROZEN for item in leftovers):
        hint = f"{virtomate('domain-delete', record_name(original))} removes what is left of the freeze."
    return error.adding(hint=hint, leftovers=leftovers)
