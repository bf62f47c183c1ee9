"""The server transfer: libvirt duplicates the volume, where the daemon is.

Source: https://libvirt.org/html/libvirt-libvirt-storage.html#virStorageVolCreateXMLFrom
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from virtomate.enums import Action
from virtomate.errors import ConnectionLostError, HypervisorError, UnsupportedError, VirtomateError
from virtomate.hypervisor.storage import find_pool, get_volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.storage import Pool, Volume

_SAMPLE_INTERVAL_SECONDS = 0.5

# At the beginning of a copy between two pools libvirt locks first the pool of the source and then that of the new
# volume, and at its end first that of the new volume: two such copies may wait for each other, and all of libvirt for
# both (9.0, storageVolCreateXMLFrom).
_BETWEEN_POOLS = threading.Lock()
_TURN_SECONDS = 0.1


def create(duplication: Duplication, pool: Pool, document: str, context: TransferContext) -> Volume:
    """Have libvirt create and fill the volume of a document in one call, and watch the volume grow meanwhile.

    The call cannot be cancelled: a signal or a failure elsewhere waits for its end.

    Raises:
        UnsupportedError: libvirt could not make a reflink, and has removed the volume.
    """
    source = get_volume(context.connection, duplication.source.pool, duplication.source.name)
    reflink = duplication.action is Action.REFLINKED
    with _turn(duplication, context), _watched(duplication, context):
        try:
            return pool.create_volume_from(duplication.place.name, document, source, reflink=reflink)
        except HypervisorError as error:
            if not reflink or isinstance(error, ConnectionLostError):
                raise
            raise UnsupportedError(
                f"libvirt cannot reflink '{duplication.source.path}': {error.message}",
                hint="Use --mode copy or --mode linked.",
            ) from error


@contextmanager
def _turn(duplication: Duplication, context: TransferContext) -> Iterator[None]:
    """Wait until no other copy between two pools is made here, and let no other begin."""
    if duplication.source.pool == duplication.place.pool:
        yield
        return
    while not _BETWEEN_POOLS.acquire(timeout=_TURN_SECONDS):
        context.cancel.check()
    try:
        yield
    finally:
        _BETWEEN_POOLS.release()


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Return how many bytes libvirt has written."""
    if duplication.action is Action.REFLINKED:
        return 0
    if duplication.to_device:
        from virtomate.duplication.transfers import stream_devices  # noqa: PLC0415 - most volumes are files

        stream_devices.zero_rest(duplication, created, context)
    return get_volume(context.connection, created.pool, created.name).allocation_bytes()


@contextmanager
def _watched(duplication: Duplication, context: TransferContext) -> Iterator[None]:
    """Report the allocation of the new volume while libvirt writes, over a connection of its own."""
    done = threading.Event()
    awaited = f"libvirt to finish writing '{duplication.place.name}'"
    arguments = (duplication, context, done, awaited)
    watcher = threading.Thread(target=_watch, args=arguments, name=f"watch-{duplication.label}")
    watcher.start()
    try:
        with context.cancel.awaiting(awaited):
            yield
    finally:
        done.set()
        watcher.join()


def _watch(duplication: Duplication, context: TransferContext, done: threading.Event, awaited: str) -> None:
    # A clone that takes less than a moment needs neither a second connection nor a report. A device is allocated from
    # the beginning, and tells nothing.
    if done.wait(_SAMPLE_INTERVAL_SECONDS):
        return
    has_said_that_it_waits = False
    # sampling is best effort: the call itself raises the errors that matter
    with suppress(VirtomateError), context.borrow() as connection:
        while not done.wait(_SAMPLE_INTERVAL_SECONDS):
            if context.cancel.is_set and not has_said_that_it_waits:
                context.progress.note(f"waiting for {awaited}")
                has_said_that_it_waits = True
            # where libvirt does not answer, this call shows that: the copy itself may take any time
            pool = find_pool(connection, duplication.place.pool)
            if duplication.to_device:
                continue
            volume = None if pool is None else pool.find_volume(duplication.place.name)
            if volume is not None:
                written = min(volume.allocation_bytes(), duplication.total_bytes)
                context.progress.advanced(duplication.label, written)
