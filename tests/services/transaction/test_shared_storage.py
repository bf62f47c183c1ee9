"""What is said where the host of the original does not see a new volume of the other host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.duplication.test_pace import duplication
from tests.duplication.volumes import RAW
from virtomate.errors import UnsupportedError
from virtomate.services.transaction import shared_storage


@pytest.mark.parametrize(
    ("is_fresh", "message"),
    [(True, "nothing shows that the hosts share"), (False, "cannot refresh storage pool 'nas'")],
)
def test_volume_that_is_not_seen(monkeypatch: pytest.MonkeyPatch, is_fresh: bool, message: str) -> None:
    """A pool that cannot be refreshed, since libvirt makes a volume in it, does not show that nothing is shared."""
    pool = SimpleNamespace(refresh=lambda: is_fresh, find_volume=lambda _name: None)
    monkeypatch.setattr(shared_storage, "get_pool", lambda _connection, _name: pool)
    monkeypatch.setattr(shared_storage, "get_volume", lambda _connection, _pool, _name: None)
    monkeypatch.setattr(shared_storage, "SEEN_LATER_SECONDS", 0)
    way = duplication()
    beside = RAW._replace(pool="nas", path=f"{way.place.directory}/original.raw")
    way = way._replace(source=beside, originals=(beside,))
    context = SimpleNamespace(source=None, connection=None, cancel=None, at_original=str)

    with pytest.raises(UnsupportedError, match=message):
        shared_storage.require_shared(way, RAW, cast("Any", context))
