"""Pools whose volumes are files of a directory, and other pools as far as they have one."""

from __future__ import annotations

import os
import posixpath
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

from virtomate.definition.provenance import Fingerprint
from virtomate.definition.volume import describe_volume, volume_document
from virtomate.duplication.file_space import file_system_space
from virtomate.duplication.hostfs import birth_time, visible_status
from virtomate.errors import UnsupportedError, VirtomateError
from virtomate.services.storage.backend import PoolSpace
from virtomate.services.storage.block_pools import BLOCK_POOLS, LOGICAL, BlockPools, LogicalPools

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.provenance import Artifact
    from virtomate.definition.volume import PoolDescription, VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage.backend import StorageBackend

# libvirt makes and reads the volumes of these in one way (https://libvirt.org/storage.html); they differ in how the
# directory gets mounted. In a pool of type vstorage nothing could be tried here.
FILE_POOLS = frozenset({"dir", "fs", "netfs", "vstorage"})
# One volume that a guest writes to just now proves nothing.
_PROOFS = 8


class FilePools:
    """Pools whose volumes are files of a directory."""

    makes_devices = False
    document = staticmethod(volume_document)

    def path_of(self, pool: PoolDescription, volume: str) -> str | None:
        """Return the path below the pool's directory."""
        return None if pool.path is None else posixpath.join(pool.path, volume)

    def require_new_volumes(self, pool: PoolDescription) -> None:
        """Refuse a pool whose directory libvirt does not tell."""
        if pool.path is None:
            raise _no_files(pool)

    def fingerprint(self, volume: VolumeDescription) -> Fingerprint:
        """Return inode and time of birth, if the file can be seen here, or else only the change time.

        libvirt identifies a volume of a directory pool by its path alone, so a file that somebody put in its place
        since looks the same to it. The change time can only rule out a file that is older than ours.
        """
        status = visible_status(volume)
        if status is None:
            return Fingerprint(volume.changed)
        directory = directory_inode(posixpath.dirname(volume.path))
        return Fingerprint(volume.changed, status.st_ino, birth_time(volume.path), directory)

    def new_fingerprint(self, volume: VolumeDescription, pool: Pool) -> Fingerprint:
        """Return the fingerprint, with the size of the file system if the file cannot be seen here."""
        now = self.fingerprint(volume)
        return now if now.inode is not None else now._replace(file_system_bytes=pool.info().capacity)

    def absence(self, made: Artifact, pool: Pool) -> Fingerprint | None:
        """Return the inode number of the directory, and the size of the file system."""
        then = made.fingerprint
        if then is None:
            return None
        return Fingerprint(
            None,
            directory=None if then.directory is None else directory_inode(posixpath.dirname(made.path)),
            file_system_bytes=None if then.file_system_bytes is None else pool.info().capacity,
        )

    def seen_space(
        self, pool: Pool, description: PoolDescription, known: Iterable[VolumeDescription] = ()
    ) -> PoolSpace | None:
        """Ask the file system of the directory, if a volume proves that it is the daemon's.

        A directory of that name proves nothing; a volume in it that is the very file that libvirt describes does.
        """
        if description.path is None:
            return None
        own = (volume for volume in known if volume.pool == pool.name)
        if not any(visible_status(volume) for volume in chain(own, _first_volumes(pool, description.path))):
            return None
        space = file_system_space(description.path)
        return None if space is None else PoolSpace(space.capacity, space.taken, space.available, space)

    def list_paths(self, directory: str) -> list[str]:
        """Return all files of the directory."""
        return [posixpath.join(directory, name) for name in os.listdir(directory)]


class OtherPools(FilePools):
    """Pools whose volumes are neither files nor block devices."""

    def require_new_volumes(self, pool: PoolDescription) -> None:
        """Refuse the pool."""
        raise _no_files(pool)


_FILES, _BLOCKS, _LOGICAL, _OTHERS = FilePools(), BlockPools(), LogicalPools(), OtherPools()


def backend_of(pool: PoolDescription) -> StorageBackend:
    """Return what knows pools of this kind."""
    if pool.type in FILE_POOLS:
        return _FILES
    if pool.type in BLOCK_POOLS:
        return _LOGICAL if pool.type == LOGICAL else _BLOCKS
    return _OTHERS


def require_new_files(pool: PoolDescription) -> None:
    """Raise UnsupportedError if new volumes of a pool are not files, or cannot be made."""
    backend = backend_of(pool)
    backend.require_new_volumes(pool)
    if backend.makes_devices:
        raise UnsupportedError(
            f"storage pool '{pool.name}' is of type {pool.type}, and a file is to be made",
            hint="Name a pool of type dir, fs, netfs or vstorage.",
        )


def directory_inode(directory: str) -> int | None:
    """Return the inode number of a directory here, None where there is none."""
    try:
        return os.stat(directory).st_ino
    except (OSError, ValueError):
        return None


def is_certainly_unwritable(connection: Connection, directory: str) -> bool:
    """Return whether libvirt certainly cannot write files into a directory."""
    if not connection.is_local:
        return False
    try:
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            return True
    except OSError:
        return False
    # what we may do there tells nothing of a daemon that runs as somebody else
    is_of_daemon = connection.is_session or os.geteuid() == 0
    return is_of_daemon and not os.access(directory, os.W_OK)


def _first_volumes(pool: Pool, directory: str) -> Iterator[VolumeDescription]:
    """Yield a few volumes whose names are those of files here; a list of all volumes may be long."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in islice(entries, _PROOFS)]
    except OSError:
        return
    for name in names:
        # a file that is no volume, or a volume whose file is gone
        with suppress(VirtomateError, UnicodeError):
            if (volume := pool.find_volume(name)) is not None:
                yield describe_volume(pool.name, volume.document())


def _no_files(pool: PoolDescription) -> UnsupportedError:
    return UnsupportedError(
        f"storage pool '{pool.name}' is of type {pool.type}, and new volumes are files or logical volumes",
        hint="Name a pool of type dir, fs, netfs, vstorage or logical.",
    )
