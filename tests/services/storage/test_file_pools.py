"""The one list of pools of files, and what is asked of each kind of pool."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.services.storage.fakes import FakeLibvirt, FakePool
from virtomate.definition.volume import PoolDescription
from virtomate.errors import UnsupportedError, UsageError
from virtomate.hypervisor.storage import get_pool
from virtomate.services.storage import backend_of, check_logical_name, logical_name, require_new_files
from virtomate.services.storage.block_pools import rounded_to_extents

if TYPE_CHECKING:
    from pathlib import Path


MIB = 1024 * 1024


@pytest.mark.parametrize("kind", ["dir", "fs", "netfs", "vstorage"])
def test_pools_of_files(kind: str, tmp_path: Path) -> None:
    """New volumes are made in pools of files, and every file of the directory may be a volume."""
    pool = PoolDescription("p", kind, str(tmp_path))
    for name in ("a", "b"):
        tmp_path.joinpath(name).touch(0o000)

    backend_of(pool).require_new_volumes(pool)

    assert backend_of(pool).path_of(pool, "a") == f"{tmp_path}/a"
    assert sorted(backend_of(pool).list_paths(str(tmp_path))) == [f"{tmp_path}/a", f"{tmp_path}/b"]


@pytest.mark.parametrize("is_daemons", [True, False])
def test_space_of_a_pool_that_libvirt_does_not_list(tmp_path: Path, is_daemons: bool) -> None:
    """A file that libvirt describes as it is here shows that the file system is the daemon's."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
        (directory / "volume").write_text(directory.name)
    fake = FakePool("p", ours if is_daemons else theirs, says=str(ours), is_too_large=True)
    pool, described = get_pool(FakeLibvirt(pools=[fake]).connection, "p"), PoolDescription("p", "dir", str(ours))

    space = backend_of(described).seen_space(pool, described)

    assert (space is not None) is is_daemons


@pytest.mark.parametrize(("kind", "path"), [("rbd", None), ("later", "/p"), ("dir", None), ("logical", None)])
def test_other_pools(kind: str, path: str | None) -> None:
    """New volumes are refused in any other pool; the path of a volume is known where the pool has a directory."""
    pool = PoolDescription("p", kind, path)

    with pytest.raises(UnsupportedError, match=f"'p'.* is of type {kind}"):
        backend_of(pool).require_new_volumes(pool)

    assert backend_of(pool).path_of(pool, "v") == (None if path is None else f"{path}/v")


def test_volume_groups() -> None:
    """New volumes of a volume group are devices in the directory of the group, and no files."""
    pool = PoolDescription("p", "logical", "/dev/vg")
    backend_of(pool).require_new_volumes(pool)

    assert backend_of(pool).makes_devices
    assert backend_of(pool).path_of(pool, "v") == "/dev/vg/v"
    with pytest.raises(UnsupportedError, match="a file is to be made"):
        require_new_files(pool)


@pytest.mark.parametrize("kind", ["disk", "iscsi", "scsi", "mpath"])
def test_pools_of_devices_that_are_there(kind: str) -> None:
    """No volumes can be made in such pools; their directory holds other devices, too."""
    pool = PoolDescription("p", kind, "/dev")

    with pytest.raises(UnsupportedError, match=f"which is of type {kind}"):
        backend_of(pool).require_new_volumes(pool)

    assert backend_of(pool).path_of(pool, "sda1") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web-1", None),
        ("a" * 112, None),
        ("a+b_c.d", None),
        ("", "letters"),
        ("-a", "hyphen"),
        (".", "letters"),
        ("a b", "letters"),
        ("é", "letters"),
        ("snapshot1", "keeps"),
        ("pvmove", "keeps"),
        ("my_tmeta", "keeps"),
        ("x_rimage_0", "keeps"),
        ("a" * 115, "are possible"),
        ("-".join("a" * 40), "are possible"),
    ],
)
def test_names_of_logical_volumes(name: str, expected: str | None) -> None:
    """A name is one that LVM takes, with its volume group; what is made of any other name is such a name."""
    pool = PoolDescription("p", "logical", "/dev/vg")
    if expected is None:
        check_logical_name(pool, name)
        assert logical_name(name) == name
        return
    with pytest.raises(UsageError, match=expected):
        check_logical_name(pool, name)


@pytest.mark.parametrize(
    ("size", "figures", "expected"),
    [
        (1, (100, 40, 60), 4),
        (9, (100, 40, 60), 12),
        (8, (100, 0, 100), 8),
        (1, (0, 0, 0), 4),
        (1, (), 4),
        (5, (99, 33, 66), 5),
        (9, (960, 320, 640, 96, 224), 32),
        # rather than all of an empty group
        (1, (4096, 0, 4096), 64),
    ],
)
def test_rounding_to_extents(size: int, figures: tuple[int, ...], expected: int) -> None:
    """The figures of a volume group and its volumes tell the size of its extents, 64 MiB at most; sizes are in MiB."""
    assert rounded_to_extents(size * MIB, [figure * MIB for figure in figures]) == expected * MIB


def test_devices_that_cannot_be_opened_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No device is opened in vain."""
    for name in ("mine", "theirs"):
        tmp_path.joinpath(name).touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: path.endswith("mine"))

    assert backend_of(PoolDescription("p", "logical", str(tmp_path))).list_paths(str(tmp_path)) == [f"{tmp_path}/mine"]
