"""The storage pools that a run makes over directories that are none, for as long as it needs them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition.volume import directory_pool_document
from virtomate.errors import ConflictError
from virtomate.hypervisor.storage import find_pool, start_transient_pool
from virtomate.paths import normalise
from virtomate.services.storage.pools import TEMPORARY_POOL_PREFIX

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool

# libvirt refuses a second pool with the same target path, but compares paths as text (9.0). A path
# may have 4,096 bytes, and a repetition takes two.
_MAX_REPETITIONS = 1000
_SPELLING_ATTEMPTS = 20


class TemporaryPools:
    """One transient pool for each directory, shared by all that a run does there; several threads use it.

    A clone that is being made holds the pool of a directory from before it is started until it has no need of it;
    whoever lets go last stops it. So there is always an unfinished clone whose journal names a pool that a killed run
    leaves behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[str, int] = {}
        self._uuids: dict[str, str] = {}

    def name(self, directory: str) -> str:
        """Return the name that the directory's pool has, or will have."""
        with self._lock:
            return temporary_pool_name(self._uuid(directory))

    def has(self, name: str) -> bool:
        """Return whether a pool is one of these."""
        with self._lock:
            return name in map(temporary_pool_name, self._uuids.values())

    def hold(self, directory: str) -> None:
        """See to it that the directory's pool is not stopped until `let_go`."""
        with self._lock:
            self._holders[directory] = self._holders.get(directory, 0) + 1

    def start(self, connection: Connection, directory: str) -> Pool:
        """Return the running pool of a directory; it is started when it is first needed.

        Raises:
            HypervisorError: The directory cannot be read.
        """
        with self._lock:
            return start_temporary_pool(connection, self._uuid(directory), directory)

    def let_go(self, connection: Connection, directory: str) -> None:
        """Stop the directory's pool if nobody else holds it.

        Raises:
            VirtomateError: It cannot be stopped, and is still held.
        """
        with self._lock:
            if self._holders[directory] == 1:
                _stop(connection, self._uuid(directory))
            self._holders[directory] -= 1

    def stop(self, connection: Connection) -> None:
        """Stop all of them, whoever holds them.

        Raises:
            VirtomateError: One cannot be stopped.
        """
        with self._lock:
            for uuid in self._uuids.values():
                _stop(connection, uuid)

    def _uuid(self, directory: str) -> str:
        return self._uuids.setdefault(normalise(directory), str(uuid4()))


def temporary_pool_name(uuid: str) -> str:
    """Return the name of the temporary pool that a UUID stands for."""
    return f"{TEMPORARY_POOL_PREFIX}{uuid}"


def start_temporary_pool(connection: Connection, uuid: str, directory: str) -> Pool:
    """Start the temporary pool that a UUID stands for over a directory; whoever calls stops it again.

    Its spelling of the directory is its own, so that runs side by side do not get in each other's way. One that is
    there already is used again.

    Raises:
        HypervisorError: The directory cannot be read.
    """
    name = temporary_pool_name(uuid)
    for attempt in range(_SPELLING_ATTEMPTS):
        not_carried_over = find_pool(connection, name)
        if not_carried_over is not None:
            return not_carried_over
        spelling = normalise(directory) + "/." * (1 + int.from_bytes(os.urandom(2)) % _MAX_REPETITIONS)
        try:
            return start_transient_pool(connection, name, directory_pool_document(name, spelling))
        except ConflictError:
            if attempt == _SPELLING_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _stop(connection: Connection, uuid: str) -> None:
    pool = find_pool(connection, temporary_pool_name(uuid))
    if pool is not None:
        pool.stop()
