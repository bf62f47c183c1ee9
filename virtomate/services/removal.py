"""Removal of what cloning made, and of nothing else."""

from __future__ import annotations

import posixpath
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtomate.duplication.evidence import is_same, is_younger, observe
from virtomate.errors import ConflictError, IllegalStateError
from virtomate.hypervisor.storage import delete_when_idle, find_pool
from virtomate.kinds import MadeKind
from virtomate.services.pools import TEMPORARY_POOL_PREFIX, FoundVolume, find_volume
from virtomate.services.storage import scan_references
from virtomate.services.temporary_pools import start_temporary_pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.definition.volume import VolumeDescription
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool, Volume
    from virtomate.records import Made, Provenance

_INTERVAL_SECONDS = 0.2
_LOOKS = 5


def name_made(made: Made) -> str:
    """A phrase that names something cloning made."""
    if made.kind is MadeKind.POOL:
        return f"temporary storage pool '{made.pool}'"
    what = "NVRAM" if made.kind is MadeKind.NVRAM else "volume"
    return f"{what} '{made.path}'"


def wait_at_most(seconds: float) -> Callable[[VirtomateError], None]:
    """What waits for libvirt, and loses patience after that time."""
    deadline = time.monotonic() + seconds

    def wait(error: VirtomateError) -> None:
        if time.monotonic() >= deadline:
            raise error
        time.sleep(_INTERVAL_SECONDS)

    return wait


def remove_made(
    connection: Connection,
    made: Made,
    claim: Provenance,
    wait: Callable[[VirtomateError], None],
    *,
    pool_over: Callable[[str], Pool] | None = None,
    user_of: Callable[[Made], str | None] | None = None,
) -> bool:
    """Remove one thing that cloning made.

    Args:
        connection: Where it is.
        made: What it is, with its evidence if it is known to have been made.
        claim: The record that it stands in.
        wait: Waits a moment for libvirt, which is still building it, or raises the error that it is given.
        pool_over: Gives a pool over a directory that is none, and keeps it; without it one is made for the moment.
        user_of: Tells in a sentence who uses it; without it all domains and volumes are looked at.

    Returns:
        Whether it was there; what was only planned may never have been made.

    Raises:
        ConflictError: Something else has its name; that is left alone.
        VirtomateError: It cannot be removed.
    """
    pool = find_pool(connection, made.pool)
    if made.kind is MadeKind.POOL:
        if not made.pool.startswith(TEMPORARY_POOL_PREFIX):
            raise ConflictError("that is not the name of a temporary pool")
        if pool is None:
            return False
        pool.stop()
        return True
    removal = _Removal(connection, made, claim, wait, user_of)
    if pool is not None:
        return removal.carry_out(pool)
    if made.kind is not MadeKind.NVRAM:
        raise IllegalStateError(f"its storage pool '{made.pool}' is not there")
    # it was made in a temporary pool, which is gone by now
    directory = posixpath.dirname(made.path)
    if pool_over is not None:
        return removal.carry_out(pool_over(directory))
    pool = start_temporary_pool(connection, claim.uuid, directory)
    try:
        return removal.carry_out(pool)
    finally:
        pool.stop()


@dataclass(frozen=True)
class _Removal:
    """The removal of one volume from a pool that has it."""

    connection: Connection
    made: Made
    claim: Provenance
    wait: Callable[[VirtomateError], None]
    user_of: Callable[[Made], str | None] | None

    def carry_out(self, pool: Pool) -> bool:
        """Remove it if it is there and is the one that cloning made."""
        if not pool.is_active():
            raise IllegalStateError(f"its storage pool '{self.made.pool}' is not active")
        if self._find(pool) is None:
            return False
        delete_when_idle(lambda: self._find(pool), self.wait)
        return True

    def _find(self, pool: Pool) -> Volume | None:
        found = _find_steady(pool, self.made)
        if found is None:
            return None
        if (objection := object_to(self.made, found.description, self.claim)) is not None:
            raise ConflictError(objection)
        if self.made.evidence is None and (user := self._find_user()) is not None:
            raise ConflictError(f"{user}, and it is left alone")
        return found.volume

    def _find_user(self) -> str | None:
        """Who uses the volume, or was given it when cloning made it; there is no evidence, so any will do."""
        if self.user_of is not None:
            return self.user_of(self.made)
        users = scan_references(self.connection, {self.claim.uuid: (self.made,)}).users(self.made)
        return users[0].says if users else None


def object_to(made: Made, volume: VolumeDescription, claim: Provenance) -> str | None:
    """Why a volume is not to be removed as the one that cloning made, None where it may be."""
    if volume.path != made.path:
        return f"storage pool '{made.pool}' is over another directory now"
    if made.evidence is not None:
        if not is_same(made.evidence, volume):
            return "it is not certainly the one that cloning made, and is left alone"
    elif not is_younger(volume, claim.created):
        return "it is older than the clone, and is left alone"
    return None


def _find_steady(pool: Pool, made: Made) -> FoundVolume | None:
    """The volume; looked at again while it cannot be seen because somebody is just writing to it."""
    found = find_volume(pool, posixpath.basename(made.path))
    for _ in range(_LOOKS):
        is_seen_again = made.evidence is None or made.evidence.inode is None
        if found is None or is_seen_again or observe(found.description).inode is not None:
            break
        time.sleep(_INTERVAL_SECONDS)
        found = find_volume(pool, posixpath.basename(made.path))
    return found
