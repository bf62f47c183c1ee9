"""What keeps files of the daemon from being filled here; the files are real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.duplication.volumes import described
from virtomate.duplication.hostfs import find_obstacle

SOMEBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the daemon's that can be seen here."""
    path = tmp_path / "a.raw"
    path.write_bytes(b"content")
    return path


def test_file_that_can_be_filled_here(file: Path) -> None:
    """Nothing stands in the way of who sees the file, reads it and owns it."""
    assert find_obstacle(described(file)) is None


@pytest.mark.parametrize("path", ["/nonexistent/a.raw", "/p/\x00"])
def test_file_that_is_not_here(file: Path, path: str) -> None:
    """A file that is nowhere here cannot be seen."""
    assert "cannot be seen here" in str(find_obstacle(described(file)._replace(path=path)))


def test_file_that_is_another(file: Path) -> None:
    """A file that only has the path is not taken for the daemon's."""
    volume = described(file)
    file.write_bytes(b"something else")

    assert "not the file that libvirt tells of" in str(find_obstacle(volume))


def test_file_that_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees the file but may not read it is told that, and not that there is nothing to be seen."""
    # root may read everything
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == file and mode == os.R_OK))

    assert find_obstacle(described(file)) == "its file cannot be read here"


def test_file_of_somebody_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the file but could not write to a copy with its owner is told of the owner."""
    if os.geteuid() == 0:
        os.chown(file, SOMEBODY, SOMEBODY)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)

    assert "the same owner, another user" in str(find_obstacle(described(file)))
