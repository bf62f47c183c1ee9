"""Run the program under test as its users do: as a process of its own, in an environment of its own."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tests.lab.programs import require_program

TIMEOUT_SECONDS = 240.0

PAUSING = Path(__file__).with_name("pausing.py")


@dataclass(frozen=True)
class Result:
    """How a run of the program ended and what it printed."""

    argv: Sequence[str]
    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def json(self) -> Any:
        """What the program printed to standard output, as JSON."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"No JSON document on standard output: {self}") from None

    @property
    def progress(self) -> list[Any]:
        """What the program printed to standard error, as one JSON document a line (`--progress json`)."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    def __str__(self) -> str:
        return f"{' '.join(self.argv)} → {self.status}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class Background:
    """A run of the program that goes on while the test does something else."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self._argv = argv
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            # A killed test run takes the program with it.
            [require_program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *argv],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            # Nothing that it starts can ask the person at our terminal.
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def signal(self, number: int = signal.SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout_seconds: float = TIMEOUT_SECONDS) -> Result:
        """Wait for its end. Of what it prints a pipe holds 64 KiB until this is called."""
        try:
            stdout, stderr = self.process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            stdout, stderr = self.process.communicate()
            raise TimeoutError(f"{self._argv} did not end in {timeout_seconds} s:\n{stdout}\n{stderr}") from None
        seconds = time.monotonic() - self._started
        return Result(self._argv, self.process.returncode, stdout, stderr, seconds)

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.running:
            self.process.kill()
        # Unless the test has read everything already.
        with suppress(ValueError):
            self.process.communicate()


@dataclass
class Program:
    """virtomate, run against one hypervisor.

    Attributes:
        uri: the hypervisor; None leaves the choice to the program.
        directory: where it runs; its home and its XDG directories are below.
        environment: what differs from the default environment.
        moment: when it is to stand still; see `pausing`.
    """

    uri: str | None
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    moment: str | None = None
    _started: list[Background] = field(default_factory=list)

    def pausing(self, moment: str) -> "Program":
        """Return the same program, but one that stops itself at a moment, so that it can be caught there for sure.

        Args:
            moment: see `pausing.py`.
        """
        return replace(self, moment=moment)

    def __call__(
        self,
        *words: str | Path,
        json: bool = False,
        uri: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Result:
        """Run the program to its end.

        Args:
            words: the command line, without `-c`.
            json: add `--json`.
            uri: another hypervisor.
            env: further environment variables.
            timeout_seconds: how long it may take.
        """
        return self.start(*words, json=json, uri=uri, env=env).wait(timeout_seconds)

    def start(
        self,
        *words: str | Path,
        json: bool = False,
        uri: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Background:
        """Start the program and let it run; it is killed at the end of the test at the latest."""
        background = Background(self.argv(*words, json=json, uri=uri), self.env(env), self.directory)
        self._started.append(background)
        return background

    def argv(self, *words: str | Path, json: bool = False, uri: str | None = None) -> list[str]:
        """Return the whole command line, for tests that start the program by other means, such as in a terminal."""
        chosen = uri or self.uri
        options = [] if chosen is None else ["-c", chosen]
        if json:
            options.append("--json")
        program = ["-m", "virtomate"] if self.moment is None else ["-P", str(PAUSING), self.moment]
        return [sys.executable, *program, *options, *(str(word) for word in words)]

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the whole environment: nothing of the caller's but the search path and where the program is."""
        home = self.directory / "home"
        variables = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": program_location(),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "COLUMNS": "120",
        }
        for name in ("CONFIG_HOME", "DATA_HOME", "CACHE_HOME", "STATE_HOME", "RUNTIME_DIR"):
            place = home / name.lower()
            place.mkdir(parents=True, exist_ok=True)
            variables[f"XDG_{name}"] = str(place)
        return variables | self.environment | dict(more or {})

    def end(self) -> None:
        """Kill whatever was started and still runs."""
        for background in self._started:
            background.end()
        self._started.clear()


def program_location() -> str:
    """Return the directory from which the tests import the program, so that the process runs the same code."""
    found = importlib.util.find_spec("virtomate")
    if found is None or found.origin is None:
        raise RuntimeError("virtomate cannot be imported; run the tests from the checkout or install it")
    return str(Path(found.origin).parents[1])
