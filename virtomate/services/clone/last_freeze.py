"""The base of the last freeze, which serves new linked clones, too, while the overlay on it holds nothing.

That holds for a running original as well: QEMU writes the first table of an overlay to the file before the guest hears
that its first write is done. All disks of a running original must be of one moment, so either all bases serve again or
none does. If the file systems of the guest are to be frozen, no base serves again: the last freeze is another moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication import select
from virtomate.duplication.overlays import is_empty_overlay
from virtomate.enums import Action, Mode, Quiesce
from virtomate.errors import VirtomateError
from virtomate.services.clone.disks import volume_reference

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.freeze import FrozenDisk
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone_parts import VolumeReference
    from virtomate.services.storage import FoundVolume


def below_empty_overlay(
    survey: Survey, disk: DiskDefinition, mode: Mode, found: FoundVolume
) -> tuple[DiskDefinition, FoundVolume, VolumeReference | None]:
    """Return a disk and its volume as linked clones are to see them.

    That is the base of the last freeze, with the disk's overlay as the third value, while the overlay holds nothing;
    otherwise the disk and the volume as they are.
    """
    running = survey.source.running
    if not survey.request.freeze or (running is not None and running.readiness.quiesce is not Quiesce.OFF):
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
    return below, base, volume_reference(overlay.pool, overlay.name, overlay.path, "qcow2")


def is_of_several_moments(survey: Survey, disks: list[DiskPlan]) -> bool:
    """Return whether bases of the last freeze would serve beside disks to which the running original has written."""
    if survey.source.running is None:
        return False
    linked = [item for item in disks if item.action is Action.LINKED and not item.disk.is_readonly]
    return len({item.overlay is None for item in linked}) > 1


def _find_base(survey: Survey, frozen: FrozenDisk) -> FoundVolume | None:
    """Return the base of a frozen disk if it is still as it was."""
    try:
        found = survey.pools.find_path(frozen.base)
    except VirtomateError:
        return None
    base = found.description
    return found if (base.modified, base.physical) == frozen.fingerprint[:2] else None
