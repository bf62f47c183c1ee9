"""Removal of what cloning made, and of nothing else."""

from __future__ import annotations

import posixpath
import time
from typing import TYPE_CHECKING

from virtomate.duplication.evidence import is_same, is_younger
from virtomate.errors import ConflictError, IllegalStateError
from virtomate.hypervisor.storage import delete_when_idle, find_pool
from virtomate.records import MadeKind
from virtomate.services.pools import find_volume, start_temporary_pool, temporary_pool_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool, Volume
    from virtomate.records import Made, Provenance

_INTERVAL_SECONDS = 0.2


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


def remove_made(connection: Connection, made: Made, claim: Provenance, wait: Callable[[VirtomateError], None]) -> bool:
    """Remove one thing that cloning made.

    Args:
        connection: Where it is.
        made: What it is, with its evidence if it is known to have been made.
        claim: The record that it stands in.
        wait: Waits a moment for libvirt, which is still building it, or raises the error that it is given.

    Returns:
        Whether it was there; what was only planned may never have been made.

    Raises:
        ConflictError: Something else has its name; that is left alone.
        VirtomateError: It cannot be removed.
    """
    pool = find_pool(connection, made.pool)
    if made.kind is MadeKind.POOL:
        if made.pool != temporary_pool_name(claim.uuid):
            raise ConflictError("that is not the name of this clone's temporary pool")
        if pool is None:
            return False
        pool.stop()
        return True
    if pool is not None:
        return _remove_volume(pool, made, claim, wait)
    if made.kind is not MadeKind.NVRAM:
        raise IllegalStateError(f"its storage pool '{made.pool}' is not there")
    # it was made in a temporary pool, which is gone by now
    pool = start_temporary_pool(connection, claim.uuid, posixpath.dirname(made.path))
    try:
        return _remove_volume(pool, made, claim, wait)
    finally:
        pool.stop()


def _remove_volume(pool: Pool, made: Made, claim: Provenance, wait: Callable[[VirtomateError], None]) -> bool:
    if not pool.is_active():
        raise IllegalStateError(f"its storage pool '{made.pool}' is not active")
    volume_name = posixpath.basename(made.path)

    def find() -> Volume | None:
        found = find_volume(pool, volume_name)
        if found is None:
            return None
        if made.evidence is None and not is_younger(found.description, claim.created):
            raise ConflictError("it is older than the clone and left alone")
        if made.evidence is not None and not is_same(made.evidence, found.description):
            raise ConflictError("another file has taken its place and is left alone")
        return found.volume

    if find() is None:
        return False
    delete_when_idle(find, wait)
    return True
