"""The making of volumes: all are created, then all are filled, several at a time, each with its undo."""

from __future__ import annotations

import logging
import os
from concurrent.futures import as_completed
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken, StoppedError, backoff
from virtomate.definition.volume import describe_pool
from virtomate.duplication.acl import give_acl, may_be_given_here
from virtomate.duplication.file_space import naming_quota
from virtomate.duplication.hostfs import visible_status
from virtomate.duplication.transfers.base import TransferContext, TransferUnavailableError
from virtomate.enums import ArtifactKind, ArtifactState, TokenPlace
from virtomate.errors import (
    ConflictError,
    ConnectionLostError,
    IllegalStateError,
    NoSpaceError,
    UnsupportedError,
    UnwritableError,
)
from virtomate.hypervisor.storage import get_pool
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.services.storage import PoolEntry, describe
from virtomate.services.storage.artifacts import BEGUN, OWN, name_artifact, put_token, remove_artifact
from virtomate.services.transaction.growth import grow
from virtomate.services.transaction.jobs import Bytes, OverlayOn, VolumeJob
from virtomate.services.transaction.run_context import submit
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from virtomate.definition.provenance import Artifact
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.backup import BackedUp, BackupStart
    from virtomate.duplication.transfers.base import Duplication, Place
    from virtomate.enums import Transfer
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool, Volume
    from virtomate.rollback import Rollback
    from virtomate.services.transaction.claim import Claim
    from virtomate.services.transaction.run_context import Run

_LOG = logging.getLogger(__name__)

# An undo waits that long for libvirt to let go of a volume.
_UNDO_WAIT_SECONDS = 30


class Filled(NamedTuple):
    """How a volume was filled.

    Attributes:
        subclusters: Whether an overlay has subclusters, None for other volumes.
        warnings: What to know about the volume.
        way: How the volume was duplicated in the end, None for other content.
        reason: Why the volume was copied and not reflinked, None if that was known before.
        start: How the backup began that filled the volume, None for other volumes.
        capacity: Size of a block device, which may be larger than it was planned; None for other volumes.
    """

    written_bytes: int
    transfer: Transfer | None
    subclusters: bool | None
    warnings: tuple[Notice, ...] = ()
    way: Duplication | None = None
    reason: str | None = None
    start: BackupStart | None = None
    capacity: int | None = None


class VolumeInTheMaking:
    """The creation of a volume, its filling, and its undo.

    Only one thread at a time uses it: that of the transaction creates and undoes it, that of a transfer fills it.
    """

    def __init__(self, run: Run, claim: Claim, job: VolumeJob) -> None:
        self.job = job
        self._run = run
        self.claim = claim
        self._made: Artifact | None = None
        self._is_created = False
        self._created: VolumeDescription | None = None
        self._warnings: tuple[Notice, ...] = ()
        self._reason: str | None = None

    def create(self, workplace: TransferContext) -> VolumeDescription:
        """Create the volume, empty unless libvirt copies in the same call, and put its token on it at once."""
        job = self.job
        known, self._warnings = _planned_pool(workplace.connection, job.place), ()
        # During the call the volume may exist without a token; if the connection breaks then, the undo has a look.
        self._made = job.planned()
        _LOG.info("creating %s by transfer %s", job.place.path, self._made.transfer)
        try:
            try:
                volume = job.create(known, workplace)
            except UnwritableError as error:
                job, volume = self._create_as_other(known, workplace, error)
        except (ConflictError, IllegalStateError, StoppedError, TransferUnavailableError):
            # nothing was begun; of other failures libvirt removes what it had begun, but the undo has a look
            self._made = None
            raise
        except NoSpaceError as error:
            raise _with_quota(error, job.place, workplace.connection) from error.__cause__
        self._is_created = True
        created = describe(known.pool, volume).description
        _require_new(job, created)
        if job.way is not None:
            if job.is_backed_up:
                from virtomate.duplication.transfers.backup import require_reserved  # noqa: PLC0415 - as below

                require_reserved(job.way, created)
            created, warnings = _give_access(job.way.source, known.pool, volume, created)
            self._warnings = (*self._warnings, *warnings)
        token_place = TokenPlace.HEADER if isinstance(job.content, OverlayOn) else None
        if (marked := put_token(created, workplace.token)) is not None:
            created, token_place = marked, TokenPlace.ATTRIBUTE
        self._made = self._made._replace(
            state=ArtifactState.MADE,
            fingerprint=known.backend.new_fingerprint(created, known.pool),
            token_place=token_place,
        )
        # Without a token, nothing but the journal tells that it was made. A backup goes on when this process is killed,
        # and while it writes, the file is known by its inode number in the journal.
        tell = self.claim.record if token_place is None or job.is_backed_up else self.claim.note
        tell(self._made)
        self._created = created
        return created

    def _create_as_other(
        self, known: PoolEntry, workplace: TransferContext, refusal: UnwritableError
    ) -> tuple[VolumeJob, Volume]:
        """Create the volume with another owner than the original's."""
        # few file systems require this
        from virtomate.services.transaction.file_owner import create_as_other, owner_warning  # noqa: PLC0415

        wanted = self.job.new
        self.job, volume = create_as_other(self.job, known, workplace, refusal)
        self._warnings = (owner_warning(self.job, wanted),)
        return self.job, volume

    def fill(self, connection: Connection, cancel: CancelToken, other: Connection | None = None) -> Filled:
        """Fill the volume, on connections that no other thread uses meanwhile; for them see `TransferContext`."""
        cancel.check()
        label, progress = self.job.label, self._run.progress
        progress.started(label, self.job.total_bytes)
        try:
            filled = self._fill_somehow(self.workplace(connection, cancel, other))
        except BaseException as error:
            progress.dropped(label)
            if isinstance(error, NoSpaceError):
                raise _with_quota(error, self.job.place, connection) from error.__cause__
            raise
        progress.finished(label)
        return filled

    def backed_up(self, outcome: BackedUp) -> Filled:
        """Return how a backup has filled it."""
        path = self.job.place.path
        original, problem = self.claim.provenance.source.name, outcome.start.problem
        untrimmed = () if outcome.is_trimmed else (notice(CloneWarning.UNTRIMMED, self.job.label, path=path),)
        unfrozen = (notice(CloneWarning.UNFROZEN, original, reason=problem),) if problem else ()
        unlimited = (notice(CloneWarning.UNLIMITED, self.job.label),) if outcome.is_too_fast else ()
        warnings = (*self._warnings, *untrimmed, *unfrozen, *unlimited)
        return Filled(outcome.taken_bytes, self.job.transfer, None, warnings, start=outcome.start)

    @property
    def to_be_backed_up(self) -> tuple[Duplication, VolumeDescription]:
        """What a backup works on."""
        if self.job.way is None or self._created is None:
            raise AssertionError("a backup fills volumes that are there")
        return self.job.way, self._created

    def workplace(
        self, connection: Connection, cancel: CancelToken, other: Connection | None = None
    ) -> TransferContext:
        """Return what a transfer works with."""
        run, token = self._run, self.claim.token
        return TransferContext(
            connection, run.target.borrow, run.progress, cancel, token, run.pace, other, run.at_original
        )

    def _fill_somehow(self, workplace: TransferContext) -> Filled:
        while True:
            try:
                return self._fill(self._created or self.create(workplace), workplace)
            except UnsupportedError as error:
                if (fallback := self.job.after(error)) is None:
                    raise
                _LOG.info("falling back: %s", error)
                if not isinstance(error, TransferUnavailableError):
                    self._reason = error.message
                # only the volume itself could tell that this way is closed; it is still empty
                self._remove(workplace.connection)
                self.job = fallback
                self.claim.record(fallback.planned())

    def _fill(self, created: VolumeDescription, workplace: TransferContext) -> Filled:
        job = self.job
        if job.way is not None and job.way.originals:
            from virtomate.services.transaction.shared_storage import require_shared  # noqa: PLC0415 - few hosts share

            require_shared(job.way, created, workplace)
            # the source is a volume of this host, too
            workplace = workplace._replace(other=None)
        written = job.fill(created, workplace)
        if isinstance(job.content, Bytes):
            self._note_inner_token(job.content)
        else:
            # libvirt may have stopped a pool in which it met a half-written image
            get_pool(workplace.connection, job.place.pool).keep_active()
        if job.way is not None:
            grow(job.way, workplace.connection, workplace.cancel)
        subclusters = workplace.connection.knows_subclusters if isinstance(job.content, OverlayOn) else None
        cautions = () if job.way is None else job.way.cautions
        return Filled(
            written,
            job.transfer,
            subclusters,
            (*self._warnings, *cautions),
            job.way,
            self._reason,
            capacity=created.physical if created.is_device else None,
        )

    def _note_inner_token(self, content: Bytes) -> None:
        """Note that a volume whose file is not seen here bears its token in its content, now that it has content."""
        if content.token_offset is not None and self._made is not None and self._made.token_place is None:
            self._made = self._made._replace(token_place=TokenPlace.HEADER)
            self.claim.note(self._made)

    def undo(self) -> None:
        """Remove the volume, if it was made."""
        self.claim.require_unfinished()
        if self.job.is_backed_up:
            from virtomate.services.transaction.backing_up import end_own_backup  # noqa: PLC0415 - few originals run

            end_own_backup(self._run, self.claim)
        if self.job.kind is not ArtifactKind.TPM:
            # libvirt removes the state of a TPM with the claim
            self._remove(self._run.target.connection)

    def _remove(self, connection: Connection) -> None:
        if (made := self._made) is not None:
            _LOG.info("removing %s", made.path)
            accepted = OWN if made.state is ArtifactState.MADE else BEGUN
            try:
                was_there = remove_artifact(connection, made, self.claim.token, accepted, backoff(_UNDO_WAIT_SECONDS))
            except ConnectionLostError:
                # libvirt may have removed the file all the same
                self._is_created = False
                raise
            if not was_there and self._is_created and made.state is ArtifactState.PLANNED:
                raise IllegalStateError("the file is gone; its file system may not be mounted")
        self._made, self._is_created, self._created = None, False, None


def create_volumes(
    run: Run, jobs: tuple[VolumeJob, ...], claim: Claim, undo: Rollback
) -> tuple[VolumeInTheMaking, ...]:
    """Create the volumes of all jobs, so that all of their names are taken before the first byte is copied.

    The server transfer copies while it creates: such a volume is created when its turn to be filled comes, and a name
    that was taken meanwhile is noticed then. If a volume cannot be created, the others are on the undo stack.
    """
    volumes = tuple(VolumeInTheMaking(run, claim, job) for job in jobs)
    for volume in volumes:
        undo.push(name_artifact(volume.job.planned()), volume.undo)
    if any(job.is_backed_up for job in jobs):
        from virtomate.services.transaction.backing_up import thaw  # noqa: PLC0415 - few originals run

        original = claim.provenance.source
        undo.push(f"the freeze of the file systems of domain '{original.name}'", partial(thaw, run, claim))
    for volume in volumes:
        if not volume.job.is_created_with_content:
            run.cancel.check()
            volume.create(volume.workplace(run.target.connection, run.cancel))
    return volumes


def fill_volumes(run: Run, volumes: tuple[VolumeInTheMaking, ...], transfers: Executor) -> dict[str, Filled]:
    """Fill volumes side by side; return how, by their paths. The first failure or signal stops all and is raised."""
    filled: dict[str, Filled] = {}
    for volume in (volume for volume in volumes if isinstance(volume.job.content, Bytes)):
        # a few bytes are written sooner than a thread has a connection
        filled |= _fill(run, (volume,), run.target.connection, run.cancel)
    others = [volume for volume in volumes if not isinstance(volume.job.content, Bytes)]
    works: list[tuple[VolumeInTheMaking, ...]] = [(volume,) for volume in others if not volume.job.is_backed_up]
    if backed_up := tuple(volume for volume in others if volume.job.is_backed_up):
        works.append(backed_up)
    if len(works) <= 1:
        # the calling thread and its connection have nothing else to do
        at_source = run.source.connection if run.has_two_hosts else None
        return filled | (_fill(run, works[0], run.target.connection, run.cancel, at_source) if works else {})
    stop = CancelToken(run.cancel)
    running = [submit(transfers, _fill_beside, run, work, stop) for work in works]
    failure: BaseException | None = None
    for future in as_completed(running):
        if future.cancelled() or (error := future.exception()) is None:
            continue
        stop.stop()
        for other in running:
            other.cancel()
        if failure is None or isinstance(failure, StoppedError):
            failure = error
    run.cancel.check()
    if failure is not None:
        raise failure
    return filled | {path: done for future in running for path, done in future.result().items()}


def _fill_beside(run: Run, work: tuple[VolumeInTheMaking, ...], stop: CancelToken) -> dict[str, Filled]:
    with run.target.borrow() as connection, run.borrow_other() as other:
        return _fill(run, work, connection, stop, other)


def _fill(
    run: Run,
    work: tuple[VolumeInTheMaking, ...],
    connection: Connection,
    cancel: CancelToken,
    other: Connection | None = None,
) -> dict[str, Filled]:
    """Fill a volume, or all that one backup fills; return how, by their paths."""
    first = work[0]
    if not first.job.is_backed_up:
        return {first.job.place.path: first.fill(connection, cancel, other)}
    from virtomate.services.transaction.backing_up import back_up  # noqa: PLC0415 - few originals run

    cancel.check()
    label = ", ".join(volume.job.label for volume in work)
    run.progress.started(label, sum(volume.job.total_bytes for volume in work))
    try:
        filled = tuple(volume.to_be_backed_up for volume in work)
        outcomes = back_up(run, first.claim, filled, label, first.workplace(connection, cancel))
    except BaseException:
        run.progress.dropped(label)
        raise
    run.progress.finished(label)
    return {volume.job.place.path: volume.backed_up(outcome) for volume, outcome in zip(work, outcomes, strict=True)}


def without_acl(source: VolumeDescription, reason: str = "only its owner and root could do that") -> Notice:
    """Return the warning that a volume's access control list is not carried over."""
    return notice(CloneWarning.ACL, source.path, reason=reason)


def _give_access(
    source: VolumeDescription, pool: Pool, volume: Volume, created: VolumeDescription
) -> tuple[VolumeDescription, tuple[Notice, ...]]:
    """Give a new, empty volume its original's access control list; return its new description, and warnings."""
    if source.acl is None or created.is_device or not may_be_given_here(source):
        return created, ()
    try:
        has_changed = give_acl(source.acl, created)
    except OSError as error:
        return created, (without_acl(source, os.strerror(error.errno or 0)),) if source.acl else ()
    return (describe(pool, volume).description if has_changed else created), ()


def _require_new(job: VolumeJob, created: VolumeDescription) -> None:
    """Raise ConflictError if the file at the new volume's path is another than libvirt has just made."""
    status = visible_status(created)
    if job.way is not None and job.way.to_device:
        # a volume group has extents
        is_other_size = not created.is_device or created.physical < job.new.capacity
    else:
        is_other_size = job.new.format == "raw" and created.physical != job.new.capacity
    has_other_names = status is not None and status.st_nlink > 1 and not created.is_directory
    if is_other_size or has_other_names:
        raise ConflictError(
            f"'{created.path}' is another file than the one that libvirt has just made",
            hint="Somebody moved or replaced it while it was being made. Try again.",
        )


def _with_quota(error: NoSpaceError, place: Place, connection: Connection) -> NoSpaceError:
    """Return the error with the quota that it is about, where that shows here."""
    return (naming_quota(error, place.directory) if connection.is_local else None) or error


def _planned_pool(connection: Connection, place: Place) -> PoolEntry:
    """Return the storage pool that was planned."""
    pool = get_pool(connection, place.pool)
    description = describe_pool(pool.document())
    if pool.uuid != place.pool_uuid or description.path != place.directory:
        raise IllegalStateError(
            f"storage pool '{place.pool}' is not the one over '{place.directory}' any more",
            hint="Try again when nobody redefines storage pools.",
        )
    return PoolEntry(pool, description, is_active=True)
