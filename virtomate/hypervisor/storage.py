"""Storage pools and volumes of a connection, and streams to and from volumes.

Sources: https://libvirt.org/html/libvirt-libvirt-storage.html, https://libvirt.org/html/libvirt-libvirt-stream.html
"""

from __future__ import annotations

import errno
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import libvirt

from virtomate.cancel import backoff
from virtomate.errors import (
    ConflictError,
    HypervisorError,
    IllegalStateError,
    NotFoundError,
    OversizeError,
    UnwritableError,
    VirtomateError,
)
from virtomate.hypervisor.translate import look_up, sanitise, translate, translating_errors
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from virtomate.hypervisor.connection import Connection

# libvirt does not stop a pool while a volume is built in the pool.
_STOP_SECONDS = 20

# REMOTE_STORAGE_VOL_LIST_MAX of libvirt's protocol
_MOST_LISTED = 16384

# the result of recvFlags in front of a hole
_AT_HOLE = -3

# streams are read and written by root, also where libvirt makes a file as its owner
_CLOSED_FILE = (
    "libvirt may not open the file. If it is on NFS that squashes root, let the server take root for the owner of the "
    "file (anonuid and anongid in exports(5)), or export without root_squash."
)
# a file that cannot be made, or cannot be given to its owner
_UNWRITABLE = {errno.EPERM, errno.EACCES, errno.EROFS}

# virStoragePoolState
_STATES = {
    libvirt.VIR_STORAGE_POOL_INACTIVE: "inactive",
    libvirt.VIR_STORAGE_POOL_BUILDING: "building",
    libvirt.VIR_STORAGE_POOL_RUNNING: "running",
    libvirt.VIR_STORAGE_POOL_DEGRADED: "degraded",
    libvirt.VIR_STORAGE_POOL_INACCESSIBLE: "inaccessible",
}


class PoolInfo(NamedTuple):
    """State and sizes of a pool, in bytes, as of its last refresh."""

    state: str
    capacity: int
    allocation: int
    available: int


class Volume:
    """A volume that libvirt knew when it was looked up; in a directory pool that is a path and nothing more."""

    def __init__(self, handle: libvirt.virStorageVol) -> None:
        self.handle = handle
        self.name: str = handle.name()

    def document(self) -> str:
        """Return libvirt's description, read anew from the file."""
        with translating_errors(f"cannot read volume '{self.name}'"):
            return sanitise(lambda: self.handle.XMLDesc(0))

    def is_file(self) -> bool:
        """Return whether the volume is a file, and not a block device, directory or network volume."""
        with translating_errors(f"cannot read volume '{self.name}'"):
            return bool(self.handle.info()[0] == libvirt.VIR_STORAGE_VOL_FILE)

    def allocation_bytes(self) -> int:
        """Return the bytes that the volume takes on the host now."""
        with translating_errors(f"cannot read volume '{self.name}'"):
            return int(self.handle.info()[2])

    def resize(self, capacity: int, *, allocates: bool) -> None:
        """Make the volume larger, in bytes as a guest sees them, and allocate what it has more if that is asked for."""
        flags = libvirt.VIR_STORAGE_VOL_RESIZE_ALLOCATE if allocates else 0
        with translating_errors(f"cannot resize volume '{self.name}'"):
            self.handle.resize(capacity, flags)

    def delete(self) -> None:
        """Delete the volume, which the caller has identified; NotFoundError where it is gone."""
        with translating_errors(f"cannot delete volume '{self.name}'"):
            self.handle.delete(0)


class Pool:
    """A storage pool."""

    def __init__(self, handle: libvirt.virStoragePool) -> None:
        self._handle = handle
        self.name: str = handle.name()
        self.uuid: str = handle.UUIDString()

    def document(self) -> str:
        """Return libvirt's description."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            return str(self._handle.XMLDesc(0))

    def is_active(self) -> bool:
        """Return whether the volumes can be used."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            return bool(self._handle.isActive())

    def is_persistent(self) -> bool:
        """Return whether libvirt keeps the pool when the pool is stopped."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            return bool(self._handle.isPersistent())

    def info(self) -> PoolInfo:
        """Return state and sizes."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            state, *sizes = self._handle.info()
        return PoolInfo(_STATES.get(state, "inactive"), *sizes)

    def volume_count(self) -> int | None:
        """Return the number of volumes; None for an inactive pool, whose volumes are not known."""
        inactive = libvirt.VIR_ERR_OPERATION_INVALID
        return look_up(lambda: int(self._handle.numOfVolumes()), f"cannot read pool '{self.name}'", inactive)

    def list_volumes(self) -> list[Volume]:
        """Return the volumes of an active pool, as of its last refresh.

        Volumes whose names are not UTF-8 are left out: libvirt's binding and definitions cannot hold such names. Raise
        OversizeError for more volumes than libvirt lists; each of them can still be looked up by its name.
        """
        failure = f"cannot list the volumes of pool '{self.name}'"
        try:
            handles = self._handle.listAllVolumes(0)
        except libvirt.libvirtError as error:
            if (self.volume_count() or 0) > _MOST_LISTED:
                limit = f"it has more than the {_MOST_LISTED} volumes that libvirt lists"
                one = virsh("vol-info", "VOLUME", options=f"--pool {shell_word(self.name)}")
                again = virsh("pool-refresh", self.name)
                hint = (
                    f"{one} shows one of them. Or move files that no domain uses to another directory, and run {again}"
                )
                raise OversizeError(f"{failure}: {limit}", hint, code=error.get_error_code()) from error
            raise translate(error, failure) from error
        volumes = []
        for handle in handles:
            try:
                volumes.append(Volume(handle))
            except UnicodeDecodeError as error:
                import logging  # noqa: PLC0415 - nearly all names are UTF-8

                log = logging.getLogger(__name__)
                log.warning("passing over a volume of pool %r whose name is no UTF-8: %r", self.name, error.object)
        return volumes

    def find_volume(self, name: str) -> Volume | None:
        """Return the volume with this name, or None."""
        failure = f"cannot look up volume '{name}' of pool '{self.name}'"
        missing = libvirt.VIR_ERR_NO_STORAGE_VOL
        return look_up(lambda: Volume(self._handle.storageVolLookupByName(name)), failure, missing)

    def refresh(self) -> bool:
        """Refresh the pool; return False where libvirt cannot, for example while a volume is built.

        libvirt stops a pool with a broken image; a pool that was active is started again.
        """
        was_active = False
        try:
            was_active = bool(self._handle.isActive())
            self._handle.refresh(0)
        except libvirt.libvirtError:
            with suppress(libvirt.libvirtError):
                if was_active and not self._handle.isActive():
                    self._handle.create(0)
            return False
        return True

    def keep_active(self) -> None:
        """Start the pool again if libvirt stopped it."""
        with translating_errors(f"cannot start pool '{self.name}'"):
            if not self._handle.isActive():
                self._handle.create(0)

    def create_volume(self, name: str, document: str, *, has_tables: bool = False) -> Volume:
        """Create a volume without content; ConflictError where a volume or file has the name, and is left as it is.

        With `has_tables`, the tables of a qcow2 point to all of the capacity from the beginning. If the document also
        allocates all of the capacity, no write needs more space later (libvirt 9.0: `preallocation=falloc`).
        """
        flags = libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA if has_tables else 0
        return self._create(name, lambda: self._handle.createXML(document, flags))

    def create_volume_from(self, name: str, document: str, source: Volume, *, reflink: bool) -> Volume:
        """Create a volume with the content of another, and wait until all is written; see `create_volume`."""
        flags = libvirt.VIR_STORAGE_VOL_CREATE_REFLINK if reflink else 0
        return self._create(name, lambda: self._handle.createXMLFrom(document, source.handle, flags))

    def stop(self) -> None:
        """Stop the pool, after which a transient pool is gone; the volumes stay.

        libvirt refreshes a pool by itself after an upload, and stops no pool meanwhile, so this waits for the refresh.
        """
        busy: VirtomateError | None = None
        for _ in backoff(_STOP_SECONDS):
            try:
                self._handle.destroy()
            except libvirt.libvirtError as error:
                busy = translate(error, f"cannot stop pool '{self.name}'")
                if error.get_error_code() != libvirt.VIR_ERR_INTERNAL_ERROR:
                    raise busy from error
            else:
                return
        raise busy or ValueError("no turn was given")

    def _create(self, name: str, create: Callable[[], libvirt.virStorageVol]) -> Volume:
        try:
            return Volume(create())
        except libvirt.libvirtError as error:
            failure = f"cannot create volume '{name}' in pool '{self.name}'"
            translation = translate(error, failure)
            number = error.get_int1() if error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR else 0
            if number == errno.EEXIST:
                # a file that appeared between libvirt's check and libvirt's own creation
                translation = ConflictError(translation.message)
            if number in _UNWRITABLE:
                message, is_read_only = translation.message, number == errno.EROFS
                translation = UnwritableError(message, code=error.get_error_code(), is_read_only=is_read_only)
            if isinstance(translation, IllegalStateError):
                # a file that is unknown to the pool is an invalid operation, which has other reasons, too
                self.refresh()
                if self.find_volume(name) is not None:
                    translation = ConflictError(f"{failure}: a file with that name is there already")
            raise translation from error


def list_pools(connection: Connection) -> list[Pool]:
    """Return all pools, active or not."""
    with translating_errors("cannot list the storage pools"):
        return [Pool(handle) for handle in connection.handle.listAllStoragePools(0)]


def find_pool(connection: Connection, name: str) -> Pool | None:
    """Return the pool with this name, or None."""
    missing = libvirt.VIR_ERR_NO_STORAGE_POOL
    return look_up(
        lambda: Pool(connection.handle.storagePoolLookupByName(name)), f"cannot look up pool '{name}'", missing
    )


def get_pool(connection: Connection, name: str) -> Pool:
    """Return the pool with this name, or raise NotFoundError."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise NotFoundError(f"there is no storage pool {name!r}: names are UTF-8, and this is not") from error
    pool = find_pool(connection, name)
    if pool is None:
        raise connection.missing(
            "storage pool", name, lambda: [pool.name for pool in list_pools(connection)], "pool-list"
        )
    return pool


def get_volume(connection: Connection, pool_name: str, volume_name: str) -> Volume:
    """Return the volume with this name, or raise NotFoundError."""
    volume = get_pool(connection, pool_name).find_volume(volume_name)
    if volume is None:
        raise NotFoundError(f"there is no volume '{volume_name}' in pool '{pool_name}'")
    return volume


def start_transient_pool(connection: Connection, name: str, document: str, *, makes_directory: bool = False) -> Pool:
    """Create and start a pool that vanishes when it is stopped, with its directory if that is missing.

    Raises:
        ConflictError: A pool has the same name, or the same spelling of its directory.
        NoSpaceError: libvirt has no room for the pool's document.
        HypervisorError: The directory cannot be read.
    """
    flags = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD if makes_directory else 0
    try:
        return Pool(connection.handle.storagePoolCreateXML(document, flags))
    except libvirt.libvirtError as error:
        failure = f"cannot make a temporary pool '{name}'"
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
            raise ConflictError(f"{failure}: {error.get_error_message()}") from error
        raise translate(error, failure, f"a temporary pool '{name}'") from error


class Stream:
    """A stream between this process and a volume; blocking."""

    def __init__(self, handle: libvirt.virStream, volume_name: str) -> None:
        self._handle = handle
        self._volume_name = volume_name

    def receive(self, chunk_bytes: int) -> Iterator[bytes | int]:
        """Yield content in order: bytes are data, a number is the length of a hole."""
        with translating_errors(f"cannot read volume '{self._volume_name}'"):
            while True:
                data = self._handle.recvFlags(chunk_bytes, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
                if data == _AT_HOLE:
                    yield int(self._handle.recvHole())
                elif data:
                    yield data
                else:
                    return

    def send(self, data: bytes) -> None:
        """Write data at the current position."""
        view = memoryview(data)
        with translating_errors(f"cannot write volume '{self._volume_name}'"):
            while view:
                sent = self._handle.send(bytes(view) if len(view) != len(data) else data)
                view = view[sent:]

    def send_hole(self, length: int) -> None:
        """Leave a hole at the current position."""
        with translating_errors(f"cannot write volume '{self._volume_name}'"):
            self._handle.sendHole(length)


@contextmanager
def _opened(
    connection: Connection, volume: Volume, failure: str, begin: Callable[[libvirt.virStream], object]
) -> Iterator[Stream]:
    with translating_errors(failure):
        handle = connection.handle.newStream(0)
        try:
            begin(handle)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_SYSTEM_ERROR or error.get_int1() != errno.EACCES:
                raise
            message, code = translate(error, failure).message, error.get_error_code()
            raise HypervisorError(message, hint=_CLOSED_FILE, code=code) from error
    try:
        yield Stream(handle, volume.name)
        # the daemon may have failed to write what it took
        with translating_errors(f"cannot finish with volume '{volume.name}'"):
            handle.finish()
    except BaseException:
        with suppress(libvirt.libvirtError):
            handle.abort()
        raise


def open_download(connection: Connection, volume: Volume, offset: int, length: int) -> AbstractContextManager[Stream]:
    """Read a part of a volume's file, in bytes, whatever the format; a length of 0 means the rest of the file."""
    flags = libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM
    failure = f"cannot read volume '{volume.name}'"
    return _opened(connection, volume, failure, lambda stream: volume.handle.download(stream, offset, length, flags))


def read_part(connection: Connection, volume: Volume, offset: int, length: int) -> bytes:
    """Return bytes of a volume's file, fewer at the end of the file."""
    with open_download(connection, volume, offset, length) as stream:
        return b"".join(piece if isinstance(piece, bytes) else bytes(piece) for piece in stream.receive(length))


def read_head(connection: Connection, volume: Volume, length: int) -> bytes:
    """Return the first bytes of a volume's file, fewer of a shorter file."""
    return read_part(connection, volume, 0, length)


def open_upload(connection: Connection, volume: Volume) -> AbstractContextManager[Stream]:
    """Write a volume's file from the beginning; the file must be empty, since a hole clears nothing."""
    flags = libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM
    failure = f"cannot write volume '{volume.name}'"
    return _opened(connection, volume, failure, lambda stream: volume.handle.upload(stream, 0, 0, flags))


def open_upload_at(connection: Connection, volume: Volume, offset: int) -> AbstractContextManager[Stream]:
    """Write a volume's file or device from an offset on, without holes."""
    failure = f"cannot write volume '{volume.name}'"
    return _opened(connection, volume, failure, lambda stream: volume.handle.upload(stream, offset, 0, 0))


def write_part(connection: Connection, volume: Volume, offset: int, data: bytes) -> None:
    """Write bytes into a volume's file; the rest of the file stays as it is."""
    with open_upload_at(connection, volume, offset) as stream:
        stream.send(data)


def cut_volume(connection: Connection, volume: Volume, size: int) -> None:
    """End a volume's file at a size: libvirt skips a hole in an upload, and ends the file behind it (9.0)."""
    with open_upload(connection, volume) as stream:
        stream.send_hole(size)
