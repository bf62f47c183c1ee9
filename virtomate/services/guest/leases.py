"""Leases of libvirt's networks, and guests that a network takes for one machine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from virtomate.errors import VirtomateError
from virtomate.hypervisor.networks import Lease, find_network
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from virtomate.hypervisor.connection import Connection

_LOG = logging.getLogger(__name__)


class Twin(NamedTuple):
    """Another interface that had a lease of the same client or with the same address.

    Attributes:
        client_id: The DHCP client ID or DUID that both send; None if they send different ones.
        address: The address that both had; None if they had different ones.
    """

    mac_address: str
    client_id: str | None
    address: str | None


class LeaseHistory:
    """All leases that were seen while clones were started and waited for.

    A DHCP server takes two guests with one client ID for one machine: the second guest gets the lease of the first one,
    which then has none. So no single look at the leases shows both.
    """

    def __init__(self, leases: Iterable[Lease] = ()) -> None:
        self._seen = dict.fromkeys(leases)

    def look(self, connection: Connection, networks: Iterable[str]) -> None:
        """Add the current leases of networks."""
        # not in place: a look that took too long goes on in its thread while `twins` reads
        self._seen = self._seen | dict.fromkeys(read_leases(connection, networks))

    def twins(self, mac_addresses: Collection[str], addresses: Collection[str]) -> tuple[Twin, ...]:
        """Return the other interfaces with a client ID or an address of a guest.

        An address alone may have been given back by the other guest before.

        Args:
            mac_addresses: The MAC addresses of the guest.
            addresses: The IP addresses that the guest is known to have now.
        """
        seen = self._seen
        own = {(lease.network, lease.client_id) for lease in seen if lease.mac_address in mac_addresses}
        found: dict[str, Twin] = {}
        for lease in seen:
            mac = lease.mac_address
            if mac is None or mac in mac_addresses:
                continue
            before = found.get(mac, Twin(mac, None, None))
            is_client = lease.client_id is not None and (lease.network, lease.client_id) in own
            client_id = lease.client_id if is_client else before.client_id
            address = lease.address if lease.address in addresses else before.address
            if client_id is not None or address is not None:
                found[mac] = Twin(mac, client_id, address)
        return tuple(found.values())


def read_leases(connection: Connection, networks: Iterable[str]) -> tuple[Lease, ...]:
    """Return the current leases of networks, as far as libvirt tells them.

    The leases only serve a warning: a clone is started whether or not they can be read. A broken connection shows in
    the next call.
    """
    found: list[Lease] = []
    for name in networks:
        try:
            network = find_network(connection, name)
            found += () if network is None else network.leases()
        except VirtomateError as error:
            _LOG.info("the leases of network %r are not known: %s", name, error)
    return tuple(found)
