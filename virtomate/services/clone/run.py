"""Several clones in parallel, and their preview: read, plan, settle, then make each clone."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition import rewrite as changes
from virtomate.duplication.pace import Pace
from virtomate.enums import Action, Status
from virtomate.errors import IllegalStateError, UsageError, VirtomateError
from virtomate.hypervisor.domains import list_domains
from virtomate.rollback import Rollback
from virtomate.services.clone.clone_one import clone_result
from virtomate.services.clone.moment import make_moment
from virtomate.services.clone.parallel import (
    Work,
    explained,
    known,
    make_in_parallel,
    settle,
    while_original_is_still,
)
from virtomate.services.clone.plan import check_request, plan_clones
from virtomate.services.clone.target import errors_of
from virtomate.services.clone.warnings import refuse_warnings
from virtomate.services.storage import is_temporary, refresh_all, temporary_pools_during, temporary_pools_of
from virtomate.services.transaction import Filled, require_acceptable
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from virtomate.services.clone.clone_plan import ClonePlan
    from virtomate.services.clone.planner import ClonePlanner
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction import Run

    MakeRoom = Callable[[tuple[ClonePlan, ...]], Mapping[str, VirtomateError]]

# How often an original that others change meanwhile is frozen anew.
_FREEZE_ATTEMPTS = 3

# What is done when a preview has an error after all.
PREVIEWED = "the preview is complete"

_COPIED = frozenset({Action.COPIED, Action.SHALLOW_COPIED})


def keep_all(_plans: tuple[ClonePlan, ...]) -> Mapping[str, VirtomateError]:
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
    with temporary_pools_during(run.target, PREVIEWED) as pools:
        _, plans = _plan(run, request, pools)
    return tuple(planned_result(plan, request, begin) for plan in plans)


def preview_definitions(run: Run, request: CloneRequest) -> tuple[CloneResult, ...]:
    """Return what cloning would do, with the definitions of the clones, which libvirt must accept."""
    begin = time.monotonic()
    with temporary_pools_during(run.target, PREVIEWED) as pools:
        planner, plans = _plan(run, request, pools)
        works = _works(request, planner, plans)
        return tuple(with_definition(run, work, planned_result(work.plan, request, begin)) for work in works)


def with_definition(run: Run, work: Work, result: CloneResult) -> CloneResult:
    """Return a planned clone with its definition, or raise HypervisorError if libvirt refuses the definition."""
    run.cancel.check()
    judge(run, work.planner, work.plan)
    for planned in work.plan.entries:
        run.progress.note(f"'{work.plan.name}' gets the {planned.entry.what}")
    return result._replace(definition=codec.unparse_definition(work.plan.definition, is_indented=True))


def judge(run: Run, planner: ClonePlanner, plan: ClonePlan) -> None:
    """Have libvirt judge the definition of a planned clone, and raise HypervisorError if libvirt refuses it."""
    # With the original's UUID, under which libvirt judges the definition and then defines no second domain. The name of
    # another domain has the same effect if the original vanishes meanwhile.
    name, uuid = planner.other_domain or plan.name, plan.source.reference.uuid
    if plan.hosts is not None:
        # with name and UUID of one domain, libvirt would replace the domain
        name = f"{plan.name}.virtomate-check"
        other = next((domain for domain in list_domains(run.target.connection) if domain.name != name), None)
        if other is None:
            # without another domain there, libvirt would define the clone; it judges before anything is copied
            return
        uuid = other.uuid
    identity = changes.Identity(name, uuid, {})
    probe = plan.definition._replace(domain=changes.with_identity(plan.definition.domain, identity))
    require_acceptable(run.target.connection, plan.name, probe, plan.source.definition)


def clone_domains(run: Run, request: CloneRequest, make_room: MakeRoom = keep_all) -> tuple[CloneResult, ...]:
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
    with temporary_pools_of(run.target) as pools:
        planner, plans = _plan_alone(run, request, pools)
        plans, site = tuple(settle(run, planner, plan, pools) for plan in plans), _Site(pools, make_room)
        if request.giving_way.uuids:
            # what libvirt refuses later costs the former clones
            judge(run, planner, plans[0])
        if plans[0].source.stands_still:
            results = _make_all(run, request, planner, plans, site)
        else:
            from virtomate.services.clone.shutdown import while_shut_off  # noqa: PLC0415 - few originals run

            clone = partial(_clone_anew, run, request._replace(shutdown=None), site)
            results = while_shut_off(run, plans[0].source, request, clone)
    return finished(run, plans, pools, results)


def check_requests(requests: tuple[CloneRequest, ...]) -> None:
    """Refuse what is not possible on any hypervisor, and identities that two clones are to have.

    Raises:
        UsageError: There is such a thing.
    """
    for request in requests:
        check_request(request)
    _refuse_repeated("the name '{}'", (name for request in requests for name in request.names))
    _refuse_repeated("the UUID '{}'", (request.uuid for request in requests if request.uuid is not None))
    _refuse_repeated("the MAC address '{}'", (mac for request in requests for mac in request.mac_addresses))


def _refuse_repeated(what: str, values: Iterable[str]) -> None:
    seen = set[str]()
    for value in values:
        if value in seen:
            raise UsageError(f"{what.format(value)} is given twice, and every clone needs its own")
        seen.add(value)


def finished(
    run: Run, plans: Sequence[ClonePlan], pools: TemporaryPools, results: tuple[CloneResult, ...]
) -> tuple[CloneResult, ...]:
    """Return the results of a run, with what is left of its temporary pools, after libvirt has looked at new files."""
    _have_libvirt_look(run, plans, set(pools.names.values()))
    if plans[0].source.is_served:
        from virtomate.services.restart import drop_served  # noqa: PLC0415 - few runs are killed

        with suppress(VirtomateError):
            # the next run does it
            drop_served(run.source, plans[0].source.reference)
    if not pools.left:
        return results
    first = results[0]
    error = first.error or IllegalStateError(f"the clone '{first.name}' is complete, but something is left")
    return (first._replace(error=error.adding(leftovers=pools.left)), *results[1:])


def _plan(run: Run, request: CloneRequest, pools: TemporaryPools) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    check_request(request)
    planner, plans = plan_clones(run, request, temporary=pools)
    run.cancel.check()
    running = planner.survey.source.running
    if running is not None and running.readiness.obstacle:
        run.progress.remark(f"the file systems of the guest are not frozen: {running.readiness.obstacle}")
    return planner, plans


def _plan_alone(run: Run, request: CloneRequest, pools: TemporaryPools) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    """Plan the clones when no other run freezes the original."""
    if request.freeze:
        from virtomate.services.clone.freezing import await_other_freeze  # noqa: PLC0415 - few originals are frozen

        await_other_freeze(run, request)
    return _plan(run, request, pools)


def _clone_anew(
    run: Run, request: CloneRequest, site: _Site, attempts: int = _FREEZE_ATTEMPTS
) -> tuple[CloneResult, ...]:
    """Plan once more, now that the original is shut off or is not being frozen any more, and make the clones."""
    planner, plans = _plan_alone(run, request, site.pools)
    plans = tuple(settle(run, planner, plan, site.pools) for plan in plans)
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

    def make(left: tuple[ClonePlan, ...]) -> tuple[CloneResult, ...]:
        mine = request if left == plans else request.only({plan.name for plan in left})
        return _make_planned(run, mine, planner, left, site, attempts)

    return make_with_room(run, plans, site.make_room, site.pools, make)


def make_with_room(
    run: Run,
    plans: tuple[ClonePlan, ...],
    make_room: MakeRoom,
    pools: TemporaryPools,
    make: Callable[[tuple[ClonePlan, ...]], tuple[CloneResult, ...]],
) -> tuple[CloneResult, ...]:
    """Make room for clones, then those that have room; the others have failed."""
    failed = make_room(plans)
    if make_room is not keep_all:
        # a temporary pool does not hear of a file that was deleted by another pool over the directory
        refresh_all(run.target, pools.names.values())
    if not failed:
        return make(plans)
    made = {
        plan.name: explained(clone_result(plan, Status.FAILED, error=failed.get(plan.name)), run.cancel)
        for plan in plans
    }
    if left := tuple(plan for plan in plans if plan.name not in failed):
        made |= dict(zip((plan.name for plan in left), make(left), strict=True))
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
        return make_in_parallel(run, _works(request, planner, plans), pools)
    from virtomate.services.clone.freezing import make_frozen, on_bases  # noqa: PLC0415 - few originals are frozen
    from virtomate.services.linked import OvertakenError  # noqa: PLC0415 - as above

    freeze, begin = planner.freezing.begin(run), time.monotonic()
    try:
        with run.about_original():
            freeze.make()
    except VirtomateError as error:
        if isinstance(error, OvertakenError) and attempts > 1 and not error.leftovers:
            # another run has frozen the original since the plan, and its overlay holds nothing yet
            return _clone_anew(run, request, site, attempts - 1)
        results = (clone_result(plan, Status.FAILED, seconds=time.monotonic() - begin, error=error) for plan in plans)
        return tuple(explained(result, run.cancel) for result in results)

    def make() -> tuple[CloneResult, ...]:
        there = run.target.connection
        with errors_of(request.target_uri):
            bound = planner._replace(disks=on_bases(freeze, planner.disks, there, run.cancel))
            on_frozen = tuple(plan._replace(disks=on_bases(freeze, plan.disks, there, run.cancel)) for plan in plans)
        return make_in_parallel(run, _works(request, bound, on_frozen), pools)

    return make_frozen(freeze, request.fail_on, make)


def planned_result(plan: ClonePlan, request: CloneRequest, begin: float) -> CloneResult:
    """Return what would be done according to a plan."""
    filled = {
        item.place.path: Filled(item.total_bytes if item.action in _COPIED else 0, item.transfer, None)
        for item in plan.duplications
    }
    needs = tuple(need.told for need in plan.needs)
    result = clone_result(plan, Status.PLANNED, filled, time.monotonic() - begin)._replace(space=needs)
    if plan.source.stands_still:
        return result
    return result._replace(restarted=request.shutdown is None or request.shutdown.restarts)


def _works(request: CloneRequest, planner: ClonePlanner, plans: tuple[ClonePlan, ...]) -> tuple[Work, ...]:
    return tuple(Work(plan, planner, request) for plan in plans)


def _from_moment(
    run: Run, request: CloneRequest, planner: ClonePlanner, plans: tuple[ClonePlan, ...], pools: TemporaryPools
) -> tuple[CloneResult, ...]:
    """Make images of a running original, and clones that start from them; remove the images if no clone needs them."""
    if planner.moment is None:
        raise AssertionError("there are no images to start from")
    name, undo, begin = planner.moment.name, Rollback(), time.monotonic()
    try:
        # results are about the other host
        with run.about_original(), while_original_is_still(run, plans[0], planner.moment.duplications):
            moment = make_moment(run, planner.moment, undo)
        refuse_warnings(request.fail_on, moment.warnings)
    except Exception as unforeseen:  # noqa: BLE001 - what was made must be undone
        error = known(unforeseen)
        error = _undone(run, name, undo, error) or error
        results = (clone_result(plan, Status.FAILED, seconds=time.monotonic() - begin, error=error) for plan in plans)
        return tuple(explained(result, run.cancel) for result in results)
    seconds = time.monotonic() - begin
    try:
        bound = planner._replace(disks=moment.bound(planner.disks))
        plans = tuple(plan._replace(disks=moment.bound(plan.disks)) for plan in plans)
        made = tuple(
            result._replace(
                seconds=seconds + result.seconds,
                consistency=result.consistency if moment.start is None else moment.start.consistency,
                frozen_seconds=None if moment.start is None else moment.start.frozen_seconds,
                warnings=result.warnings if result.moment is None else (*result.warnings, *moment.warnings),
            )
            for result in make_in_parallel(run, _works(request, bound, plans), pools)
        )
        if any(result.moment is not None and result.status is Status.CLONED for result in made):
            moment.keep()
            undo.commit()
    except Exception as unforeseen:
        error = known(unforeseen)
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
    hint = run.at_original(f"{virtomate('domain-delete', moment)} removes what is left.")
    return error.adding(hint=hint, leftovers=leftovers)


def _have_libvirt_look(run: Run, plans: Sequence[ClonePlan], temporary: set[str]) -> None:
    """Let libvirt look once at the files that it made empty and that were filled without it.

    Only what libvirt tells of volumes and pools depends on that, so a pool that cannot be refreshed is ignored. For a
    volume that was removed again, libvirt has subtracted more than it had added, a reflink's share, too.
    """
    places = (item.place for plan in plans for item in plan.duplications if item.is_filled_unnoticed)
    names = {place.pool for place in places if not is_temporary(place.pool)}
    overlays = {disk.overlay.pool for plan in plans for disk in plan.frozen if disk.is_new and disk.overlay.pool}
    refresh_all(run.target, (names | overlays) - temporary)
    # another host that shares the storage has seen the new volumes when they were empty
    beside = (item.witness for plan in plans for item in plan.duplications)
    refresh_all(run.source, {original.pool for original in beside if original is not None} - temporary)
