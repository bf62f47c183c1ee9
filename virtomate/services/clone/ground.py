"""The hosts as the requests of a run see them, and what their planned clones take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.services.clone.target import Side, scan_identities
from virtomate.services.clone.volume_names import TakenNames
from virtomate.services.storage import SpaceLedger, read_pools
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.hypervisor.session import Session
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction import Run


class Ground(NamedTuple):
    """What the requests of a run have in common: the hosts as they were looked at, and what planned clones take.

    Attributes:
        original: The host of the original.
        target: The host where the clones will live; mostly the same object.
        mac_addresses: The addresses of the clones planned so far.
    """

    original: Side
    target: Side
    mac_addresses: set[str]

    def for_request(self, request: CloneRequest) -> Ground:
        """Return the same with the trust that a request has in the directories of pools."""
        original = _trusting(self.original, request)
        target = original if self.target is self.original else _trusting(self.target, request)
        return self._replace(original=original, target=target)

    def opening(self, run: Run, temporary: TemporaryPools) -> Ground:
        """Return the same, but files of the original may be in no storage pool; a temporary one is started there."""
        start = temporary.on(run.source).opener(run.cancel)
        original = self.original._replace(pools=self.original.pools.opening(start))
        return self._replace(original=original, target=original if self.target is self.original else self.target)

    def without_writer(self, name: str) -> Ground:
        """Return the same, but for the disks that the original has open: it will be shut down, or may write."""
        original = self.original._replace(identities=self.original.identities.without_writer(name))
        return self._replace(original=original, target=original if self.target is self.original else self.target)


def look(run: Run, request: CloneRequest) -> Ground:
    """Look at the hosts once for all requests of a run; what gives way to any of their clones is passed over."""
    original = _look(run.source, request)
    target = original if run.target is run.source else _look(run.target, request)
    return Ground(original, target, set())


def _look(session: Session, request: CloneRequest) -> Side:
    connection = session.connection
    identities = scan_identities(connection, session.borrow, request.giving_way.uuids)
    pools = read_pools(connection)
    return Side(
        connection,
        identities,
        pools,
        PoolGate(is_open=request.trust_pool or runs_unprivileged(connection)),
        SpaceLedger(is_local=connection.is_local),
        TakenNames(identities.in_use, pools.directory_of, is_local=connection.is_local),
    )


def _trusting(side: Side, request: CloneRequest) -> Side:
    return side._replace(gate=PoolGate(is_open=request.trust_pool or runs_unprivileged(side.connection)))
