"""What is told of a clone, made out of its plan and of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import Action, Status
from virtomate.services.clone_records import CloneResult, DiskResult, NvramResult, VolumeReference
from virtomate.services.transaction import Filled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.errors import VirtomateError
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.plan import ClonePlan


def clone_result(
    plan: ClonePlan,
    status: Status,
    filled: Mapping[str, Filled] | None = None,
    seconds: float = 0.0,
    error: VirtomateError | None = None,
) -> CloneResult:
    """One clone, or the attempt at it.

    Args:
        plan: What was to be done.
        status: How it ended.
        filled: What was done, by the path of the new volume; None where there are no new volumes.
        seconds: How long it took.
        error: What went wrong.
    """
    nvram = next(iter(plan.side_files), None)
    warnings = dict.fromkeys((*plan.warnings, *(warning for file in plan.side_files for warning in file.warnings)))
    warnings |= dict.fromkeys(warning for done in (filled or {}).values() for warning in done.warnings)
    return CloneResult(
        status=status,
        name=plan.name,
        uuid=plan.uuid,
        source=plan.source.reference,
        mode=plan.mode,
        disks=tuple(_disk_result(disk, filled or {}) for disk in plan.disks),
        nvram=None if nvram is None else NvramResult(nvram.action, nvram.source_path, nvram.path, nvram.format),
        interfaces=plan.interfaces,
        changes=plan.changes,
        warnings=tuple(warnings),
        seconds=round(seconds, 3),
        error=error,
    )


def planned_result(plan: ClonePlan, seconds: float) -> CloneResult:
    """What would be done."""
    filled = {
        item.place.path: Filled(item.total_bytes if item.action is Action.COPIED else 0, item.transfer, None)
        for item in plan.duplications
    }
    return clone_result(plan, Status.PLANNED, filled=filled, seconds=seconds)._replace(space=plan.needs)


def _disk_result(plan: DiskPlan, filled: Mapping[str, Filled]) -> DiskResult:
    surveyed, duplication = plan.surveyed, plan.duplication
    if duplication is None:
        clone = VolumeReference(None, None, None, None) if surveyed.action is Action.DROPPED else surveyed.source
        return DiskResult(surveyed.disk.target, surveyed.action, surveyed.reason, surveyed.source, clone, None, 0, None)
    place = duplication.place
    done = filled.get(place.path, Filled(0, duplication.transfer, None))
    format_ = "qcow2" if duplication.action is Action.LINKED else duplication.source.format
    return DiskResult(
        target=surveyed.disk.target,
        action=duplication.action,
        reason=None,
        source=surveyed.source,
        clone=VolumeReference(place.pool, place.name, place.path, format_),
        capacity=duplication.source.capacity,
        bytes_copied=done.written_bytes,
        transfer=done.transfer,
        subclusters=done.subclusters,
    )
