"""Listing domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.provenance import find_provenance
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import list_domains
from virtomate.records import CloneOrigin, DomainListing
from virtomate.services.definitions import Definitions

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection


def list_all_domains(connection: Connection) -> tuple[DomainListing, ...]:
    """All domains by name; one that vanishes meanwhile is passed over."""
    listings = []
    definitions = Definitions()
    for domain in list_domains(connection):
        try:
            provenance = find_provenance(definitions.inactive(domain), domain.uuid)
            state = domain.state()
        except NotFoundError:
            continue
        origin = None
        if provenance is not None:
            origin = CloneOrigin(provenance.finished, provenance.source, provenance.mode, provenance.created)
        listings.append(DomainListing(domain.name, domain.uuid, state, origin))
    return tuple(sorted(listings, key=lambda listing: listing.name))
