"""The stream transfer: content of a volume or a local file goes through libvirt into a new volume, holes as holes."""

from __future__ import annotations

import os
import stat
from collections import deque
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.definition.volume import describe_volume
from virtomate.duplication.hostfs import data_extents
from virtomate.duplication.image_headers import HEADER_BYTES
from virtomate.errors import NoSpaceError, NotFoundError, SourceChangedError, UnreadableFileError
from virtomate.hypervisor.storage import get_volume, open_download, open_upload, read_head, read_part
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import TypeAlias

    from virtomate.cancel import CancelToken
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Stream, Volume
    from virtomate.progress import Progress

    Pieces: TypeAlias = Generator[bytes | int, None, None]

# libvirt's client takes in all that the daemon sends, before anybody reads. A volume is read in parts of about so much
# data, since nothing piles up that was not asked for. The two parts after the one that is read are asked for already,
# so that the daemon never waits: with one, a copy to another host took up to a third longer than with two, and a third
# gained nothing. A larger part, of which nobody knows how much data it has, is asked for alone.
_PART_BYTES = 6 * 1024 * 1024
_MAX_PART_BYTES = 1024 * 1024 * 1024
_PARTS_AT_ONCE = 3

# libvirt itself cuts larger pieces into messages of this size
_CHUNK_BYTES = 256 * 1024
# libvirt looks whether a stream was aborted between two holes, for each of which it writes zeroes to a device.
_LONGEST_HOLE_BYTES = 16 * 1024 * 1024
_REPORT_EVERY_BYTES = 8 * 1024 * 1024
_ZEROES = bytes(_CHUNK_BYTES)
_SAMPLE_BYTES = 4096

# How long an NVRAM is read again and again until two readings agree.
_STILL_SECONDS = 10

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Stream the original into the new volume.

    The new volume was created as raw, whatever its format: an upload neither truncates nor clears what a hole covers,
    so bytes that libvirt had put there would stay. libvirt refreshes the volume by itself when the upload ends.
    """
    connection = context.connection
    source = context.get_original(duplication.source)
    if duplication.is_moving:
        pieces = _one_piece(_read_still(duplication.source.path, source, context))
    else:
        pieces = _pieces_of_volume(duplication.source.physical, source, context.source)
        if duplication.involves_device:
            from virtomate.duplication.transfers import stream_devices  # noqa: PLC0415 - most volumes are files

            pieces = stream_devices.adapted(pieces, duplication, created, connection)
        pieces = _paced(pieces, context)
    longest_hole = _LONGEST_HOLE_BYTES if created.is_device else 0
    volume = get_volume(connection, created.pool, created.name)
    with closing(pieces):
        return write_volume(
            pieces, volume, connection, duplication.label, context.progress, context.cancel, longest_hole
        )


def _one_piece(piece: bytes) -> Pieces:
    yield piece


def _read_still(path: str, volume: Volume, context: TransferContext) -> bytes:
    """Return the content of a small volume, such as an NVRAM, that a guest writes to now and then.

    The state of a TPM changes its length as well.

    Raises:
        SourceChangedError: The volume changed all the time.
    """
    before = None
    for _ in backoff(_STILL_SECONDS, context.cancel):
        length = describe_volume("", volume.document()).physical
        now = read_head(context.source, volume, length)
        if now == before:
            return now
        before = now
    raise SourceChangedError(f"'{path}' is written to all the time and cannot be copied", hint="Try again.")


def _paced(pieces: Pieces, context: TransferContext) -> Pieces:
    """Yield pieces no faster than the pace allows; whoever asks for the next piece has sent the one before."""
    with closing(pieces):
        for piece in pieces:
            yield piece
            if not isinstance(piece, int):
                context.pace.keep(len(piece), context.cancel)


def _pieces_of_volume(size: int, source: Volume, connection: Connection) -> Pieces:
    """Yield the content of a volume in order, read in parts: bytes are data, a number is the length of a hole."""
    asked: deque[_Part] = deque()
    offset = 0
    length = _PART_BYTES
    try:
        while offset < size or asked:
            while offset < size and (not asked or (length <= _PART_BYTES and len(asked) < _PARTS_AT_ONCE)):
                asked.append(_ask_for_part(source, connection, offset, min(length, size - offset)))
                offset += asked[-1].length
            part = asked[0]
            found: Iterable[bytes | int] = part.pieces
            data_bytes = 0
            if part.length > _PART_BYTES:
                found, offset = yield from _take(part)
                _abandon(asked)
            for piece in found:
                data_bytes += 0 if isinstance(piece, int) else len(piece)
                yield piece
            if asked:
                asked.popleft()
            length = _PART_BYTES
            if data_bytes < _PART_BYTES:
                # a larger part of a sparse volume, so that its holes cost no calls
                wanted = min(2 * part.length, part.length * _PART_BYTES // max(data_bytes, 1))
                length = min(max(_PART_BYTES, wanted), _MAX_PART_BYTES)
    finally:
        _abandon(asked)


class _Part(NamedTuple):
    """A part of a volume that the daemon sends; offset and length in bytes."""

    offset: int
    length: int
    pieces: Pieces


def _take(part: _Part) -> Generator[int, None, tuple[list[bytes | int], int]]:
    """Read a large part at once, since all that is sent meanwhile piles up; return the pieces, and where they end.

    The pieces have hardly more data than a small part. Holes of no length are yielded meanwhile, so that the reader
    hears of signals.
    """
    pieces: list[bytes | int] = []
    end, data_bytes = part.offset, 0
    for piece in part.pieces:
        yield 0
        pieces.append(piece)
        end += piece if isinstance(piece, int) else len(piece)
        data_bytes += 0 if isinstance(piece, int) else len(piece)
        if data_bytes >= _PART_BYTES:
            return pieces, end
    return pieces, part.offset + part.length


def _abandon(asked: deque[_Part]) -> None:
    while asked:
        asked.popleft().pieces.close()


def _ask_for_part(source: Volume, connection: Connection, offset: int, length: int) -> _Part:
    """Ask for a part of a volume; the daemon begins to send before the first piece is read."""

    def read() -> Pieces:
        with open_download(connection, source, offset, length) as download:
            yield 0
            yield from download.receive(_CHUNK_BYTES)

    pieces = read()
    next(pieces)
    return _Part(offset, length, pieces)


class LocalFile(NamedTuple):
    """A local file that is open for reading; sizes in bytes.

    Attributes:
        data_bytes: Length of the file without its holes.
        head: The first `HEADER_BYTES`.
        modified: Time of the last change of the content, in nanoseconds since 1970.
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
        _require_file(path, os.stat(path).st_mode)
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
        NoSpaceError: See `write_volume`.
    """
    write_volume(_pieces_of_file(file), volume, connection, volume.name, progress, cancel)


def write_volume(
    pieces: Iterable[bytes | int],
    volume: Volume,
    connection: Connection,
    label: str,
    progress: Progress,
    cancel: CancelToken,
    longest_hole: int = 0,
) -> int:
    """Send content into a new volume in order, and return the bytes of data sent; a number is the length of a hole.

    libvirt's daemon cuts the file off where a hole ends. One long hole leaves the space that is allocated there, so
    neighbouring holes are sent as one. XFS takes space in advance behind the end of a growing file, and keeps some.
    On a device, libvirt writes zeroes for a hole, so there no hole should be longer than `longest_hole`.

    Raises:
        NoSpaceError: The last of the data is not in the volume, although libvirt reported no error.
    """
    sent = reported = hole = position = 0
    last: tuple[int, bytes] | None = None
    with open_upload(connection, volume) as stream:
        for piece in pieces:
            cancel.check()
            if isinstance(piece, int):
                hole += piece
                position += piece
                continue
            _send_hole(stream, hole, longest_hole, cancel)
            hole = 0
            stream.send(piece)
            if piece != _ZEROES[: len(piece)]:
                last = (position, piece)
            position += len(piece)
            sent += len(piece)
            if sent - reported >= _REPORT_EVERY_BYTES:
                progress.advanced(label, sent)
                reported = sent
        _send_hole(stream, hole, longest_hole, cancel)
    if last is not None:
        _require_written(*last, volume, connection)
    return sent


def _require_written(position: int, piece: bytes, volume: Volume, connection: Connection) -> None:
    """Read back the last data that was sent, or raise NoSpaceError.

    libvirt (9.0) does not look whether the file can be closed. What an NFS server refuses until then, for example
    beyond a quota, the kernel drops: the end of the data, since the next write would have failed.
    """
    data = piece.rstrip(b"\0")
    end = data[-_SAMPLE_BYTES:]
    if end and read_part(connection, volume, position + len(data) - len(end), len(end)) != end:
        raise NoSpaceError(
            f"volume '{volume.name}' does not hold what was written to it: "
            "probably its file system is full or a quota is exceeded, which libvirt does not report",
            hint="Make room where the volume is, then run the command again.",
        )


def _send_hole(stream: Stream, length: int, longest: int, cancel: CancelToken) -> None:
    while length:
        part = min(length, longest or length)
        stream.send_hole(part)
        length -= part
        cancel.check()


def _pieces_of_file(file: LocalFile) -> Iterator[bytes | int]:
    position = 0
    try:
        for begin, end in data_extents(file.descriptor, 0, file.size):
            yield begin - position
            position = begin
            while position < end:
                data = os.pread(file.descriptor, min(end - position, _CHUNK_BYTES), position)
                if not data:
                    file.require_unchanged()
                    raise UnreadableFileError(f"'{file.path}' is shorter than its reported size")
                yield data
                position += len(data)
    except OSError as error:
        raise _unreadable(file.path, error) from error
    yield file.size - position


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


def _unreadable(path: str, error: OSError) -> UnreadableFileError:
    return UnreadableFileError(f"'{path}' cannot be read: {os.strerror(error.errno) if error.errno else error}")
