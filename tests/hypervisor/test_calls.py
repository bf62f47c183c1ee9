"""The calls of libvirt's that have not returned, and who has to answer them."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import libvirt_qemu

from virtomate.hypervisor.agent import call_agent
from virtomate.hypervisor.calls import calls_in_progress
from virtomate.hypervisor.domains import Domain
from virtomate.services.clone import shutdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    import pytest

    from virtomate.services.transaction import Run

HANDLE: Any = SimpleNamespace(name=lambda: "web", UUIDString=lambda: "", shutdown=lambda: None)


def hanging(answers: SimpleQueue[Any], module: str, function: str) -> Callable[..., Any]:
    """Return a function of one of libvirt's bindings that returns when there is an answer for it."""
    binding: dict[str, Any] = {"__name__": module, "answers": answers}
    exec(f"def {function}(*words): return answers.get()", binding)
    return cast("Callable[..., Any]", binding[function])


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Make a call in another thread."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def frame_in(thread: threading.Thread, function: str) -> FrameType:
    """Return the innermost frame of a thread, once it is that of a function."""
    while True:
        frame = sys._current_frames()[thread.ident or 0]
        if frame.f_code.co_name == function:
            return frame
        time.sleep(0.001)


def test_copy_by_libvirt_may_take_any_time() -> None:
    """A call in which libvirt copies a volume is not seen as one to which libvirt does not answer."""
    answers = SimpleQueue[Any]()
    copying, asking = (in_thread(hanging(answers, "libvirt", name)) for name in ("createXMLFrom", "info"))
    copy, question = frame_in(copying, "createXMLFrom"), frame_in(asking, "info")

    calls = calls_in_progress()
    answers.put(None)
    answers.put(None)

    assert copy not in calls
    assert calls[question] is None


def test_question_to_a_guest_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libvirt passes a command on to a guest agent, the agent has to answer; afterwards libvirt has again."""
    answers = SimpleQueue[Any]()
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", hanging(answers, "libvirt_qemu", "qemuAgentCommand"))
    info = hanging(answers, "libvirt", "info")

    def work() -> None:
        call_agent(Domain(HANDLE), "guest-ping")
        info()

    working = in_thread(work)
    question = frame_in(working, "qemuAgentCommand")
    during = calls_in_progress()
    answers.put('{"return": {}}')
    later = frame_in(working, "info")
    afterwards = calls_in_progress()
    answers.put(None)

    assert during[question] == "the guest agent of domain 'web'"
    assert afterwards[later] is None


def test_request_to_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that is to shut down has to answer: libvirt waits for its agent."""
    answers = SimpleQueue[Any]()
    monkeypatch.setattr(HANDLE, "shutdown", hanging(answers, "libvirt", "shutdown"))
    monkeypatch.setattr(shutdown, "find_domain", lambda _connection, _uuid: Domain(HANDLE))

    @contextmanager
    def borrow() -> Iterator[None]:
        yield

    run = cast("Run", SimpleNamespace(source=SimpleNamespace(borrow=borrow)))

    question = frame_in(in_thread(lambda: shutdown._request(run, "")), "shutdown")
    during = calls_in_progress()
    answers.put(None)

    assert during[question] == "the guest of domain 'web'"
