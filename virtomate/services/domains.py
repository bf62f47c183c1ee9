"""Listing domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.provenance import find_provenance
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import find_domain, list_active_domains, list_domains
from virtomate.records import CloneOrigin, DomainFilter, DomainListing
from virtomate.services.definitions import Definitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.hypervisor.connection import Connection

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
