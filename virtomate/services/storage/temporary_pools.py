"""The storage pools that a run starts over directories that are in none, and stops at its end."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition.provenance import Owner, find_provenance
from virtomate.definition.volume import directory_pool_document
from virtomate.enums import ArtifactKind
from virtomate.errors import ConflictError, HypervisorError, IllegalStateError, NotFoundError, VirtomateError
from virtomate.hypervisor.domains import list_domains
from virtomate.hypervisor.storage import find_pool, list_pools, start_transient_pool
from virtomate.notices import Leftover, Notice, notice
from virtomate.paths import normalise
from virtomate.rollback import persist
from virtomate.services.definitions import Definitions
from virtomate.services.storage.owner import may_be_running, this_process
from virtomate.services.storage.pools import TEMPORARY_POOL_PREFIX, best_effort, is_temporary
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.hypervisor.storage import Pool

# libvirt refuses a second pool with the same target path, but compares paths as text (9.0). A path
# may have 4,096 bytes, and a repetition takes two.
_MAX_REPETITIONS = 1000
_SPELLING_ATTEMPTS = 20


class _Fixed(NamedTuple):
    """What is always one connection, as a session may not be."""

    connection: Connection


class TemporaryPools:
    """One transient pool for each directory, for all that a run does there; one thread at a time uses it.

    Attributes:
        left: The pools that could not be stopped at the end, each a phrase with the reason.
    """

    def __init__(self, session: Session | _Fixed) -> None:
        self._session = session
        self._names: dict[str, str] = {}
        self._elsewhere: TemporaryPools | None = None
        self.left: tuple[Notice, ...] = ()

    @property
    def names(self) -> dict[str, str]:
        """The names of the pools by their directories."""
        return dict(self._names)

    def on(self, session: Session) -> TemporaryPools:
        """Return the temporary pools of the run on the host of a session; these pools stop those of the other host."""
        if session is self._session:
            return self
        if self._elsewhere is None:
            self._elsewhere = TemporaryPools(session)
        return self._elsewhere

    @property
    def at_original(self) -> TemporaryPools:
        """The pools on the host of the original, if `on` was asked for them; otherwise these pools."""
        return self._elsewhere or self

    def name(self, directory: str) -> str:
        """Return the name that the directory's pool has, or will have."""
        return self._names.setdefault(normalise(directory), new_pool_name())

    def over(self, directory: str) -> Pool:
        """Return the running pool of a directory, see `start_temporary_pool`; it is started when it is first needed."""
        if not self._names:
            stop_stale_pools(self._session)
        return start_temporary_pool(self._session.connection, self.name(directory), directory)

    def opener(self, cancel: CancelToken) -> Callable[[str], Pool]:
        """Return what starts the pool of a directory; from the first one on, a signal lets all be stopped."""

        def start(directory: str) -> Pool:
            cancel.begin()
            return self.over(directory)

        return start

    def stop(self) -> None:
        """Stop all of them; `left` tells which could not be stopped."""
        left: list[Notice] = []
        if self._elsewhere is not None:
            self._elsewhere.stop()
            left += self._elsewhere.left
        for name in self._names.values():
            try:
                persist(partial(self._stop, name))
            except Exception as error:  # noqa: BLE001 - the results of the run must be told all the same
                reason = error.message if isinstance(error, VirtomateError) else repr(error)
                left.append(notice(Leftover.UNREMOVED, f"temporary storage pool '{name}'", reason=reason))
        self.left = tuple(left)

    def _stop(self, name: str) -> None:
        if (pool := find_pool(self._session.connection, name)) is not None:
            pool.stop()


@contextmanager
def temporary_pools_on(connection: Connection) -> Iterator[TemporaryPools]:
    """Temporary pools for a look, which are stopped at its end; one that cannot be stopped is left to a later run."""
    pools = TemporaryPools(_Fixed(connection))
    try:
        yield pools
    finally:
        pools.stop()


@contextmanager
def temporary_pools_of(session: Session) -> Iterator[TemporaryPools]:
    """The temporary pools of a run, which are stopped when it ends."""
    pools = TemporaryPools(session)
    try:
        try:
            yield pools
        finally:
            pools.stop()
    except VirtomateError as error:
        if pools.left:
            raise error.adding(leftovers=pools.left) from error
        raise


@contextmanager
def temporary_pools_during(session: Session, done: str) -> Iterator[TemporaryPools]:
    """The same; raise IllegalStateError if one of the pools could not be stopped although all is done."""
    with temporary_pools_of(session) as pools:
        yield pools
    if pools.left:
        raise IllegalStateError(f"{done}, but something is left").adding(leftovers=pools.left)


def new_pool_name() -> str:
    """Return a name for a temporary pool; PID, start and host of its owner stand in it."""
    owner = this_process()
    return f"{TEMPORARY_POOL_PREFIX}{owner.pid}-{owner.started}-{os.urandom(4).hex()}-{owner.host}"


def stop_stale_pools(session: Session | _Fixed) -> None:
    """Stop the temporary pools of processes of this host that are gone, unless an unfinished clone still lists them.

    A failure is logged.
    """
    with best_effort("stopping the temporary storage pools of other runs"):
        connection = session.connection
        stale = [pool for pool in list_pools(connection) if (owner := _owner(pool.name)) and not may_be_running(owner)]
        listed = listed_pools(connection) if stale else frozenset()
        for pool in stale:
            with suppress(VirtomateError):
                if pool.name not in listed and not pool.is_persistent():
                    pool.stop()


def listed_pools(connection: Connection, but: str | None = None) -> frozenset[str]:
    """Return the names of the temporary pools that unfinished clones list: their NVRAM may be looked at only there.

    The list of the clone with the UUID `but` does not count.
    """
    names: set[str] = set()
    for domain in list_domains(connection):
        with suppress(NotFoundError):
            record = find_provenance(Definitions().inactive(domain), domain.uuid)
            if record is not None and not record.finished and record.uuid != but:
                names.update(made.pool for made in record.made if made.kind is ArtifactKind.POOL)
    return frozenset(names)


def _owner(pool_name: str) -> Owner | None:
    """Return whose temporary pool it is; None for other pools, and those of 0.2.0, whose names do not tell."""
    if not is_temporary(pool_name):
        return None
    words = pool_name.removeprefix(TEMPORARY_POOL_PREFIX).split("-", 3)
    try:
        pid, started, _, host = words
        return Owner(host, int(pid), int(started))
    except ValueError:
        return None


def start_temporary_pool(connection: Connection, name: str, directory: str) -> Pool:
    """Start a temporary pool over a directory, or return the pool with that name; the caller stops it.

    The pool has its own spelling of the directory, so that runs side by side do not get in each other's way. Raise
    HypervisorError if the directory cannot be read.
    """
    for attempt in range(_SPELLING_ATTEMPTS):
        if (running := find_pool(connection, name)) is not None:
            return running
        spelling = normalise(directory) + "/." * (1 + int.from_bytes(os.urandom(2)) % _MAX_REPETITIONS)
        try:
            return start_transient_pool(connection, name, directory_pool_document(name, spelling))
        except ConflictError:
            if attempt == _SPELLING_ATTEMPTS - 1:
                raise
        except HypervisorError as error:
            message = error.message.replace(spelling, normalise(directory))
            raise HypervisorError(message, error.hint, code=error.code) from error
    raise AssertionError("unreachable")
