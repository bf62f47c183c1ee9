"""Streams from and to block devices, which have no holes: libvirt sends all of a device as data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.devices import without_zeroes
from virtomate.hypervisor.storage import get_volume, open_upload_at

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.connection import Connection

_ZEROES = bytes(256 * 1024)


def adapted(
    pieces: Iterator[bytes | int], duplication: Duplication, created: VolumeDescription, connection: Connection
) -> Generator[bytes | int, None, None]:
    """Yield the content of a device for a file, with holes; or content for a device, with zeroes up to its end.

    libvirt zeroes a device where it gets a hole. To a local libvirt zeroes are sent all the same, so that a signal need
    not wait for what libvirt has been told, and progress tells the truth.
    """
    if duplication.source.is_device:
        pieces = without_zeroes(pieces)
    if not created.is_device:
        yield from pieces
        return
    for piece in _up_to(created.physical, duplication.source.physical, pieces):
        if isinstance(piece, int) and (connection.is_local or not connection.zeroes_devices):
            yield from zeroes(piece)
        else:
            yield piece


def _up_to(end: int, size: int, pieces: Iterable[bytes | int]) -> Iterator[bytes | int]:
    yield from pieces
    yield end - size


def zeroes(length: int) -> Iterator[bytes]:
    """Yield so many zeroes."""
    while length > 0:
        yield _ZEROES[:length]
        length -= len(_ZEROES)


def zero_rest(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> None:
    """Have a new device read as zeroes behind the end of the original, where libvirt has written nothing."""
    begin = duplication.source.capacity
    if created.physical <= begin:
        return
    volume = get_volume(context.connection, created.pool, created.name)
    with open_upload_at(context.connection, volume, begin) as stream:
        for piece in zeroes(created.physical - begin):
            context.cancel.check()
            stream.send(piece)
