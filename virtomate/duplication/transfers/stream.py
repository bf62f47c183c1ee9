"""The stream transfer: the bytes of one volume go through a libvirt connection into another, holes as holes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.upload import CHUNK_BYTES, send_pieces
from virtomate.hypervisor.storage import get_volume, open_download, open_upload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume

# libvirt's client takes in all that the daemon sends, before anybody reads. A volume is read in parts of about so much
# data, since nothing piles up that was not asked for.
_PART_BYTES = 4 * 1024 * 1024
_MAX_PART_BYTES = 1024 * 1024 * 1024


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Stream the original into the new volume.

    The new volume was created as raw, whatever its format: an upload neither truncates nor clears what a hole covers,
    so bytes that libvirt had put there would stay. libvirt refreshes the volume by itself when the upload ends. Its
    daemon cuts the file off at every hole, so XFS, which takes space in advance behind the end of a growing file, keeps
    some.
    """
    connection = context.connection
    source = get_volume(connection, duplication.source.pool, duplication.source.name)
    pieces = _pieces(duplication.source.physical, source, connection)
    with open_upload(connection, get_volume(connection, created.pool, created.name)) as stream:
        return send_pieces(pieces, stream, duplication.label, context.progress, context.cancel)


def _pieces(size: int, source: Volume, connection: Connection) -> Iterator[bytes | int]:
    """Yield the content of a volume in order, read in parts: bytes are data, a number is the length of a hole."""
    offset = 0
    part = _PART_BYTES
    while offset < size:
        length = min(part, size - offset)
        data_bytes = 0
        with open_download(connection, source, offset, length) as download:
            for piece in download.receive(CHUNK_BYTES):
                data_bytes += 0 if isinstance(piece, int) else len(piece)
                yield piece
        offset += length
        # a larger part of a sparse volume, so that its holes cost no calls
        part = min(max(_PART_BYTES, min(2 * part, part * _PART_BYTES // max(data_bytes, 1))), _MAX_PART_BYTES)
