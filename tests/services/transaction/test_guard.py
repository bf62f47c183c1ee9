"""The guard over volumes that cannot be locked here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.duplication.volumes import RAW
from virtomate.errors import SourceChangedError
from virtomate.services.transaction import guard
from virtomate.services.transaction.guard import Guard, Watched

KEY = "abcdef-GHIJ-klmn-OPQR-stuv-WXYZ-012345"
VOLUME = RAW._replace(path="/dev/a-b/root", pool="a-b", name="root", type="block", key=KEY)
BY_UUID = f"/dev/disk/by-id/dm-uuid-LVM-{'v' * 32}{KEY.replace('-', '')}"


@pytest.mark.parametrize(
    ("source", "is_refused"),
    [
        ("dev='/dev/a-b/root'", True),
        ("dev='/dev/mapper/a--b-root'", True),
        ("dev='/dev/mapper/a-b--root'", False),
        ("dev='/dev/disk/by-id/dm-name-a--b-root'", True),
        (f"dev='{BY_UUID}'", True),
        (f"dev='{BY_UUID[:-1]}6'", False),
        ("pool='a-b' volume='root'", True),
        ("pool='a-b' volume='other'", False),
    ],
)
def test_writer_that_was_started(monkeypatch: pytest.MonkeyPatch, source: str, is_refused: bool) -> None:
    """A domain that was started since, and has the device by any name of its own, may write to the device."""
    kind = "volume" if "pool" in source else "block"
    live = f"<domain><devices><disk type='{kind}'><source {source}/><target dev='vda'/></disk></devices></domain>"
    monkeypatch.setattr(guard, "list_active_domains", lambda _: [SimpleNamespace(name="web", run_id=2)])
    monkeypatch.setattr(guard, "Definitions", lambda: SimpleNamespace(live=lambda _: live))
    monkeypatch.setattr(guard, "_look", lambda _connection, volume: volume)
    watch = Guard(lambda _: None, (Watched(VOLUME, None),), frozenset({1}))
    connection = cast("Any", SimpleNamespace(is_local=False))

    if is_refused:
        with pytest.raises(SourceChangedError, match="domain 'web', which may write to '/dev/a-b/root', was started"):
            watch.require_unchanged(connection)
    else:
        watch.require_unchanged(connection)
