"""Clones of one original that are made in parallel."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.enums import Status, WaitFor
from virtomate.errors import ConflictError, InternalError, InterruptedBySignalError, VirtomateError
from virtomate.services.clone.clone_one import CloneRun, clone_one, clone_result
from virtomate.services.clone.clone_plan import ClonePlan
from virtomate.services.clone.warnings import refuse_warnings
from virtomate.services.transaction import Acceptance, guarded, require_off, submit
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from virtomate.cancel import CancelToken
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.planner import ClonePlanner
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction import Run

# Volumes that are filled at a time; more only compete for the same disks.
_MAX_TRANSFERS = 4


class Work(NamedTuple):
    """A clone to be made, with the planner and the request that its plan comes from."""

    plan: ClonePlan
    planner: ClonePlanner
    request: CloneRequest


def settle(run: Run, planner: ClonePlanner, plan: ClonePlan, pools: TemporaryPools) -> ClonePlan:
    """Answer the last open question of a plan, for which temporary pools are started."""
    if any(file.uncovered for file in plan.side_files):
        run.cancel.begin()
        pools.on(run.source)
        plan = planner.settle(plan, pools)
        refuse_warnings(plan.fail_on, plan.all_warnings)
    return plan


def make_in_parallel(run: Run, works: Sequence[Work], pools: TemporaryPools) -> tuple[CloneResult, ...]:
    """Make clones of one original in parallel, each independently in a thread with its own connections.

    The calling thread waits, and plans again if an automatic name was taken.
    """
    plans = [work.plan for work in works]
    jobs_at_once = max(work.request.jobs for work in works)
    # a backup of a running original is of one moment, whatever is written since
    watched = [volume for plan in plans for volume in plan.sources if plan.source.backed_up is None]
    results: dict[int, CloneResult] = {}
    with (
        guarded(run.source.connection, partial(_require_original, plans[0]), watched) as guard,
        ThreadPoolExecutor(max(_MAX_TRANSFERS, jobs_at_once), "transfer-") as transfers,
        ThreadPoolExecutor(min(jobs_at_once, len(plans)), "clone-") as clones,
    ):
        if not any(work.request.auto_names for work in works):
            # nothing more will be planned
            run.source.give_back()
            run.target.give_back()
        if len(plans) > 1:
            jobs = [job for plan in plans for job in plan.jobs]
            run.progress.expected(sum(job.total_bytes for job in jobs), len(jobs))
        # the clones of one request differ in names and addresses alone
        acceptances = {id(work.request): Acceptance() for work in works}
        shared = {key: CloneRun(run, guard, transfers, pools.names, verdict) for key, verdict in acceptances.items()}

        def begin(work: Work) -> Future[CloneResult | VirtomateError]:
            return submit(clones, _make, shared[id(work.request)], work.plan, work.request)

        running = {begin(work): (number, work) for number, work in enumerate(works)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, work = running.pop(future)
                outcome = future.result()
                if isinstance(outcome, ConflictError) and work.request.auto_names and not run.cancel.is_set:
                    # another run took that name after this run had looked
                    again = _plan_again(run, work, pools)
                    if isinstance(again, ClonePlan):
                        work = work._replace(plan=again)
                        running[begin(work)] = number, work
                        continue
                    outcome = again
                if isinstance(outcome, VirtomateError):
                    if len(plans) == 1 and not run.cancel.is_set:
                        raise outcome
                    outcome = clone_result(work.plan, Status.FAILED, error=outcome)
                results[number] = explained(outcome, run.cancel)
    return tuple(results[number] for number in range(len(plans)))


@contextmanager
def while_original_is_still(run: Run, plan: ClonePlan, ways: Iterable[Duplication]) -> Iterator[None]:
    """Make images of an original in the block; raise SourceChangedError if it was not left alone, unless it runs."""
    if plan.source.backed_up is not None:
        yield
        return
    watched = [volume for way in ways for volume in way.watched]
    with guarded(run.source.connection, partial(_require_original, plan), watched) as guard:
        yield
        guard.require_unchanged(run.source.connection)


def _require_original(plan: ClonePlan, connection: Connection) -> None:
    """Raise SourceChangedError if the original is not as it was when it was read, and the clones need that."""
    source = plan.source
    if source.running is not None or plan.rests_on_frozen_bases:
        return
    if source.snapshot is None:
        require_off(connection, source.reference)
    else:
        source.snapshot.require_kept(connection, source.reference)


def _make(shared: CloneRun, plan: ClonePlan, request: CloneRequest) -> CloneResult | VirtomateError:
    """Make one clone, and start it if that was asked for; a clone that cannot be started is kept."""
    try:
        with shared.here.beside() as mine:
            result = clone_one(shared._replace(here=mine), plan)
            if not request.start or result.error is not None:
                return result
            is_waited_for = request.wait is not None and request.wait.what is WaitFor.IP
            return _started(mine, result, readers.network_names(plan.definition.domain) if is_waited_for else ())
    except Exception as error:  # noqa: BLE001 - the other clones are still being made
        return known(error)


def _started(run: Run, result: CloneResult, networks: tuple[str, ...]) -> CloneResult:
    from virtomate.services.clone_start import start_clone  # noqa: PLC0415 - few clones are started

    try:
        return start_clone(run.target, result, run.cancel, networks)
    except Exception as error:  # noqa: BLE001 - the clone is complete all the same
        return result._replace(error=InternalError(error))


def _plan_again(run: Run, work: Work, pools: TemporaryPools) -> ClonePlan | VirtomateError:
    try:
        # the error is part of a result, which is about the other host
        with run.about_original():
            return settle(run, work.planner, work.planner.plan_automatically(instead_of=work.plan), pools)
    except Exception as error:  # noqa: BLE001 - the other clones are still being made
        return known(error)


def known(error: Exception) -> VirtomateError:
    """Return an error that users can be told."""
    return error if isinstance(error, VirtomateError) else InternalError(error)


def explained(result: CloneResult, cancel: CancelToken) -> CloneResult:
    """Return the result with a signal as its error, if a signal came before the failure."""
    error, number = result.error, cancel.signal_number
    if result.status is not Status.FAILED or error is None or number is None:
        return result
    if not isinstance(error, InterruptedBySignalError):
        hint = error.hint if error.leftovers else None
        error = InterruptedBySignalError(number).adding(hint=hint, leftovers=error.leftovers)
    return result._replace(status=Status.INTERRUPTED, error=error)
