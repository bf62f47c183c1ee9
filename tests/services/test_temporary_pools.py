"""The temporary pools of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from virtomate.errors import IllegalStateError
from virtomate.hypervisor.connection import connect
from virtomate.hypervisor.storage import Pool, find_pool
from virtomate.services.storage.temporary_pools import TemporaryPools

if TYPE_CHECKING:
    from pathlib import Path


def test_pool_that_cannot_be_stopped_is_still_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The undo tries again to stop a pool that could not be stopped, and names it as left behind if it has to."""
    node = tmp_path / "node.xml"
    node.write_text("<node/>")
    pools = TemporaryPools()
    with connect(f"test://{node}") as connection:
        pools.hold("/nonexistent")
        pools.hold("/nonexistent")
        pools.start(connection, "/nonexistent")
        pools.let_go(connection, "/nonexistent")

        def refuse(_pool: Pool) -> None:
            raise IllegalStateError("busy")

        with monkeypatch.context() as patch:
            patch.setattr(Pool, "stop", refuse)
            for _ in range(2):
                with pytest.raises(IllegalStateError, match="busy"):
                    pools.let_go(connection, "/nonexistent")
        assert find_pool(connection, pools.name("/nonexistent")) is not None
        pools.let_go(connection, "/nonexistent")

        assert find_pool(connection, pools.name("/nonexistent")) is None
