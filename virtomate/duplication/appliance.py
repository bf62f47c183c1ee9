"""virt-sysprep and virt-customize, which change guests in images by a small system of their own, the appliance.

Source: https://libguestfs.org/guestfs.3.html#libguestfs-architecture
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtomate.cancel import CancelToken

# The appliance is a QEMU that the program starts, and prctl(2) would reach the program only. When this process ends,
# however it ends, its end of a pipe is closed: then the whole process group is killed.
_TIED = """
import os, subprocess, sys, threading
def watch():
    os.read(0, 1)
    os.killpg(0, 9)
threading.Thread(target=watch, daemon=True).start()
status = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode
sys.stdout.flush()
os._exit(status if status >= 0 else 128 - status)
"""
_PIECE_BYTES = 4096
_LOOK_SECONDS = 0.1
# what is kept of the output to tell why the program failed
_KEPT_LINES = 200


class Outcome(NamedTuple):
    """How a program ended: its exit status, and the last lines of its output."""

    status: int
    lines: tuple[str, ...]


def run_in_appliance(words: Sequence[str], cancel: CancelToken, hear: Callable[[str], None]) -> Outcome:
    """Run a program of libguestfs until its end; a signal kills the program and its appliance.

    The environment is handed on, so that `LIBGUESTFS_BACKEND` and its like count.

    Args:
        words: The program and its arguments.
        cancel: Tells of signals.
        hear: Is told each line of the output.

    Raises:
        InterruptedBySignalError: A signal arrived.
        OSError: The program cannot be started.
    """
    with subprocess.Popen(  # noqa: S603 - no shell reads the words
        [sys.executable, "-I", "-S", "-c", _TIED, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C"},
        # Ctrl-C at a terminal is for this process
        process_group=0,
    ) as process:
        try:
            lines = _follow(process, cancel, hear)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            # Also after a failure of the program, which leaves its appliance running for some seconds. The group is
            # still ours, since its first process has not been waited for.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return Outcome(process.wait(), lines)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has ended, and leave its status for others to collect."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _follow(process: subprocess.Popen[bytes], cancel: CancelToken, hear: Callable[[str], None]) -> tuple[str, ...]:
    """Hear each line until the program ends its output, and return the last lines; look for a signal meanwhile."""
    output = process.stdout
    if output is None:
        raise AssertionError("the output is a pipe")
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    rest = b""

    def take(line: bytes) -> None:
        said = line.decode(errors="replace").rstrip("\r")
        lines.append(said)
        hear(said)

    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            cancel.check()
            if not selector.select(_LOOK_SECONDS):
                # What is left of the appliance has the pipe open. The program may have ended only after the first look.
                if _has_ended(process) and not selector.select(0):
                    break
                continue
            piece = os.read(output.fileno(), _PIECE_BYTES)
            if not piece:
                break
            *complete, rest = (rest + piece).split(b"\n")
            for line in complete:
                take(line)
    # a program that fails may not end its last line
    if rest:
        take(rest)
    return tuple(lines)
