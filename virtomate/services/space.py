"""The space that clones need, compared with what there is."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from virtomate.errors import NoSpaceError
from virtomate.hypervisor.storage import Pool
from virtomate.records import SpaceNeed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from virtomate.duplication.transfers.base import Duplication
    from virtomate.services.pools import PoolDirectory


class SpaceLedger:
    """What new volumes will take of the pools that they go to, added up."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._available: dict[str, int] = {}
        self._needed: defaultdict[str, int] = defaultdict(int)

    def add(self, pool: Pool, needed_bytes: int) -> SpaceNeed:
        """Add what is needed of a pool.

        Returns:
            That, and what the pool has left as of its last refresh.
        """
        self._needed[pool.name] += needed_bytes
        if pool.name not in self._pools:
            self._pools[pool.name] = pool
            self._available[pool.name] = pool.available_bytes()
        return SpaceNeed(pool.name, needed_bytes, self._available[pool.name])

    def add_clone(self, duplications: Iterable[Duplication], pools: PoolDirectory) -> tuple[SpaceNeed, ...]:
        """Add the volumes of one clone, and return what it needs of each of these pools."""
        needed: defaultdict[str, int] = defaultdict(int)
        for duplication in duplications:
            needed[duplication.pool] += duplication.total_bytes
        return tuple(self.add(pools.named(name).pool, total) for name, total in sorted(needed.items()))

    def refuse_lack(self, advice: str) -> None:
        """Compare what will be written with what there is; an old figure is not enough to refuse.

        Pools of one size may be on one file system, whose space they share. If it could be too little, libvirt looks
        again, and those that have the same size and the same space left are taken to be.

        Args:
            advice: What to do if there is too little.

        Raises:
            NoSpaceError: There is too little.
        """
        if sum(self._needed.values()) <= min(self._available.values(), default=0):
            return
        for group in _grouped(self._pools.values(), Pool.capacity_bytes):
            if self._total(group) <= min(pool.available_bytes() for pool in group):
                continue
            for pool in group:
                pool.refresh()
            for sharing in _grouped(group, _size):
                available, total = sharing[0].available_bytes(), self._total(sharing)
                if available < total:
                    raise _lack(sharing, available, total, advice)

    def _total(self, pools: Iterable[Pool]) -> int:
        return sum(self._needed[pool.name] for pool in pools)


def _grouped(pools: Iterable[Pool], key: Callable[[Pool], Hashable]) -> list[list[Pool]]:
    groups: defaultdict[Hashable, list[Pool]] = defaultdict(list)
    for pool in pools:
        groups[key(pool)].append(pool)
    return list(groups.values())


def _size(pool: Pool) -> tuple[int, int]:
    return pool.capacity_bytes(), pool.available_bytes()


def _lack(pools: list[Pool], available: int, total: int, advice: str) -> NoSpaceError:
    names = ", ".join(f"'{pool.name}'" for pool in pools)
    where = f"storage pool {names} has" if len(pools) == 1 else f"storage pools {names} share a file system that has"
    return NoSpaceError(
        f"{where} {available} bytes left, and {total} are needed",
        hint=advice,
    )
