"""Lists of storage pools, and of the volumes of one pool."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_pool, read_volume_listing
from virtomate.errors import NotFoundError
from virtomate.hypervisor.storage import list_pools
from virtomate.services.storage import backend_of, counted_space, get_active_pool
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeListing
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage import PoolSpace


class PoolListing(NamedTuple):
    """One line of `pool-list`.

    Attributes:
        state: `inactive`, `building`, `running`, `degraded` or `inaccessible`.
        is_persistent: Whether libvirt keeps the pool when it is stopped.
        capacity: Size of the storage, for an inactive pool at libvirt's last look; the next two likewise.
        volume_count: None for an inactive pool.
    """

    name: str
    uuid: str
    state: str
    is_active: bool
    is_persistent: bool
    capacity: int
    allocation: int
    available: int
    volume_count: int | None


def list_all_pools(connection: Connection) -> tuple[PoolListing, ...]:
    """Return all pools by name; a pool that vanishes meanwhile is left out."""
    is_local = connection.is_local
    listings = []
    for pool in list_pools(connection):
        with suppress(NotFoundError):
            is_active = pool.is_active()
            space = _current_space(pool, is_local=is_local) if is_active else counted_space(pool)
            listings.append(
                PoolListing(
                    name=pool.name,
                    uuid=pool.uuid,
                    state=pool.info().state,
                    is_active=is_active,
                    is_persistent=pool.is_persistent(),
                    capacity=space.capacity,
                    allocation=space.allocation,
                    available=space.available,
                    volume_count=pool.volume_count(),
                )
            )
    return tuple(sorted(listings, key=lambda listing: listing.name))


def _current_space(pool: Pool, *, is_local: bool) -> PoolSpace:
    """Return the space of an active pool: what can be seen here, else what libvirt counts."""
    if is_local:
        description = describe_pool(pool.document())
        if (space := backend_of(description).seen_space(pool, description)) is not None:
            return space
    space = counted_space(pool)
    if space.is_impossible and pool.refresh():
        return counted_space(pool)
    return space


def list_all_volumes(connection: Connection, pool_name: str) -> tuple[VolumeListing, ...]:
    """Return all volumes of a pool by name; a volume that vanishes meanwhile is left out.

    Raises:
        NotFoundError: There is no such pool.
        IllegalStateError: It is not active.
    """
    listings = []
    for volume in get_active_pool(connection, pool_name).list_volumes():
        with suppress(NotFoundError):
            listings.append(read_volume_listing(volume.document()))
    return tuple(sorted(listings, key=lambda listing: listing.name))
