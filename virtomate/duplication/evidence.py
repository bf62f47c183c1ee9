"""Evidence that a volume is the very one that cloning made.

libvirt identifies a volume of a directory pool by its path alone, so a file that somebody put in its place since looks
the same to it. Where the file can be seen from here, its inode and time of birth tell them apart; where it never could,
the change time that libvirt reports can only rule out a file that has not been touched since before ours was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.hostfile import NANOSECONDS, birth_time, nanoseconds, visible_status
from virtomate.records import Evidence

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription


def observe(volume: VolumeDescription) -> Evidence:
    """What identifies a volume now."""
    status = visible_status(volume)
    if status is None:
        return Evidence(volume.changed)
    return Evidence(volume.changed, inode=status.st_ino, born=birth_time(volume.path))


def is_same(evidence: Evidence, volume: VolumeDescription) -> bool:
    """Whether a volume is the one that the evidence was taken from, as far as that can be told.

    Where the file was seen when it was made, it has to be seen again: inode and birth time decide. Where it was not, a
    file whose last change is older than the making of ours is certainly another one.
    """
    if evidence.inode is not None:
        now = observe(volume)
        return (evidence.inode, evidence.born) == (now.inode, now.born)
    if evidence.changed is None or volume.changed is None:
        return False
    return nanoseconds(volume.changed) >= nanoseconds(evidence.changed)


def is_younger(volume: VolumeDescription, seconds: float) -> bool:
    """Whether the file may have come into being after a moment, in seconds since 1970.

    Its birth time decides where it can be seen, else the time of its last change, which is never before its birth.
    """
    moment = seconds * NANOSECONDS
    if visible_status(volume) is not None and (born := birth_time(volume.path)) is not None:
        return born >= moment
    return nanoseconds(volume.changed) >= moment
