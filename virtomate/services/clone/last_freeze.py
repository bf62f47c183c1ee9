"""The base of the last freeze, which serves new linked clones, too, while the overlay on it holds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication import select
from virtomate.duplication.overlays import is_empty_overlay
from virtomate.enums import Mode
from virtomate.errors import VirtomateError
from virtomate.services.clone_records import VolumeReference

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.freeze import FrozenDisk
    from virtomate.services.clone.target import Survey
    from virtomate.services.storage import FoundVolume


def below_empty_overlay(
    survey: Survey, disk: DiskDefinition, mode: Mode, found: FoundVolume
) -> tuple[DiskDefinition, FoundVolume, VolumeReference | None]:
    """Return a disk and its volume as linked clones are to see them.

    That is the base of the last freeze, with the disk's overlay as the third value, while the overlay holds nothing;
    otherwise the disk and the volume as they are.
    """
    if not survey.request.freeze:
        return disk, found, None
    overlay, mark = found.description, survey.source.freeze_mark
    frozen = None if mark is None else mark.of_disk(disk.target)
    if frozen is None or frozen.overlay != overlay.path or mode is not Mode.LINKED:
        return disk, found, None
    base = _find_base(survey, frozen) if survey.source.stands_still else None
    if base is None:
        return disk, found, None
    volume = select.as_format(base.description, frozen.base_format)
    if not is_empty_overlay(survey.connection, overlay, volume):
        return disk, found, None
    below = disk._replace(format=frozen.base_format, below=disk.below[1:])
    return below, base, VolumeReference(overlay.pool, overlay.name, overlay.path, "qcow2")


def _find_base(survey: Survey, frozen: FrozenDisk) -> FoundVolume | None:
    """Return the base of a frozen disk if it is still as it was."""
    try:
        found = survey.pools.find_path(frozen.base)
    except VirtomateError:
        return None
    base = found.description
    return found if (base.modified, base.physical) == (frozen.modified, frozen.size) else None
