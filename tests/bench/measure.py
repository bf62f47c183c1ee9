"""Take one measurement: a program's time with `sync`, its peak memory, and what its files take on the disk."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.workspace import Workspace

TIMEOUT_SECONDS = 1200.0
LAUNCHER = Path(__file__).with_name("launch.py")
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Sample:
    """One measurement; what was not measured is None.

    Attributes:
        seconds: From the start of the program to the end of `sync`.
        sync_seconds: The part of it that `sync` took.
        peak_memory_bytes: The program's largest resident set.
        allocated_bytes: What the files it made take on their file system.
        note: What the program said about how it did it.
        error: Why it failed.
    """

    seconds: float | None = None
    sync_seconds: float | None = None
    peak_memory_bytes: int | None = None
    allocated_bytes: int | None = None
    note: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a program ended, what it printed and what was measured."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    sync_seconds: float
    peak_memory_bytes: int


def launch(argv: Sequence[str | Path], environment: Mapping[str, str], *, sync: bool = True) -> Outcome:
    """Run a program to its end and measure it."""
    with Workspace() as scratch:
        report = scratch.directory / "report.json"
        done = subprocess.run(
            [sys.executable, "-I", "-S", LAUNCHER, report, "1" if sync else "0", *argv],
            env=dict(environment),
            cwd=scratch.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{argv[0]} could not be measured: {done.stderr.strip()}")
        return Outcome(stdout=done.stdout, stderr=done.stderr, **json.loads(report.read_text()))


def warm(path: Path) -> None:
    """Read all data of a file, so that it is in the page cache."""
    with path.open("rb") as file, suppress(OSError):  # there is no data after the last hole (ENXIO)
        position = 0
        while True:
            position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            end = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            while position < end:
                position += len(os.pread(file.fileno(), min(CHUNK_BYTES, end - position), position))
