"""Removal of what cloning made, and of nothing else."""

from __future__ import annotations

import posixpath
import time
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition.provenance import read_provenance
from virtomate.definition.volume import normalise
from virtomate.duplication.evidence import is_same, is_younger, observe
from virtomate.errors import ConflictError, IllegalStateError, NotFoundError
from virtomate.hypervisor.domains import list_domains
from virtomate.hypervisor.storage import delete_when_idle, find_pool
from virtomate.records import MadeKind
from virtomate.services.pools import TEMPORARY_POOL_PREFIX, FoundVolume, find_volume, start_temporary_pool

if TYPE_CHECKING:
    from collections.abc import Callable

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
        if not made.pool.startswith(TEMPORARY_POOL_PREFIX):
            raise ConflictError("that is not the name of a temporary pool")
        if pool is None:
            return False
        pool.stop()
        return True
    if pool is not None:
        return _remove_volume(connection, pool, made, claim, wait)
    if made.kind is not MadeKind.NVRAM:
        raise IllegalStateError(f"its storage pool '{made.pool}' is not there")
    # it was made in a temporary pool, which is gone by now
    pool = start_temporary_pool(connection, claim.uuid, posixpath.dirname(made.path))
    try:
        return _remove_volume(connection, pool, made, claim, wait)
    finally:
        pool.stop()


def _remove_volume(
    connection: Connection, pool: Pool, made: Made, claim: Provenance, wait: Callable[[VirtomateError], None]
) -> bool:
    if not pool.is_active():
        raise IllegalStateError(f"its storage pool '{made.pool}' is not active")

    def find() -> Volume | None:
        found = _find_steady(pool, made)
        if found is None:
            return None
        if found.description.path != made.path:
            raise ConflictError(f"storage pool '{made.pool}' is over another directory now")
        if made.evidence is not None:
            if not is_same(made.evidence, found.description):
                raise ConflictError("it is not certainly the one that cloning made, and is left alone")
        elif not is_younger(found.description, claim.created):
            raise ConflictError("it is older than the clone, and is left alone")
        elif (user := _find_user(connection, made, claim)) is not None:
            raise ConflictError(f"domain '{user}' uses it, and it is left alone")
        return found.volume

    if find() is None:
        return False
    delete_when_idle(find, wait)
    return True


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


def _find_user(connection: Connection, made: Made, claim: Provenance) -> str | None:
    """Another domain that names the volume, or whose cloning made it; there is no evidence, so any will do."""
    for domain in list_domains(connection):
        if domain.uuid == claim.uuid:
            continue
        try:
            definition = codec.parse_definition(domain.inactive_definition_without_secrets())
        except NotFoundError:
            continue
        nvram = readers.nvram(definition.domain)
        provenance = read_provenance(definition)
        paths = {disk.path for disk in readers.disks(definition.domain)} | {nvram.path if nvram is not None else None}
        paths |= {other.path for other in (provenance.made if provenance is not None and provenance.finished else ())}
        names = {(disk.pool, disk.volume) for disk in readers.disks(definition.domain)}
        if (made.pool, made.volume) in names or made.path in {normalise(path) for path in paths if path}:
            return domain.name
    return None
