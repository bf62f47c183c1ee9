"""The watchdog: a process that thaws a guest when the process that froze the guest cannot do so.

The watchdog has a connection of its own. It has a session of its own, so that neither Ctrl-C nor the end of the
terminal reaches it. It is not a child of virtomate, so that whoever ends virtomate's children does not end the
watchdog. The watchdog reads a pipe: a byte dismisses the watchdog; the end of the pipe, or of the time, lets the
watchdog thaw.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.errors import IllegalStateError, VirtomateError
from virtomate.hypervisor import freeze
from virtomate.hypervisor.connection import connect_unattended
from virtomate.hypervisor.domains import find_domain_by_uuid

if TYPE_CHECKING:
    from typing import IO, NoReturn, Self

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection

# How long a guest may stay frozen.
THAW_AFTER_SECONDS = 10.0

# How long the watchdog may take to connect.
_READY_SECONDS = 20.0
# How long the watchdog tries to thaw.
_TRY_SECONDS = 600.0
# The freeze that a killed process has asked for may reach the agent so much later.
_SETTLE_SECONDS = 2.0
_LOOK_EVERY_SECONDS = 0.05

_READY = "ready"
# The interpreter ignores the environment, and imports from the places of this process.
_PROGRAM = """
import json, os, sys
order = json.loads(sys.stdin.readline())
if os.fork():
    os._exit(0)
sys.path[:] = order.pop("path")
from virtomate.hypervisor.watchdog import watch
watch(**order)
"""


class Watchdog:
    """A watchdog that is ready; at the end of the block the watchdog thaws unless it was dismissed."""

    def __init__(self, order: IO[bytes]) -> None:
        self._order = order

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):
            self._order.close()

    def dismiss(self) -> None:
        """Have the watchdog end: there is nothing to thaw."""
        with suppress(OSError):
            self._order.write(b"\n")
            self._order.flush()


def start_watchdog(connection: Connection, domain_uuid: str, token: str, cancel: CancelToken) -> Watchdog:
    """Start a watchdog over a domain; the watchdog thaws only a guest whose domain has the mark of this token.

    Raises:
        IllegalStateError: The process does not start, or cannot connect without asking somebody.
        InterruptedBySignalError: A signal arrived meanwhile.
    """
    import subprocess  # noqa: PLC0415 - few guests are frozen

    order = {
        "path": sys.path,
        "uri": connection.name,
        "uuid": domain_uuid,
        "token": token,
        "seconds": THAW_AFTER_SECONDS,
    }
    try:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter
            [sys.executable or "", "-I", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise _refusal(str(error)) from error
    pipe, answers = process.stdin, process.stdout
    if pipe is None or answers is None:
        raise AssertionError("both are pipes")
    watchdog = Watchdog(pipe)
    try:
        with suppress(BrokenPipeError):
            pipe.write(json.dumps(order).encode() + b"\n")
            pipe.flush()
        answer = _await_answer(answers, cancel)
    except BaseException:
        watchdog.__exit__()
        raise
    finally:
        answers.close()
        # the process has started the watchdog and ended, or failed
        process.kill()
        process.wait()
    if answer != _READY:
        watchdog.__exit__()
        raise _refusal(answer)
    return watchdog


def _refusal(reason: str) -> IllegalStateError:
    return IllegalStateError(f"the process that would thaw the guest if virtomate were killed does not start: {reason}")


def _await_answer(answers: IO[bytes], cancel: CancelToken) -> str:
    for _ in backoff(_READY_SECONDS, cancel):
        if select.select([answers], [], [], _LOOK_EVERY_SECONDS)[0]:
            return answers.readline().decode(errors="replace").strip() or "it ended at once"
    return f"it was not ready within {_READY_SECONDS:.0f} s"


def watch(uri: str, uuid: str, token: str, seconds: float) -> NoReturn:
    """Be the watchdog; for the arguments see `start_watchdog`."""
    # a service manager sends the signals to every process; virtomate then thaws, and dismisses the watchdog
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # ssh would ask at the desktop
    os.environ.pop("SSH_ASKPASS", None)
    try:
        connection = connect_unattended(uri)
        _answer(_READY)
        if not _is_dismissed(seconds):
            thaw_marked(uri, connection, uuid, token)
        connection.close()
    except VirtomateError as error:
        _answer(error.message)
    os._exit(0)


def thaw_marked(uri: str, connection: Connection, uuid: str, token: str) -> None:
    """Thaw the guest of a domain that has the mark of this token, and remove the mark; try again where that fails."""
    begin = time.monotonic()
    for _ in backoff(_TRY_SECONDS):
        with suppress(VirtomateError):
            if not connection.is_alive:
                connection = connect_unattended(uri)
            domain = find_domain_by_uuid(connection, uuid)
            mark = None if domain is None else freeze.find_mark(domain)
            if domain is None or mark is None or token not in mark:
                return
            is_settled = time.monotonic() - begin > _SETTLE_SECONDS
            if freeze.thaw(domain) or is_settled:
                freeze.clear_mark(domain)
                return


def _is_dismissed(seconds: float) -> bool:
    return bool(select.select([0], [], [], seconds)[0]) and os.read(0, 1) != b""


def _answer(text: str) -> None:
    with suppress(OSError):
        os.write(1, f"{' '.join(text.split())}\n".encode())
