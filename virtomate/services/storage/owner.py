"""The process that makes or deletes a clone, as other processes recognise it."""

from __future__ import annotations

import os

from virtomate.definition.provenance import Owner

# States of processes: zombie and dead.
_ENDED = {"Z", "X"}


def this_process() -> Owner:
    """Return what identifies this process."""
    return Owner(os.uname().nodename, os.getpid(), process_start(os.getpid()) or 0)


def process_start(pid: int) -> int | None:
    """Return when a process of this host started, in clock ticks since boot; None if it has ended (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            status = file.read()
    except OSError:
        return None
    # the second field is the command's name in parentheses, which may hold blanks; the start time is field 22
    state, *fields = status.rpartition(")")[2].split()
    # nobody may ever wait for a process that was killed: a container can have no init
    return None if state in _ENDED else int(fields[18])


def may_be_running(maker: Owner | None) -> bool:
    """Return whether the process may still run; a process on another host may."""
    return maker is not None and (maker.host != os.uname().nodename or is_running(maker))


def is_running(maker: Owner) -> bool:
    """Return whether the process runs on this host."""
    return maker.host == os.uname().nodename and process_start(maker.pid) == maker.started
