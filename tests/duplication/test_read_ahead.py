"""Content that a thread reads ahead of what is sent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from virtomate.duplication.transfers.stream import read_ahead
from virtomate.errors import SourceChangedError

if TYPE_CHECKING:
    from collections.abc import Generator


def test_order_is_kept() -> None:
    """Data and holes come as they were read, all of them."""
    pieces = [bytes([number % 256]) if number % 3 else number + 1 for number in range(500)]

    assert list(read_ahead(piece for piece in pieces)) == pieces


def test_error_comes_after_what_was_read() -> None:
    """What was read before an error is sent, and then the error is raised."""

    def reading() -> Generator[bytes | int, None, None]:
        yield b"first"
        raise SourceChangedError("it changed")

    pieces = read_ahead(reading())

    assert next(pieces) == b"first"
    with pytest.raises(SourceChangedError):
        next(pieces)


def test_reading_ends_with_the_sending() -> None:
    """When nobody wants more, the reading ends, and its end is waited for."""
    ended = threading.Event()

    def reading() -> Generator[bytes | int, None, None]:
        try:
            while True:
                yield b"more"
        finally:
            ended.set()

    pieces = read_ahead(reading())
    assert next(pieces) == b"more"
    pieces.close()

    assert ended.is_set()
    assert "read-ahead" not in {thread.name for thread in threading.enumerate()}


def test_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, the content is read when it is sent."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    assert list(read_ahead(piece for piece in (b"a", 7, b"b"))) == [b"a", 7, b"b"]
