"""The host transfer: the new volume is filled here, where its very file can be seen and opened."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication import hostfs
from virtomate.duplication.image_lock import forbid_writing
from virtomate.duplication.transfers.base import TransferUnavailableError
from virtomate.enums import Action
from virtomate.hypervisor.storage import get_volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext

# A copy writes the beginning last: until then nobody takes the file for an image, least of all libvirt, which puts a
# pool with half a header in one of its files out of service.
_HEAD_BYTES = 64 * 1024

# The bytes between two looks at the cancel token, and the bytes that may wait for the disk at a time.
_CHUNK_BYTES = 8 * 1024 * 1024
_WINDOW_BYTES = 32 * 1024 * 1024


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Copy or reflink the original's file into the new volume's file, without libvirt.

    Raises:
        TransferUnavailableError: One of the files cannot be seen or opened here; nothing has been written.
        IllegalStateError: One of the files has become a symbolic link.
        UnsupportedError: The file system has no reflinks.
        NoSpaceError: The file system is full.
    """
    original = get_volume(context.connection, duplication.source.pool, duplication.source.name)
    source_volume = describe_volume(duplication.source.pool, original.document())
    with _opened(source_volume, os.O_RDONLY) as source, _opened(created, os.O_WRONLY) as target:
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
            raise hostfs.write_failure(error, created.path) from error
    return written


@contextmanager
def _opened(volume: VolumeDescription, flags: int) -> Iterator[int]:
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
        os.posix_fallocate(target, 0, size)
    window = _Window(source, target, duplication, context)
    head = min(_HEAD_BYTES, size)
    extents = itertools.chain(hostfs.data_extents(source, head, size), hostfs.data_extents(source, 0, head))
    for begin, end in extents:
        os.lseek(target, begin, os.SEEK_SET)
        offset = begin
        while offset < end:
            context.cancel.check()
            window.include(offset, end)
            # sendfile never shares data behind our back, as copy_file_range does on XFS and Btrfs
            sent = os.sendfile(target, source, offset, min(end - offset, _CHUNK_BYTES))
            if sent == 0:
                break
            offset += sent
            window.advance(offset, sent)
    window.finish()
    return window.written


class _Window:
    """Keeps what waits for the disk small, so that progress tells the truth and the page cache stays others'.

    While one window is being written back, the next one is being filled. What has been written is dropped from the page
    cache, and what was read as well, unless somebody else had it there before or other clones are made of it, too: the
    disk is read once for all of them.
    """

    def __init__(self, source: int, target: int, duplication: Duplication, context: TransferContext) -> None:
        self._source = source
        self._target = target
        self._label = duplication.label
        self._is_read_again = duplication.is_read_again
        self._context = context
        self._begin: int | None = None
        self._end = 0
        self._bytes = 0
        self._was_cached = True
        self._previous: tuple[int, int, int, bool] | None = None
        self._on_disk = 0
        self.written = 0

    def include(self, offset: int, end: int) -> None:
        """The next bytes begin here, and data go on until there; a step back begins another window."""
        if self._begin is not None and offset < self._end:
            self._turn()
        if self._begin is None:
            self._begin = offset
            # further on, since the kernel has read ahead of the window before
            middle = min(offset + _WINDOW_BYTES // 2, end - 1)
            self._was_cached = self._is_read_again or hostfs.is_cached(self._source, middle)

    def advance(self, end: int, count: int) -> None:
        """So many bytes up to here have been given to the kernel."""
        self._end = end
        self._bytes += count
        self.written += count
        if self._bytes >= _WINDOW_BYTES:
            self._turn()

    def finish(self) -> None:
        """Wait for the rest."""
        self._turn()
        self._turn()

    def _turn(self) -> None:
        """Begin to write the current window back, and wait for the one before."""
        current = None
        if self._begin is not None:
            current = (self._begin, self._end - self._begin, self._bytes, self._was_cached)
            hostfs.write_back(self._target, self._begin, self._end - self._begin, wait=False)
        if self._previous is not None:
            begin, length, count, was_cached = self._previous
            hostfs.write_back(self._target, begin, length, wait=True)
            os.posix_fadvise(self._target, begin, length, os.POSIX_FADV_DONTNEED)
            if not was_cached:
                os.posix_fadvise(self._source, begin, length, os.POSIX_FADV_DONTNEED)
            self._on_disk += count
            self._context.progress.advanced(self._label, self._on_disk)
        self._previous = current
        self._begin = None
        self._bytes = 0
