"""The storage pools that a run makes over directories that are none, for as long as it needs them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from virtomate.hypervisor.storage import find_pool
from virtomate.services.identities import new_uuid
from virtomate.services.pools import start_temporary_pool, temporary_pool_name

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool


class TemporaryPools:
    """One transient pool for each directory, shared by the clones of a run.

    A clone holds the pool of a directory from before it is started until it has no need of it; whoever lets go last
    stops it. So there is always an unfinished clone whose journal names a pool that a killed run leaves behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[str, int] = {}
        self._uuids: dict[str, str] = {}

    def name(self, directory: str) -> str:
        """The name that the directory's pool has, or will have."""
        with self._lock:
            return temporary_pool_name(self._uuids.setdefault(directory, new_uuid()))

    def hold(self, directory: str) -> None:
        """See to it that the directory's pool is not stopped until `let_go`."""
        with self._lock:
            self._holders[directory] = self._holders.get(directory, 0) + 1

    def start(self, connection: Connection, directory: str) -> Pool:
        """The running pool of a directory that is held.

        Raises:
            HypervisorError: The directory cannot be read.
        """
        with self._lock:
            return start_temporary_pool(connection, self._uuids.setdefault(directory, new_uuid()), directory)

    def let_go(self, connection: Connection, directory: str) -> None:
        """Stop the directory's pool if nobody else holds it.

        Raises:
            VirtomateError: It cannot be stopped.
        """
        with self._lock:
            self._holders[directory] -= 1
            if self._holders[directory] == 0:
                pool = find_pool(connection, temporary_pool_name(self._uuids[directory]))
                if pool is not None:
                    pool.stop()
