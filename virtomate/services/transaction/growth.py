"""The growth of a new volume, after it was filled with the content of a smaller one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.hostfs import open_visible
from virtomate.enums import Action, Transfer
from virtomate.errors import HypervisorError, IllegalStateError
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.services.storage import refresh_when_idle

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection

# Such transfers fill a file here, and libvirt takes an image for raw bytes until it looks through the pool.
_UNNOTICED = frozenset({Transfer.HOST, Transfer.CONVERT})


def grow(way: Duplication, connection: Connection, cancel: CancelToken) -> None:
    """Give a filled volume the capacity that was asked for; an overlay and a block device have it from the beginning.

    Raises:
        IllegalStateError: libvirt does not see what the volume is.
        HypervisorError: The volume cannot be resized.
        InterruptedBySignalError: A signal arrived.
    """
    if way.capacity is None or way.action is Action.LINKED or way.to_device:
        return
    if (
        way.source.format == "qcow2"
        and way.transfer in _UNNOTICED
        and _grow_here(way, way.capacity, connection, cancel)
    ):
        return
    place = way.place
    pool = get_pool(connection, place.pool)
    volume = get_volume(connection, place.pool, place.name)
    if describe_volume(pool.name, volume.document()).format != way.source.format:
        # resized as raw bytes, an image would only get bytes that nobody reads
        refresh_when_idle(pool, cancel)
        volume = get_volume(connection, place.pool, place.name)
        if describe_volume(pool.name, volume.document()).format != way.source.format:
            raise IllegalStateError(
                f"'{place.path}' cannot become larger: libvirt does not see yet that it is {way.source.format}",
                hint="Try again when libvirt builds nothing else in that storage pool.",
            )
    volume.resize(way.capacity, allocates=way.allocates_growth)


def _grow_here(way: Duplication, capacity: int, connection: Connection, cancel: CancelToken) -> bool:
    """Have qemu-img resize the image, without libvirt; return False where the file or qemu-img is not here."""
    from virtomate.duplication.qemu_img import is_installed, run_qemu_img  # noqa: PLC0415 - few clones grow

    created = describe_volume(way.place.pool, get_volume(connection, way.place.pool, way.place.name).document())
    descriptor = open_visible(created, os.O_RDWR) if is_installed() else None
    if descriptor is None:
        return False
    try:
        words = ("resize", "-f", "qcow2", f"/proc/self/fd/{descriptor}", str(capacity))
        outcome = run_qemu_img(words, (descriptor,), cancel)
        os.fdatasync(descriptor)
    except OSError as error:
        raise write_failure(error, created.path) from error
    finally:
        os.close(descriptor)
    if outcome.status != 0:
        raise HypervisorError(f"'{created.path}' cannot become larger: {outcome.reason}")
    return True
