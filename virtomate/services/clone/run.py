"""Cloning a domain: read, plan, claim, fill, define, commit; several clones side by side."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition import rewrite as changes
from virtomate.enums import Status
from virtomate.errors import ConflictError, InternalError, InterruptedBySignalError, VirtomateError
from virtomate.services.clone.clone_one import CloneTransaction
from virtomate.services.clone.plan import check_request, plan_clones
from virtomate.services.clone.result import clone_result, planned_result
from virtomate.services.storage import TemporaryPools, refresh_all
from virtomate.services.transaction.acceptance import require_acceptable
from virtomate.services.transaction.guard import Guard, guarded
from virtomate.services.transaction.limits import RunLimits

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress
    from virtomate.services.clone.plan import ClonePlan, ClonePlanner
    from virtomate.services.clone.records import CloneRequest, CloneResult

_POLL_SECONDS = 0.2

# Volumes that are filled at a time; more only compete for the same disks.
_MAX_TRANSFERS = 4


def preview_clones(session: Session, request: CloneRequest, cancel: CancelToken) -> tuple[CloneResult, ...]:
    """Tell what cloning would do; nothing is changed.

    Raises:
        VirtomateError: It would be refused, or a signal arrived.
    """
    begin = time.monotonic()
    _, plans = _plan(session, request, cancel)
    return tuple(planned_result(plan, time.monotonic() - begin) for plan in plans)


def preview_definitions(session: Session, request: CloneRequest, cancel: CancelToken) -> tuple[CloneResult, ...]:
    """Tell what cloning would do, with the definitions that the clones would have; nothing is changed.

    Raises:
        VirtomateError: It would be refused, libvirt does not accept a definition, or a signal arrived.
    """
    begin = time.monotonic()
    planner, plans = _plan(session, request, cancel)
    results = []
    for plan in plans:
        cancel.check()
        # With the original's UUID, under which libvirt judges the definition and then defines no second domain. Where
        # the original vanishes meanwhile, another one's name has the same effect.
        identity = changes.Identity(planner.other_domain or plan.name, plan.source.reference.uuid, {})
        probe = plan.definition._replace(domain=changes.with_identity(plan.definition.domain, identity))
        require_acceptable(session.connection, plan.name, probe, plan.source.definition)
        result = planned_result(plan, time.monotonic() - begin)
        results.append(result._replace(definition=codec.unparse_definition(plan.definition, is_indented=True)))
    return tuple(results)


def clone_domains(
    session: Session, request: CloneRequest, progress: Progress, cancel: CancelToken
) -> tuple[CloneResult, ...]:
    """Clone a domain, once or several times.

    Returns:
        The clones in the order of their names; where one failed after its name was claimed, the failed attempt with
        its error.

    Raises:
        UsageError: Something in the request cannot be.
        VirtomateError: It was refused, or a signal arrived; nothing has been touched.
    """
    planner, plans = _plan(session, request, cancel)
    return CloneRunner(session, request, planner, progress, cancel).make(plans)


def _plan(session: Session, request: CloneRequest, cancel: CancelToken) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    check_request(request)
    plans = plan_clones(session.connection, request, cancel, session.borrow)
    cancel.check()
    return plans


class CloneRunner:
    """Makes clones side by side, each in a thread with connections of its own, and each on its own account.

    The calling thread waits, so that a signal is noticed at once, and plans again where an automatic name was taken.
    """

    def __init__(
        self,
        session: Session,
        request: CloneRequest,
        planner: ClonePlanner,
        progress: Progress,
        cancel: CancelToken,
    ) -> None:
        self._session = session
        self._request = request
        self._planner = planner
        self._progress = progress
        self._cancel = cancel
        self._turns = RunLimits(max(_MAX_TRANSFERS, request.jobs))
        self._temporary_pools = TemporaryPools()
        self._jobs: SimpleQueue[tuple[int, ClonePlan] | None] = SimpleQueue()
        self._ended: SimpleQueue[tuple[int, ClonePlan, CloneResult | VirtomateError]] = SimpleQueue()

    def make(self, plans: tuple[ClonePlan, ...]) -> tuple[CloneResult, ...]:
        """Make them all.

        Raises:
            ConflictError: The name of the only one was taken before it could be claimed.
        """
        watched = [volume for plan in plans for volume in plan.sources]
        with guarded(self._session.connection, plans[0].source.reference, watched) as guard:
            if not self._request.auto_names:
                # nothing more will be planned
                self._session.give_back()
            results = self._make(plans, guard)
        self._have_libvirt_look(plans)
        return results

    def _make(self, plans: tuple[ClonePlan, ...], guard: Guard) -> tuple[CloneResult, ...]:
        if len(plans) > 1:
            self._progress.expected(sum(item.total_bytes for plan in plans for item in plan.duplications))
        for job in enumerate(plans):
            self._jobs.put(job)
        workers = [
            threading.Thread(target=self._work, args=(guard,), name=f"clone-{number}")
            for number in range(min(self._request.jobs, len(plans)))
        ]
        running = _start_as_many_as_possible(workers)
        try:
            return self._collect(len(plans))
        finally:
            for _ in running:
                self._jobs.put(None)
            for worker in running:
                worker.join()

    def _have_libvirt_look(self, plans: tuple[ClonePlan, ...]) -> None:
        """Let libvirt learn what has become of files that it made as empty ones, once for all of them.

        It needs that for nothing but what it tells of volumes and pools, so a pool that it cannot look at is no
        failure. Of a volume that was removed again, it has subtracted what it had never added, a reflink's share, too.
        """
        names = {item.pool for plan in plans for item in plan.duplications if item.is_filled_unnoticed}
        if names:
            with suppress(VirtomateError):
                refresh_all(self._session.connection, names)

    def _collect(self, count: int) -> tuple[CloneResult, ...]:
        results: dict[int, CloneResult] = {}
        while len(results) < count:
            try:
                number, plan, outcome = self._ended.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            if isinstance(outcome, ConflictError) and self._request.auto_names:
                # another run took that name after this one had looked
                again = self._plan_again(plan)
                if isinstance(again, VirtomateError):
                    outcome = again
                else:
                    self._jobs.put((number, again))
                    continue
            if isinstance(outcome, VirtomateError):
                if count == 1:
                    raise outcome
                outcome = clone_result(plan, Status.FAILED, error=outcome)
            results[number] = outcome
        return tuple(results[number] for number in range(count))

    def _plan_again(self, plan: ClonePlan) -> ClonePlan | VirtomateError:
        try:
            return self._planner.plan_automatically(instead_of=plan)
        except VirtomateError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the clones that are being made must not be forgotten
            return InternalError(error)

    def _work(self, guard: Guard) -> None:
        with self._session.sibling() as session:
            while (job := self._jobs.get()) is not None:
                number, plan = job
                self._ended.put((number, plan, self._make_one(session, plan, guard)))

    def _make_one(self, session: Session, plan: ClonePlan, guard: Guard) -> CloneResult | VirtomateError:
        if (signal_number := self._cancel.signal_number) is not None:
            return clone_result(plan, Status.INTERRUPTED, error=InterruptedBySignalError(signal_number))
        try:
            making = CloneTransaction(
                session, plan, self._turns, guard, self._temporary_pools, self._progress, self._cancel
            )
            result = making.execute()
        except VirtomateError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a thread that ends silently would be waited for forever
            return clone_result(plan, Status.FAILED, error=InternalError(error))
        if self._request.start and result.error is None:
            return self._start(session, result)
        return result

    def _start(self, session: Session, result: CloneResult) -> CloneResult:
        from virtomate.services.clone.start import start_clone  # noqa: PLC0415 - it needs much, and few clones are started

        try:
            return start_clone(session, result, self._cancel)
        except Exception as error:  # noqa: BLE001 - likewise
            return result._replace(error=InternalError(error))


def _start_as_many_as_possible(workers: list[threading.Thread]) -> list[threading.Thread]:
    """Start threads until the system has no more of them.

    Raises:
        RuntimeError: There is not even one.
    """
    running: list[threading.Thread] = []
    for worker in workers:
        try:
            worker.start()
        except RuntimeError:
            if not running:
                raise
            break
        running.append(worker)
    return running
