"""Small volumes beside those of a clone, whose content is known when the clone is planned: seeds and credentials."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication.transfers.base import Place
from virtomate.enums import Transfer
from virtomate.errors import ConflictError, UsageError
from virtomate.names import check_volume_name
from virtomate.paths import normalise
from virtomate.services.clone.disks import name_new
from virtomate.services.transaction import Bytes, VolumeJob
from virtomate.services.trust import runs_unprivileged
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.enums import ArtifactKind
    from virtomate.notices import Notice
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import PoolEntry

_ADVICE = "Choose another name for the clone."


class PlaceBeside(NamedTuple):
    """Where small volumes of the clones go.

    Attributes:
        transfers: How a volume may be filled, the best way first.
    """

    known: PoolEntry
    transfers: tuple[Transfer, ...]
    warnings: tuple[Notice, ...]


def survey_place(survey: Survey, disks: Iterable[DiskPlan], left: Iterable[DiskPlan], what: str) -> PlaceBeside:
    """Look where small volumes go: into the pool that was asked for, else that of a new volume, else of any disk.

    Args:
        survey: What is known before the clones are planned.
        disks: The disks of the original.
        left: The disks as the clones have them.
        what: What the volumes hold, such as `the seed`.

    Raises:
        UsageError: No pool for the new volumes is known.
        VirtomateError: The pool cannot be used.
    """
    known = _pool(survey, disks, left, what)
    there = survey.target.connection
    directory_is_ours = there.is_local and (os.geteuid() == 0 or runs_unprivileged(there))
    possible = (Transfer.HOST, Transfer.STREAM) if directory_is_ours else (Transfer.STREAM,)
    transfers, warnings = survey.admit(possible, known, (), what)
    return PlaceBeside(known, transfers, warnings)


def plan_beside(
    survey: Survey,
    place: PlaceBeside,
    kind: ArtifactKind,
    names: tuple[str, str],
    data: bytes,
    taken: TakenNames,
    token_offset: int | None = None,
) -> VolumeJob:
    """Plan a small volume of one clone, and add its name to the taken names; `names` are the label and the volume's.

    Raises:
        ConflictError: The name of the volume is taken.
        UsageError: The name would be too long.
    """
    known, (label, name) = place.known, names
    check_volume_name(name)
    directory = known.description.path or ""
    there = Place(known.pool.name, known.pool.uuid, directory, name)
    # libvirt does not see a new file
    stands_there = known.pool.find_volume(name) is not None
    stands_there = stands_there or (survey.target.connection.is_local and os.path.lexists(there.path))
    if stands_there and not survey.gives_way(there.path):
        raise ConflictError(f"there is already a {name_new(there)}", _ADVICE)
    taken.take(directory, name, _ADVICE)
    return VolumeJob(label, kind, there, Bytes(data, place.transfers, token_offset))


def _pool(survey: Survey, disks: Iterable[DiskPlan], left: Iterable[DiskPlan], what: str) -> PoolEntry:
    """Return the pool that was asked for, else that of the first new volume, else that of any disk.

    A small volume is a file, also where the new volumes of disks are block devices.
    """
    if survey.request.pool is not None:
        asked = survey.target.pools.for_new_volumes(survey.request.pool)
        if not asked.backend.makes_devices:
            return asked
    places = [item.duplication.place.directory for item in left if item.duplication is not None]
    there = [_path(survey, item) for item in disks]
    for directory in (*places, *(posixpath.dirname(path) for path in there if path is not None)):
        known = survey.target.pools.covering(normalise(directory))
        if known is not None and known.is_active and not known.backend.makes_devices:
            known.backend.require_new_volumes(known.description)
            return known
    raise UsageError(f"no disk of the original tells in which storage pool {what} belongs: expected is --pool POOL")


def _path(survey: Survey, item: DiskPlan) -> str | None:
    source = item.source
    return source.path or survey.pools.path_of(source.pool or "", source.volume or "")
