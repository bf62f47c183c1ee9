"""The end of a backup that was begun by a run of virtomate."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from tests.clock import Clock
from virtomate.duplication.transfers import backup
from virtomate.errors import IllegalStateError

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection

DOCUMENT = "<domainbackup><disks><disk name='vda' backup='yes'><target file='/p/a'/></disk></disks></domainbackup>"


@pytest.mark.parametrize("call_seconds", [0.0, 45.0, 100.0])
def test_aborted_backup_that_does_not_end(monkeypatch: pytest.MonkeyPatch, call_seconds: float) -> None:
    """The files of a backup that still writes are not given up, also where looking takes longer than the time."""
    clock = Clock()
    monkeypatch.setattr("virtomate.cancel.time", clock)
    aborted: list[object] = []

    def find_backup(_: object) -> str:
        clock.now += call_seconds
        return DOCUMENT

    domain = SimpleNamespace(name="web")
    fake = SimpleNamespace(find_backup=find_backup, abort_job=aborted.append)
    monkeypatch.setattr(backup, "backup", fake)
    monkeypatch.setattr(backup, "find_domain_by_uuid", lambda *_: domain)

    with pytest.raises(IllegalStateError, match="does not end"):
        backup.end_backup(cast("Connection", None), "uuid", ["/p/a"])
    assert aborted == [domain]
