"""The parts in which the stream transfer reads a volume: all of it, and few bytes at a time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from virtomate.duplication.transfers import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
SIZE = 9000 * MIB + 17
FULL = [(0, 64 * MIB)]
BEHIND_HOLES = [(5 * MIB, 100), (7000 * MIB, 300 * MIB), (SIZE - 3, 3)]
SCATTERED = [(number * 128 * MIB, 4096) for number in range(64)]
THIN = [(number * 8 * MIB, MIB) for number in range(200)]


class Daemon:
    """A daemon that at once sends all that it is asked for, and counts what nobody has taken."""

    def __init__(self, extents: list[tuple[int, int]]) -> None:
        self.extents = extents
        self.waiting = self.calls = self.opened = 0

    @contextmanager
    def open_download(self, _connection: Any, _volume: Any, offset: int, length: int) -> Iterator[Any]:
        """Send a part of the volume."""
        pieces = list(self._pieces(offset, offset + length))
        left = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
        self.waiting += left
        self.calls += 1
        self.opened += 1

        class Download:
            def receive(download, chunk_bytes: int) -> Iterator[bytes | int]:  # noqa: N805 - the daemon is `self`
                nonlocal left
                assert chunk_bytes == len(CHUNK)
                for piece in pieces:
                    taken = len(piece) if isinstance(piece, bytes) else 0
                    left -= taken
                    self.waiting -= taken
                    yield piece

        try:
            yield Download()
        finally:
            self.waiting -= left
            self.opened -= 1

    def _pieces(self, offset: int, end: int) -> Iterator[bytes | int]:
        for begin, length in self.extents:
            first, last = max(begin, offset), min(begin + length, end)
            if first >= last:
                continue
            yield first - offset
            yield from (CHUNK[: min(len(CHUNK), last - at)] for at in range(first, last, len(CHUNK)))
            offset = last
        yield end - offset


CHUNK = b"x" * stream._CHUNK_BYTES


@pytest.mark.parametrize("extents", [FULL, BEHIND_HOLES, SCATTERED, THIN], ids=["full", "behind", "scattered", "thin"])
def test_little_waits(monkeypatch: pytest.MonkeyPatch, extents: list[tuple[int, int]]) -> None:
    """However slowly a volume is written, no more than three small parts of it wait; holes take few calls."""
    daemon = Daemon(extents)
    monkeypatch.setattr(stream, "open_download", daemon.open_download)
    position = longest = 0
    found: list[tuple[int, int]] = []

    for piece in stream._pieces_of_volume(SIZE, cast("Any", None), cast("Any", None)):
        if piece == 0:
            # takes no time
            continue
        longest = max(longest, daemon.waiting)
        if isinstance(piece, int):
            position += piece
            continue
        if found and sum(found[-1]) == position:
            found[-1] = (found[-1][0], found[-1][1] + len(piece))
        else:
            found.append((position, len(piece)))
        position += len(piece)

    assert (position, found) == (SIZE, extents)
    assert longest <= 3 * stream._PART_BYTES
    assert daemon.opened == daemon.waiting == 0
    assert daemon.calls < sum(length for _, length in extents) // stream._PART_BYTES + 2 * len(extents) + 30


def test_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops in the middle leaves no stream open."""
    daemon = Daemon(BEHIND_HOLES)
    monkeypatch.setattr(stream, "open_download", daemon.open_download)
    pieces = stream._pieces_of_volume(SIZE, cast("Any", None), cast("Any", None))
    while not isinstance(next(pieces), bytes):
        pass

    pieces.close()

    assert daemon.opened == 0
