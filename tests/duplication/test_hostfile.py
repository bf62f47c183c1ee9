"""What is asked of files and file systems here."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from virtomate.duplication.hostfs import file_system, file_system_space, write_failure
from virtomate.errors import HypervisorError, NoSpaceError, VirtomateError


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


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOSPC, NoSpaceError, "Make room"),
        (errno.EDQUOT, NoSpaceError, "Make room"),
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
