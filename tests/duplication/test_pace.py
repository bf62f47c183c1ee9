"""The limit on what transfers write in a second."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from tests.duplication.volumes import RAW
from virtomate.cancel import CancelToken
from virtomate.duplication.pace import UNLIMITED, Pace
from virtomate.duplication.transfers import base, host, stream
from virtomate.duplication.transfers.base import Duplication, Place, TransferContext
from virtomate.enums import Action, ArtifactKind, Transfer
from virtomate.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


@dataclass
class Clock:
    """A clock that only waiting moves, and whoever sets it."""

    now: float = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Sleeper(CancelToken):
    """A token whose waiting moves a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        """Move the clock."""
        self.waits.append(seconds)
        self.clock.now += seconds
        return self.is_set


def test_bytes_take_their_time() -> None:
    """So many bytes take as long as the rate says, whatever the pieces."""
    clock = Clock()
    pace, cancel = Pace(4 * MIB, clock), Sleeper(clock)

    for size in (MIB, 3 * MIB, 2 * MIB, 2 * MIB):
        pace.keep(size, cancel)

    assert clock.now == pytest.approx(102.0)


def test_time_of_the_writing_counts() -> None:
    """Only what is left of a piece's time is waited for."""
    clock = Clock()
    pace, cancel = Pace(MIB, clock), Sleeper(clock)
    pace.keep(MIB, cancel)

    clock.now += 0.75
    pace.keep(MIB, cancel)

    assert cancel.waits == [pytest.approx(1.0), pytest.approx(0.25)]


def test_slow_time_is_not_made_up_for() -> None:
    """After a time in which nothing was written, bytes take as long as ever, but for a quarter of a second."""
    clock = Clock()
    pace, cancel = Pace(MIB, clock), Sleeper(clock)
    pace.keep(MIB, cancel)

    clock.now += 60
    pace.keep(2 * MIB, cancel)
    pace.keep(2 * MIB, cancel)

    assert cancel.waits == [pytest.approx(1.0), pytest.approx(1.75)]


def test_transfers_share_the_rate() -> None:
    """What one transfer writes, the others wait for, too."""
    clock = Clock()
    pace = Pace(MIB, clock)
    waits = []

    class Beside(CancelToken):
        """The token of a thread whose waiting lets the others go on."""

        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return False

    for _ in range(3):
        pace.keep(MIB, Beside())

    assert waits == [pytest.approx(1.0), pytest.approx(2.0), pytest.approx(3.0)]


def test_pieces_are_small_under_a_limit() -> None:
    """A piece takes a quarter of a second at most; without a limit it is as large as ever."""
    assert Pace(4 * MIB).piece(8 * MIB) == MIB
    assert Pace(400 * MIB).piece(8 * MIB) == 8 * MIB
    assert UNLIMITED.piece(8 * MIB) == 8 * MIB


def test_no_limit_waits_for_nothing() -> None:
    """Without a limit nobody waits."""
    cancel = Sleeper(Clock())

    UNLIMITED.keep(1 << 40, cancel)

    assert cancel.waits == []


def duplication() -> Duplication:
    """The copy of a raw volume."""
    place = Place("p", "uuid", "/p", "b.raw")
    return Duplication(
        "vda",
        ArtifactKind.VOLUME,
        RAW,
        place,
        Action.COPIED,
        (Transfer.HOST,),
        (),
        keep_owner=False,
        is_read_again=True,
    )


def context(pace: Pace, cancel: CancelToken, connection: Any = None) -> TransferContext:
    """What a transfer works with."""
    return TransferContext(connection, cast("Any", None), Progress(), cancel, "token", pace)


def test_host_transfer_keeps_the_pace(tmp_path: Path) -> None:
    """The data of a copied file take their time; its holes take none."""
    clock = Clock()
    cancel = Sleeper(clock)
    original, copy = tmp_path / "a.raw", tmp_path / "b.raw"
    with original.open("wb") as file:
        file.write(os.urandom(3 * MIB))
        file.truncate(64 * MIB)
    source, target = os.open(original, os.O_RDONLY), os.open(copy, os.O_RDWR | os.O_CREAT)
    try:
        host._copy(source, target, duplication(), context(Pace(2 * MIB, clock), cancel))
    finally:
        os.close(source)
        os.close(target)

    assert copy.read_bytes() == original.read_bytes()
    assert clock.now == pytest.approx(101.5)
    assert len(cancel.waits) >= 6


def test_stream_transfer_keeps_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data that are streamed take their time, and a hole takes none."""
    clock = Clock()
    cancel = Sleeper(clock)
    pieces: list[bytes | int] = [bytes(MIB), 64 * MIB, bytes(2 * MIB)]
    sent: list[bytes | int] = []

    class Both:
        """The streams of the original and of the copy."""

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

        def receive(self, _size: int) -> list[bytes | int]:
            return pieces

        def send(self, data: bytes) -> None:
            sent.append(data)

        def send_hole(self, length: int) -> None:
            sent.append(length)

    for module in (base, stream):
        monkeypatch.setattr(module, "get_volume", lambda *_: SimpleNamespace())
    monkeypatch.setattr(stream, "open_download", lambda *_: Both())
    monkeypatch.setattr(stream, "open_upload", lambda *_: Both())
    small = duplication()._replace(source=RAW._replace(physical=MIB))
    stream.fill(small, RAW, context(Pace(2 * MIB, clock), cancel))

    assert sent == pieces
    assert clock.now == pytest.approx(101.5)
