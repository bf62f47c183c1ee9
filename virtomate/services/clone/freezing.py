"""Linked clones of an original that is frozen for them: which disks move onto overlays, and the run around that.

A disk whose overlay holds nothing since the last freeze does not move again: its base serves the new clones, too.
"""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.provenance import DomainReference
from virtomate.duplication.hostfs import visible_status
from virtomate.enums import Action, Status, Transfer
from virtomate.errors import ConflictError, InternalError, VirtomateError
from virtomate.hypervisor.domains import find_domain
from virtomate.names import MAX_FILE_NAME_BYTES
from virtomate.notices import CloneWarning, notice
from virtomate.services.clone.disks import volume_reference, with_ways
from virtomate.services.clone.volume_names import OVERLAY
from virtomate.services.clone.warnings import refuse_warnings
from virtomate.services.clone_parts import FrozenDiskResult
from virtomate.services.linked import (
    DiskMove,
    Freeze,
    FreezePlan,
    LiveFreeze,
    await_freeze,
    refuse_written,
    why_write_bits_stay,
)
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from virtomate.cancel import CancelToken
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.notices import Notice
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.live import RunningOriginal
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.transaction import Run

_SUFFIX = r"(?i)\.(raw|img|qcow2)$"
_MAX_TAKEN_NAMES = 1000


class Freezing(NamedTuple):
    """The freeze of an original for its clones.

    Attributes:
        plan: What is done.
        disks: The frozen disks, for the results.
        warnings: Warnings for all clones.
        running: The original, if it runs.
    """

    plan: FreezePlan
    disks: tuple[FrozenDiskResult, ...]
    warnings: tuple[Notice, ...]
    running: RunningOriginal | None

    def begin(self, run: Run) -> Freeze:
        """Return the freeze, which is still to be made."""
        if self.running is None:
            return Freeze(run.at_source, self.plan)
        return LiveFreeze(run.at_source, self.plan, self.running.run_id, self.running.readiness.quiesce)

    @property
    def duplications(self) -> tuple[Duplication, ...]:
        """The overlays that are made for the original."""
        return tuple(move.way for move in self.plan.moves)


def plan_freeze(survey: Survey, disks: tuple[DiskPlan, ...], taken: TakenNames) -> Freezing | None:
    """Plan the freeze of all linked disks, if there are any, and add the names of the overlays to the taken names.

    A disk that the original only reads needs no overlay.

    Raises:
        ConflictError: There is no free name for an overlay.
        VirtomateError: A volume cannot become a base, see `refuse_written`.
    """
    # the original stays where it is, wherever its clones go
    names_there, survey = survey.target.taken.names, survey._replace(target=survey.original)
    linked = {
        item.duplication.at_original.source.path: (item, item.duplication, item.duplication.at_original)
        for item in disks
        if item.duplication is not None and item.action is Action.LINKED and not item.disk.is_readonly
    }
    # nobody starts a template
    if not linked or survey.source.is_template:
        return None
    bases = {item.disk.target: way.source for item, _, way in linked.values()}
    domain = find_domain(survey.connection, survey.source.reference.uuid)
    warnings = [*refuse_written(survey.connection, domain, bases)]
    moves, results = [], []
    with taken.for_clone():
        for item, there, way in linked.values():
            move = None
            overlay = item.overlay
            if overlay is None:
                move, cautions = _plan_move(survey, item, way, taken)
                moves.append(move)
                place = move.way.place
                # the directory as the host of the clones has it
                names_there(os.path.dirname(there.source.path)).add(place.name)
                overlay = volume_reference(place.pool, place.name, place.path, "qcow2")
                warnings += cautions
            results.append(FrozenDiskResult(item.disk.target, item.source, overlay, is_new=move is not None))
            # the times of a file that is being written are never those that libvirt has told
            obstacle = why_write_bits_stay(way.source) if _is_still(survey) else None
            if obstacle is not None:
                warnings.append(notice(CloneWarning.WRITABLE_BASE, way.source.path, reason=obstacle))
    plan = FreezePlan(survey.source.reference, survey.source.definition, tuple(moves), tuple(bases.values()))
    return Freezing(plan, tuple(results), tuple(warnings), survey.source.running)


def _is_still(survey: Survey) -> bool:
    """Return whether nobody writes to the disks of the original."""
    return survey.source.stands_still and survey.source.running is None


def _plan_move(
    survey: Survey, item: DiskPlan, way: Duplication, taken: TakenNames
) -> tuple[DiskMove, tuple[Notice, ...]]:
    """Plan the overlay for a disk of the original, in the pool and directory of the disk's volume."""
    base = way.source
    known = survey.pools.named(base.pool)
    directory = os.path.dirname(base.path)
    place = way.place._replace(pool=known.pool.name, pool_uuid=known.pool.uuid, directory=directory)
    is_seen = visible_status(base) is not None or (survey.connection.is_local and not _is_still(survey))
    for name in itertools.islice(overlay_names(base.name), _MAX_TAKEN_NAMES):
        place = place._replace(name=name)
        if known.pool.find_volume(name) is not None or (is_seen and os.path.lexists(place.path)):
            continue
        with suppress(ConflictError):
            taken.take(directory, name, "")
            break
    else:
        raise ConflictError(f"there are no names left for overlays on '{base.path}'")
    transfers, cautions = survey.admit((Transfer.LINK,), known, (), f"disk {item.disk.target}")
    label = f"{survey.source.reference.name}/{item.disk.target}"
    return DiskMove(
        item.disk.target,
        way._replace(
            label=label, place=place, transfers=transfers, capacity=None, keep_owner=survey.keeps_owner, cautions=()
        ),
    ), cautions


def overlay_names(base: str) -> Iterator[str]:
    """Return names for an overlay on a volume, without end: `web-overlay.qcow2`, `web-overlay-2.qcow2` and so on.

    The overlay on an overlay has the next number.
    """
    stem = re.sub(_SUFFIX, "", base)
    first = 1
    if (named := re.search(rf"{OVERLAY}$", stem)) is not None:
        stem, first = stem[: named.start()], int(named["number"] or 1) + 1
    for number in itertools.count(first):
        ending = "-overlay.qcow2" if number == 1 else f"-overlay-{number}.qcow2"
        short = stem.encode()[: MAX_FILE_NAME_BYTES - len(ending)].decode(errors="ignore")
        yield f"{short}{ending}"


def await_other_freeze(run: Run, request: CloneRequest) -> None:
    """Wait for the end of another run's freeze of the original, see `await_freeze`."""
    domain = find_domain(run.source.connection, request.source)
    await_freeze(run, DomainReference(domain.name, domain.uuid))


def on_bases(
    freeze: Freeze, disks: tuple[DiskPlan, ...], there: Connection, cancel: CancelToken
) -> tuple[DiskPlan, ...]:
    """Return the plans of disks with the bases as they are now that the original is frozen.

    Raises:
        UnsupportedError: The host of the clones, to which `there` is a connection, has another file for a base.
        InterruptedBySignalError: A signal arrived.
    """

    def on_base(way: Duplication) -> Duplication:
        base = freeze.bases.get(way.at_original.source.path)
        if base is None:
            return way
        if not way.originals:
            return way._replace(source=base)
        from virtomate.services.clone.crossing_shared import seen_again  # noqa: PLC0415 - few clones leave

        return seen_again(way, base, there, cancel)

    return with_ways(disks, on_base)


def make_frozen(
    freeze: Freeze, fail_on: Collection[CloneWarning], make: Callable[[], tuple[CloneResult, ...]]
) -> tuple[CloneResult, ...]:
    """Make the clones of an original that is frozen now, and take the freeze back if there is no clone afterwards.

    Raises:
        RefusedWarningError: There is a warning about the moment of the freeze that the user does not accept.
        VirtomateError: What `make` raises.
    """
    try:
        refuse_warnings(fail_on, freeze.warnings)
        results = make()
    except Exception as unforeseen:
        error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
        if stays := freeze.undo():
            raise error.adding(leftovers=stays) from unforeseen
        raise
    if (start := freeze.start) is not None:
        results = tuple(
            result._replace(consistency=start.consistency, frozen_seconds=start.frozen_seconds) for result in results
        )
    if any(result.status is Status.CLONED for result in results):
        warnings = (*freeze.warnings, *freeze.keep())
        return tuple(result._replace(warnings=_merged(result.warnings, warnings)) for result in results)
    is_clean = not any(_has_leftovers(result) for result in results)
    stays = freeze.undo() if is_clean else freeze.give_up("what is left of a clone may rest on a base")
    first = results[0]
    if stays and first.error is not None:
        return (first._replace(error=first.error.adding(leftovers=stays)), *results[1:])
    return results


def _merged(warnings: tuple[Notice, ...], more: tuple[Notice, ...]) -> tuple[Notice, ...]:
    """Add the warnings about bases of which there is none yet."""
    known = {(warning.code, warning.subject) for warning in warnings}
    return (*warnings, *(warning for warning in more if (warning.code, warning.subject) not in known))


def _has_leftovers(result: CloneResult) -> bool:
    """Return whether something may be left that rests on a base."""
    return result.error is not None and bool(result.error.leftovers)
