"""The host as the requests of a run see it, and what their planned clones take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.services.clone.target import scan_identities
from virtomate.services.clone.volume_names import TakenNames
from virtomate.services.storage import SpaceLedger, read_pools
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.target import Borrow, Identities
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.storage import PoolIndex


class Ground(NamedTuple):
    """What the requests of a run have in common: the host as it was looked at, and what planned clones take of it.

    Attributes:
        space: The space that the clones planned so far will take.
        mac_addresses: The addresses of the clones planned so far.
    """

    identities: Identities
    pools: PoolIndex
    space: SpaceLedger
    taken: TakenNames
    mac_addresses: set[str]


def look(connection: Connection, request: CloneRequest, borrow: Borrow | None) -> Ground:
    """Look at the host once for all requests of a run; what gives way to any of their clones is passed over."""
    identities = scan_identities(connection, borrow, request.giving_way.uuids)
    pools = read_pools(connection)
    return Ground(
        identities,
        pools,
        SpaceLedger(is_local=connection.is_local),
        TakenNames(identities.in_use, pools.directory_of, is_local=connection.is_local),
        set(),
    )
