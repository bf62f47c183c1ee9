"""Directories of the lab: one for each run, which goes away with it, and a cache that is kept."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

CHECKOUT = Path(__file__).resolve().parents[2]

# sun_path holds 108 bytes with its closing zero.
SOCKET_PATH_BYTES = 107

LOCK = "lock"

# Where directories for sockets are made when the checkout's own path is too long.
SHORT_BASE = Path("/tmp")
SHORT_PREFIX = "virtomate-lab-"
SHORT_LINK_PREFIX = "host"


def default_base() -> Path:
    """Return where labs live: `.lab` in the checkout, unless VIRTOMATE_LAB_DIR says otherwise."""
    return Path(os.environ.get("VIRTOMATE_LAB_DIR") or CHECKOUT / ".lab").resolve()


class Cache:
    """Things that take long to make, kept between runs and shared by all runs of this checkout."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Let one process at a time work on what has this name."""
        with (self.directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def build(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the directory of this name; the first caller makes it, and nobody ever sees it half made."""
        target = self.directory / name
        if target.exists():
            return target
        with self.locked(name):
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=self.directory, prefix="making-") as scratch:
                    made = Path(scratch) / "made"
                    made.mkdir()
                    make(made)
                    made.rename(target)
        return target


class Workspace:
    """The directory of one lab, locked for as long as its process lives."""

    def __init__(self, base: Path | None = None) -> None:
        self.base = base or default_base()
        self.base.mkdir(parents=True, exist_ok=True)
        _sweep(self.base)
        # Under its own name only once it is locked, or somebody who starts at this very moment would sweep it away.
        new = Path(tempfile.mkdtemp(dir=self.base, prefix="new-"))
        # Labs run as root whose files an ordinary user's session must be able to reach, and the other way round.
        new.chmod(0o755)
        (new / LOCK).touch()
        self._lock: IO[str] | None = _take_lock(new)
        self.directory = new.rename(self.base / new.name.replace("new-", "run-", 1))
        self.cache = Cache(self.base / "cache")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def socket_directory(self, name: str, longest: str) -> Path:
        """Make a directory in which a unix socket can have so long a name: in the lab if it fits, else elsewhere."""
        wanted = self.directory / name
        if len(os.fsencode(wanted / longest)) <= SOCKET_PATH_BYTES:
            wanted.mkdir()
            return wanted
        short = Path(tempfile.mkdtemp(prefix=SHORT_PREFIX, dir=SHORT_BASE))
        # The link is how whoever clears up after a killed run finds the directory.
        wanted.unlink(missing_ok=True)
        wanted.symlink_to(short)
        return short

    def close(self) -> None:
        """Remove the directory with everything in it."""
        _remove(self.directory)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _take_lock(directory: Path) -> IO[str] | None:
    """Take a lab's lock, which its process holds as long as it lives; None if somebody holds it."""
    # Never made anew: whoever removes the directory at this moment could not remove it then.
    lock = (directory / LOCK).open("r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _sweep(base: Path) -> None:
    """Remove what killed runs left behind: the directories whose lock nobody holds any more."""
    for directory in base.glob("run-*"):
        with suppress(FileNotFoundError, PermissionError):
            lock = _take_lock(directory)
            if lock is not None:
                with lock:
                    _remove(directory)


def _remove(directory: Path) -> None:
    for link in directory.glob(f"{SHORT_LINK_PREFIX}*"):
        # Only where `socket_directory` can have made it: whatever else is linked to is not ours to remove.
        if link.is_symlink() and link.readlink().match(f"{SHORT_BASE}/{SHORT_PREFIX}*"):
            shutil.rmtree(link.readlink(), ignore_errors=True)
    shutil.rmtree(directory)
