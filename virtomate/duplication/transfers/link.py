"""Linked clones: an overlay on the original, without content of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from virtomate.definition.volume import volume_document
from virtomate.errors import ConnectionLostError, HypervisorError
from virtomate.hypervisor.storage import get_pool

if TYPE_CHECKING:
    from virtomate.duplication.transfers.base import Duplication, Workplace
    from virtomate.hypervisor.storage import Volume


_KIB = 1024


class LinkTransfer:
    """Has libvirt create the overlay; there is nothing to fill."""

    def create(self, duplication: Duplication, workplace: Workplace) -> Volume:
        """Create the overlay; one without subclusters where the host does not know them.

        With subclusters a small write into the overlay copies 4 KiB from below and not a whole cluster. They need
        libvirt 8.0 and QEMU 5.2.
        """
        pool = get_pool(workplace.connection, duplication.pool)
        # libvirt gives qemu-img whole KiB and rounds up; an overlay a sector longer than what is below it would move
        # the end of the disk, where a GPT has its second header.
        capacity = duplication.new.capacity
        new = replace(duplication.new, capacity=capacity // _KIB * _KIB or capacity)
        try:
            volume = pool.create_volume(new.name, volume_document(new))
        except ConnectionLostError:
            raise
        except HypervisorError:
            plain = replace(new, cluster_size=None, features=())
            volume = pool.create_volume(new.name, volume_document(plain))
        if new.capacity != capacity:
            volume.resize(capacity)
        return volume

    def fill(self, _duplication: Duplication, _volume: Volume, _workplace: Workplace) -> int:
        """Write nothing."""
        return 0
