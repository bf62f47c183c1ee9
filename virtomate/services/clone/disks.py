"""The disks of a clone: what becomes of each of the original's, and how the new volumes are called."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

from virtomate.duplication import select
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import ArtifactKind, Mode
from virtomate.errors import ConflictError
from virtomate.services.clone.volume_names import distinct_volume_name, new_volume_name
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.enums import Action, Transfer
    from virtomate.notices import Notice
    from virtomate.services.clone.taken import TakenNames
    from virtomate.services.clone_records import VolumeReference
    from virtomate.services.storage import PoolIndex


class Blueprint(NamedTuple):
    """How a volume is duplicated, whatever the clone is called.

    Attributes:
        pool: Name of the pool that the new volume goes to.
        pool_uuid: UUID of that pool.
        directory: Normalised path of that pool's directory.
        name: Name that was asked for, None for one made from the clone's.
        is_visible: Whether the daemon's files can be seen here.
        cautions: What should be known of the way in which it is filled.
    """

    target: str
    source: VolumeDescription
    mode: Mode
    transfers: tuple[Transfer, ...]
    below: tuple[VolumeDescription, ...]
    pool: str
    pool_uuid: str
    directory: str
    name: str | None
    is_visible: bool
    cautions: tuple[Notice, ...] = ()


class SurveyedDisk(NamedTuple):
    """One disk of the original, and what is to become of it in every clone.

    Attributes:
        reason: Why it is not duplicated, else None.
        blueprint: How its volume is duplicated, else None; two disks of one volume have one and the same.
        warnings: What should be known of it.
        keeps_snapshots: Whether the new image has internal snapshots, as the original has.
    """

    disk: DiskDefinition
    action: Action
    reason: str | None
    source: VolumeReference
    blueprint: Blueprint | None
    warnings: tuple[Notice, ...] = ()
    keeps_snapshots: bool = False


class DiskPlan(NamedTuple):
    """What becomes of one disk in one clone.

    Attributes:
        duplication: How its volume is duplicated, None for a disk that is not.
    """

    surveyed: SurveyedDisk
    duplication: Duplication | None


class DiskPlanner(NamedTuple):
    """Plans the disks of one clone after another; it only reads.

    Attributes:
        pools: Where the new volumes go.
        has_siblings: Whether several clones are made of the original.
        keep_owner: Whether new volumes get their originals' owners.
    """

    surveyed: tuple[SurveyedDisk, ...]
    pools: PoolIndex
    source_name: str
    has_siblings: bool
    keep_owner: bool

    def plan(self, clone_name: str, taken: TakenNames) -> tuple[DiskPlan, ...]:
        """Plan every disk, in order.

        Args:
            clone_name: Name of the clone.
            taken: Names of new volumes so far; those of this clone are added.

        Raises:
            ConflictError: Something has the name that a volume would get.
            UsageError: That name would be too long.
        """
        duplications: dict[int, Duplication] = {}
        own: defaultdict[Hashable, set[str]] = defaultdict(set)
        plans = []
        for surveyed in self.surveyed:
            blueprint = surveyed.blueprint
            if blueprint is None:
                plans.append(DiskPlan(surveyed, None))
                continue
            if id(blueprint) not in duplications:
                duplications[id(blueprint)] = self._duplication(blueprint, clone_name, own, taken)
            plans.append(DiskPlan(surveyed, duplications[id(blueprint)]))
        return tuple(plans)

    def _duplication(
        self, blueprint: Blueprint, clone_name: str, own: defaultdict[Hashable, set[str]], taken: TakenNames
    ) -> Duplication:
        source = blueprint.source
        name = blueprint.name
        if name is None:
            is_overlay = blueprint.mode is Mode.LINKED
            name = new_volume_name(source.name, self.source_name, clone_name, is_overlay=is_overlay)
            name = distinct_volume_name(name, blueprint.target, own[taken.directory(blueprint.directory)])
        place = Place(blueprint.pool, blueprint.pool_uuid, blueprint.directory, name)
        if taken.has(place.directory, name):
            raise ConflictError(
                f"two new volumes would be '{place.path}'",
                hint="Choose other names for the clones, or --disk TARGET=MODE,name=NAME.",
            )
        # A new file, or a link that leads nowhere, libvirt does not see; qemu-img would write through the link.
        stands_here = blueprint.is_visible and os.path.lexists(place.path)
        if stands_here or self.pools.named(place.pool).pool.find_volume(name) is not None:
            owner = "the clone" if blueprint.name is None else "the volume"
            raise ConflictError(
                f"there is already a volume '{name}' in storage pool '{place.pool}'",
                hint=f"Choose another name for {owner}.",
            )
        taken.refuse_named(place.directory, name, "Choose another name for the clone, or --disk TARGET=MODE,name=NAME.")
        own[taken.directory(place.directory)].add(name)
        taken.add(place.directory, name)
        label = f"{clone_name}/{blueprint.target}" if self.has_siblings else blueprint.target
        return Duplication(
            label=label,
            kind=ArtifactKind.VOLUME,
            source=source,
            place=place,
            action=select.ACTIONS[blueprint.mode],
            transfers=blueprint.transfers,
            below=blueprint.below,
            keep_owner=self.keep_owner,
            is_read_again=self.has_siblings,
        )
