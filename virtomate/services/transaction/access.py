"""Who may read and write a new volume: those who may do so with its original."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.duplication.acl import give_acl, may_be_given_here
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.services.storage import describe

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.storage import Pool, Volume

NOT_ALLOWED = "only its owner and root could do that"


def give_access(
    source: VolumeDescription, pool: Pool, volume: Volume, created: VolumeDescription
) -> tuple[VolumeDescription, tuple[Notice, ...]]:
    """Give a new volume, before there is anything in it, its original's access control list.

    Args:
        source: What the volume is a duplicate of.
        pool: Its pool.
        volume: The volume.
        created: What libvirt says of it.

    Returns:
        What libvirt says of it by now, and warnings.
    """
    if source.acl is None or not may_be_given_here(source):
        return created, ()
    try:
        has_changed = give_acl(source.acl, created)
    except OSError as error:
        if not source.acl:
            return created, ()
        return created, (without_acl(source, os.strerror(error.errno or 0)),)
    return (describe(pool, volume).description if has_changed else created), ()


def without_acl(source: VolumeDescription, reason: str) -> Notice:
    """Return the warning that a list is not carried over."""
    return notice(CloneWarning.ACL, source.path, reason=reason)
