"""The stream transfer: the bytes of one volume go through a libvirt connection into another, holes as holes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.hypervisor.storage import get_volume
from virtomate.hypervisor.volume_streams import open_download, open_upload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.storage import Volume
    from virtomate.hypervisor.volume_streams import Stream

# libvirt cuts larger pieces into messages of this size itself
_CHUNK_BYTES = 256 * 1024
_REPORT_EVERY_BYTES = 8 * 1024 * 1024

# libvirt's client takes in all that the daemon sends, whether it is wanted yet or not. What has not been asked for
# cannot pile up, so a volume is read in parts of about so much data.
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
    with open_upload(connection, get_volume(connection, created.pool, created.name)) as upload:
        return _send(duplication, source, upload, context)


def _send(duplication: Duplication, source: Volume, upload: Stream, context: TransferContext) -> int:
    written = reported = hole = 0
    for piece in _pieces(duplication.source.physical, source, context):
        context.cancel.check()
        if isinstance(piece, int):
            # The daemon cuts the file off where a hole ends; one long hole leaves what is allocated there.
            hole += piece
            continue
        if hole:
            upload.send_hole(hole)
            hole = 0
        upload.send(piece)
        written += len(piece)
        if written - reported >= _REPORT_EVERY_BYTES:
            context.progress.advanced(duplication.label, written)
            reported = written
    if hole:
        upload.send_hole(hole)
    return written


def _pieces(size: int, source: Volume, context: TransferContext) -> Iterator[bytes | int]:
    """The content of a volume in order, read in parts: bytes are data, a number is the length of a hole."""
    offset = 0
    part = _PART_BYTES
    while offset < size:
        length = min(part, size - offset)
        data_bytes = 0
        with open_download(context.connection, source, offset, length) as download:
            for piece in download.receive(_CHUNK_BYTES):
                data_bytes += 0 if isinstance(piece, int) else len(piece)
                yield piece
        offset += length
        # more of a sparse volume at a time, so that its holes cost no calls
        part = min(max(_PART_BYTES, min(2 * part, part * _PART_BYTES // max(data_bytes, 1))), _MAX_PART_BYTES)
