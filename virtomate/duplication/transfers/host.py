"""The host transfer: the new volume is filled here, where its very file can be seen and opened."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication import hostfs
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.host_images import forbid_writing
from virtomate.duplication.transfers.base import TransferUnavailableError
from virtomate.enums import Action
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext

# A copy writes the beginning last: until then nobody takes the file for an image, least of all libvirt, which puts a
# pool with half a header in one of its files out of service.
_HEAD_BYTES = 64 * 1024

# The bytes between two looks at the cancel token, and the bytes that may wait for the disk at a time.
_CHUNK_BYTES = 8 * 1024 * 1024
_CHUNKS_IN_WINDOW = 4


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Copy or reflink the original's file into the new volume's file, without libvirt.

    Raises:
        TransferUnavailableError: One of the files cannot be seen or opened here; nothing has been written.
        IllegalStateError: One of the files has become a symbolic link.
        UnsupportedError: The file system has no reflinks.
        NoSpaceError: The file system is full.
    """
    if duplication.involves_device:
        from virtomate.duplication.transfers import host_devices  # noqa: PLC0415 - most volumes are files

        return host_devices.fill(duplication, created, context)
    original = context.get_original(duplication.source)
    source_volume = describe_volume(duplication.source.pool, original.document())
    with opened(source_volume, os.O_RDONLY) as source, opened(created, os.O_WRONLY) as target:
        forbid_writing(source, source_volume.path)
        try:
            if duplication.action is Action.REFLINKED:
                os.ftruncate(target, 0)
                hostfs.reflink(target, source, source_volume.path)
                written = 0
            else:
                written = _copy(source, target, duplication, context)
            os.fdatasync(target)
        except OSError as error:
            raise write_failure(error, created.path) from error
    return written


@contextmanager
def opened(volume: VolumeDescription, flags: int) -> Iterator[int]:
    """Open a volume's file, or raise TransferUnavailableError if it cannot be seen or opened here."""
    descriptor = hostfs.open_visible(volume, flags)
    if descriptor is None:
        # Another transfer would follow the link.
        hostfs.refuse_link(volume.path)
        raise TransferUnavailableError(
            f"'{volume.path}' cannot be opened here, so it cannot be filled without libvirt",
            hint="Leave out --transfer host, or give --trust-pool where the pool's directory is not trusted.",
        )
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy(source: int, target: int, duplication: Duplication, context: TransferContext) -> int:
    size = os.fstat(source).st_size
    os.ftruncate(target, 0)
    hostfs.match_copy_on_write(target, source)
    os.ftruncate(target, size)
    if duplication.source.format == "raw" and duplication.source.is_preallocated:
        _allocate(source, target, size)
    head = min(_HEAD_BYTES, size)
    written = 0
    previous: _Window | None = None
    extents = itertools.chain(hostfs.data_extents(source, head, size), hostfs.data_extents(source, 0, head))
    for pieces in _grouped(extents, context.pace.piece(_CHUNK_BYTES)):
        # further on, since the kernel has read ahead of the window before
        was_cached = duplication.is_read_again or hostfs.is_cached(source, pieces[len(pieces) // 2][1] - 1)
        for begin, end in pieces:
            context.cancel.check()
            sent = _send(source, target, begin, end)
            written += sent
            context.pace.keep(sent, context.cancel)
        window = _Window(pieces[0][0], pieces[-1][1], was_cached, written)
        hostfs.write_back(target, window.begin, window.end - window.begin, wait=False)
        if previous is not None:
            _settle(previous, source, target)
            context.progress.advanced(duplication.label, previous.written)
        previous = window
    if previous is not None:
        _settle(previous, source, target)
        context.progress.advanced(duplication.label, previous.written)
    return written


def _allocate(source: int, target: int, size: int) -> None:
    """Allocate a copy beforehand, as its original is; only what holds no data where the rest may be compressed."""
    if not hostfs.copies_on_write(target):
        os.posix_fallocate(target, 0, size)
        return
    position = 0
    for begin, end in itertools.chain(hostfs.data_extents(source, 0, size), ((size, size),)):
        if begin > position:
            os.posix_fallocate(target, position, begin - position)
        position = end


class _Window(NamedTuple):
    """A part of a file whose data waits for the disk.

    While one window is written back, the next is filled. So few bytes wait, progress tells the truth, and others keep
    their page cache.

    Attributes:
        was_cached: Whether others had the data in the page cache before, or other clones are made of the data, too: the
            disk is read once for all clones.
        written: The bytes of data up to the end of the window, in the order of the copy.
    """

    begin: int
    end: int
    was_cached: bool
    written: int


def _grouped(extents: Iterable[tuple[int, int]], chunk_bytes: int) -> Iterator[list[tuple[int, int]]]:
    """Cut extents into pieces, and yield the pieces of each window; a step back begins another window."""
    pieces: list[tuple[int, int]] = []
    size = 0
    for begin, end in extents:
        for offset in range(begin, end, chunk_bytes):
            if pieces and (size >= _CHUNKS_IN_WINDOW * chunk_bytes or offset < pieces[-1][1]):
                yield pieces
                pieces, size = [], 0
            pieces.append((offset, min(offset + chunk_bytes, end)))
            size += pieces[-1][1] - offset
    if pieces:
        yield pieces


def _send(source: int, target: int, begin: int, end: int) -> int:
    """Copy a piece, and return the number of bytes."""
    os.lseek(target, begin, os.SEEK_SET)
    offset = begin
    # sendfile never shares data behind our back, as copy_file_range does on XFS and Btrfs
    while offset < end and (sent := os.sendfile(target, source, offset, end - offset)):
        offset += sent
    return offset - begin


def _settle(window: _Window, source: int, target: int) -> None:
    """Wait until a window is on the disk, and drop the window from the page cache."""
    begin, length = window.begin, window.end - window.begin
    hostfs.write_back(target, begin, length, wait=True)
    os.posix_fadvise(target, begin, length, os.POSIX_FADV_DONTNEED)
    if not window.was_cached:
        os.posix_fadvise(source, begin, length, os.POSIX_FADV_DONTNEED)
