"""The stream transfer: the bytes of one volume go through a libvirt connection into another, holes as holes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.volume import volume_document
from virtomate.hypervisor.storage import get_pool, get_volume, open_download, open_upload

if TYPE_CHECKING:
    from virtomate.duplication.transfers.base import Duplication, Workplace
    from virtomate.hypervisor.storage import Stream, Volume

# libvirt cuts larger pieces into messages of this size itself
_CHUNK_BYTES = 256 * 1024
_REPORT_EVERY_BYTES = 8 * 1024 * 1024


class StreamTransfer:
    """Creates an empty file and streams into it.

    It is created as raw, whatever its format: an upload neither truncates nor clears what a hole covers, so bytes that
    libvirt had put there would stay. libvirt looks at the result again by itself when the upload ends. Its daemon cuts
    the file off at every hole, so XFS, which takes space in advance behind the end of a growing file, keeps some of it.
    """

    def create(self, duplication: Duplication, workplace: Workplace) -> Volume:
        """Create the empty file."""
        pool = get_pool(workplace.connection, duplication.pool)
        return pool.create_volume(duplication.new.name, volume_document(duplication.new))

    def fill(self, duplication: Duplication, volume: Volume, workplace: Workplace) -> int:
        """Stream all of the source into it."""
        connection = workplace.connection
        source = get_volume(connection, duplication.source.pool, duplication.source.name)
        download = open_download(connection, source)
        try:
            upload = open_upload(connection, volume)
            try:
                written = _pump(download, upload, duplication.label, workplace)
                upload.finish()
            except BaseException:
                upload.abort()
                raise
            download.finish()
        except BaseException:
            download.abort()
            raise
        return written


def _pump(download: Stream, upload: Stream, label: str, workplace: Workplace) -> int:
    written = reported = 0
    for piece in download.receive(_CHUNK_BYTES):
        workplace.cancel.check()
        if isinstance(piece, int):
            upload.send_hole(piece)
            continue
        upload.send(piece)
        written += len(piece)
        if written - reported >= _REPORT_EVERY_BYTES:
            workplace.progress.advanced(label, written)
            reported = written
    return written
