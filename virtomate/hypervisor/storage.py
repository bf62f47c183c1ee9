"""Storage pools and volumes of a connection."""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import libvirt

from virtomate.cancel import backoff
from virtomate.errors import ConflictError, IllegalStateError, NoSpaceError, NotFoundError
from virtomate.hypervisor.missing import missing
from virtomate.hypervisor.text import sanitise
from virtomate.hypervisor.translate import no_room, translate, translating_errors
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from virtomate.hypervisor.connection import Connection

_LOG = logging.getLogger(__name__)

# libvirt does not stop a pool while it builds a volume in it.
_STOP_SECONDS = 20

# https://libvirt.org/html/libvirt-libvirt-storage.html#virStoragePoolState
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
    """A volume that libvirt knew when it was looked up; in a directory pool nothing more than a path."""

    def __init__(self, handle: libvirt.virStorageVol) -> None:
        self.handle = handle
        self.name: str = handle.name()

    def document(self) -> str:
        """Libvirt's description, read anew from the file."""
        with translating_errors(f"cannot read volume '{self.name}'"):
            return sanitise(lambda: self.handle.XMLDesc(0))

    def is_file(self) -> bool:
        """Whether the volume is a file, and not a block device, directory or network volume."""
        with translating_errors(f"cannot read volume '{self.name}'"):
            return bool(self.handle.info()[0] == libvirt.VIR_STORAGE_VOL_FILE)

    def allocation_bytes(self) -> int:
        """The bytes that the volume takes on the host now."""
        with translating_errors(f"cannot read volume '{self.name}'"):
            return int(self.handle.info()[2])

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
        """Libvirt's description."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            return str(self._handle.XMLDesc(0))

    def is_active(self) -> bool:
        """Whether its volumes can be used."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            return bool(self._handle.isActive())

    def is_persistent(self) -> bool:
        """Whether libvirt keeps the pool when it is stopped."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            return bool(self._handle.isPersistent())

    def info(self) -> PoolInfo:
        """State and sizes."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            state, *sizes = self._handle.info()
        return PoolInfo(_STATES.get(state, "inactive"), *sizes)

    def volume_count(self) -> int | None:
        """Return the number of volumes; None for an inactive pool, whose volumes are not known."""
        try:
            return int(self._handle.numOfVolumes())
        except libvirt.libvirtError as error:
            translation = translate(error, f"cannot read pool '{self.name}'")
            if isinstance(translation, IllegalStateError):
                return None
            raise translation from error

    def list_volumes(self) -> list[Volume]:
        """Return the volumes of an active pool, as of its last refresh.

        Names that are not UTF-8 are left out: libvirt's binding cannot tell them, and no definition can hold them.
        """
        with translating_errors(f"cannot list the volumes of pool '{self.name}'"):
            handles = self._handle.listAllVolumes(0)
        volumes = []
        for handle in handles:
            try:
                volumes.append(Volume(handle))
            except UnicodeDecodeError as error:
                _LOG.warning("passing over a volume of pool %r whose name is no UTF-8: %r", self.name, error.object)
        return volumes

    def capacity_bytes(self) -> int:
        """Size of its file system as of the last refresh."""
        with translating_errors(f"cannot read pool '{self.name}'"):
            return int(self._handle.info()[1])

    def find_volume(self, name: str) -> Volume | None:
        """The volume with this name, or None."""
        try:
            return Volume(self._handle.storageVolLookupByName(name))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
                return None
            raise translate(error, f"cannot look up volume '{name}' of pool '{self.name}'") from error

    def refresh(self) -> bool:
        """Refresh the pool; return False where libvirt cannot, which it cannot while it builds a volume.

        libvirt stops the pool when it meets a broken image; a pool that was active is started again.
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

    def create_volume(self, name: str, document: str) -> Volume:
        """Create a volume without content, or an overlay.

        Raises:
            ConflictError: A volume or file with that name exists, and was left as it is.
        """
        return self._create(name, lambda: self._handle.createXML(document, 0))

    def create_volume_from(self, name: str, document: str, source: Volume, *, reflink: bool) -> Volume:
        """Create a volume with the content of another; return when libvirt has written all of it.

        Raises:
            ConflictError: A volume or file with that name exists, and was left as it is.
        """
        flags = libvirt.VIR_STORAGE_VOL_CREATE_REFLINK if reflink else 0
        return self._create(name, lambda: self._handle.createXMLFrom(document, source.handle, flags))

    def stop(self) -> None:
        """Stop the pool, after which a transient pool is gone; its volumes stay.

        libvirt refreshes a pool by itself after an upload, and does not stop it meanwhile: wait for that.
        """
        for left in backoff(_STOP_SECONDS):
            try:
                self._handle.destroy()
            except libvirt.libvirtError as error:
                is_busy = error.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR
                if not is_busy or not left:
                    raise translate(error, f"cannot stop pool '{self.name}'") from error
            else:
                return

    def _create(self, name: str, create: Callable[[], libvirt.virStorageVol]) -> Volume:
        try:
            return Volume(create())
        except libvirt.libvirtError as error:
            failure = f"cannot create volume '{name}' in pool '{self.name}'"
            translation = translate(error, failure)
            if error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() == errno.EEXIST:
                # a file that appeared between libvirt's check and its own creation
                translation = ConflictError(translation.message)
            if isinstance(translation, IllegalStateError):
                # A file that the pool does not know of is an invalid operation (55), which has other reasons too.
                self.refresh()
                if self.find_volume(name) is not None:
                    translation = ConflictError(f"{failure}: a file with that name is there already")
            raise translation from error


def list_pools(connection: Connection) -> list[Pool]:
    """All pools, active or not."""
    with translating_errors("cannot list the storage pools"):
        return [Pool(handle) for handle in connection.handle.listAllStoragePools(0)]


def find_pool(connection: Connection, name: str) -> Pool | None:
    """The pool with this name, or None."""
    try:
        return Pool(connection.handle.storagePoolLookupByName(name))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
            return None
        raise translate(error, f"cannot look up pool '{name}'") from error


def get_pool(connection: Connection, name: str) -> Pool:
    """Return the pool with this name, or raise NotFoundError."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise NotFoundError(f"there is no storage pool {name!r}: names are UTF-8, and this is not") from error
    pool = find_pool(connection, name)
    if pool is None:
        raise missing(
            connection, "storage pool", name, lambda: [pool.name for pool in list_pools(connection)], "pool-list"
        )
    return pool


def get_volume(connection: Connection, pool_name: str, volume_name: str) -> Volume:
    """Return the volume with this name, or raise NotFoundError."""
    volume = get_pool(connection, pool_name).find_volume(volume_name)
    if volume is None:
        raise NotFoundError(f"there is no volume '{volume_name}' in pool '{pool_name}'")
    return volume


def start_transient_pool(connection: Connection, name: str, document: str) -> Pool:
    """Create and start a pool that vanishes when it is stopped.

    Raises:
        ConflictError: A pool with the same name, or the same spelling of its directory, is there.
        NoSpaceError: libvirt has no room to write it down.
        HypervisorError: The directory cannot be read.
    """
    try:
        return Pool(connection.handle.storagePoolCreateXML(document, 0))
    except libvirt.libvirtError as error:
        failure = f"cannot make a temporary pool '{name}'"
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
            raise ConflictError(f"{failure}: {error.get_error_message()}") from error
        translation = translate(error, failure)
        if isinstance(translation, NoSpaceError):
            translation = no_room(error, f"a temporary pool '{name}'")
        raise translation from error


def delete_when_idle(find: Callable[[], Volume | None], turns: Iterable[object]) -> None:
    """Delete a volume; libvirt refuses while it is still building that volume or something beside it.

    Args:
        find: Look the volume up and make sure that it is the one meant; return None where it is gone. Called in each
            turn.
        turns: What `backoff` yields: one attempt for each turn, and at least one.

    Raises:
        IllegalStateError: The volume was still in use in the last turn.
        HypervisorError: libvirt cannot delete the volume.
    """
    refusal = None
    for _ in turns:
        volume = find()
        if volume is None:
            return
        try:
            volume.delete()
        except NotFoundError:
            return
        except IllegalStateError as error:
            # "still being allocated"
            refusal = error
        else:
            return
    raise refusal or ValueError("no turn was given")
