"""The pools of a connection, and the volumes in them."""

from __future__ import annotations

import logging
import posixpath
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken, backoff
from virtomate.definition.volume import PoolDescription, VolumeDescription, describe_pool, describe_volume
from virtomate.errors import IllegalStateError, NotFoundError, UnsupportedError, VirtomateError
from virtomate.hypervisor.storage import find_pool, get_pool, list_pools
from virtomate.paths import normalise
from virtomate.services.storage.block_pools import SCATTERED_POOLS
from virtomate.services.storage.directories import directory_identity, refuse_devices
from virtomate.services.storage.file_pools import FILE_POOLS, backend_of, require_new_files
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.hypervisor.storage import Pool, Volume
    from virtomate.services.storage.backend import StorageBackend

_LOG = logging.getLogger(__name__)

# The beginning of the names of temporary pools, by which they are known after a crash.
TEMPORARY_POOL_PREFIX = "virtomate-clone-"

# How long a plan waits for libvirt, which does not refresh a pool while it builds something in it.
_BUSY_SECONDS = 5


class PoolEntry(NamedTuple):
    """A pool, and what its document says."""

    pool: Pool
    description: PoolDescription
    is_active: bool

    @property
    def backend(self) -> StorageBackend:
        """What knows pools of its kind."""
        return backend_of(self.description)


class FoundVolume(NamedTuple):
    """A volume, and what its document says."""

    volume: Volume
    pool: Pool
    description: VolumeDescription


class PoolIndex:
    """All pools of a connection, except temporary ones, as they were when the index was read.

    libvirt's own look-up by path is not used: it may answer with the temporary pool of another run, which vanishes when
    that run ends.

    Args:
        connection: The connection.
        pools: Its pools.
        open_directory: Starts a temporary pool over a directory that no active pool covers; None if files in such
            directories are refused.
    """

    def __init__(
        self,
        connection: Connection,
        pools: Iterable[PoolEntry],
        open_directory: Callable[[str], Pool] | None = None,
    ) -> None:
        self._connection = connection
        self._open_directory = open_directory
        self._opened: list[PoolEntry] = []
        self.known = tuple(known for known in pools if not is_temporary(known.pool.name))

    def opening(self, open_directory: Callable[[str], Pool] | None) -> PoolIndex:
        """Return an index of the same pools that starts temporary pools by this function."""
        return PoolIndex(self._connection, self.known, open_directory)

    def find(self, name: str) -> PoolEntry | None:
        """Return the pool with a name, active or not; also a temporary pool that the index has started."""
        return next((known for known in (*self.known, *self._opened) if known.pool.name == name), None)

    def named(self, name: str) -> PoolEntry:
        """Return the active pool with a name; raise NotFoundError or IllegalStateError if there is none."""
        known = self.find(name)
        if known is None:
            names = [known.pool.name for known in self.known]
            raise self._connection.missing("storage pool", name, lambda: names, "pool-list")
        if not known.is_active:
            raise _inactive(name)
        return known

    def directory_of(self, name: str) -> str | None:
        """Return the normalised path of a pool's directory by the pool's name, None where there is none."""
        known = self.find(name)
        return None if known is None else known.description.path

    def path_of(self, pool_name: str, volume_name: str) -> str | None:
        """Return the path of a volume by its name, if its pool has a directory."""
        known = self.find(pool_name)
        return None if known is None else known.backend.path_of(known.description, volume_name)

    def for_new_volumes(self, name: str) -> PoolEntry:
        """Return the active pool with a name; raise UnsupportedError if libvirt makes no volumes there; see `named`."""
        known = self.named(name)
        known.backend.require_new_volumes(known.description)
        return known

    def for_new_files(self, name: str) -> PoolEntry:
        """Return the active pool with a name, or raise UnsupportedError if its volumes are not files; see `named`."""
        known = self.named(name)
        require_new_files(known.description)
        return known

    def covering(self, directory: str) -> PoolEntry | None:
        """Return a pool over a directory, an active one if there is any."""
        return next(iter(self._all_covering(directory)), None)

    def find_path(self, path: str) -> FoundVolume:
        """Return the volume with a path, which may have another spelling of the path.

        Raises:
            IllegalStateError: The directory is in no active storage pool, and no temporary pool is to be started.
            NotFoundError: There is no such file.
            HypervisorError: libvirt cannot read the directory.
        """
        directory, name = posixpath.split(normalise(path))
        pools = self._all_covering(directory)
        if not any(known.is_active for known in pools):
            same = self._same_directory(directory)
            if same is None and self._open_directory is not None:
                same = self._open(self._open_directory, directory)
            if same is not None:
                return self._find(same, name, path)
        if not pools:
            define = virsh("pool-define-as", "NAME", "dir", options=f"--target {shell_word(directory)}")
            raise IllegalStateError(
                f"'{path}' is in no storage pool",
                hint=f"Make its directory a storage pool: {define}; {virsh('pool-start', 'NAME')}",
            )
        if not pools[0].is_active:
            raise _inactive(pools[0].pool.name)
        for known in pools[1:]:
            # of two pools over one directory, the first may not have looked at it for a while
            if known.is_active and pools[0].pool.find_volume(name) is None and known.pool.find_volume(name) is not None:
                return self._find(known, name, path)
        return self._find(pools[0], name, path)

    def _all_covering(self, directory: str) -> list[PoolEntry]:
        """Return the pools over a directory, active ones first."""
        pools = (*self.known, *self._opened)
        covering = [
            known
            for known in pools
            if known.description.path == normalise(directory) and known.description.type not in SCATTERED_POOLS
        ]
        return sorted(covering, key=lambda known: (not known.is_active, known.pool.name))

    def _same_directory(self, directory: str) -> PoolEntry | None:
        """Return the active pool over a directory under another spelling, if directories can be compared here."""
        if not self._connection.is_local or (identity := directory_identity(directory)) is None:
            return None
        for known in (*self.known, *self._opened):
            path = known.description.path
            has_files = known.is_active and known.description.type in FILE_POOLS
            if has_files and path is not None and directory_identity(path) == identity:
                return known
        return None

    def _open(self, open_directory: Callable[[str], Pool], directory: str) -> PoolEntry:
        refuse_devices(directory, is_local=self._connection.is_local)
        known = _entry(open_directory(directory))
        self._opened.append(known)
        return known

    def is_same_file(self, one: str, other: str) -> bool:
        """Return whether two paths are one, or two spellings of one path, as far as that can be seen here."""
        (directory, name), (other_directory, other_name) = map(posixpath.split, map(normalise, (one, other)))
        if name != other_name or directory == other_directory or not self._connection.is_local:
            return name == other_name and directory == other_directory
        identity = directory_identity(directory)
        return identity is not None and identity == directory_identity(other_directory)

    def find_named(self, pool_name: str, volume_name: str) -> FoundVolume:
        """Return the volume with a name, or raise NotFoundError; for the pool see `named`."""
        return self._find(self.named(pool_name), volume_name, volume_name)

    @staticmethod
    def _find(known: PoolEntry, name: str, what: str) -> FoundVolume:
        found = find_volume(known.pool, name, _BUSY_SECONDS)
        if found is None:
            if is_temporary(known.pool.name):
                raise NotFoundError(f"there is no file '{what}'")
            raise NotFoundError(f"there is no volume '{what}' in pool '{known.pool.name}'")
        return found


def is_temporary(name: str) -> bool:
    """Return whether a pool's name is that of a temporary pool."""
    return name.startswith(TEMPORARY_POOL_PREFIX)


def read_pools(connection: Connection) -> PoolIndex:
    """Read all pools once; a pool that vanishes meanwhile is ignored."""
    known = []
    for pool in list_pools(connection):
        with suppress(NotFoundError):
            known.append(_entry(pool))
    return PoolIndex(connection, known)


def find_entry(connection: Connection, name: str) -> PoolEntry | None:
    """Return the pool with this name as it is now, also a temporary one."""
    pool = find_pool(connection, name)
    return None if pool is None else _entry(pool)


def _entry(pool: Pool) -> PoolEntry:
    return PoolEntry(pool, describe_pool(pool.document()), pool.is_active())


def get_active_pool(connection: Connection, name: str) -> Pool:
    """Return the pool with this name; raise NotFoundError if there is none, IllegalStateError if it is not active."""
    pool = get_pool(connection, name)
    if not pool.is_active():
        raise _inactive(name)
    return pool


def find_volume(pool: Pool, name: str, seconds: float = 0) -> FoundVolume | None:
    """Return the volume with a name, if need be after a refresh of the pool; None if there is none.

    libvirt does not refresh a pool in which it is building something: wait so many seconds for that.
    """
    volume = pool.find_volume(name)
    if volume is None:
        for _ in backoff(seconds):
            is_fresh = pool.refresh()
            volume = pool.find_volume(name)
            if is_fresh or volume is not None:
                break
    if volume is None:
        return None
    try:
        return describe(pool, volume)
    except NotFoundError:
        # the pool remembers it, but the file is gone
        return None


def describe(pool: Pool, volume: Volume) -> FoundVolume:
    """Return a volume with its description."""
    return FoundVolume(volume, pool, describe_volume(pool.name, volume.document()))


def _inactive(name: str) -> IllegalStateError:
    start = virsh("pool-start", name)
    return IllegalStateError(f"storage pool '{name}' is not active", hint=f"Start the pool: {start}")


def refresh_when_idle(pool: Pool, cancel: CancelToken | None = None) -> bool:
    """Refresh a pool, waiting a while for what libvirt is building there; return whether libvirt has refreshed it."""
    return any(pool.refresh() for _ in backoff(_BUSY_SECONDS, cancel))


def with_known_format(name: str, found: FoundVolume, format_: str) -> FoundVolume:
    """Return a volume of the domain with a name, read again if libvirt remembers another format than the definition's.

    Raises:
        IllegalStateError: libvirt cannot look again now.
        UnsupportedError: The volume has another format.
    """
    if format_ in {"raw", found.description.format}:
        return found
    has_looked = refresh_when_idle(found.pool)
    volume = found.pool.find_volume(found.volume.name)
    again = found if volume is None else describe(found.pool, volume)
    path, format_now = found.description.path, again.description.format
    if format_now == format_:
        return again
    if not has_looked:
        raise IllegalStateError(
            f"libvirt takes '{path}' for {format_now} and not for {format_}, and cannot look again while something is "
            f"being built in storage pool '{found.pool.name}'",
            hint="Try again when that is done.",
        )
    raise UnsupportedError(
        f"'{path}' is {format_now}, but the definition calls it {format_}",
        hint=f"Put that right first: {virsh('edit', name)}",
    )


def refresh_all(session: Session, names: Iterable[str]) -> None:
    """Refresh pools at the end of a run; a refresh that fails is logged."""
    for name in sorted(names):
        with best_effort(f"refreshing storage pool '{name}'"):
            get_pool(session.connection, name).refresh()


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Log any failure of work that no result depends on: the results of a run must be told whatever happens."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it is logged
        # without --log, Python itself would write a warning to stderr, where JSON may be promised
        _LOG.info("%s failed: %s", what, error, exc_info=not isinstance(error, VirtomateError))
