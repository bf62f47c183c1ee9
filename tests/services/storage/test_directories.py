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
        refuse_devices(directory, is_local=False)


@pytest.mark.parametrize("directory", ["/", "/devices", "/srv/dev", "/dev/shm", "/dev/shm/images"])
def test_other_directories(directory: str) -> None:
    """Files may be anywhere else, also in memory."""
    refuse_devices(directory, is_local=True)


@pytest.mark.parametrize("directory", ["", ".", "images"])
def test_no_pool_over_a_relative_path(directory: str) -> None:
    """A definition, or a record in one, may name a file by any text."""
    with pytest.raises(UnsupportedError, match="does not begin with a slash"):
        refuse_devices(directory, is_local=True)


def test_link_to_devices(tmp_path: Path) -> None:
    """A link leads libvirt to the devices, on the host where the link is."""
    link = tmp_path / "link"
    link.symlink_to("/dev")

    with pytest.raises(UnsupportedError, match=f"'{link}' is a directory of devices"):
        refuse_devices(str(link), is_local=True)
    refuse_devices(str(link), is_local=False)


def test_identity(tmp_path: Path) -> None:
    """A link to a directory is that directory; what is not there is none."""
    (tmp_path / "link").symlink_to(tmp_path)

    assert directory_identity(str(tmp_path / "link")) == directory_identity(str(tmp_path)) is not None
    assert directory_identity(str(tmp_path / "missing")) is None
