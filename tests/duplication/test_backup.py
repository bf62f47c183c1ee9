"""The end of a backup that was begun by a run of virtomate."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.clock import Clock
from virtomate.cancel import CancelToken
from virtomate.definition.provenance import DomainReference
from virtomate.duplication.pace import Pace
from virtomate.duplication.transfers import backup
from virtomate.errors import IllegalStateError, UnsupportedError

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


@pytest.mark.parametrize("is_waiting", [False, True])
def test_limit_for_which_libvirt_waits(monkeypatch: pytest.MonkeyPatch, is_waiting: bool) -> None:
    """Disks share the limit; where libvirt would limit a backup only when it has ended, there is no backup."""
    end = threading.Event()
    limits: list[tuple[str, int]] = []

    def limit_backup(_: object, disk: str, rate_bytes: int) -> None:
        if is_waiting:
            end.wait()
        limits.append((disk, rate_bytes))

    domain: Any = SimpleNamespace(name="web", uuid="uuid")
    lent: Any = SimpleNamespace(
        borrow=lambda: nullcontext("another connection"), cancel=CancelToken(), pace=Pace(10 << 20)
    )
    monkeypatch.setattr(backup, "backup", SimpleNamespace(limit_backup=limit_backup))
    monkeypatch.setattr(backup, "find_domain_by_uuid", lambda connection, uuid: (connection, uuid))

    try:
        if is_waiting:
            monkeypatch.setattr(backup, "_LIMIT_SECONDS", 0)
            with pytest.raises(UnsupportedError, match="cannot limit the backup of domain 'web'"):
                backup._limit(lent, domain, ["vda", "vdb"])
        else:
            backup._limit(lent, domain, ["vda", "vdb"])
    finally:
        end.set()

    assert is_waiting or limits == [("vda", 5 << 20), ("vdb", 5 << 20)]


def test_progress_of_a_backup_that_has_just_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress never goes back, also where the job ends between two questions about it."""
    documents, shares = [DOCUMENT, DOCUMENT, None], [0.8, 0.0]
    domain: Any = SimpleNamespace(name="web", run_id=1, is_active=lambda: True)
    fake = SimpleNamespace(
        find_backup=lambda _: documents.pop(0),
        processed_share=lambda _: shares.pop(0),
        waits_for_room=lambda _: False,
        wait_for_close=lambda _: None,
        end_of_job=lambda _: SimpleNamespace(is_success=True, reason=""),
    )
    monkeypatch.setattr(backup, "backup", fake)
    monkeypatch.setattr(backup, "find_domain_by_uuid", lambda *_: domain)
    job = backup._Job(cast("Any", None), domain, DomainReference("web", "uuid"), 1, frozenset({"/p/a"}), False)

    assert list(job.follow(CancelToken())) == [0.8, 0.8]
