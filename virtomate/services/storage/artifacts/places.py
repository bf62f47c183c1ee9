"""The storage pool of an artifact, also of one that was made in a temporary pool, which is gone since."""

from __future__ import annotations

import posixpath
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.definition.volume import PoolDescription
from virtomate.services.storage.directories import refuse_devices
from virtomate.services.storage.pools import PoolEntry, find_entry, is_temporary
from virtomate.services.storage.temporary_pools import new_pool_name, start_temporary_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.provenance import Artifact
    from virtomate.hypervisor.connection import Connection


@contextmanager
def pool_of(connection: Connection, made: Artifact) -> Iterator[PoolEntry | None]:
    """The storage pool of an artifact, None if the pool is not there.

    A temporary pool that is gone is replaced by another one over the directory, see `over_directory_of`.
    """
    known = find_entry(connection, made.pool)
    if known is not None or not is_temporary(made.pool):
        yield known
        return
    with over_directory_of(connection, made) as known:
        yield known


@contextmanager
def over_directory_of(connection: Connection, made: Artifact) -> Iterator[PoolEntry]:
    """A temporary pool over the directory of an artifact, see `over_directory`."""
    with over_directory(connection, posixpath.dirname(made.path)) as known:
        yield known


@contextmanager
def over_directory(connection: Connection, directory: str) -> Iterator[PoolEntry]:
    """A temporary pool over a directory.

    Raises:
        UnsupportedError: No pool can be started over the directory.
        HypervisorError: libvirt cannot read the directory.
    """
    # whoever may define a domain can write any path into its record
    refuse_devices(directory, is_local=connection.is_local)
    pool = start_temporary_pool(connection, new_pool_name(), directory)
    try:
        yield PoolEntry(pool, PoolDescription(pool.name, "dir", directory), is_active=True)
    finally:
        pool.stop()
