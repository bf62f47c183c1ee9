"""Linked clones: an overlay on the original, without content of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from virtomate.definition.volume import volume_document
from virtomate.errors import ConnectionLostError, HypervisorError

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, Workplace
    from virtomate.hypervisor.storage import Pool, Volume


_KIB = 1024


class LinkTransfer:
    """Has libvirt create the overlay; there is nothing to copy."""

    def create(self, duplication: Duplication, pool: Pool, _workplace: Workplace) -> Volume:
        """Create the overlay; one without subclusters where the host does not know them.

        With subclusters a small write into the overlay copies 4 KiB from below and not a whole cluster. They need
        libvirt 8.0 and QEMU 5.2.
        """
        new = duplication.new
        try:
            return pool.create_volume(new.name, volume_document(new))
        except ConnectionLostError:
            raise
        except HypervisorError:
            plain = replace(new, cluster_size=None, features=())
            return pool.create_volume(new.name, volume_document(plain))

    def fill(self, duplication: Duplication, volume: Volume, _created: VolumeDescription, workplace: Workplace) -> int:
        """Write nothing, but give the overlay the exact capacity of what is below it.

        libvirt gives qemu-img whole KiB and rounds up. An overlay a sector too long would move the end of the disk,
        where a GPT has its second header. libvirt does not make a volume smaller than its file is already.
        """
        capacity = duplication.new.capacity
        if capacity % _KIB and capacity > volume.allocation_bytes():
            volume.shrink(capacity)
        if duplication.is_read_again:
            workplace.moulds.keep(duplication.pool, volume, duplication.new)
        return 0
