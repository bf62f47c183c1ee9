"""What was sent into a new volume is there, or the transfer fails: an NFS server may refuse the end of the data."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from virtomate.cancel import CancelToken
from virtomate.duplication.transfers import stream
from virtomate.errors import NoSpaceError
from virtomate.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024
DATA = bytes(range(1, 256)) * 1028 + bytes(4)


class Storage:
    """A file to which a server takes data only up to a limit, without telling the writer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.content = bytearray()
        self.looks: list[tuple[int, int]] = []

    @contextmanager
    def open_upload(self, _connection: Any, _volume: Any) -> Iterator[Any]:
        """Take in content."""
        yield self
        self.content[self.limit :] = bytes(max(0, len(self.content) - self.limit))

    def send(self, data: bytes) -> None:
        """Take in data."""
        self.content += data

    def send_hole(self, length: int) -> None:
        """Take in a hole."""
        self.content += bytes(length)

    def read_part(self, _connection: Any, _volume: Any, offset: int, length: int) -> bytes:
        """Return what the server has."""
        self.looks.append((offset, length))
        return bytes(self.content[offset : offset + length])


def write(monkeypatch: pytest.MonkeyPatch, storage: Storage, pieces: list[bytes | int]) -> int:
    """Write pieces into the storage; return the bytes of data sent."""
    monkeypatch.setattr(stream, "open_upload", storage.open_upload)
    monkeypatch.setattr(stream, "read_part", storage.read_part)
    volume: Any = SimpleNamespace(name="clone.raw")
    return stream.write_volume(pieces, volume, SimpleNamespace(), "vda", Progress(), CancelToken())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pieces",
    [
        [DATA],
        [64 * KIB, DATA, 64 * KIB, DATA, 1024 * KIB],
        [DATA, DATA, bytes(256 * KIB), 64 * KIB, bytes(10)],
        [DATA + bytes(256 * KIB)],
        [b"x"],
    ],
    ids=["data", "holes", "zeroes", "long-piece", "short"],
)
def test_end_of_data_is_read_back(monkeypatch: pytest.MonkeyPatch, pieces: list[bytes | int]) -> None:
    """Content that lacks the last byte that is not zero is refused, and content that has it passes."""
    whole = Storage(1 << 30)
    sent = write(monkeypatch, whole, pieces)
    end = len(bytes(whole.content).rstrip(b"\0"))
    ((offset, length),) = whole.looks

    assert sent == sum(len(piece) for piece in pieces if isinstance(piece, bytes))
    assert offset + length == end
    assert length <= 4 * KIB
    write(monkeypatch, Storage(end), pieces)
    with pytest.raises(NoSpaceError, match="does not hold what was written"):
        write(monkeypatch, Storage(end - 1), pieces)


@pytest.mark.parametrize("pieces", [[], [64 * KIB], [bytes(256 * KIB), KIB], [bytes(1024 * KIB)]])
def test_nothing_is_read_back_of_zeroes(monkeypatch: pytest.MonkeyPatch, pieces: list[bytes | int]) -> None:
    """Content without a byte that is not zero cannot be lost."""
    storage = Storage(0)
    write(monkeypatch, storage, pieces)
    assert storage.looks == []
