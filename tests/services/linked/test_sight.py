"""How images are looked for that are not where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.services.storage.fakes import REMOTE, FakeLibvirt, FakePool
from virtomate.definition.lower_images import BaseFingerprint
from virtomate.services.linked.sight import Sights

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("is_too_large", [False, True])
def test_far_file_under_another_name(tmp_path: Path, is_too_large: bool) -> None:
    """A file of the same length and time is found, unless its pool has more volumes than libvirt lists."""
    moved = tmp_path / "moved"
    moved.write_text("content")
    host = FakeLibvirt(REMOTE, pools=[FakePool("pool", tmp_path, is_too_large=is_too_large)])
    seconds, nanoseconds = divmod(moved.stat().st_mtime_ns, 10**9)
    then = BaseFingerprint(f"{seconds}.{nanoseconds:09}", len("content"))

    found = Sights(host.connection).find_elsewhere(str(tmp_path / "base"), then)

    assert found == (None if is_too_large else str(moved))
