"""Domains that run, and the address at which each can be reached."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.services.listings import list_all_domains, with_addresses
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.services.listings import DomainFilter, DomainListing


class InventoryHost(NamedTuple):
    """A domain that runs.

    Attributes:
        address: The address at which other hosts reach the guest, None where no address is known.
        addresses: All usable addresses of the domain's own interfaces.
    """

    listing: DomainListing
    address: str | None
    addresses: tuple[str, ...] = ()


def list_hosts(session: Session, wanted: DomainFilter) -> tuple[InventoryHost, ...]:
    """Return the domains that run, by name, with addresses from leases or else from the guest agents.

    Raises:
        NotFoundError: There is no domain whose clones are wanted.
    """
    listings = list_all_domains(session.connection, wanted._replace(running=True))
    return tuple(_host(session.connection, item) for item in with_addresses(session, listings))


def _host(connection: Connection, listing: DomainListing) -> InventoryHost:
    interfaces = listing.addresses or ()
    if len(interfaces) > 1:
        interfaces = _own(connection, listing, interfaces)
    found = [address.address for interface in interfaces for address in interface.addresses]
    # the sort is stable: the first interface counts
    by_version = sorted(found, key=lambda address: ipaddress.ip_address(address).version)
    return InventoryHost(listing, next(iter(by_version), None), tuple(found))


def _own(
    connection: Connection, listing: DomainListing, interfaces: Iterable[DomainInterface]
) -> tuple[DomainInterface, ...]:
    """Return the interfaces of the definition, in its order; an agent tells the bridges in its guest, too."""
    try:
        domain = find_domain_by_uuid(connection, listing.uuid)
        text = None if domain is None else domain.live_definition()
    except NotFoundError:
        text = None
    macs = () if text is None else readers.mac_addresses(codec.parse_definition(text).domain)
    order = {mac: number for number, mac in enumerate(macs)}
    own = [item for item in interfaces if (item.hwaddr or "").lower() in order]
    return tuple(sorted(own, key=lambda item: order[(item.hwaddr or "").lower()])) or tuple(interfaces)
