"""Streams between this process and volumes, with holes.

Source: https://libvirt.org/html/libvirt-libvirt-stream.html
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import translating_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

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
            HypervisorError: The daemon could not write all of it.
        """
        with translating_errors(f"cannot finish with volume '{self._volume_name}'"):
            self._handle.finish()

    def abort(self) -> None:
        """Give up; nothing more is read or written."""
        with suppress(libvirt.libvirtError):
            self._handle.abort()


@contextmanager
def _opened(
    connection: Connection, volume: Volume, failure: str, begin: Callable[[libvirt.virStream], object]
) -> Iterator[Stream]:
    with translating_errors(failure):
        handle = connection.handle.newStream(0)
        begin(handle)
    stream = Stream(handle, volume.name)
    try:
        yield stream
        stream.finish()
    except BaseException:
        stream.abort()
        raise


def open_download(connection: Connection, volume: Volume, offset: int, length: int) -> AbstractContextManager[Stream]:
    """Read a part of a volume's file, whatever its format, with its holes.

    Args:
        connection: Where the volume is.
        volume: The volume.
        offset: Where the part begins, in bytes.
        length: How long it is, in bytes; 0 means the rest of the file.
    """
    flags = libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM
    failure = f"cannot read volume '{volume.name}'"
    return _opened(connection, volume, failure, lambda stream: volume.handle.download(stream, offset, length, flags))


def read_head(connection: Connection, volume: Volume, length: int) -> bytes:
    """Return the first bytes of a volume's file; fewer where it is shorter."""
    with open_download(connection, volume, 0, length) as stream:
        return b"".join(piece if isinstance(piece, bytes) else bytes(piece) for piece in stream.receive(length))


def open_upload(connection: Connection, volume: Volume) -> AbstractContextManager[Stream]:
    """Write a volume's file from the beginning; begin with an empty file, since a hole clears nothing."""
    flags = libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM
    failure = f"cannot write volume '{volume.name}'"
    return _opened(connection, volume, failure, lambda stream: volume.handle.upload(stream, 0, 0, flags))
