"""Run one program, and write down how long it took and how much memory it had: `launch.py REPORT SYNC PROGRAM...`.

A process of its own, and a small one: Linux counts the memory of whoever starts a program towards the program's peak
(setmax_mm_hiwater_rss in fs/exec.c), so nothing below this script's own 10 MiB can be told apart.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

TIMEOUT_SECONDS = 1200


def main() -> None:
    """Run the program that the arguments name; `sync` ends the time if SYNC is 1."""
    report, sync, *argv = sys.argv[1:]
    started = time.monotonic()
    pid = os.posix_spawn(argv[0], argv, os.environ)
    # A program that hangs is one that failed, and must not outlive the run.
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(TIMEOUT_SECONDS)
    _, status, usage = os.wait4(pid, 0)
    ended = time.monotonic()
    if sync == "1":
        os.sync()
    synced = time.monotonic()
    found = {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": synced - started,
        "sync_seconds": synced - ended,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
