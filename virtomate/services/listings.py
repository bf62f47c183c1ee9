"""Lists of what there is: domains, storage pools, and the volumes of one pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtomate.definition.provenance import find_provenance
from virtomate.definition.volume import describe_pool, read_volume_listing
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import find_domain, list_active_domains, list_domains
from virtomate.hypervisor.storage import list_pools
from virtomate.services.storage.definitions import Definitions
from virtomate.services.storage.pools import get_active_pool
from virtomate.services.storage.space import counted_space, seen_space

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import VolumeListing
    from virtomate.enums import Mode
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage.space import PoolSpace


class CloneOrigin(NamedTuple):
    """What a listing tells about a clone of ours."""

    finished: bool
    source: DomainReference
    mode: Mode
    created: float


class DomainFilter(NamedTuple):
    """Which domains are listed; those to which everything applies that is set.

    Attributes:
        running: Those that run in any way, paused ones included.
        clones: Clones of ours.
        clones_of: Clones of this domain, given by name or UUID.
    """

    running: bool = False
    clones: bool = False
    clones_of: str | None = None


class DomainListing(NamedTuple):
    """One line of `domain-list`.

    Attributes:
        addresses: Interfaces with the addresses that others can use, as far as they are known; None where nobody asked.
    """

    name: str
    uuid: str
    state: str
    clone: CloneOrigin | None
    addresses: tuple[DomainInterface, ...] | None = None


class PoolListing(NamedTuple):
    """One line of `pool-list`.

    Attributes:
        state: `inactive`, `building`, `running`, `degraded` or `inaccessible`.
        is_persistent: Whether libvirt still knows it when it is stopped.
        capacity: Of what it is on; for an inactive pool as it was when libvirt looked last.
        allocation: What is taken of it, by whatever.
        available: What is left.
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


_ALL = DomainFilter()


def list_all_domains(connection: Connection, wanted: DomainFilter = _ALL) -> tuple[DomainListing, ...]:
    """The domains that are wanted, by name; one that vanishes meanwhile is passed over.

    Raises:
        NotFoundError: Clones of a domain are wanted that does not exist and has none.
    """
    is_wanted = _clones_of(connection, wanted.clones_of)
    listings = []
    definitions = Definitions()
    for domain in list_active_domains(connection) if wanted.running else list_domains(connection):
        try:
            provenance = find_provenance(definitions.inactive(domain), domain.uuid)
            state = domain.state()
        except NotFoundError:
            continue
        origin = None
        if provenance is not None:
            origin = CloneOrigin(provenance.finished, provenance.source, provenance.mode, provenance.created)
        if is_wanted(origin) and not (wanted.clones and origin is None):
            listings.append(DomainListing(domain.name, domain.uuid, state, origin))
    return tuple(sorted(listings, key=lambda listing: listing.name))


def with_addresses(session: Session, listings: Sequence[DomainListing]) -> tuple[DomainListing, ...]:
    """Return the listings with the addresses of active domains, as far as they are known without delay."""
    from virtomate.services.guest.lookup import find_addresses  # noqa: PLC0415 - few lists show addresses

    found = find_addresses(session, {item.uuid: item.state for item in listings})
    return tuple(item._replace(addresses=found.get(item.uuid, ())) for item in listings)


def _clones_of(connection: Connection, original: str | None) -> Callable[[CloneOrigin | None], bool]:
    """What tells the clones of a domain from other domains.

    A domain that exists is known by its UUID, since it may have been renamed, and another one may have had its name. Of
    one that is gone there are what its clones remember: the name and the UUID.
    """
    if original is None:
        return lambda _origin: True

    def remembers(origin: CloneOrigin | None) -> bool:
        return origin is not None and (origin.source.name == original or origin.source.uuid == original.lower())

    try:
        uuid = find_domain(connection, original).uuid
    except NotFoundError:
        if not any(remembers(listing.clone) for listing in list_all_domains(connection)):
            raise
        return remembers
    return lambda origin: origin is not None and origin.source.uuid == uuid


def list_all_pools(connection: Connection) -> tuple[PoolListing, ...]:
    """All pools by name; one that vanishes meanwhile is passed over."""
    is_local = connection.is_local
    listings = []
    for pool in list_pools(connection):
        try:
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
        except NotFoundError:
            continue
    return tuple(sorted(listings, key=lambda listing: listing.name))


def _current_space(pool: Pool, *, is_local: bool) -> PoolSpace:
    """The space of an active pool: what can be seen here, else what libvirt counts."""
    if is_local and (space := seen_space(pool, describe_pool(pool.document()))) is not None:
        return space
    space = counted_space(pool)
    if space.is_impossible and pool.refresh():
        return counted_space(pool)
    return space


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
