"""Several clones in parallel, and their preview: read, plan, settle, then make each clone."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition import rewrite as changes
from virtomate.duplication.pace import Pace
from virtomate.enums import Action, Status, WaitFor
from virtomate.errors import ConflictError, IllegalStateError, InternalError, InterruptedBySignalError, VirtomateError
from virtomate.rollback import Rollback
from virtomate.services.clone.clone_one import CloneRun, clone_one, clone_result
from virtomate.services.clone.clone_plan import ClonePlan
from virtomate.services.clone.moment import make_moment
from virtomate.services.clone.plan import check_request, plan_clones
from virtomate.services.clone.snapshot import require_kept
from virtomate.services.clone.warnings import refuse_warnings
from virtomate.services.storage import refresh_all, temporary_pools_of
from virtomate.services.transaction import Acceptance, Filled, guarded, require_acceptable, require_off, submit
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.plan import ClonePlanner
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction import Run

    MakeRoom = Callable[[tuple[ClonePlan, ...]], Mapping[str, VirtomateError]]

# Volumes that are filled at a time; more only compete for the same disks.
_MAX_TRANSFERS = 4
# How often an original that others change meanwhile is frozen anew.
_FREEZE_ATTEMPTS = 3

_COPIED = frozenset({Action.COPIED, Action.SHALLOW_COPIED})


def _keep_all(_plans: tuple[ClonePlan, ...]) -> Mapping[str, VirtomateError]:
    """Delete nothing."""
    return {}


class _Site(NamedTuple):
    """Where clones are made.

    Attributes:
        pools: The temporary pools of the run.
        make_room: Deletes what gives way to planned clones, once, and returns by name the errors for clones that have
            no room.
    """

    pools: TemporaryPools
    make_room: MakeRoom


def preview_clones(run: Run, request: CloneRequest) -> tuple[CloneResult, ...]:
    """Return what cloning would do, and change nothing; raise VirtomateError if cloning would be refused."""
    begin = time.monotonic()
    _, plans = _plan(run, request)
    return tuple(_planned_result(plan, request, begin) for plan in plans)


def preview_definitions(run: Run, request: CloneRequest) -> tuple[CloneResult, ...]:
    """Return what cloning would do, with the definitions of the clones, which libvirt must accept."""
    begin = time.monotonic()
    planner, plans = _plan(run, request)
    results = []
    for plan in plans:
        run.cancel.check()
        _judge(run, planner, plan)
        result = _planned_result(plan, request, begin)
        for planned in plan.entries:
            run.progress.note(f"'{plan.name}' gets the {planned.entry.what}")
        results.append(result._replace(definition=codec.unparse_definition(plan.definition, is_indented=True)))
    return tuple(results)


def _judge(run: Run, planner: ClonePlanner, plan: ClonePlan) -> None:
    """Have libvirt judge the definition of a planned clone, and raise HypervisorError if libvirt refuses it."""
    # With the original's UUID, under which libvirt judges the definition and then defines no second domain. The name of
    # another domain has the same effect if the original vanishes meanwhile.
    identity = changes.Identity(planner.other_domain or plan.name, plan.source.reference.uuid, {})
    probe = plan.definition._replace(domain=changes.with_identity(plan.definition.domain, identity))
    require_acceptable(run.target.connection, plan.name, probe, plan.source.definition)


def clone_domains(run: Run, request: CloneRequest, make_room: MakeRoom = _keep_all) -> tuple[CloneResult, ...]:
    """Clone a domain, once or several times.

    Args:
        run: What the command works with.
        request: The clones.
        make_room: Deletes what gives way to the planned clones before the first one is made, and returns by name the
            errors for clones that have no room.

    Returns:
        The clones in the order of their names; for a clone that failed after its name was claimed, the failed attempt
        with its error.

    Raises:
        UsageError: Something in the request is not possible.
        ConflictError: The name of the only clone was taken before it could be claimed.
        VirtomateError: Cloning was refused, or a signal arrived; nothing has been changed.
    """
    run = run._replace(pace=Pace(request.bandwidth_bytes))
    planner, plans = _plan_alone(run, request)
    with temporary_pools_of(run.target) as pools:
        plans, site = tuple(_settle(run, planner, plan, pools) for plan in plans), _Site(pools, make_room)
        if request.giving_way.uuids:
            # what libvirt refuses later costs the former clones
            _judge(run, planner, plans[0])
        if plans[0].source.stands_still:
            results = _make_all(run, request, planner, plans, site)
        else:
            from virtomate.services.clone.shutdown import while_shut_off  # noqa: PLC0415 - few originals run

            clone = partial(_clone_anew, run, request._replace(shutdown=None), site)
            results = while_shut_off(run, plans[0].source, request, clone)
        temporary = set(pools.names.values())
    _have_libvirt_look(run, plans, temporary)
    if pools.left:
        first = results[0]
        error = first.error or IllegalStateError(f"the clone '{first.name}' is complete, but something is left")
        results = (first._replace(error=error.adding(leftovers=pools.left)), *results[1:])
    return results


def _plan(run: Run, request: CloneRequest) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    check_request(request)
    planner, plans = plan_clones(run.source.connection, request, run.cancel, run.source.borrow)
    run.cancel.check()
    running = planner.survey.source.running
    if running is not None and running.readiness.obstacle:
        run.progress.remark(f"the file systems of the guest are not frozen: {running.readiness.obstacle}")
    return planner, plans


def _plan_alone(run: Run, request: CloneRequest) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    """Plan the clones when no other run freezes the original."""
    if request.freeze:
        from virtomate.services.clone.freezing import await_other_freeze  # noqa: PLC0415 - few originals are frozen

        await_other_freeze(run, request)
    return _plan(run, request)


def _clone_anew(
    run: Run, request: CloneRequest, site: _Site, attempts: int = _FREEZE_ATTEMPTS
) -> tuple[CloneResult, ...]:
    """Plan once more, now that the original is shut off or is not being frozen any more, and make the clones."""
    planner, plans = _plan_alone(run, request)
    plans = tuple(_settle(run, planner, plan, site.pools) for plan in plans)
    return _make_all(run, request, planner, plans, site, attempts)


def _make_all(
    run: Run,
    request: CloneRequest,
    planner: ClonePlanner,
    plans: tuple[ClonePlan, ...],
    site: _Site,
    attempts: int = _FREEZE_ATTEMPTS,
) -> tuple[CloneResult, ...]:
    """Make room for the clones, and then the clones that have room."""
    failed = site.make_room(plans)
    if not failed:
        return _make_planned(run, request, planner, plans, site, attempts)
    left = tuple(plan for plan in plans if plan.name not in failed)
    made = {plan.name: clone_result(plan, Status.FAILED, error=failed.get(plan.name)) for plan in plans}
    made = {name: _explained(result, run.cancel) for name, result in made.items()}
    if left:
        request = request.only({plan.name for plan in left})
        made |= {result.name: result for result in _make_planned(run, request, planner, left, site, attempts)}
    return tuple(made[plan.name] for plan in plans)


def _make_planned(
    run: Run,
    request: CloneRequest,
    planner: ClonePlanner,
    plans: tuple[ClonePlan, ...],
    site: _Site,
    attempts: int,
) -> tuple[CloneResult, ...]:
    """Make the clones as planned, after the images or overlays that they need; plan anew if others were faster."""
    pools = site.pools
    if planner.moment is not None:
        return _from_moment(run, request, planner, plans, pools)
    if planner.freezing is None:
        return _side_by_side(run, request, planner, plans, pools)
    from virtomate.services.clone.freezing import make_frozen, on_bases  # noqa: PLC0415 - few originals are frozen
    from virtomate.services.linked import OvertakenError  # noqa: PLC0415 - as above

    freeze, begin = planner.freezing.begin(run), time.monotonic()
    try:
        freeze.make()
    except VirtomateError as error:
        if isinstance(error, OvertakenError) and attempts > 1 and not error.leftovers:
            # another run has frozen the original since the plan, and its overlay holds nothing yet
            return _clone_anew(run, request, site, attempts - 1)
        results = (clone_result(plan, Status.FAILED, seconds=time.monotonic() - begin, error=error) for plan in plans)
        return tuple(_explained(result, run.cancel) for result in results)
    planner = planner._replace(disks=on_bases(freeze, planner.disks))
    plans = tuple(plan._replace(disks=on_bases(freeze, plan.disks)) for plan in plans)
    return make_frozen(freeze, request.fail_on, partial(_side_by_side, run, request, planner, plans, pools))


def _planned_result(plan: ClonePlan, request: CloneRequest, begin: float) -> CloneResult:
    filled = {
        item.place.path: Filled(item.total_bytes if item.action in _COPIED else 0, item.transfer, None)
        for item in plan.duplications
    }
    result = clone_result(plan, Status.PLANNED, filled, time.monotonic() - begin)._replace(space=plan.needs)
    if plan.source.stands_still:
        return result
    return result._replace(restarted=request.shutdown is None or request.shutdown.restarts)


def _settle(run: Run, planner: ClonePlanner, plan: ClonePlan, pools: TemporaryPools) -> ClonePlan:
    """Answer the last open question of a plan, for which temporary pools are started."""
    if any(file.uncovered for file in plan.side_files):
        run.cancel.begin()
        plan = planner.settle(plan, pools)
        refuse_warnings(plan.fail_on, plan.all_warnings)
    return plan


def _side_by_side(
    run: Run, request: CloneRequest, planner: ClonePlanner, plans: tuple[ClonePlan, ...], pools: TemporaryPools
) -> tuple[CloneResult, ...]:
    """Make clones in parallel, each independently in a thread with its own connections.

    The calling thread waits, and plans again if an automatic name was taken.
    """
    # a backup of a running original is of one moment, whatever is written since
    watched = [volume for plan in plans for volume in plan.sources if plan.source.backed_up is None]
    results: dict[int, CloneResult] = {}
    with (
        guarded(run.source.connection, partial(_require_original, plans[0]), watched) as guard,
        ThreadPoolExecutor(max(_MAX_TRANSFERS, request.jobs), "transfer-") as transfers,
        ThreadPoolExecutor(min(request.jobs, len(plans)), "clone-") as clones,
    ):
        if not request.auto_names:
            # nothing more will be planned
            run.source.give_back()
            run.target.give_back()
        if len(plans) > 1:
            jobs = [job for plan in plans for job in plan.jobs]
            run.progress.expected(sum(job.total_bytes for job in jobs), len(jobs))
        shared = CloneRun(run, guard, transfers, pools.names, Acceptance())
        running = {submit(clones, _make, shared, plan, request): (number, plan) for number, plan in enumerate(plans)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, plan = running.pop(future)
                outcome = future.result()
                if isinstance(outcome, ConflictError) and request.auto_names and not run.cancel.is_set:
                    # another run took that name after this run had looked
                    again = _plan_again(run, planner, plan, pools)
                    if isinstance(again, ClonePlan):
                        running[submit(clones, _make, shared, again, request)] = number, again
                        continue
                    outcome = again
                if isinstance(outcome, VirtomateError):
                    if len(plans) == 1 and not run.cancel.is_set:
                        raise outcome
                    outcome = clone_result(plan, Status.FAILED, error=outcome)
                results[number] = _explained(outcome, run.cancel)
    return tuple(results[number] for number in range(len(plans)))


def _from_moment(
    run: Run, request: CloneRequest, planner: ClonePlanner, plans: tuple[ClonePlan, ...], pools: TemporaryPools
) -> tuple[CloneResult, ...]:
    """Make images of a running original, and clones that start from them; remove the images if no clone needs them."""
    if planner.moment is None:
        raise AssertionError("there are no images to start from")
    name, undo, begin = planner.moment.name, Rollback(), time.monotonic()
    try:
        moment = make_moment(run, planner.moment, undo)
        refuse_warnings(request.fail_on, moment.warnings)
    except Exception as unforeseen:  # noqa: BLE001 - what was made must be undone
        error = _known(unforeseen)
        error = _undone(run, name, undo, error) or error
        results = (clone_result(plan, Status.FAILED, seconds=time.monotonic() - begin, error=error) for plan in plans)
        return tuple(_explained(result, run.cancel) for result in results)
    seconds = time.monotonic() - begin
    try:
        bound = planner._replace(disks=moment.bound(planner.disks))
        plans = tuple(plan._replace(disks=moment.bound(plan.disks)) for plan in plans)
        made = tuple(
            result._replace(
                seconds=seconds + result.seconds,
                consistency=moment.start.consistency,
                frozen_seconds=moment.start.frozen_seconds,
                warnings=result.warnings if result.moment is None else (*result.warnings, *moment.warnings),
            )
            for result in _side_by_side(run, request, bound, plans, pools)
        )
        if any(result.moment is not None and result.status is Status.CLONED for result in made):
            moment.keep()
            undo.commit()
    except Exception as unforeseen:
        error = _known(unforeseen)
        raise _undone(run, name, undo, error) or error from unforeseen
    first = made[0]
    error = first.error or IllegalStateError(f"the clone '{first.name}' is complete, but something is left")
    failure = _undone(run, name, undo, error)
    return made if failure is None else (first._replace(error=failure), *made[1:])


def _undone(run: Run, moment: str, undo: Rollback, error: VirtomateError) -> VirtomateError | None:
    """Remove images of a running original, and return the error with what could not be removed, if there is any."""
    leftovers = undo.run(run.cancel.awaiting)
    if not leftovers:
        return None
    return error.adding(hint=f"{virtomate('domain-delete', moment)} removes what is left.", leftovers=leftovers)


def _require_original(plan: ClonePlan, connection: Connection) -> None:
    """Raise SourceChangedError if the original is not as it was when it was read, and the clones need that."""
    source = plan.source
    if source.running is not None or plan.rests_on_frozen_bases:
        return
    if source.snapshot is None:
        require_off(connection, source.reference)
    else:
        require_kept(connection, source.snapshot, source.reference)


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
        return _known(error)


def _started(run: Run, result: CloneResult, networks: tuple[str, ...]) -> CloneResult:
    from virtomate.services.clone_start import start_clone  # noqa: PLC0415 - few clones are started

    try:
        return start_clone(run.target, result, run.cancel, networks)
    except Exception as error:  # noqa: BLE001 - the clone is complete all the same
        return result._replace(error=InternalError(error))


def _plan_again(run: Run, planner: ClonePlanner, plan: ClonePlan, pools: TemporaryPools) -> ClonePlan | VirtomateError:
    try:
        return _settle(run, planner, planner.plan_automatically(instead_of=plan), pools)
    except Exception as error:  # noqa: BLE001 - the other clones are still being made
        return _known(error)


def _known(error: Exception) -> VirtomateError:
    return error if isinstance(error, VirtomateError) else InternalError(error)


def _explained(result: CloneResult, cancel: CancelToken) -> CloneResult:
    """Return the result with a signal as its error, if a signal came before the failure."""
    error, number = result.error, cancel.signal_number
    if result.status is not Status.FAILED or error is None or number is None:
        return result
    if not isinstance(error, InterruptedBySignalError):
        hint = error.hint if error.leftovers else None
        error = InterruptedBySignalError(number).adding(hint=hint, leftovers=error.leftovers)
    return result._replace(status=Status.INTERRUPTED, error=error)


def _have_libvirt_look(run: Run, plans: tuple[ClonePlan, ...], temporary: set[str]) -> None:
    """Let libvirt look once at the files that it made empty and that were filled without it.

    Only what libvirt tells of volumes and pools depends on that, so a pool that cannot be refreshed is ignored. For a
    volume that was removed again, libvirt has subtracted more than it had added, a reflink's share, too.
    """
    names = {item.place.pool for plan in plans for item in plan.duplications if item.is_filled_unnoticed}
    overlays = {disk.overlay.pool for plan in plans for disk in plan.frozen if disk.is_new and disk.overlay.pool}
    refresh_all(run.target, (names | overlays) - temporary)
