"""Take one measurement: a program's time with `sync`, its peak memory, and what its files take on the disk."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.workspace import Workspace

LAUNCHER = Path(__file__).with_name("launch.py")
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Sample:
    """One measurement; what was not measured is None.

    Attributes:
        seconds: From the start of the program to the end of `sync`.
        sync_seconds: The part of it that `sync` took.
        peak_memory_bytes: The program's largest resident set; 10 MiB is what `launch.py` has itself, and means nothing.
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
        )
        if done.returncode != 0:
            raise RuntimeError(f"{argv[0]} could not be measured: {done.stderr.strip()}")
        return Outcome(stdout=done.stdout, stderr=done.stderr, **json.loads(report.read_text()))


def warm(path: Path, *, holes: bool = False) -> None:
    """Have all data of a file in the page cache, and its holes there or not.

    Holes take pages, too, once somebody has read them. Then whoever reads a sparse file whole does so at several times
    the speed: the state must be the same in all rounds.
    """
    with path.open("rb") as file:
        descriptor = file.fileno()
        # No reading ahead into holes.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        size = path.stat().st_size
        position = 0
        while position < size:
            data = _seek(descriptor, position, os.SEEK_DATA, size)
            if holes:
                _read(descriptor, position, data)
            elif position < data:
                os.posix_fadvise(descriptor, position, data - position, os.POSIX_FADV_DONTNEED)
            position = _seek(descriptor, data, os.SEEK_HOLE, size)
            _read(descriptor, data, position)


def _seek(descriptor: int, position: int, whence: int, size: int) -> int:
    try:
        return os.lseek(descriptor, position, whence)
    except OSError:  # ENXIO: there is no data any more
        return size


def _read(descriptor: int, position: int, end: int) -> None:
    while position < end:
        position += len(os.pread(descriptor, min(CHUNK_BYTES, end - position), position))
