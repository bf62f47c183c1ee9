"""The watchdog thaws what has its mark, tries again where that fails, and ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.clock import Clock
from virtomate.errors import AgentUnresponsiveError, ConnectionLostError, VirtomateError
from virtomate.hypervisor import watchdog

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection

MARK = "<freeze token='my token'/>"
SILENT, LOST = AgentUnresponsiveError("it does not answer"), ConnectionLostError("lost")


class Watched:
    """A guest, whose agent answers each thaw in turn; the last answer stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: int | VirtomateError) -> None:
        self.mark: str | None = MARK
        self.thaws = 0
        self.is_alive = True
        self.connections = 0
        self._answers = iter(answers)
        self._last: int | VirtomateError = 0
        self.clock = Clock()
        for module in ("virtomate.cancel.time", "virtomate.hypervisor.watchdog.time"):
            monkeypatch.setattr(module, self.clock)
        fake = SimpleNamespace(find_mark=lambda _: self.mark, thaw=self._thaw, clear_mark=self._clear)
        monkeypatch.setattr(watchdog, "freeze", fake)
        monkeypatch.setattr(watchdog, "find_domain_by_uuid", lambda *_: self)
        monkeypatch.setattr(watchdog, "connect_unattended", self._connect)

    def _connect(self, _uri: str) -> Any:
        self.connections += 1
        self.is_alive = True
        return self

    def _thaw(self, _domain: object) -> int:
        self.thaws += 1
        self._last = next(self._answers, self._last)
        if isinstance(self._last, VirtomateError):
            self.is_alive = self._last is not LOST
            raise self._last
        return self._last

    def _clear(self, _domain: object) -> None:
        self.mark = None

    def watch(self) -> None:
        """Have the watchdog thaw it."""
        watchdog.thaw_marked("uri", cast("Connection", self), "uuid", "my token")


@pytest.mark.parametrize("mark", [None, "<freeze token='other token'/>"])
def test_nothing_of_others_is_thawed(monkeypatch: pytest.MonkeyPatch, mark: str | None) -> None:
    """Without its mark the watchdog thaws nothing."""
    watched = Watched(monkeypatch)
    watched.mark = mark
    watched.watch()

    assert (watched.thaws, watched.mark) == (0, mark)


def test_thawed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is frozen is thawed, and the mark removed."""
    watched = Watched(monkeypatch, 2)
    watched.watch()

    assert (watched.thaws, watched.mark) == (1, None)


def test_freeze_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The killed process may have asked for the freeze, and the agent carries it out after the first thaw."""
    watched = Watched(monkeypatch, 0, 0, 2)
    watched.watch()

    assert (watched.thaws, watched.mark) == (3, None)


def test_nothing_was_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while nothing can come any more."""
    watched = Watched(monkeypatch, 0)
    watched.watch()

    assert watched.mark is None
    assert 2 < watched.clock.now < 4


def test_agent_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that does not answer is asked again, over a new connection where the other broke."""
    watched = Watched(monkeypatch, SILENT, LOST, SILENT, 2)
    watched.watch()

    assert (watched.thaws, watched.connections, watched.mark) == (4, 1, None)


def test_agent_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the end the watchdog gives up, and the mark stays for the next run."""
    watched = Watched(monkeypatch, SILENT)
    watched.watch()

    assert watched.mark is not None
    assert 600 <= watched.clock.now < 700
