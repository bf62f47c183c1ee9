"""Lists of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import PROVENANCE_NAMESPACE, TEMPLATE_NAMESPACE
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import (
    SHUT_OFF,
    domain_states,
    find_domain,
    list_active_domains,
    list_domains,
)
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtomate.definition.provenance import DomainReference
    from virtomate.enums import Mode
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session


class CloneOrigin(NamedTuple):
    """The origin of a clone, by its record."""

    finished: bool
    source: DomainReference
    mode: Mode
    created: float


class DomainFilter(NamedTuple):
    """Which domains are listed: only active domains, only clones, only clones of a domain given by name or UUID."""

    running: bool = False
    clones: bool = False
    clones_of: str | None = None


class DomainListing(NamedTuple):
    """One line of `domain-list`, with the known usable addresses if they were asked for."""

    name: str
    uuid: str
    state: str
    clone: CloneOrigin | None
    is_template: bool = False
    addresses: tuple[DomainInterface, ...] | None = None


_ALL = DomainFilter()


def list_all_domains(connection: Connection, wanted: DomainFilter = _ALL) -> tuple[DomainListing, ...]:
    """Return the wanted domains by name; a domain that vanishes meanwhile is left out.

    Raises:
        NotFoundError: The domain whose clones are wanted does not exist, and has no clones.
    """
    is_wanted = _clones_of(connection, wanted.clones_of)
    listings = []
    states = domain_states(connection)
    for domain in list_active_domains(connection) if wanted.running else list_domains(connection):
        try:
            state = states.get(domain.uuid) or domain.state()
        except NotFoundError:
            continue
        origin = _find_origin(domain)
        if is_wanted(origin) and not (wanted.clones and origin is None):
            # no other domain is a template, and each look takes a call of libvirt
            is_template = state == SHUT_OFF and domain.metadata_element(TEMPLATE_NAMESPACE) is not None
            listings.append(DomainListing(domain.name, domain.uuid, state, origin, is_template))
    return tuple(sorted(listings, key=lambda listing: listing.name))


def _find_origin(domain: Domain) -> CloneOrigin | None:
    # asking for our element alone moves a tenth of what a definition has
    record = domain.metadata_element(PROVENANCE_NAMESPACE)
    if record is None:
        return None
    from virtomate.definition.provenance import read_record  # noqa: PLC0415 - most domains are no clones

    provenance = read_record(record, domain.uuid)
    if provenance is None:
        return None
    return CloneOrigin(provenance.finished, provenance.source, provenance.mode, provenance.created)


def with_addresses(session: Session, listings: Sequence[DomainListing]) -> tuple[DomainListing, ...]:
    """Return the listings with the addresses of active domains, as far as they are known without delay."""
    from virtomate.services.guest import find_addresses  # noqa: PLC0415 - few lists show addresses

    found = find_addresses(session, {item.uuid: item.state for item in listings})
    return tuple(item._replace(addresses=found.get(item.uuid, ())) for item in listings)


def _clones_of(connection: Connection, original: str | None) -> Callable[[CloneOrigin | None], bool]:
    """Return a test for the clones of a domain.

    An existing domain is known by its UUID, since it may have been renamed, and another domain may have had its name. A
    domain that is gone is known by the name and the UUID in the records of its clones.
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
