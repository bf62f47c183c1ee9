"""The filling of a clone's volumes, several at a time, each with its undo."""

from __future__ import annotations

import logging
import posixpath
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from virtomate.cancel import StoppedError
from virtomate.definition.provenance import Artifact
from virtomate.definition.volume import describe_pool
from virtomate.duplication.hostfs import visible_status
from virtomate.duplication.transfers import transfer_for
from virtomate.duplication.transfers.base import Duplication, TransferContext, TransferUnavailableError
from virtomate.enums import Action, ArtifactState, TokenPlace, Transfer
from virtomate.errors import (
    ConflictError,
    IllegalStateError,
)
from virtomate.hypervisor.storage import get_pool
from virtomate.services.storage import describe, new_fingerprint
from virtomate.services.storage.artifacts import BEGUN, OWN, name_artifact, put_token, remove_artifact
from virtomate.services.transaction.access import give_access
from virtomate.waiting import backoff

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.hypervisor.storage import Pool
    from virtomate.notices import Notice
    from virtomate.progress import Progress
    from virtomate.rollback import Rollback
    from virtomate.services.transaction.claim import Claim
    from virtomate.services.transaction.limits import RunLimits

_LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
# An undo waits that long for libvirt to let go of a volume.
_UNDO_WAIT_SECONDS = 30


class Filled(NamedTuple):
    """What was done to fill a volume.

    Attributes:
        subclusters: Whether an overlay has subclusters, None for other volumes.
        warnings: What should be known of it.
    """

    written_bytes: int
    transfer: Transfer
    subclusters: bool | None
    warnings: tuple[Notice, ...] = ()


def planned(duplication: Duplication) -> Artifact:
    """The journal's line for a volume that is going to be made."""
    return Artifact(
        duplication.kind,
        ArtifactState.PLANNED,
        duplication.pool,
        duplication.new.name,
        duplication.path,
        transfer=duplication.transfer,
        base=duplication.source.path if duplication.action is Action.LINKED else None,
    )


class VolumeFiller:
    """The creating and filling of a clone's volumes side by side, each on a connection of its own."""

    def __init__(
        self,
        session: Session,
        claim: Claim,
        rollback: Rollback,
        turns: RunLimits,
        progress: Progress,
        cancel: CancelToken,
    ) -> None:
        self._session = session
        self._claim = claim
        self._rollback = rollback
        self._turns = turns
        self._progress = progress
        self._cancel = cancel
        self._stop = cancel.child()
        self._has_connection = threading.Event()
        self._ended: SimpleQueue[tuple[Duplication, Filled | BaseException]] = SimpleQueue()
        self._filled: dict[str, Filled] = {}
        self._failure: BaseException | None = None

    def run(self, duplications: tuple[Duplication, ...], definition: Definition) -> dict[str, Filled]:
        """Do it; what was made is on the undo stack.

        The calling thread has libvirt judge the definition and then only waits, so that a signal is noticed at once.
        The first failure stops the others.

        Args:
            duplications: The volumes.
            definition: The clone's final definition, without which no byte is to be copied.

        Returns:
            What was done, by the path of the new volume.

        Raises:
            InterruptedBySignalError: A signal arrived.
            VirtomateError: One of them failed, or libvirt does not accept the definition.
        """
        creations = [self._prepare(duplication) for duplication in duplications]
        if len(creations) == 1 and self._turns.is_accepted:
            # the calling thread has nothing else to do
            self._claim.check(definition)
            self._duplicate(creations[0])
            running = 1
        else:
            running = sum(map(self._start, creations))
            self._check(definition, is_anything_running=running > 0)
        while running:
            try:
                duplication, outcome = self._ended.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            if isinstance(outcome, Filled):
                self._filled[duplication.path] = outcome
            else:
                self._fail(outcome)
            running -= 1
        self._cancel.check()
        if self._failure is not None:
            raise self._failure
        return self._filled

    def _prepare(self, duplication: Duplication) -> _Creation:
        creation = _Creation(self._session, self._claim, duplication)
        self._rollback.push(name_artifact(planned(duplication)), creation.undo)
        return creation

    def _check(self, definition: Definition, *, is_anything_running: bool) -> None:
        """Have libvirt judge the definition; meanwhile it opens no connections, so the first one comes before."""
        if is_anything_running and not self._turns.is_accepted:
            self._has_connection.wait()
        try:
            self._claim.check(definition)
        except Exception as error:  # noqa: BLE001 - it is raised again when the others have ended
            self._fail(error)

    def _start(self, creation: _Creation) -> int:
        """Start one in a thread of its own, and return how many were started."""
        name = f"transfer-{creation.duplication.label}"
        thread = threading.Thread(target=self._duplicate, args=(creation,), name=name)
        try:
            thread.start()
        except RuntimeError as error:
            self._fail(error)
            return 0
        return 1

    def _duplicate(self, creation: _Creation) -> None:
        outcome: Filled | BaseException
        try:
            with self._turns.transfer(self._stop), self._session.borrow() as connection:
                self._has_connection.set()
                outcome = creation.run(connection, self._progress, self._stop)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            outcome = error
        self._has_connection.set()
        self._ended.put((creation.duplication, outcome))

    def _fail(self, error: BaseException) -> None:
        """Stop the others, and keep the failure that came first."""
        self._stop.stop()
        if self._failure is None or isinstance(self._failure, StoppedError):
            self._failure = error


class _Creation:
    """The making of one volume, and its undo."""

    def __init__(self, session: Session, claim: Claim, duplication: Duplication) -> None:
        self._session = session
        self._claim = claim
        self.duplication = duplication
        self._made: Artifact | None = None
        self._is_created = False

    def run(self, connection: Connection, progress: Progress, cancel: CancelToken) -> Filled:
        """Make and fill it, on a connection that nobody else uses."""
        cancel.check()
        label = self.duplication.label
        progress.started(label, self.duplication.total_bytes)
        try:
            filled = self._try_in_turn(
                TransferContext(connection, self._session.borrow, progress, cancel, self._claim.token)
            )
        except BaseException:
            progress.dropped(label)
            raise
        progress.finished(label)
        return filled

    def _try_in_turn(self, workplace: TransferContext) -> Filled:
        try:
            return self._attempt(self.duplication, workplace)
        except TransferUnavailableError as error:
            _LOG.info("falling back: %s", error)
            if self.duplication.alternative is None:
                raise
        if self._made is not None:
            # only the volume itself could tell that this way is closed; it is still empty
            self._remove(workplace.connection)
            self._claim.record(planned(self.duplication.alternative))
        return self._attempt(self.duplication.alternative, workplace)

    def _attempt(self, duplication: Duplication, workplace: TransferContext) -> Filled:
        transfer = transfer_for(duplication)
        pool = _planned_pool(workplace.connection, duplication)
        if duplication.transfer is Transfer.SERVER:
            # this one copies while it creates
            self._claim.require_accepted()
        # While the call runs the volume may exist without a token; if the connection breaks then, the undo has a look.
        self._made = planned(duplication)
        self._is_created = False
        _LOG.info("creating %s by transfer %s", duplication.path, duplication.transfer.value)
        try:
            volume = transfer.create(duplication, pool, workplace)
        except (ConflictError, IllegalStateError, StoppedError, TransferUnavailableError):
            # nothing was begun; of other failures libvirt removes what it had begun, but the undo has a look
            self._made = None
            raise
        self._is_created = True
        created = describe(pool, volume).description
        _require_new(duplication, created)
        description, warnings = give_access(duplication, pool, volume, created)
        marked = put_token(description, workplace.token)
        token_place = TokenPlace.HEADER if duplication.transfer is Transfer.LINK else None
        if marked is not None:
            description, token_place = marked, TokenPlace.ATTRIBUTE
        self._made = self._made._replace(
            state=ArtifactState.MADE,
            fingerprint=new_fingerprint(description, pool),
            token_place=token_place,
        )
        if token_place is None:
            # nothing but the journal tells that it was made
            self._claim.record(self._made)
        else:
            self._claim.note(self._made)
        self._claim.require_accepted()
        written = transfer.fill(duplication, volume, description, workplace)
        # a pool that met the image half way may have been put out of service
        pool.keep_active()
        subclusters = workplace.connection.knows_subclusters if duplication.transfer is Transfer.LINK else None
        return Filled(written, duplication.transfer, subclusters, warnings)

    def undo(self) -> None:
        """Remove it, if it was made."""
        self._claim.require_unfinished()
        self._remove(self._session.connection)

    def _remove(self, connection: Connection) -> None:
        if self._made is not None:
            _LOG.info("removing %s", self._made.path)
            accepted = OWN if self._made.state is ArtifactState.MADE else BEGUN
            was_there = remove_artifact(
                connection, self._made, self._claim.token, accepted, backoff(_UNDO_WAIT_SECONDS)
            )
            if not was_there and self._is_created and self._made.state is ArtifactState.PLANNED:
                raise IllegalStateError("it was made, and is not there any more: is its file system mounted?")
            self._made = None


def _require_new(duplication: Duplication, created: VolumeDescription) -> None:
    """Make sure that what is at the new volume's path is what libvirt has just made, and no file put there since.

    Raises:
        ConflictError: It certainly is another one.
    """
    status = visible_status(created)
    is_raw = duplication.new.format == "raw"
    is_other = (is_raw and created.physical != duplication.new.capacity) or (status is not None and status.st_nlink > 1)
    if is_other:
        raise ConflictError(
            f"'{created.path}' is another file than the one that libvirt has just made",
            hint="Somebody moved or replaced it while the clone was being made. Try again.",
        )


def _planned_pool(connection: Connection, duplication: Duplication) -> Pool:
    """The storage pool that was planned.

    Raises:
        IllegalStateError: Its name stands for another one by now, or for another directory.
    """
    pool = get_pool(connection, duplication.pool)
    directory = posixpath.dirname(duplication.path)
    if pool.uuid != duplication.pool_uuid or describe_pool(pool.document()).path != directory:
        raise IllegalStateError(
            f"storage pool '{duplication.pool}' is not the one over '{directory}' any more",
            hint="Try again when nobody redefines storage pools.",
        )
    return pool
