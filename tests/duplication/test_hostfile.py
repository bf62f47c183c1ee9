"""What is asked of files and file systems here."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from virtomate.duplication.file_space import file_system_space, naming_quota, write_failure
from virtomate.duplication.hostfs import file_system, is_reserving, punch_holes
from virtomate.errors import HypervisorError, NoSpaceError, QuotaError, VirtomateError


def test_space_needs_no_right_to_list() -> None:
    """A member of the group libvirt, who may pass through the directory of a pool and not list it, sees its space."""
    if os.geteuid() != 0:
        pytest.skip("needs root: to become somebody else")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o711)
        as_root = file_system_space(name)
        os.seteuid(65534)
        try:
            identity, space = file_system(name), file_system_space(name)
        finally:
            os.seteuid(0)
        device = directory.stat().st_dev

    assert identity is None
    assert space is not None
    assert as_root is not None
    assert (space.capacity, space.file_system) == (as_root.capacity, device)


def test_no_space_where_there_is_no_directory() -> None:
    """A directory that is not there has no space to speak of."""
    assert file_system_space("/nowhere/at/all") is None


def test_full_quota_that_looks_like_a_full_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XFS answers that no space is left where a project quota is used up; the figures tell that it is the quota."""
    true = os.statvfs
    directory = tmp_path / "limited"
    directory.mkdir()

    def statvfs(path: str) -> os.statvfs_result:
        figures = list(true(path))
        if path == str(directory):
            figures[2:5] = [10, 0, 0]
        return os.statvfs_result(figures)

    monkeypatch.setattr(os, "statvfs", statvfs)
    full, quota = NoSpaceError("it is full"), QuotaError("it is used up")

    assert naming_quota(full, str(tmp_path)) is None
    assert naming_quota(full, "/nowhere/at/all") is None
    assert naming_quota(quota, str(directory)) is None
    error = naming_quota(full, str(directory))
    assert isinstance(error, QuotaError)
    assert error.message == f"it is full (the quota of '{directory}' is used up)"
    assert (error.json_type, error.exit_status) == ("NoSpaceError", 1)


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOSPC, NoSpaceError, "Make room"),
        (errno.EDQUOT, QuotaError, "Raise the quota"),
        (errno.EFBIG, NoSpaceError, "ulimit -f"),
        (errno.EIO, HypervisorError, "None"),
    ],
)
def test_file_that_cannot_be_written(number: int, kind: type[VirtomateError], hint: str) -> None:
    """A full file system is told from one that takes no file of that length, and from a broken one."""
    error = write_failure(OSError(number, "no"), "/p/a.raw")

    assert type(error) is kind
    assert error.message == f"cannot write '/p/a.raw': {os.strerror(number)}"
    assert hint in str(error.hint)


@pytest.mark.parametrize("begin", [0, 3 << 30, 5 << 30], ids=["at the begin", "beyond 2 GiB", "beyond 4 GiB"])
def test_holes_are_given_back(tmp_path: Path, begin: int) -> None:
    """What is allocated and holds no data is given back, wherever it is; content and length stay."""
    path = tmp_path / "file"
    reserved = 8 << 20
    places = {begin + offset for offset in (0, 3 << 20, reserved - 5)} | {begin % (1 << 30)}
    with path.open("xb") as file:
        os.posix_fallocate(file.fileno(), begin, reserved)
        for place in places:
            file.seek(place)
            file.write(b"12345")
    assert path.stat().st_blocks * 512 >= reserved

    with path.open("r+b") as file:
        punch_holes(file.fileno())
        content = {os.pread(file.fileno(), 5, place) for place in places}

    assert content == {b"12345"}
    assert path.stat().st_blocks * 512 < 1 << 20
    assert path.stat().st_size == begin + reserved


def test_file_systems_that_promise_space(tmp_path: Path) -> None:
    """An ordinary file system keeps what was allocated; one that the kernel makes up is not known to break it."""
    assert is_reserving(str(tmp_path)) is True
    assert is_reserving("/nowhere/at/all") is None
