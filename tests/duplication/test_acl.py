"""Access control lists: what a file's group may do by them, and how a new file gets one."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.duplication.volumes import RAW, described
from tests.lab.acl import ACCESS, access_list, read_list
from virtomate.duplication.acl import give_acl, may_be_given_here, mode_without_mask, with_acl

if TYPE_CHECKING:
    from pathlib import Path

# user 4711 may read and write, the group may read
LIST = access_list(6, (4711, 6), 4, 6)


@pytest.mark.parametrize(
    ("mode", "acl", "expected"),
    [
        ("0660", LIST, "0640"),
        ("0664", access_list(6, (4711, 6), 0, 6, 4), "0604"),
        # the mask takes something from the group, too
        ("0640", access_list(6, (4711, 6), 6, 4), "0640"),
        ("04770", access_list(7, (4711, 7), 5, 7), "4750"),
    ],
)
def test_mode_without_mask(mode: str, acl: bytes, expected: str) -> None:
    """The group's digit becomes what the list grants to the group, as far as the mask lets it."""
    assert mode_without_mask(mode, acl) == expected


def test_list_of_a_file_that_is_seen(tmp_path: Path) -> None:
    """It is known, and so is that there is none; of a file that is not the daemon's, nothing is."""
    path = tmp_path / "a.raw"
    path.write_bytes(b"x")
    path.chmod(0o640)
    assert with_acl(described(path, mode="0640")) == described(path, mode="0640", acl=b"")

    os.setxattr(path, ACCESS, LIST)

    assert with_acl(described(path, mode="0660")) == described(path, mode="0640", acl=LIST)
    assert with_acl(RAW) == RAW
    assert RAW.acl is None


def test_new_file_gets_a_list(tmp_path: Path) -> None:
    """The list is given, taken away and left alone; a file that is another one by now is not touched."""
    path = tmp_path / "a.raw"
    path.write_bytes(b"")
    path.chmod(0o640)

    assert give_acl(LIST, described(path))
    assert (read_list(path), stat.S_IMODE(path.stat().st_mode)) == (LIST, 0o660)
    assert not give_acl(LIST, described(path))
    path.chmod(0o640)
    assert give_acl(b"", described(path))
    assert (read_list(path), stat.S_IMODE(path.stat().st_mode)) == (b"", 0o640)
    assert not give_acl(b"", described(path))
    with pytest.raises(PermissionError):
        give_acl(LIST, RAW)


@pytest.mark.parametrize(
    ("user", "owner", "expected"),
    [(0, "64055", True), (1000, "1000", True), (1000, "64055", False), (1000, None, False)],
)
def test_who_may_give_a_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, owner: str | None, expected: bool
) -> None:
    """The new file's owner, and root."""
    path = tmp_path / "a.raw"
    path.write_bytes(b"")
    monkeypatch.setattr(os, "geteuid", lambda: user)

    assert may_be_given_here(described(path, owner=owner)) is expected
