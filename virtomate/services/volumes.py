"""Listing the volumes of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.volume import read_volume_listing
from virtomate.errors import NotFoundError
from virtomate.services.pools import get_active_pool

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.records import VolumeListing


def list_all_volumes(connection: Connection, pool_name: str) -> tuple[VolumeListing, ...]:
    """All volumes of a pool by name; one that vanishes meanwhile is passed over.

    Raises:
        NotFoundError: There is no such pool.
        IllegalStateError: It is not active.
    """
    listings = []
    for volume in get_active_pool(connection, pool_name).list_volumes():
        try:
            listings.append(read_volume_listing(volume.document()))
        except NotFoundError:
            continue
    return tuple(sorted(listings, key=lambda listing: listing.name))
