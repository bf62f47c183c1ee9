"""Linked clones: an overlay on the original, without content of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.volume import volume_document
from virtomate.hypervisor.storage import get_pool

if TYPE_CHECKING:
    from virtomate.duplication.transfers.base import Duplication, Workplace
    from virtomate.hypervisor.storage import Volume


class LinkTransfer:
    """Has libvirt create the overlay; there is nothing to fill."""

    def create(self, duplication: Duplication, workplace: Workplace) -> Volume:
        """Create the overlay."""
        pool = get_pool(workplace.connection, duplication.pool)
        return pool.create_volume(duplication.new.name, volume_document(duplication.new))

    def fill(self, _duplication: Duplication, _volume: Volume, _workplace: Workplace) -> int:
        """Write nothing."""
        return 0
