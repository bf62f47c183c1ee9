"""The one list of pools of files, and what is asked of each kind of pool."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from virtomate.definition.volume import PoolDescription
from virtomate.errors import UnsupportedError
from virtomate.services.storage import backend_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["dir", "fs", "netfs", "vstorage"])
def test_pools_of_files(kind: str, tmp_path: Path) -> None:
    """New volumes are made in pools of files, and every file of the directory may be a volume."""
    pool = PoolDescription("p", kind, str(tmp_path))
    for name in ("a", "b"):
        tmp_path.joinpath(name).touch(0o000)

    backend_of(pool).require_new_volumes(pool)

    assert backend_of(pool).path_of(pool, "a") == f"{tmp_path}/a"
    assert sorted(backend_of(pool).list_paths(str(tmp_path))) == [f"{tmp_path}/a", f"{tmp_path}/b"]


@pytest.mark.parametrize(("kind", "path"), [("logical", "/dev/vg"), ("rbd", None), ("later", "/p"), ("dir", None)])
def test_other_pools(kind: str, path: str | None) -> None:
    """New volumes are refused in any other pool; the path of a volume is known where the pool has a directory."""
    pool = PoolDescription("p", kind, path)

    with pytest.raises(UnsupportedError, match=f"'p' is of type {kind}"):
        backend_of(pool).require_new_volumes(pool)

    assert backend_of(pool).path_of(pool, "v") == (None if path is None else f"{path}/v")


def test_devices_that_cannot_be_opened_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No device is opened in vain."""
    for name in ("mine", "theirs"):
        tmp_path.joinpath(name).touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: path.endswith("mine"))

    assert backend_of(PoolDescription("p", "logical", str(tmp_path))).list_paths(str(tmp_path)) == [f"{tmp_path}/mine"]
