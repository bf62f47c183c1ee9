"""The temporary pools of a run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from virtomate.definition.volume import directory_pool_document
from virtomate.errors import IllegalStateError
from virtomate.hypervisor.session import Session, open_session
from virtomate.hypervisor.storage import Pool, list_pools, start_transient_pool
from virtomate.output.messages import sentences
from virtomate.services.storage import refresh_all
from virtomate.services.storage import temporary_pools as module
from virtomate.services.storage.owner import this_process
from virtomate.services.storage.temporary_pools import new_pool_name, stop_stale_pools, temporary_pools_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from virtomate.definition.provenance import Owner


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session of a test driver of its own."""
    node = tmp_path / "node.xml"
    node.write_text("<node/>")
    with open_session(f"test://{node}") as session:
        yield session


def names(session: Session) -> set[str]:
    """Return the names of all pools."""
    return {pool.name for pool in list_pools(session.connection)}


def test_one_pool_for_each_directory(session: Session) -> None:
    """Two spellings of a directory have one pool, and none outlives the run."""
    with temporary_pools_of(session) as pools:
        first, again, other = (pools.over(directory) for directory in ("/a", "/a/.", "/b"))
        assert names(session) == {first.name, other.name} == set(pools.names.values())
    assert first.name == again.name
    assert names(session) == set()
    assert pools.left == ()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(IllegalStateError("busy"), "busy"), (RuntimeError("mistake"), "RuntimeError('mistake')")],
    ids=["libvirt", "mistake"],
)
def test_pool_that_cannot_be_stopped_is_named(
    session: Session, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    """What could not be stopped is told, and the others are stopped; a mistake of ours is no exception."""
    stop = Pool.stop

    def refuse(pool: Pool) -> None:
        if pool.name == kept:
            raise error
        stop(pool)

    monkeypatch.setattr(Pool, "stop", refuse)
    with temporary_pools_of(session) as pools:
        kept = pools.over("/a").name
        pools.over("/b")

    assert sentences(pools.left) == [f"temporary storage pool '{kept}' ({reason})"]
    assert names(session) == {kept}


def owned_by(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a temporary pool of some process."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "this_process", lambda: owner)
        return new_pool_name()


def test_only_stale_pools_are_stopped(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary pool is stopped if its owner was a process of this host and is gone, and no other pool is."""
    alive = this_process()
    stale = owned_by(alive._replace(started=alive.started + 1), monkeypatch)
    staying = {
        owned_by(alive, monkeypatch),
        owned_by(alive._replace(host="elsewhere", pid=1), monkeypatch),
        "virtomate-clone-12345678-1234-4abc-8def-0123456789ab",
        "virtomate-clone-of-mine",
        "images",
    }
    for number, name in enumerate({stale, *staying}):
        start_transient_pool(session.connection, name, directory_pool_document(name, f"/nonexistent/{number}"))

    stop_stale_pools(session)

    assert names(session) == staying


def test_mistakes_at_the_end_of_a_run(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails when stale pools are stopped and others refreshed is logged: the results must be told.

    Only a log that was asked for has it: stderr may be read by a program.
    """
    caplog.set_level(logging.INFO)
    alive = this_process()
    stale = owned_by(alive._replace(started=alive.started + 1), monkeypatch)
    start_transient_pool(session.connection, stale, directory_pool_document(stale, "/nonexistent"))

    def fail(_pool: Pool) -> bool:
        raise RuntimeError("mistake")

    monkeypatch.setattr(Pool, "refresh", fail)
    monkeypatch.setattr(Pool, "stop", fail)
    refresh_all(session, {stale, "missing"})
    stop_stale_pools(session)

    assert names(session) == {stale}
    assert [record.getMessage() for record in caplog.records] == [
        f"refreshing storage pool 'missing' failed: there is no storage pool 'missing' on {session.connection.name}",
        f"refreshing storage pool '{stale}' failed: mistake",
        "stopping the temporary storage pools of other runs failed: mistake",
    ]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, True]
