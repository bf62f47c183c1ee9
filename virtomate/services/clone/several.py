"""Several requests of one run, each with its own options: all are planned before the first clone is made."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from virtomate.duplication.pace import Pace
from virtomate.errors import InterruptedBySignalError, UsageError, VirtomateError
from virtomate.services.clone.original import read_source
from virtomate.services.clone.parallel import Work, make_in_parallel, settle
from virtomate.services.clone.plan import plan_clones
from virtomate.services.clone.run import (
    PREVIEWED,
    check_requests,
    finished,
    judge,
    make_with_room,
    planned_result,
    with_definition,
)
from virtomate.services.storage import temporary_pools_during, temporary_pools_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.services.clone.clone_plan import ClonePlan
    from virtomate.services.clone.run import MakeRoom
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction import Run


def preview_several(run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
    """Return what cloning would do, as `preview_clones`."""
    begin = time.monotonic()
    with temporary_pools_during(run.target, PREVIEWED) as pools:
        return tuple(planned_result(work.plan, work.request, begin) for work in _plan_each(run, requests, pools))


def preview_several_definitions(run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
    """Return what cloning would do, with the definitions of the clones, as `preview_definitions`."""
    begin = time.monotonic()
    with temporary_pools_during(run.target, PREVIEWED) as pools:
        works = _plan_each(run, requests, pools)
        return tuple(with_definition(run, work, planned_result(work.plan, work.request, begin)) for work in works)


def clone_several(run: Run, requests: tuple[CloneRequest, ...], make_room: MakeRoom) -> tuple[CloneResult, ...]:
    """Make the clones of all requests, which have one original; for arguments, results and errors see `clone_domains`.

    What concerns the run as a whole is that of the first request: jobs, bandwidth, and the shutdown of the original.
    """
    run = run._replace(pace=Pace(requests[0].bandwidth_bytes))
    with temporary_pools_of(run.target) as pools:
        works = _settled(run, _plan_each(run, requests, pools), pools)
        for work in works:
            if work.request.giving_way.uuids:
                judge(run, work.planner, work.plan)
        source = works[0].plan.source
        if source.stands_still:
            results = _make(run, works, pools, make_room)
        else:
            from virtomate.services.clone.shutdown import while_shut_off  # noqa: PLC0415 - few originals run

            later = tuple(request._replace(shutdown=None) for request in requests)
            results = while_shut_off(run, source, requests[0], partial(_clone_anew, run, later, pools, make_room))
    return finished(run, [work.plan for work in works], pools, results)


def _plan_each(run: Run, requests: tuple[CloneRequest, ...], pools: TemporaryPools) -> tuple[Work, ...]:
    """Plan the clones of all requests, each beside what the others take; one refusal refuses all."""
    check_requests(requests)
    count = sum(len(request.names) for request in requests)
    works: list[Work] = []
    for request in requests:
        addresses = frozenset(planned.entry.address for work in works for planned in work.plan.entries)
        beside = request._replace(beside=count - len(request.names), taken_addresses=addresses)
        ground = works[-1].planner.ground if works else None
        try:
            planner, plans = plan_clones(run, beside, ground, pools)
        except VirtomateError as error:
            raise _told_of_clone(run, beside, error) from error
        works += [Work(plan, planner, beside) for plan in plans]
        _refuse_same_entries(works)
    run.cancel.check()
    # what all clones need is known only now
    return tuple(
        work._replace(plan=work.plan._replace(needs=work.planner.space.up_to_date(work.plan.needs))) for work in works
    )


def _told_of_clone(run: Run, request: CloneRequest, error: VirtomateError) -> VirtomateError:
    """Return the error of a plan with the name of the clone, unless the original cannot be cloned at all."""
    name = request.names[0]
    if isinstance(error, InterruptedBySignalError) or f"'{name}'" in error.message:
        return error
    try:
        read_source(run.source.connection, request)
    except VirtomateError:
        return error
    return error.adding(before=f"clone '{name}': ")


def _refuse_same_entries(works: Sequence[Work]) -> None:
    """Refuse two DHCP entries with the same name in one network, which libvirt would refuse when the second is made."""
    named: dict[tuple[str, str], str] = {}
    for plan in (work.plan for work in works):
        for entry in (planned.entry for planned in plan.entries):
            other = plan.name if entry.name is None else named.setdefault((entry.network, entry.name), plan.name)
            if other != plan.name:
                raise UsageError(
                    f"the DHCP entries of clones '{other}' and '{plan.name}' in network '{entry.network}' would both "
                    f"have the name '{entry.name}'",
                    hint="Give each clone a --hostname of its own.",
                )


def _settled(run: Run, works: tuple[Work, ...], pools: TemporaryPools) -> tuple[Work, ...]:
    return tuple(work._replace(plan=settle(run, work.planner, work.plan, pools)) for work in works)


def _clone_anew(
    run: Run, requests: tuple[CloneRequest, ...], pools: TemporaryPools, make_room: MakeRoom
) -> tuple[CloneResult, ...]:
    """Plan once more, now that the original is shut off, and make the clones."""
    return _make(run, _settled(run, _plan_each(run, requests, pools), pools), pools, make_room)


def _make(run: Run, works: tuple[Work, ...], pools: TemporaryPools, make_room: MakeRoom) -> tuple[CloneResult, ...]:
    by_name = {work.plan.name: work for work in works}

    def make(plans: tuple[ClonePlan, ...]) -> tuple[CloneResult, ...]:
        return make_in_parallel(run, [by_name[plan.name] for plan in plans], pools)

    return make_with_room(run, tuple(work.plan for work in works), make_room, pools, make)
