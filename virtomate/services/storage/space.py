"""The space that new volumes need, compared with the free space of their pools.

libvirt counts the space of a pool when it refreshes the pool, and adds and subtracts the volumes that it makes and
deletes. It does not count what guests write, or what others copy into a volume; and since it subtracts all that a
deleted volume takes, the sum may fall below zero. So if a pool's file system can be seen here, that is asked. What
limits new files there may be a quota of their directory, or the inodes that are left.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

from virtomate.errors import NoSpaceError
from virtomate.services.storage.backend import PoolSpace
from virtomate.services.storage.block_pools import LOGICAL, rounded_to_extents
from virtomate.services.storage.file_pools import backend_of
from virtomate.services.storage.pools import is_temporary
from virtomate.tuples import NamedTuple
from virtomate.words import binary_size, counted, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from virtomate.definition.volume import PoolDescription, VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage.pools import PoolIndex

# A refresh takes a while where there are many volumes, so figures that leave this many times the need are believed.
_AMPLE = 2

# How many volumes of a volume group are looked at, to guess the size of its extents.
_SAMPLES = 8

_ADVICE_ON_DEVICES = "Make room in the volume group, or choose another pool."


class SpaceNeed(NamedTuple):
    """The space that one clone needs in a pool, and all clones of the run together, and the pool's free space.

    Attributes:
        directory: The directory of a temporary pool, which is over a directory in no storage pool; else None.
    """

    pool: str | None
    needed_bytes: int
    available_bytes: int
    total_needed_bytes: int
    directory: str | None = None

    @property
    def told(self) -> SpaceNeed:
        """The need as users are told of it, without the name of a temporary pool."""
        return self if self.directory is None else self._replace(pool=None)


def counted_space(pool: Pool) -> PoolSpace:
    """Return the space of a pool as libvirt counts it."""
    info = pool.info()
    return PoolSpace(info.capacity, info.allocation, info.available)


class SpaceLedger:
    """What new volumes will take of the pools that they go to, added up; a local daemon's pools may be seen here."""

    def __init__(self, *, is_local: bool) -> None:
        self._is_local = is_local
        self._pools: dict[str, Pool] = {}
        self._spaces: dict[str, PoolSpace] = {}
        self._needed: defaultdict[str, int] = defaultdict(int)
        self._files: defaultdict[str, int] = defaultdict(int)
        self._directories: dict[str, str] = {}
        self._alone: set[str] = set()
        self._of_devices: set[str] = set()

    def add(
        self,
        pool: Pool,
        description: PoolDescription,
        needed_bytes: int,
        known: Iterable[VolumeDescription] = (),
        files: int = 1,
    ) -> SpaceNeed:
        """Add the bytes that will be written to an active pool; return them with what the pool has left.

        `known` are volumes of any pools, as they are, and `files` is the number of new files.
        """
        self._needed[pool.name] += needed_bytes
        self._files[pool.name] += files
        if pool.name not in self._pools:
            self._pools[pool.name] = pool
            space = backend_of(description).seen_space(pool, description, known) if self._is_local else None
            self._spaces[pool.name] = space or counted_space(pool)
            if backend_of(description).makes_devices:
                self._of_devices.add(pool.name)
            if is_temporary(pool.name) and description.path is not None:
                self._directories[pool.name] = description.path
            if description.type == LOGICAL:
                self._alone.add(pool.name)
        available, total = self._spaces[pool.name].available, self._needed[pool.name]
        return SpaceNeed(pool.name, needed_bytes, available, total, self._directories.get(pool.name))

    def add_clone(
        self,
        duplications: Iterable[Duplication],
        pools: PoolIndex,
        others: Iterable[tuple[str, int]] = (),
        *,
        is_crossing: bool = False,
    ) -> tuple[SpaceNeed, ...]:
        """Add the volumes of one clone, and return what it needs of each of these pools.

        `others` are volumes that are no duplicates: the pool and the bytes of each. A clone that is crossing has its
        originals on another host, whose pools may have the names of these pools.
        """
        needed: defaultdict[str, list[int]] = defaultdict(list)
        for name, size in others:
            needed[name].append(size)
        known: list[VolumeDescription] = []
        for duplication in duplications:
            needed[duplication.place.pool].append(_taken(duplication, pools))
            known += () if is_crossing else (duplication.source,)
        entries = [(pools.named(name), sizes) for name, sizes in sorted(needed.items())]
        return tuple(self.add(to.pool, to.description, sum(sizes), known, len(sizes)) for to, sizes in entries)

    def up_to_date(self, needs: Iterable[SpaceNeed]) -> tuple[SpaceNeed, ...]:
        """Return the needs of a clone with what all clones need, and what the pools have left, by now."""
        return tuple(
            need._replace(available_bytes=self._spaces[name].available, total_needed_bytes=self._needed[name])
            for need in needs
            if (name := need.pool) is not None
        )

    def refuse_lack(self, advice: str, purpose: str = "") -> None:
        """Compare what will be written with the free space; before a refusal, libvirt counts again.

        Pools whose file systems cannot be told apart share one if they have the same size and the same free space.

        Args:
            advice: What to do if there is too little.
            purpose: What the space is for, where that is not plain.

        Raises:
            NoSpaceError: There is too little.
        """
        for same_size in _groups(self._pools, lambda one, other: self._size(one) == self._size(other)):
            ample = _AMPLE * self._total(same_size)
            for name in same_size:
                if self._is_doubtful(name, ample):
                    self._pools[name].refresh()
                    self._spaces[name] = counted_space(self._pools[name])
        quotas = [name for name, space in self._spaces.items() if space.seen is not None and space.seen.has_quota]
        for sharing in _groups(quotas, self._share_quota):
            available, total = min(self._spaces[name].available for name in sharing), self._total(sharing)
            if available < total:
                who_has = f"a quota for {self._named(sharing)} has"
                raise _lack(who_has, available, total, f"Raise the quota, or: {advice}", purpose)
        for sharing in _groups(self._pools, self._are_shared):
            available, total = min(self._whole(name) for name in sharing), self._total(sharing)
            if available < total:
                has = "has" if len(sharing) == 1 else "share a file system that has"
                cure = _ADVICE_ON_DEVICES if self._of_devices.intersection(sharing) else advice
                raise _lack(f"{self._named(sharing)} {has}", available, total, cure, purpose)
            self._refuse_lack_of_files(sharing)

    def _refuse_lack_of_files(self, sharing: list[str]) -> None:
        files = sum(self._files[name] for name in sharing)
        known = [space.seen for space in (self._spaces[name] for name in sharing) if space.seen is not None]
        free = min((space.free_files for space in known if space.free_files is not None), default=files)
        if free < files:
            raise NoSpaceError(
                f"the file system of {self._named(sharing)} has inodes for {counted(free, 'more file')}, and "
                f"{files} are needed",
                hint="Delete files there, or choose another pool.",
            )

    def _named(self, names: list[str]) -> str:
        """Return how a sentence calls storage pools, and directories in no storage pool."""
        named = [f"directory '{self._directories[name]}'" for name in names if name in self._directories]
        if pools := [name for name in names if name not in self._directories]:
            named.insert(0, f"storage pool{'s' if len(pools) > 1 else ''} {quoted(pools)}")
        return " and ".join(named)

    def _size(self, name: str) -> int:
        return self._spaces[name].capacity

    def _whole(self, name: str) -> int:
        """Return what is left of the whole file system of a pool."""
        space = self._spaces[name]
        return space.available if space.seen is None else space.seen.whole

    def _total(self, names: Iterable[str]) -> int:
        return sum(self._needed[name] for name in names)

    def _is_doubtful(self, name: str, ample: int) -> bool:
        """Return whether libvirt should count again; for an empty pool that costs nothing."""
        space = self._spaces[name]
        if space.seen is not None or not ample:
            return False
        return space.is_impossible or space.available < ample or self._pools[name].volume_count() == 0

    def _are_shared(self, name: str, other_name: str) -> bool:
        """Return whether two pools are on one file system; a volume group is one pool, and nothing else is in it."""
        if not self._alone.isdisjoint((name, other_name)):
            return name == other_name
        one, other = self._spaces[name], self._spaces[other_name]
        if one.seen is None or other.seen is None:
            return (one.capacity, one.allocation) == (other.capacity, other.allocation)
        return one.seen.file_system == other.seen.file_system

    def _share_quota(self, name: str, other_name: str) -> bool:
        """Return whether one quota limits two pools: the figures of two quotas are hardly ever the same."""
        one, other = self._spaces[name], self._spaces[other_name]
        return self._are_shared(name, other_name) and one[:2] == other[:2]


def _taken(duplication: Duplication, pools: PoolIndex) -> int:
    """Return the bytes that a new volume takes of its pool."""
    needed = duplication.needed_bytes
    if not duplication.to_device:
        return needed
    pool = pools.named(duplication.place.pool).pool
    volumes = [volume.allocation_bytes() for volume in islice(pool.list_volumes(), _SAMPLES)]
    return rounded_to_extents(needed, (*counted_space(pool)[:3], *volumes))


def _groups(names: Iterable[str], belong_together: Callable[[str, str], bool]) -> list[list[str]]:
    groups: list[list[str]] = []
    for name in names:
        group = next((group for group in groups if belong_together(group[0], name)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def _lack(who_has: str, available: int, total: int, advice: str, purpose: str) -> NoSpaceError:
    has, needed = binary_size(available), binary_size(total)
    if has == needed:
        has, needed = f"{available} bytes", f"{total} bytes"
    return NoSpaceError(f"{who_has} {has} free; {needed} are needed{purpose}", hint=advice)
