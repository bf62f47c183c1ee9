"""What clones share with their original because it is not duplicated, and when that is no matter of a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import Action, DiskAction
from virtomate.errors import UnsupportedError
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.services.clone.disks import SurveyedDisk
    from virtomate.services.clone.side_files import SurveyedNvram
    from virtomate.services.clone_records import CloneRequest


def written_by_both(disks: Iterable[SurveyedDisk]) -> Iterator[SurveyedDisk]:
    """The disks that are left as they are although a guest may write to them."""
    return (
        item for item in disks if item.action is Action.SHARED and not item.disk.is_readonly and not item.disk.is_empty
    )


def refuse_to_start(request: CloneRequest, disks: Iterable[SurveyedDisk], nvram: SurveyedNvram | None) -> None:
    """Refuse to start clones that would write to what is their original's, too, and each other's.

    Two guests that write to one device destroy what is on it, unless they know of each other. So the disk must be
    marked as shareable, or somebody must have asked for sharing it.

    Raises:
        UnsupportedError: One would, and nobody has asked for that.
    """
    if not request.start:
        return
    asked = {chosen.target for chosen in request.disks if chosen.treatment is DiskAction.SHARE}
    for item in written_by_both(disks):
        disk = item.disk
        if not disk.is_shareable and disk.target not in asked:
            target = disk.target
            raise UnsupportedError(
                f"disk {target} ({disk.location}) is shared with the original ({item.reason}): original and "
                "clones that are started all write to it",
                hint=f"Leave out --start, or use --disk {target}=share if that is meant, or --disk {target}=drop.",
            )
    if nvram is not None and nvram.path is None:
        raise UnsupportedError(
            "the NVRAM is not a file and is shared with the original: original and started clones all write to it",
            hint=f"Leave out --start, and give the clone an NVRAM of its own with {virsh('edit')}.",
        )
