"""Lists of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import TEMPLATE_NAMESPACE
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import (
    SHUT_OFF,
    domain_states,
    list_active_domains,
    list_domains,
)
from virtomate.services.origins import find_record, is_original
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    original = wanted.clones_of
    is_wanted = None if original is None else is_original(connection, original)
    listings = []
    states = domain_states(connection)
    for domain in list_active_domains(connection) if wanted.running else list_domains(connection):
        try:
            state = states.get(domain.uuid) or domain.state()
        except NotFoundError:
            continue
        origin = _find_origin(domain)
        has_original = is_wanted is None or (origin is not None and is_wanted(origin.source))
        if has_original and not (wanted.clones and origin is None):
            # no other domain is a template, and each look takes a call of libvirt
            is_template = state == SHUT_OFF and domain.metadata_element(TEMPLATE_NAMESPACE) is not None
            listings.append(DomainListing(domain.name, domain.uuid, state, origin, is_template))
    return tuple(sorted(listings, key=lambda listing: listing.name))


def _find_origin(domain: Domain) -> CloneOrigin | None:
    record = find_record(domain)
    return None if record is None else CloneOrigin(record.finished, record.source, record.mode, record.created)


def with_addresses(session: Session, listings: Sequence[DomainListing]) -> tuple[DomainListing, ...]:
    """Return the listings with the addresses of active domains, as far as they are known without delay."""
    from virtomate.services.guest import find_addresses  # noqa: PLC0415 - few lists show addresses

    found = find_addresses(session, {item.uuid: item.state for item in listings})
    return tuple(item._replace(addresses=found.get(item.uuid, ())) for item in listings)
