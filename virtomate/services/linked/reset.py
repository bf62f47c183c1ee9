"""Linked clones back to their first moment: their overlays hold nothing again, in the same files.

Everything is looked at before the first clone is touched. Then every clone that runs is ended, and the overlays of all
clones are locked; then one more look tells whether anybody uses them; and then they are emptied, several at a time,
since most of the time is spent waiting for disks. Whatever ends the run, each overlay is the old one or an empty one
(see `duplication.emptying`), and the same command completes the rest.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from virtomate.definition import file_readers
from virtomate.definition.tpm import has_emulated_tpm
from virtomate.duplication.emptying import HostFile, VolumeFile, read_overlay
from virtomate.duplication.host_images import alone_with
from virtomate.duplication.hostfs import refuse_link, visible_status
from virtomate.enums import ResetStatus
from virtomate.errors import IllegalStateError, InternalError, InterruptedBySignalError, VirtomateError, combined_error
from virtomate.notices import Notice, ResetWarning
from virtomate.services.linked.reset_nvram import NvramOutcome, OriginalNvrams
from virtomate.services.linked.reset_plan import ResetPlan, in_use, plan_resets
from virtomate.services.storage import find_volume, is_temporary, refresh_all, temporary_pools_of
from virtomate.services.storage.artifacts import Verdict, judge_in_pool
from virtomate.services.storage.references import scan_references
from virtomate.services.transaction import submit
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from virtomate.cancel import CancelToken
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.emptying import ImageFile
    from virtomate.hypervisor.session import Session
    from virtomate.services.linked.reset_plan import LinkedDisk
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.storage.references import References

_LOG = logging.getLogger(__name__)
_THREADS = 8


class ResetDisk(NamedTuple):
    """A disk whose overlay holds nothing again; `discarded_bytes` is the space that the overlay took before."""

    target: str
    path: str
    discarded_bytes: int


class ResetResult(NamedTuple):
    """What became of one clone.

    Attributes:
        nvram: Path of the NVRAM, if it is a copy of the original's again.
        is_ended: Whether the clone ran, and was ended.
        is_started: Whether the clone was started afterwards.
    """

    status: ResetStatus
    name: str
    uuid: str
    disks: tuple[ResetDisk, ...] = ()
    nvram: str | None = None
    is_ended: bool = False
    is_started: bool = False
    warnings: tuple[Notice, ...] = ()
    error: VirtomateError | None = None


class ResetRequest(NamedTuple):
    """What to reset, and how.

    Attributes:
        force: End clones that run, and discard saved states.
        start: Start the clones afterwards.
    """

    names: tuple[str, ...]
    force: bool = False
    start: bool = False


def reset_clones(session: Session, request: ResetRequest, cancel: CancelToken) -> tuple[ResetResult, ...]:
    """Reset clones, and return how that went, in the order of the names.

    Raises:
        VirtomateError: A clone is refused, and nothing was changed.
    """
    with temporary_pools_of(session) as temporary:
        return _reset_each(session, request, cancel, temporary)


def _reset_each(
    session: Session, request: ResetRequest, cancel: CancelToken, temporary: TemporaryPools
) -> tuple[ResetResult, ...]:
    connection = session.connection
    plans = plan_resets(connection, request.names, cancel, temporary.opener(cancel), is_forced=request.force)
    references = _scan(session, plans)
    if errors := [error for plan in plans if (error := _refuse_used(plan, references)) is not None]:
        raise combined_error(errors)
    cancel.begin()
    with ExitStack() as locks:
        resets = [_Reset(session, plan, locks) for plan in plans]
        if request.force:
            _each(resets, cancel, _Reset.end)
        _each(resets, cancel, _Reset.take)
        look = _SecondLook(session, references, plans)
        _each(resets, cancel, look.require_unused)
        with ThreadPoolExecutor(_THREADS) as executor:
            _each(resets, cancel, lambda reset: reset.begin(executor))
            for reset in resets:
                reset.finish()
        nvrams = OriginalNvrams(connection, temporary)
        _each(resets, None, lambda reset: reset.give_nvram(nvrams, references))
    refresh_all(session, {disk.made.pool for plan in plans for disk in plan.disks if not is_temporary(disk.made.pool)})
    # after a signal, clones that are reset are complete; they are only not started
    if request.start and not cancel.is_set:
        _each(resets, None, _Reset.start)
    return tuple(reset.result() for reset in resets)


def _each(resets: list[_Reset], cancel: CancelToken | None, work: Callable[[_Reset], None]) -> None:
    """Do a step of all clones that have not failed; after a signal only steps of clones whose overlays are written."""
    for reset in resets:
        if reset.error is None:
            try:
                if cancel is not None:
                    cancel.check()
                work(reset)
            except Exception as unforeseen:  # noqa: BLE001 - the other clones still have their turn
                reset.error = _foreseen(unforeseen)


def _foreseen(error: Exception) -> VirtomateError:
    return error if isinstance(error, VirtomateError) else InternalError(error)


def _scan(session: Session, plans: list[ResetPlan], before: References | None = None) -> References:
    wanted = {plan.domain.uuid: [disk.made for disk in plan.disks] for plan in plans}
    return scan_references(session.connection, wanted, None if before is None else before.cache)


def _refuse_used(plan: ResetPlan, references: References) -> IllegalStateError | None:
    for disk in plan.disks:
        if users := references.users(disk.made):
            return in_use(plan.domain.name, disk, users)
    return None


def _replaced(path: str) -> IllegalStateError:
    return IllegalStateError(f"'{path}' was replaced or removed meanwhile", hint="Try again.")


class _SecondLook:
    """The look at who uses the overlays when all of them are locked; taken once, and a failure fails all clones."""

    def __init__(self, session: Session, first: References, plans: list[ResetPlan]) -> None:
        self._session = session
        self._first = first
        self._plans = plans
        self._found: References | VirtomateError | None = None

    def require_unused(self, reset: _Reset) -> None:
        """Raise IllegalStateError if anybody has come to use an overlay of a clone meanwhile."""
        if self._found is None:
            try:
                self._found = _scan(self._session, self._plans, self._first)
            except VirtomateError as error:
                self._found = error
        if isinstance(self._found, VirtomateError):
            raise self._found
        if (refusal := _refuse_used(reset.plan, self._found)) is not None:
            raise refusal


class _Reset:
    """The reset of one clone, step by step."""

    def __init__(self, session: Session, plan: ResetPlan, locks: ExitStack) -> None:
        self.plan = plan
        self.error: VirtomateError | None = None
        self._session = session
        self._locks = locks
        self._descriptors: dict[str, int | None] = {}
        self._works: list[tuple[ResetDisk, Future[None]]] = []
        self._disks: list[ResetDisk] = []
        self._nvram = NvramOutcome()
        self._is_ended = False
        self._is_started = False

    def end(self) -> None:
        """End the clone if it runs, and discard its saved state."""
        domain = self.plan.domain
        if domain.is_active():
            _LOG.info("ending %r", domain.name)
            domain.end()
            self._is_ended = True
        if domain.has_managed_save():
            domain.discard_managed_save()

    def take(self) -> None:
        """Lock the overlays, as far as they are seen here."""
        for disk in self.plan.disks:
            locked = self._locks.enter_context(alone_with(disk.made.path)) if disk.is_seen else None
            self._descriptors[disk.target] = locked

    def begin(self, executor: ThreadPoolExecutor) -> None:
        """Begin to empty the overlays; those that are reached over the connection are empty at the end."""
        for disk in self.plan.disks:
            self._begin(disk, executor)

    def _begin(self, disk: LinkedDisk, executor: ThreadPoolExecutor) -> None:
        volume = self._prove(disk)
        file, length = self._open(disk, volume)
        overlay = read_overlay(volume.path, file)
        done = ResetDisk(disk.target, volume.path, volume.allocation)
        if overlay.is_empty(file, length):
            self._disks.append(done._replace(discarded_bytes=0))
        elif isinstance(file, HostFile):
            self._works.append((done, submit(executor, overlay.empty, file, length)))
        else:
            overlay.empty(file, length)
            self._disks.append(done)

    def _prove(self, disk: LinkedDisk) -> VolumeDescription:
        """Return the overlay of a clone that is off, if it is still the clone's own."""
        made, name = disk.made, self.plan.domain.name
        if self.plan.domain.is_active() or self.plan.domain.has_managed_save():
            raise IllegalStateError(f"domain '{name}' was started meanwhile", hint="Shut it down, then try again.")
        judgement = judge_in_pool(self._session.connection, disk.known, made, self.plan.provenance.artifact_token)
        if judgement is None or judgement.verdict is not Verdict.PROVED or judgement.volume is None:
            raise _replaced(made.path)
        return judgement.volume

    def _open(self, disk: LinkedDisk, volume: VolumeDescription) -> tuple[ImageFile, int]:
        """Return the file of an overlay, and its length; through libvirt if it cannot be opened here."""
        descriptor = self._descriptors[disk.target]
        if descriptor is not None:
            status = visible_status(volume)
            if status is None or not os.path.samestat(os.fstat(descriptor), status):
                raise _replaced(volume.path)
            return HostFile(descriptor, volume.path), status.st_size
        # libvirt would follow the link
        refuse_link(volume.path)
        found = find_volume(disk.known.pool, volume.name)
        if found is None:
            raise _replaced(volume.path)
        return VolumeFile(self._session.connection, found.volume), volume.physical

    def finish(self) -> None:
        """Wait until all overlays are empty that were begun, also if another one of the clone has failed."""
        for disk, future in self._works:
            try:
                future.result()
            except Exception as unforeseen:  # noqa: BLE001 - the other clones still have their turn
                self.error = self.error or _foreseen(unforeseen)
            else:
                self._disks.append(disk)

    def give_nvram(self, nvrams: OriginalNvrams, references: References) -> None:
        """Give the clone its original's NVRAM again."""
        nvram = file_readers.nvram(self.plan.definition.domain)
        is_there = nvram is not None and nvram.path is not None and references.is_there(nvram.path)
        self._nvram = nvrams.give(self.plan, is_there=is_there)

    def start(self) -> None:
        """Start the clone."""
        self.plan.domain.start()
        self._is_started = True

    def result(self) -> ResetResult:
        """Return what became of the clone."""
        domain = self.plan.domain
        status, error = ResetStatus.RESET, self.error
        if error is not None and not self._disks_are_reset:
            is_interrupted = isinstance(error, InterruptedBySignalError)
            status = ResetStatus.INTERRUPTED if is_interrupted else ResetStatus.FAILED
            if self._disks:
                done = ", ".join(sorted(disk.target for disk in self._disks))
                error = error.adding(f"; reset before that: {done}", "Then run the command again.")
        order = [disk.target for disk in self.plan.disks]
        return ResetResult(
            status,
            domain.name,
            domain.uuid,
            tuple(sorted(self._disks, key=lambda disk: order.index(disk.target))),
            self._nvram.path,
            is_ended=self._is_ended,
            is_started=self._is_started,
            warnings=(*self._nvram.warnings, *self._tpm_warnings()) if status is ResetStatus.RESET else (),
            error=error,
        )

    @property
    def _disks_are_reset(self) -> bool:
        return len(self._disks) == len(self.plan.disks) > 0

    def _tpm_warnings(self) -> tuple[Notice, ...]:
        has_state = has_emulated_tpm(self.plan.definition.domain)
        return (Notice(ResetWarning.TPM, self.plan.domain.name),) if has_state else ()
