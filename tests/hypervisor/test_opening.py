"""The opening of connections to hosts that say nothing, and to those before which a person has to type something."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.clock import Clock
from tests.hypervisor.test_calls import frame_in
from virtomate.cancel import CancelToken
from virtomate.errors import InterruptedBySignalError, SilentHostError
from virtomate.hypervisor import connection, opening
from virtomate.hypervisor.calls import calls_in_progress
from virtomate.hypervisor.opening import Opening

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT_SECONDS = 0.15


@pytest.fixture
def silent_tcp() -> Iterator[str]:
    """The URI of a host that lets everybody in and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"qemu+tcp://127.0.0.1:{server.getsockname()[1]}/system"


@pytest.fixture
def silent_ssh(tmp_path: Path) -> str:
    """A URI for which libvirt starts a program that says nothing, as an ssh that waits for another to a jump host."""
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\nsleep 3600\n:\n")
    program.chmod(0o755)
    return f"qemu+ext:///system?command={program}"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person at a terminal, and no desktop."""
    monkeypatch.setattr(opening, "_has_terminal", lambda: True)
    for name in ("SSH_ASKPASS", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def test_silent_host_is_given_up_at_a_terminal(silent_tcp: str) -> None:
    """Where nothing can ask for a password, the time is limited, whether there is a terminal or not."""
    with pytest.raises(SilentHostError, match="no answer"):
        Opening(silent_tcp, lambda _prompt, _is_secret: "").run(SHORT_SECONDS, CancelToken(), is_patient=True)


def test_calls_that_have_not_returned(silent_tcp: str) -> None:
    """A call that hangs is seen as the same one again and again; the event loop, which always waits, is none."""
    connection._start_event_loop()
    loop = next(thread for thread in threading.enumerate() if thread.name == "libvirt-events")
    started = Opening(silent_tcp, None)
    with pytest.raises(SilentHostError):
        started.run(SHORT_SECONDS, CancelToken(), is_patient=True)
    assert started._thread is not None

    first = frame_in(started._thread, "openAuth")
    waiting = frame_in(loop, "virEventRunDefaultImpl")

    for _ in range(2):
        calls = calls_in_progress()
        assert calls[first] is None
        assert waiting not in calls


@pytest.mark.parametrize("is_patient", [True, False])
def test_program_that_may_ask_is_waited_for(silent_ssh: str, is_patient: bool) -> None:
    """An ssh at a terminal has all the time it needs, unless an undo waits; a signal ends it in any case."""
    cancel = CancelToken()
    started = Opening(silent_ssh, None)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            started.run(SHORT_SECONDS, cancel, is_patient=is_patient)
        except (InterruptedBySignalError, SilentHostError) as error:
            errors.append(error)

    waiting = threading.Thread(target=run)
    waiting.start()
    while is_patient and len(opening._descendants(started._task)) < 2:
        time.sleep(SHORT_SECONDS)
    waiting.join(3 * SHORT_SECONDS if is_patient else None)
    programs = opening._descendants(started._task)
    cancel.interrupt(signal.SIGTERM)
    waiting.join()

    assert len(programs) == 2 or not is_patient
    assert [type(error) for error in errors] == [InterruptedBySignalError if is_patient else SilentHostError]
    assert not any(is_alive(program) for program in programs)


def is_alive(process: int) -> bool:
    """Tell whether a process runs, after it has had time to end."""
    for _ in range(1000):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            # it ended before the file was opened, or before it was read
            return False
        time.sleep(0.01)
    return True


def test_connection_for_an_undo_is_tried_after_a_signal(silent_tcp: str) -> None:
    """What is opened after a signal is for the undo, and is given its time."""
    cancel = CancelToken()
    cancel.interrupt(signal.SIGINT)

    with pytest.raises(SilentHostError):
        Opening(silent_tcp, None).run(SHORT_SECONDS, cancel, is_patient=True)


def test_person_who_is_asked_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a person takes for an answer does not count; no answer is a refusal."""
    asked: list[tuple[str, bool]] = []
    # a machine that is busy takes no time, only the person does
    clock = Clock()
    monkeypatch.setattr(opening, "time", clock)

    def ask(prompt: str, is_secret: bool) -> str | None:
        asked.append((prompt, is_secret))
        clock.sleep(2 * SHORT_SECONDS)
        # who opens the connection looks at the clock meanwhile
        time.sleep(SHORT_SECONDS)
        return None if is_secret else "somebody"

    # A driver that wants to know who is there before it looks for the host.
    with pytest.raises(libvirt.libvirtError, match="Password request failed"):
        Opening("esx://127.0.0.1/", ask).run(SHORT_SECONDS, CancelToken(), is_patient=True)

    assert [is_secret for _, is_secret in asked] == [False, True]


@pytest.mark.parametrize(
    ("uri", "may_ask"),
    [
        (None, True),
        ("qemu:///system", True),
        ("qemu+unix:///system?socket=/run/x", True),
        ("qemu:///session", False),
        ("qemu+unix:///session?socket=/run/x", False),
        ("qemu+tcp://host/system", False),
    ],
)
def test_polkit_may_ask_at_a_desktop(uri: str | None, may_ask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody at a desktop may be typing a password for polkit; root is never asked, nor whose own daemon it is."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not opening._polkit_may_ask(uri)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert opening._polkit_may_ask(uri) == may_ask
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not opening._polkit_may_ask(uri)
