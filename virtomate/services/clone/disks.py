"""The disks of a clone: how each disk of the original is handled, and the names of the new volumes."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import visible_status
from virtomate.enums import Action
from virtomate.errors import ConflictError
from virtomate.services.clone.volume_names import (
    distinct_volume_name,
    name_before_freezes,
    name_of_file,
    name_on_device,
    new_volume_name,
)
from virtomate.services.clone_parts import VolumeReference
from virtomate.services.storage import check_logical_name, is_temporary
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.duplication.transfers.base import Duplication, Place
    from virtomate.notices import Notice
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames


class DiskPlan(NamedTuple):
    """A disk of the original, and how it is handled.

    In the survey, which is the same for all clones, a duplication has only the name that was asked for, or no name.

    Attributes:
        reason: Why the disk is not duplicated, or is copied although the mode says otherwise; else None.
        duplication: How the disk's volume is duplicated, else None; two disks of one volume share the duplication.
        keeps_snapshots: Whether the new image has the internal snapshots of the original.
        overlay: The original's disk, if it is an empty overlay on the volume that is duplicated.
        can_be_copied: Whether the disk is a block device that is shared only because nobody asked for a copy.
    """

    disk: DiskDefinition
    action: Action
    reason: str | None
    source: VolumeReference
    duplication: Duplication | None
    warnings: tuple[Notice, ...] = ()
    keeps_snapshots: bool = False
    overlay: VolumeReference | None = None
    can_be_copied: bool = False

    @property
    def is_written_by_both(self) -> bool:
        """Whether original and clone share the disk, and a guest may write to it."""
        return self.action is Action.SHARED and not self.disk.is_readonly and not self.disk.is_empty


def volume_reference(pool: str, name: str, path: str, format_: str) -> VolumeReference:
    """Return the reference to a volume; a file in no storage pool, which has a temporary pool now, has only a path."""
    if is_temporary(pool):
        return VolumeReference(None, None, path, format_)
    return VolumeReference(pool, name, path, format_)


def name_new(place: Place) -> str:
    """Return a phrase that names a new volume."""
    return (
        f"file '{place.path}'" if is_temporary(place.pool) else f"volume '{place.name}' in storage pool '{place.pool}'"
    )


def plan_disks(
    survey: Survey, disks: tuple[DiskPlan, ...], source_names: tuple[str, ...], clone_name: str, taken: TakenNames
) -> tuple[DiskPlan, ...]:
    """Plan every disk of one clone, in order, and add the names of the new volumes to the taken names.

    `source_names` are the domains after which the volumes to be duplicated may be named.

    Raises:
        ConflictError: The name of a new volume is taken.
        UsageError: The name of a new volume would be too long.
    """
    duplications: dict[int, Duplication] = {}
    plans = []
    for disk in disks:
        if (surveyed := disk.duplication) is not None:
            if id(surveyed) not in duplications:
                duplications[id(surveyed)] = _named(survey, surveyed, source_names, clone_name, taken)
            disk = disk._replace(duplication=duplications[id(surveyed)])  # noqa: PLW2901 - the same disk, planned
        plans.append(disk)
    return tuple(plans)


def _named(
    survey: Survey, surveyed: Duplication, source_names: tuple[str, ...], clone_name: str, taken: TakenNames
) -> Duplication:
    """Return the duplication with the names that it has for one clone."""
    target, source, place = surveyed.label, surveyed.source, surveyed.place
    advice = "Choose another name for the volume."
    if not place.name:
        advice = "Choose another name for the clone, or --disk TARGET=MODE,name=NAME."
        is_overlay = surveyed.action is Action.LINKED
        mark = survey.source.freeze_mark
        model = (
            name_before_freezes(source.name)
            if mark is not None and surveyed.at_original.source.path in mark.paths
            else source.name
        )
        source_name = next((name for name in source_names if model.startswith(name)), source_names[-1])
        name = new_volume_name(model, source_name, clone_name, is_overlay=is_overlay)
        if surveyed.to_device:
            name = name_on_device(name)
        elif source.is_device:
            name = name_of_file(name, is_overlay=is_overlay)
        place = place._replace(name=distinct_volume_name(name, target, taken.latest_names(place.directory)))
    known = survey.target.pools.named(place.pool)
    if surveyed.to_device:
        check_logical_name(known.description, place.name)
    # libvirt does not see a new file, nor a link to a missing file; qemu-img would write through the link
    is_seen = visible_status(source) is not None
    if survey.source.running is not None or surveyed.to_device or source.is_device:
        # the times of a file that is being written are never those that libvirt has told
        is_seen = survey.target.connection.is_local
    # what is seen here may be another file than that of another host
    stands_here = is_seen and not survey.has_two_hosts and os.path.lexists(place.path)
    stands_there = known.pool.find_volume(place.name) is not None
    if (stands_here or stands_there) and not survey.gives_way(place.path):
        raise ConflictError(f"there is already a {name_new(place)}", advice)
    taken.take(place.directory, place.name, advice)
    if (beside := surveyed.witness) is not None:
        # domains of the original's host would use that file, too
        survey.original.taken.refuse_mentioned(posixpath.dirname(beside.path), place.name, advice)
    return surveyed._replace(label=f"{clone_name}/{target}" if survey.has_siblings else target, place=place)


def with_ways(disks: tuple[DiskPlan, ...], change: Callable[[Duplication], Duplication]) -> tuple[DiskPlan, ...]:
    """Change every duplication once; two disks of one volume share the duplication afterwards, too."""
    changed: dict[int, Duplication] = {}
    plans = []
    for disk in disks:
        way = disk.duplication
        if way is not None and id(way) not in changed:
            changed[id(way)] = change(way)
        plans.append(disk if way is None else disk._replace(duplication=changed[id(way)]))
    return tuple(plans)
