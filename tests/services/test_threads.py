"""How work gets to the threads of a run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from virtomate.services.transaction import submit


def test_result_and_failure_arrive() -> None:
    """What the work returns or raises is what its future has."""
    with ThreadPoolExecutor(1) as executor:
        assert submit(executor, int, "7").result() == 7
        with pytest.raises(ValueError, match="x"):
            submit(executor, int, "x").result()


@pytest.mark.parametrize("running", [0, 1])
def test_without_a_thread_the_caller_works(running: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, each piece of work is done once: by the caller, or by a thread there is."""
    done: list[int] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(started) == running:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", limited)
    with ThreadPoolExecutor(3) as executor:
        futures = [submit(executor, done.append, number) for number in range(5)]
        for future in futures:
            future.result(timeout=60)

    assert sorted(done) == list(range(5))


def test_work_that_is_cancelled_is_not_done() -> None:
    """What waits for its turn can be cancelled."""
    done: list[str] = []
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        submit(executor, gate.wait, 60)
        waiting = submit(executor, done.append, "late")
        assert waiting.cancel()
        gate.set()

    assert done == []
