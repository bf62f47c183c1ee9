"""Connections of a run, where the real libvirt cannot be made to fail in a certain way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.clock import Clock
from virtomate.cancel import CancelToken
from virtomate.errors import NoConnectionError
from virtomate.hypervisor.session import SpareConnections

if TYPE_CHECKING:
    from typing import Never


@pytest.mark.parametrize("answers_after_seconds", [0.1, 60.0])
def test_daemon_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch, answers_after_seconds: float) -> None:
    """A lost daemon that refuses connections is an error, also when the time ends during the last attempt."""
    clock = Clock()
    attempts = []

    def refuse(*_: Any, was_lost: bool) -> Never:
        clock.sleep(answers_after_seconds)
        attempts.append(was_lost)
        raise NoConnectionError("refused")

    monkeypatch.setattr("virtomate.cancel.time", clock)
    monkeypatch.setattr("virtomate.hypervisor.session.connect", refuse)
    spare = SpareConnections(None, None, CancelToken())
    lost: Any = SimpleNamespace(close=lambda: None)
    spare.discard(lost)

    with pytest.raises(NoConnectionError, match="refused"):
        spare.take()
    made = len(attempts)
    with pytest.raises(NoConnectionError, match="refused"):
        spare.take()

    assert all(attempts)
    assert (made > 1) is (answers_after_seconds < 1)
    # it was waited for once
    assert len(attempts) == made + 1
