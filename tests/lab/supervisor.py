"""Process 1 of a lab host: mounts its private directories, starts and ends libvirtd, and takes everything with it.

Run as a script. It reads requests as JSON lines from standard input and answers each with one JSON line. When
standard input ends, because the lab was closed or its process was killed in whatever way, the supervisor exits; being
the first process of its PID namespace, the kernel then kills the daemon and every guest. Without root there is no
such namespace: the supervisor adopts orphans instead and kills them one by one.
"""

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

# How long a daemon that is asked to end may take.
STOP_TIMEOUT_SECONDS = 20.0


class Supervisor:
    """The daemon of one lab host, and whatever it leaves behind."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self._daemon: int | None = None

    def serve(self) -> None:
        """Answer requests until standard input ends."""
        buffer = b""
        while True:
            self._reap()
            ready, _, _ = select.select([0], [], [], 0.2)
            if not ready:
                continue
            chunk = os.read(0, 65536)
            if not chunk:
                return
            buffer += chunk
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                answer = self._answer(json.loads(line))
                os.write(1, json.dumps(answer).encode() + b"\n")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "start":
                self._start()
            case "stop":
                self._end(signal.SIGTERM)
            case "kill":
                self._end(signal.SIGKILL)
            case "signal" if self._daemon is not None:
                os.kill(self._daemon, request["number"])
            case "run":
                return self._run(request["argv"])
        self._reap()
        return {"running": self._daemon is not None}

    def _start(self) -> None:
        if self._daemon is not None:
            # A test may have stopped it for a while.
            os.kill(self._daemon, signal.SIGCONT)
        else:
            with Path(os.environ["LAB_DAEMON_OUTPUT"]).open("ab") as output:
                process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            self._daemon = process.pid
            # The process is reaped here and not by Popen, which would complain that it still runs.
            process.returncode = 0

    def _run(self, argv: list[str]) -> dict[str, Any]:
        """Run a program to its end, and collect guests that end meanwhile, for whose end it may wait."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            while process.returncode is None:
                pid, code = os.waitpid(-1, 0)
                if pid == process.pid:
                    process.returncode = os.waitstatus_to_exitcode(code)
                elif pid == self._daemon:
                    self._daemon = None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="surrogateescape"))
        return {"status": process.returncode, "stdout": texts[0], "stderr": texts[1]}

    def _end(self, number: int) -> None:
        if self._daemon is not None:
            os.kill(self._daemon, number)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while self._daemon is not None:
            if time.monotonic() > deadline:
                os.kill(self._daemon, signal.SIGKILL)
            time.sleep(0.01)
            self._reap()

    def _reap(self) -> None:
        """Collect ended children; as process 1 we get the guests' too, whose parents are gone."""
        with suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._daemon:
                    self._daemon = None


def mount_private(binds: list[tuple[str, str]]) -> None:
    """Put the host's own directories where libvirt expects them; only this namespace sees it."""
    # A network namespace needs its own view of /sys/class/net, and libvirt then finds no control groups either,
    # which two hosts with domains of one name would have to share.
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    for source, target in binds:
        subprocess.run(["mount", "--bind", source, target], check=True)


def raise_loopback() -> None:
    """Bring up the loopback interface of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def end_children() -> None:
    """Kill every process that this one started or adopted, until there are none."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := [int(word) for word in children.read_text().split()]:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main() -> None:
    """Set up the host that the first argument describes and serve it."""
    setup = json.loads(sys.argv[1])
    if setup["private"]:
        mount_private(setup["binds"])
        raise_loopback()
    else:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        Supervisor(setup["argv"]).serve()
    finally:
        end_children()
        for directory in setup["remove"]:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
