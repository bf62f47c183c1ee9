"""The program as it is run by somebody who may talk to libvirt but not open its files."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.lab import mounts, storage
from tests.lab.lab import Lab
from tests.lab.program import TIMEOUT_SECONDS, Program, Result

NOBODY = 65534
PREFIX = [
    *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY)),
    *("--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"),
]

# What the program consists of when it prints JSON.
PARTS = ("virtomate", "click", "pycdlib", "xmltodict", "libvirt", "libvirt_qemu", "libvirtmod", "libvirtmod_qemu")


class NoInterpreterError(Exception):
    """The tests run in an interpreter that only root can reach, and there is no other one of its version."""


class OrdinaryUser:
    """An ordinary user with the program, a way to the lab's socket, and a pool in a directory that everyone can reach.

    The checkout and its interpreter may be where only root can go, so the program is copied to where everyone can.
    For a `with` block; needs root.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stack = ExitStack()
        self._python = _interpreter()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stage = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True)))
            stage.chmod(0o755)
            self._program = Program(None, _writable(stage / "home"))
            self._packages = stage / "packages"
            _copy_parts(self._packages)
            sockets = stage / "sockets"
            sockets.mkdir()
            mounts.mount("--bind", self._lab.hypervisor.socket_path.parent, sockets)
            stack.callback(mounts.unmount, sockets)
            self.uri = self._lab.uri.replace(str(self._lab.hypervisor.socket_path.parent), str(sockets))
            (stage / "pool").mkdir()
            self.pool = storage.make_pool(self._lab.hypervisor, "reachable", stage / "pool")
            stack.callback(storage.remove_pool, self.pool.handle)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, *words: str | Path) -> Result:
        """Run the program to its end, with `--json`."""
        argv = [*PREFIX, self._python, "-B", "-m", "virtomate", "-c", self.uri, "--json", *map(str, words)]
        environment = {**self._program.env(), "PYTHONPATH": str(self._packages)}
        done = subprocess.run(
            argv,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return Result(argv, done.returncode, done.stdout, done.stderr, 0)

    def can_read(self, path: Path) -> bool:
        """Tell whether this user can read a file."""
        return subprocess.run([*PREFIX, "cat", path], capture_output=True, check=False).returncode == 0


def _interpreter() -> str:
    """Return an interpreter of this version that everyone can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (Path(sys.executable).resolve(), Path("/usr/bin") / version, Path("/usr/local/bin") / version):
        if subprocess.run([*PREFIX, "test", "-x", candidate], check=False).returncode == 0:
            return str(candidate)
    raise NoInterpreterError(f"there is no {version} here that an ordinary user can run")


def _copy_parts(target: Path) -> None:
    target.mkdir()
    for name in PARTS:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise RuntimeError(f"{name} cannot be imported")
        origin = Path(found.origin)
        if found.submodule_search_locations:
            shutil.copytree(origin.parent, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, target / origin.name)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _writable(directory: Path) -> Path:
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    return directory
