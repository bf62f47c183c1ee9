"""Directories that are in no storage pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from virtomate.errors import UnsupportedError
from virtomate.services.storage.directories import directory_identity, refuse_devices

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("directory", ["/dev", "/dev/", "//dev/disk/by-id", "/proc/1", "/sys"])
def test_no_pool_over_devices(directory: str) -> None:
    """Libvirt opens all files of a pool, and to open a device may do something."""
    with pytest.raises(UnsupportedError, match="is a directory of devices"):
        refuse_devices(directory)


@pytest.mark.parametrize("directory", ["/", "/devices", "/srv/dev", "/dev/shm", "/dev/shm/images"])
def test_other_directories(directory: str) -> None:
    """Files may be anywhere else, also in memory."""
    refuse_devices(directory)


def test_identity(tmp_path: Path) -> None:
    """A link to a directory is that directory; what is not there is none."""
    (tmp_path / "link").symlink_to(tmp_path)

    assert directory_identity(str(tmp_path / "link")) == directory_identity(str(tmp_path)) is not None
    assert directory_identity(str(tmp_path / "missing")) is None
