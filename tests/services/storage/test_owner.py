"""Whether the process that makes a clone still runs."""

from __future__ import annotations

import os
import subprocess
import sys

from virtomate.services.storage.owner import is_running, process_start, this_process


def test_process_that_nobody_has_waited_for_has_ended() -> None:
    """In a container without an init, what a killed run has left would never be removed otherwise."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = this_process()._replace(pid=process.pid, started=process_start(process.pid) or 0)
        was_running = is_running(owner)
        process.kill()
        # until it has ended, and without its number being given away
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        runs = is_running(owner)

    assert was_running
    assert not runs
