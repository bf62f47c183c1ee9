"""How programs in guests get their input and output passed, with the shells of this host in the place of a guest's.

What an agent does is done here by a stand-in that starts programs of this host, since a real guest has one shell, and
takes long to write more than is kept.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, cast

import pytest

from virtomate.cancel import CancelToken
from virtomate.errors import ProgramError
from virtomate.hypervisor.agent import RunResult
from virtomate.services.guest import RunRequest
from virtomate.services.guest import program as programs
from virtomate.services.guest.program import ProgramRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from virtomate.hypervisor.domains import Domain

SHELLS = [path for name in ("dash", "bash", "ksh", "mksh", "zsh", "yash") if (path := shutil.which(name)) is not None]
LIMIT = 16 << 20
PIECE = 1 << 20


class Guest:
    """Runs programs of this host."""

    name = "web"

    def __init__(self) -> None:
        self.started: list[str] = []
        self._processes: dict[int, tuple[subprocess.Popen[bytes], bytes | None]] = {}

    def start(
        self,
        _domain: object,
        program: str,
        arguments: Sequence[str],
        *,
        stdin: bytes | None = None,
        capture: bool = True,
    ) -> int:
        """Start one; see `start_program`."""
        self.started.append(program)
        output = subprocess.PIPE if capture else subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        except OSError as error:
            raise ProgramError(str(error)) from error
        self._processes[process.pid] = (process, stdin)
        return process.pid

    def end(self, _domain: object, pid: int) -> RunResult:
        """Wait for one; see `program_end`."""
        process, stdin = self._processes.pop(pid)
        stdout, stderr = process.communicate(stdin)
        code = process.returncode
        return RunResult(None if code < 0 else code, -code if code < 0 else None, stdout or b"", stderr or b"")

    def wait(self) -> None:
        """Wait for what nobody waited for."""
        for process, _ in self._processes.values():
            process.communicate()
        self._processes.clear()


@pytest.fixture(params=SHELLS)
def guest(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    """This host, in the place of a guest whose sh is this shell; its files are in `tmp_path`."""
    stand_in = Guest()
    # by its name a shell knows how to behave
    shell = tmp_path_factory.mktemp("bin") / "sh"
    shell.symlink_to(request.param)
    monkeypatch.setattr(programs, "start_program", stand_in.start)
    monkeypatch.setattr(programs, "program_end", stand_in.end)
    monkeypatch.setattr(programs, "_SHELL", str(shell))
    monkeypatch.setattr(programs, "_SPOOL", f"{tmp_path}/a spool $x-")
    yield stand_in
    stand_in.wait()


def execute(guest: Guest, program: str, *arguments: str, stdin: bytes | None = None) -> RunResult:
    """Run a program in the guest."""
    request = RunRequest("web", program, arguments, stdin, 60)
    return ProgramRun(cast("Domain", guest), request, CancelToken()).execute()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo out; echo err >&2; exit 126", RunResult(126, None, b"out\n", b"err\n")),
        ("exit 127", RunResult(127, None, b"", b"")),
        ("printf '\\377\\000'; kill -TERM $$", RunResult(None, 15, b"\xff\0", b"")),
        ("cat", RunResult(0, None, b"", b"")),
        ('printf "%s|" "$@"', RunResult(0, None, b"a b|*|'$x|-v||", b"")),
        ("umask; set -o | grep -c 'noclobber.*on'", RunResult(1, None, b"%UMASK%0\n", b"")),
    ],
)
def test_program_is_as_without_the_shell(guest: Guest, tmp_path: Path, script: str, expected: RunResult) -> None:
    """The shell that starts a program changes nothing of it: words, status, signal, mask; and leaves no file."""
    mask = subprocess.run(["sh", "-c", "umask"], capture_output=True, check=True).stdout

    result = execute(guest, "sh", "-c", script, "sh", "a b", "*", "'$x", "-v", "")

    assert result == RunResult(
        expected.exit_code, expected.signal, expected.stdout.replace(b"%UMASK%", mask), expected.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["nothing-like-this", "/etc/passwd", "/etc", "cd", "./sh", ""])
def test_what_is_no_program(guest: Guest, tmp_path: Path, program: str) -> None:
    """What cannot be executed is told from a program that fails, also what only a shell knows; and leaves no file."""
    with pytest.raises(ProgramError, match="no such program"):
        execute(guest, program)
    guest.wait()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, LIMIT, LIMIT + 1])
def test_much_output(guest: Guest, tmp_path: Path, size: int) -> None:
    """Of what is written 16 MiB are kept, in whatever pieces they come, and it is told if there was more."""
    result = execute(guest, "head", "-c", str(size), "/dev/zero")
    guest.wait()

    assert len(result.stdout) == min(size, LIMIT)
    assert (result.stdout_truncated, result.stderr_truncated) == (size > LIMIT, False)
    assert list(tmp_path.iterdir()) == []


def test_errors_are_fetched_as_output_is(guest: Guest) -> None:
    """Stdout and stderr may be of any length each."""
    script = f"head -c {PIECE * 2} /dev/zero; head -c {LIMIT + 1} /dev/zero >&2"

    result = execute(guest, "sh", "-c", script)

    assert (len(result.stdout), result.stdout_truncated) == (PIECE * 2, False)
    assert (len(result.stderr), result.stderr_truncated) == (LIMIT, True)


@pytest.mark.parametrize("size", [0, 96 << 10, (96 << 10) + 1, PIECE])
def test_input(guest: Guest, tmp_path: Path, size: int) -> None:
    """Input of any length reaches the program, and leaves no file."""
    stdin = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    assert execute(guest, "cat", stdin=stdin) == RunResult(0, None, stdin, b"")
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_files(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no files can be made, the program is run all the same, once, and the agent keeps its output."""
    monkeypatch.setattr(programs, "_SPOOL", "/nothing/like/this-")

    assert execute(guest, "cat", stdin=b"x") == RunResult(0, None, b"x", b"")
    assert guest.started.count("cat") == 1
    with pytest.raises(ProgramError, match="more than"):
        execute(guest, "cat", stdin=bytes(PIECE))
    guest.wait()


def test_no_shell(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no shell, the agent starts the program, and tells if it cannot."""
    monkeypatch.setattr(programs, "_SHELL", "/nothing/like/this")

    assert execute(guest, "cat", stdin=b"x") == RunResult(0, None, b"x", b"")
    with pytest.raises(ProgramError, match="cannot run 'nothing-like-this'"):
        execute(guest, "nothing-like-this")
    with pytest.raises(ProgramError, match="more than"):
        execute(guest, "cat", stdin=bytes(PIECE))


def test_program_that_takes_its_output_away(guest: Guest, tmp_path: Path) -> None:
    """A program whose output is lost has run, and is not run again."""
    script = f"echo x >>{tmp_path}/runs; rm -f {tmp_path}/a*"

    with pytest.raises(ProgramError, match="has run"):
        execute(guest, "sh", "-c", script)
    guest.wait()

    assert (tmp_path / "runs").read_text() == "x\n"
