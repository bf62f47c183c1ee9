"""A local file, and its upload into a new volume, holes as holes."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import data_extents
from virtomate.duplication.image_headers import HEADER_BYTES
from virtomate.errors import NotFoundError, SourceChangedError, UnreadableFileError
from virtomate.hypervisor.volume_streams import open_upload
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume
    from virtomate.progress import Progress

# libvirt cuts larger pieces into messages of this size itself
_CHUNK_BYTES = 256 * 1024
_REPORT_EVERY_BYTES = 8 * 1024 * 1024

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


class LocalFile(NamedTuple):
    """A local file that is open for reading; sizes in bytes.

    Attributes:
        data_bytes: Length of all that is not a hole.
        head: Its first bytes.
        modified: When its content changed last, in nanoseconds since 1970.
    """

    path: str
    descriptor: int
    size: int
    data_bytes: int
    head: bytes
    modified: int

    def require_unchanged(self) -> None:
        """Raise SourceChangedError if the file was written to since it was opened."""
        now = os.fstat(self.descriptor)
        if (now.st_size, now.st_mtime_ns) != (self.size, self.modified):
            raise SourceChangedError(
                f"'{self.path}' was written to while it was being imported", hint="Try again when it is complete."
            )


@contextmanager
def open_local_file(path: str) -> Iterator[LocalFile]:
    """Open a local file, or raise NotFoundError or UnreadableFileError."""
    try:
        _require_file(path, os.stat(path).st_mode)  # noqa: PTH116 - Path("") is the directory
        # opening would wait if the file has become a pipe since
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file '{path}'") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        yield _describe(path, descriptor)
    finally:
        os.close(descriptor)


def upload(file: LocalFile, volume: Volume, connection: Connection, progress: Progress, cancel: CancelToken) -> None:
    """Send a file's content into a new volume, which must be an empty file, since a hole clears nothing.

    Raises:
        InterruptedBySignalError: A signal arrived.
        UnreadableFileError: The file cannot be read to its end.
        SourceChangedError: The file has become shorter.
    """
    with open_upload(connection, volume) as stream:
        position = sent = reported = 0
        for begin, end in _extents(file):
            if begin > position:
                stream.send_hole(begin - position)
            position = begin
            while position < end:
                cancel.check()
                data = _read(file, position, min(end - position, _CHUNK_BYTES))
                stream.send(data)
                position += len(data)
                sent += len(data)
                if sent - reported >= _REPORT_EVERY_BYTES:
                    progress.advanced(volume.name, sent)
                    reported = sent
        if file.size > position:
            stream.send_hole(file.size - position)


def _describe(path: str, descriptor: int) -> LocalFile:
    status = os.fstat(descriptor)
    _require_file(path, status.st_mode)
    try:
        data_bytes = sum(end - begin for begin, end in data_extents(descriptor, 0, status.st_size))
        head = os.pread(descriptor, HEADER_BYTES, 0)
    except OSError as error:
        raise _unreadable(path, error) from error
    return LocalFile(path, descriptor, status.st_size, data_bytes, head, status.st_mtime_ns)


def _require_file(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise UnreadableFileError(
            f"'{path}' is {what}, and only files can be imported",
            hint=None if stat.S_ISDIR(mode) else "Copy its content into a file, and import the file.",
        )


def _extents(file: LocalFile) -> Iterator[tuple[int, int]]:
    try:
        yield from data_extents(file.descriptor, 0, file.size)
    except OSError as error:
        raise _unreadable(file.path, error) from error


def _read(file: LocalFile, offset: int, length: int) -> bytes:
    try:
        data = os.pread(file.descriptor, length, offset)
    except OSError as error:
        raise _unreadable(file.path, error) from error
    if not data:
        file.require_unchanged()
        raise UnreadableFileError(f"'{file.path}' is shorter than its reported size")
    return data


def _unreadable(path: str, error: OSError) -> UnreadableFileError:
    return UnreadableFileError(f"'{path}' cannot be read: {os.strerror(error.errno) if error.errno else error}")
