"""The end of a backup that was begun by a run of virtomate."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.clock import Clock
from virtomate.cancel import CancelToken
from virtomate.definition.provenance import DomainReference
from virtomate.duplication.pace import Pace
from virtomate.duplication.transfers import backup
from virtomate.enums import Consistency
from virtomate.errors import IllegalStateError, UnsupportedError
from virtomate.progress import Progress

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
    end, over = threading.Event(), threading.Event()
    limits: list[tuple[str, int]] = []

    def limit_backup(_: object, disk: str, rate_bytes: int) -> bool:
        if is_waiting:
            end.wait()
        limits.append((disk, rate_bytes))
        return True

    @contextmanager
    def borrow() -> Iterator[str]:
        yield "another connection"
        over.set()

    domain: Any = SimpleNamespace(name="web", uuid="uuid")
    lent: Any = SimpleNamespace(borrow=borrow, cancel=CancelToken(), pace=Pace(10 << 20))
    monkeypatch.setattr(backup, "backup", SimpleNamespace(limit_backup=limit_backup))
    monkeypatch.setattr(backup, "find_domain_by_uuid", lambda connection, uuid: (connection, uuid))

    try:
        if is_waiting:
            monkeypatch.setattr(backup, "_LIMIT_SECONDS", 0)
            with pytest.raises(UnsupportedError, match="cannot limit the backup of domain 'web'"):
                backup._limit(lent, domain, ["vda", "vdb"])
        else:
            assert backup._limit(lent, domain, ["vda", "vdb"])
    finally:
        end.set()
        # the thread that waited would take the next test's limits
        assert over.wait(60)

    assert limits == [("vda", 5 << 20), ("vdb", 5 << 20)]


@pytest.mark.parametrize(
    ("limits", "rate_mib", "copied_mib", "is_too_fast"),
    [
        ([True, True], 10, 500, False),
        ([True, False], 10, 500, True),
        ([False, False], 10, 30, False),
        ([False, False], 100, 200, False),
        ([], 0, 500, False),
    ],
    ids=["limited", "over too soon", "small", "slow by itself", "no limit"],
)
def test_backup_that_is_over_before_it_is_limited(
    monkeypatch: pytest.MonkeyPatch, limits: list[bool], rate_mib: int, copied_mib: int, *, is_too_fast: bool
) -> None:
    """A backup that libvirt did not limit, and that wrote more than the limit allows, is noticed."""
    clock = Clock()
    monkeypatch.setattr(backup, "time", clock)

    def follow(_job: object, _cancel: object) -> list[float]:
        clock.now += 2
        return [1.0]

    domain: Any = SimpleNamespace(name="web", uuid="uuid", run_id=1)
    fake = SimpleNamespace(limit_backup=lambda *_: limits.pop(0), waits_for_room=lambda _: False)
    monkeypatch.setattr(backup, "backup", fake)
    monkeypatch.setattr(backup, "find_domain_by_uuid", lambda *_: domain)
    monkeypatch.setattr(backup._Job, "follow", follow)
    start = backup.BackupStart(Consistency.CRASH)
    taken = backup.BackedUp(copied_mib // 2 << 20, is_trimmed=True, start=start)
    monkeypatch.setattr(backup, "_finish", lambda *_: taken)
    context: Any = SimpleNamespace(
        connection=None,
        borrow=lambda: nullcontext("another connection"),
        cancel=CancelToken(),
        pace=Pace(rate_mib << 20),
        progress=Progress(),
    )
    running = SimpleNamespace(original=DomainReference("web", "uuid"), run_id=1, all_disks=("vda", "vdb"))
    filled: Any = tuple(
        (
            SimpleNamespace(total_bytes=1, running=SimpleNamespace(**vars(running), disk=disk)),
            SimpleNamespace(format="raw", path=f"/p/{disk}"),
        )
        for disk in running.all_disks
    )

    outcomes = backup.fill(filled, "both", context, lambda *_: start)

    assert [outcome.is_too_fast for outcome in outcomes] == [is_too_fast] * 2
    assert limits == []


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
