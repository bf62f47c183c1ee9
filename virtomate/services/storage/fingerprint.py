"""Fingerprints: what tells a file that cloning made from another of the same name, besides its token.

libvirt identifies a volume of a directory pool by its path alone, so a file that somebody put in its place since looks
the same to it. Where the file can be seen from here, its inode and time of birth tell them apart; where it never could,
the change time that libvirt reports can only rule out a file that has not been touched since before ours was made.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.definition.provenance import Fingerprint
from virtomate.duplication.hostfs import birth_time, nanoseconds, visible_status

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.storage import Pool


def fingerprint(volume: VolumeDescription) -> Fingerprint:
    """Return what identifies a volume now."""
    status = visible_status(volume)
    if status is None:
        return Fingerprint(volume.changed)
    return Fingerprint(
        volume.changed,
        inode=status.st_ino,
        birth_time=birth_time(volume.path),
        directory=directory_inode(posixpath.dirname(volume.path)),
    )


def new_fingerprint(volume: VolumeDescription, pool: Pool) -> Fingerprint:
    """Return what identifies a volume that was just made, and what tells later whether its file system is there."""
    now = fingerprint(volume)
    return now if now.inode is not None else now._replace(file_system_bytes=pool.capacity_bytes())


def contradicts(made: Fingerprint, now: Fingerprint) -> bool:
    """Return whether two fingerprints cannot be of one file; what is not known of either says nothing."""
    if made.inode is not None and now.inode is not None:
        births = {made.birth_time, now.birth_time} - {None}
        return made.inode != now.inode or len(births) > 1
    if made.changed is None or now.changed is None:
        return False
    return nanoseconds(now.changed) < nanoseconds(made.changed)


def directory_inode(directory: str) -> int | None:
    """Return the inode number of a directory here, None where there is none."""
    try:
        return os.stat(directory).st_ino  # noqa: PTH116 - no path object is needed
    except (OSError, ValueError):
        return None
