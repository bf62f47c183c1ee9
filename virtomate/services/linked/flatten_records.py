"""The request and the results of flattening."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.enums import FlattenStatus, FlattenWay
    from virtomate.errors import VirtomateError
    from virtomate.notices import Notice


class FlattenRequest(NamedTuple):
    """What is to be flattened.

    Attributes:
        names: The domains, each by name or UUID.
        disks: Targets of the disks; all disks with a base if there are none.
        discard_snapshots: Whether internal snapshots, which need the base, are deleted.
        check_space: Whether too little free space is a reason to refuse.
        trust_pool: Whether libvirt may write in directories where others could put a symbolic link.
        is_checked: Whether a base that is not what it was is a reason to refuse, and not only a warning.
    """

    names: tuple[str, ...]
    disks: tuple[str, ...] = ()
    discard_snapshots: bool = False
    check_space: bool = True
    trust_pool: bool = False
    is_checked: bool = True


class FlattenedDisk(NamedTuple):
    """A disk that rests on nothing any more.

    Attributes:
        target: Target of the disk.
        way: How its image got what it lacked.
        path: The image that the disk has now.
        base: The image that the disk rested on, by the name in its header.
        allocation: Bytes that the image takes on the host now.
    """

    target: str
    way: FlattenWay
    path: str
    base: str
    allocation: int


class FlattenResult(NamedTuple):
    """What became of one domain.

    Attributes:
        disks: The disks that were flattened.
        warnings: What has become of the bases of a broken clone, and what to know about the copies of images.
        kept: Overlays that copies have replaced and that were not removed, and bases that nobody uses any more.
    """

    status: FlattenStatus
    name: str
    uuid: str
    disks: tuple[FlattenedDisk, ...] = ()
    warnings: tuple[Notice, ...] = ()
    kept: tuple[Notice, ...] = ()
    seconds: float = 0.0
    error: VirtomateError | None = None
