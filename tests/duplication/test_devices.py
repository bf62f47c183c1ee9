"""Zeroes of block devices and holes, and what is seen of a device here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.duplication.test_pace import context, duplication
from tests.duplication.volumes import RAW
from virtomate.cancel import CancelToken
from virtomate.duplication import hostfs
from virtomate.duplication.devices import (
    UNIT_BYTES,
    find_device_obstacle,
    is_unwritten,
    open_device,
    runs_of_data,
    without_zeroes,
    zero_range,
)
from virtomate.duplication.devices import SeenDevice as Seen
from virtomate.duplication.pace import UNLIMITED
from virtomate.duplication.transfers import host_devices
from virtomate.errors import SourceChangedError

if TYPE_CHECKING:
    from pathlib import Path

UNIT = b"\0" * UNIT_BYTES
DATA = b"x".ljust(UNIT_BYTES, b"\0")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (UNIT * 3, []),
        (DATA, [(0, UNIT_BYTES)]),
        (UNIT + DATA + DATA + UNIT, [(UNIT_BYTES, 3 * UNIT_BYTES)]),
        (DATA + UNIT + b"\0" * 7 + b"x", [(0, UNIT_BYTES), (2 * UNIT_BYTES, 2 * UNIT_BYTES + 8)]),
        (DATA + b"\0" * 7, [(0, UNIT_BYTES)]),
    ],
)
def test_runs_of_data(data: bytes, expected: list[tuple[int, int]]) -> None:
    """Units that are all zero are passed over, and what is left of a unit at the end counts as one."""
    assert list(runs_of_data(data)) == expected


def test_content_without_zeroes() -> None:
    """Pieces and holes together are as long as what they are made of, and in its order."""
    pieces: list[bytes | int] = [UNIT + DATA, 12, DATA + UNIT + b"\0"]

    found = list(without_zeroes(iter(pieces)))

    assert found == [UNIT_BYTES, DATA, 12, DATA, UNIT_BYTES + 1]


@pytest.mark.parametrize(("begin", "end"), [(0, 4096), (3, 1025), (511, 512), (512, 512), (100, 9000)])
def test_zeroing_where_no_device_does_it(tmp_path: Path, begin: int, end: int) -> None:
    """Where the kernel zeroes nothing by itself, zeroes are written, also to parts of a sector."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    descriptor = os.open(path, os.O_RDWR)
    try:
        zero_range(descriptor, begin, end)
    finally:
        os.close(descriptor)

    assert path.read_bytes() == b"x" * begin + b"\0" * (end - begin) + b"x" * (10_000 - end)


def test_what_is_no_device(tmp_path: Path) -> None:
    """A file in the place of a device is not opened, and the reason is told."""
    path = tmp_path / "file"
    path.touch()
    volume = RAW._replace(path=str(path), type="block", pool="", changed=None, physical=0)

    assert open_device(volume, os.O_RDONLY) is None
    assert find_device_obstacle(volume) == "its path leads to no block device here"
    missing = find_device_obstacle(volume._replace(path=f"{path}/x"))
    assert missing is not None
    assert missing.startswith("its device cannot be seen here")


def test_device_whose_writes_are_not_counted(tmp_path: Path) -> None:
    """Where the kernel counts nothing, nothing has changed as far as this host knows."""
    path = tmp_path / "file"
    path.touch()
    with path.open("rb") as file:
        assert is_unwritten(Seen(file.fileno(), None))


@pytest.mark.parametrize("is_device", [True, False])
def test_short_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_device: bool) -> None:
    """A file system may return less than was asked for; what it leaves out is no hole. An early end is an error."""
    read = os.pread
    expected = os.urandom(150_001) + b"\0" * 8192 + os.urandom(3)
    (tmp_path / "a").write_bytes(expected)
    way = duplication()._replace(source=RAW._replace(type="block" if is_device else "file"))
    source, target = os.open(tmp_path / "a", os.O_RDONLY), os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(os, "pread", lambda file, length, offset: read(file, min(length, 1001), offset))
    try:
        copy = host_devices._Copy(source, target, way, RAW, context(UNLIMITED, CancelToken()))
        os.ftruncate(target, len(expected))
        copy.run(len(expected))

        assert (tmp_path / "b").read_bytes() == expected
        monkeypatch.setattr(os, "pread", lambda _file, _length, _offset: b"")
        with pytest.raises(SourceChangedError, match="became shorter"):
            copy.run(len(expected))
    finally:
        os.close(source)
        os.close(target)


@pytest.mark.parametrize("is_cached", [True, False])
def test_copy_leaves_the_page_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cached: bool) -> None:
    """What was copied is dropped from the page cache part by part; what others had there before stays."""
    size = 300_000
    (tmp_path / "a").write_bytes(os.urandom(size))
    source, target = os.open(tmp_path / "a", os.O_RDONLY), os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    dropped: dict[int, list[tuple[int, int]]] = {source: [], target: []}
    monkeypatch.setattr(host_devices, "_PART_BYTES", 65_536)
    monkeypatch.setattr(host_devices, "_CHUNK_BYTES", 32_768)
    monkeypatch.setattr(hostfs, "is_cached", lambda _file, _offset: is_cached)
    monkeypatch.setattr(os, "posix_fadvise", lambda file, begin, length, _: dropped[file].append((begin, length)))
    try:
        way = duplication()._replace(is_read_again=False)
        host_devices._Copy(source, target, way, RAW, context(UNLIMITED, CancelToken())).run(size)
    finally:
        os.close(source)
        os.close(target)

    parts = [(begin, 65_536) for begin in (65_536, 131_072, 196_608)]
    # the beginning is copied last
    expected = [*parts, (262_144, size - 262_144), (0, 65_536)]
    assert dropped[target] == expected
    assert dropped[source] == ([] if is_cached else expected)
