"""Streams between this process and volumes, with holes.

Source: https://libvirt.org/html/libvirt-libvirt-stream.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import translating_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume

# what recvFlags returns in front of a hole
_AT_HOLE = -3


class Stream:
    """A stream between this process and a volume; blocking."""

    def __init__(self, handle: libvirt.virStream, volume_name: str) -> None:
        self._handle = handle
        self._volume_name = volume_name

    def receive(self, chunk_bytes: int) -> Iterator[bytes | int]:
        """Content in order: bytes are data, a number is the length of a hole."""
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

    def finish(self) -> None:
        """Wait until the daemon has everything.

        Raises:
            HypervisorError: It could not write all of it.
        """
        with translating_errors(f"cannot finish with volume '{self._volume_name}'"):
            self._handle.finish()

    def abort(self) -> None:
        """Give up; nothing more is read or written."""
        try:
            self._handle.abort()
        except libvirt.libvirtError:
            return


def open_download(connection: Connection, volume: Volume, offset: int, length: int) -> Stream:
    """Read a part of a volume's file, whatever its format, with its holes.

    Args:
        connection: Where the volume is.
        volume: The volume.
        offset: Where the part begins, in bytes.
        length: How long it is, in bytes; 0 means the rest of the file.
    """
    with translating_errors(f"cannot read volume '{volume.name}'"):
        stream = connection.handle.newStream(0)
        volume.handle.download(stream, offset, length, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
    return Stream(stream, volume.name)


def read_head(connection: Connection, volume: Volume, length: int) -> bytes:
    """The first bytes of a volume's file; fewer where it is shorter."""
    stream = open_download(connection, volume, 0, length)
    try:
        head = b"".join(piece if isinstance(piece, bytes) else bytes(piece) for piece in stream.receive(length))
        stream.finish()
    except BaseException:
        stream.abort()
        raise
    return head


def open_upload(connection: Connection, volume: Volume) -> Stream:
    """Write a volume's file from the beginning, with holes; what a hole covers is not cleared, so begin with none."""
    with translating_errors(f"cannot write volume '{volume.name}'"):
        stream = connection.handle.newStream(0)
        volume.handle.upload(stream, 0, 0, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
    return Stream(stream, volume.name)
