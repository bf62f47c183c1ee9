"""The proof that two hosts share storage: the host of an original sees the new volume that the other host has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.definition.volume import SEEN_LATER_SECONDS, describe_volume
from virtomate.enums import Action
from virtomate.errors import UnsupportedError, rewording
from virtomate.hypervisor.storage import get_pool, get_volume

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext


def require_shared(way: Duplication, created: VolumeDescription, context: TransferContext) -> None:
    """Raise UnsupportedError unless the host of the original sees a new volume beside the file that it was planned for.

    The file has just been made: no other file of that name has the time of its last change.
    """
    if (beside := way.witness) is None:
        return
    with rewording(context.at_original):
        pool = get_pool(context.source, beside.pool)
    volume = get_volume(context.connection, created.pool, created.name)
    is_fresh = False
    for _ in backoff(SEEN_LATER_SECONDS, context.cancel):
        is_fresh = pool.refresh()
        found = pool.find_volume(created.name)
        if found is not None:
            here = describe_volume(beside.pool, found.document())
            if here.is_seen_as(describe_volume(created.pool, volume.document())):
                return
    if not is_fresh:
        raise UnsupportedError(
            f"libvirt on the host of the original cannot refresh storage pool '{beside.pool}', and does not see "
            f"'{created.path}'",
            hint="libvirt may be making a volume in that pool. Try again later.",
        )
    cure = "Leave out --transfer server." if way.action is Action.COPIED else "Use --mode copy, or --disk TARGET=copy."
    raise UnsupportedError(
        f"nothing shows that the hosts share '{beside.path}': the host of the original does not see '{created.path}', "
        "which was made beside that file",
        hint=f"{cure} If both hosts mount one directory by NFS, mount it without the option nocto on the host of the "
        "original, which otherwise sees a new file up to a minute later.",
    )
