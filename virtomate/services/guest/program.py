"""Running a program in a guest, with its input and output passed through libvirt.

The agent returns the whole output of a program once, in one message. libvirt passes on messages of up to 4 MiB (3 MiB
of output); after a message of more than 10 MiB it does not talk to the agent until the guest restarts the agent. So in
a guest with a shell the output goes to files, which are fetched in pieces. The program replaces the shell: process,
exit code and signal are the program's own.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken, backoff, call_interruptibly
from virtomate.errors import (
    AgentUnresponsiveError,
    InterruptedBySignalError,
    NoAgentError,
    ProgramError,
    TimedOutError,
    UsageError,
    VirtomateError,
)
from virtomate.hypervisor.agent import RunResult, program_end, start_program
from virtomate.hypervisor.domains import find_domain
from virtomate.services.guest.addresses import require_active
from virtomate.tuples import NamedTuple
from virtomate.words import counted, virtomate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session

_LOG = logging.getLogger(__name__)

_SHELL = "/bin/sh"
_SPOOL = "/tmp/virtomate-"  # noqa: S108 - in the guest, with a random name and for its owner alone

_CHUNK_BYTES = 1 << 20
# the agent itself keeps 16 MiB, too
_MAX_CHUNKS = 16
# the message to the agent needs room for the arguments as well
_INPUT_BYTES = 96 << 10

_HELPER_SECONDS = 60.0
_CLEANUP_SECONDS = 2.0
# A busy guest may pause, and its agent may be restarted.
_PATIENCE_SECONDS = 15.0

_NOT_FOUND = 127

# Arguments: the spool's name, the program and its arguments. The agent gets only the shell's own messages: the program
# does not exist, or the files cannot be made.
_RUN = """
is_program() { [ -f "$1" ] && [ -x "$1" ]; }
find_program() {
    case $1 in */*) is_program "$1"; return;; esac
    IFS=:
    for directory in $PATH; do is_program "${directory:-.}/$1" && return; done
    return 1
}
(find_program "$2") || { echo missing >&2; exit 127; }
mask=$(umask)
umask 077
set -C
exec >"$1.out" 2>"$1.err"
set +C
umask "$mask"
if [ -e "$1.in" ]; then exec <"$1.in"; rm -f "$1.in"; fi
shift
exec "$@"
"""

# Arguments: the spool's name.
_WRITE = 'umask 077; cat >>"$1.in"'
_REMOVE = 'rm -f "$1.in" "$1.out" "$1.err"'

# Arguments: the spool's name, the size of a piece, its number, and its end. Reading the last piece removes the files.
_READ = """
exec 3>&2 2>/dev/null
[ -e "$1.out" ] || exit 1
dd if="$1.out" bs="$2" skip="$3" count=1
dd if="$1.err" bs="$2" skip="$3" count=1 >&3
if [ $(wc -c <"$1.out") -le "$4" ] && [ $(wc -c <"$1.err") -le "$4" ]; then rm -f "$1.out" "$1.err"; fi
"""


class RunRequest(NamedTuple):
    """The arguments of `guest-run`.

    Attributes:
        domain: Name or UUID.
        program: Name or path in the guest.
        timeout_seconds: How long to wait for the program's end; None sets no limit.
    """

    domain: str
    program: str
    arguments: tuple[str, ...] = ()
    stdin: bytes | None = None
    timeout_seconds: float | None = None


def run_in_guest(session: Session, request: RunRequest, cancel: CancelToken) -> RunResult:
    """Run a program in a guest and return how the program ended.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: The domain is not running, or not any more.
        AgentUnresponsiveError: The agent does not answer, or not any more.
        ProgramError: The program cannot be run, or its end is not known.
        TimedOutError: The program did not end in time, and goes on.
        InterruptedBySignalError: A signal arrived, and the program goes on.
        UsageError: A word is not UTF-8.
    """
    for word in (request.program, *request.arguments):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{word!r} cannot be passed on to a guest: it is not UTF-8") from error
    domain = find_domain(session.connection, request.domain)
    require_active(domain)
    return ProgramRun(domain, request, cancel).execute()


class _NoSpoolError(Exception):
    """The guest has no shell, or no place for files."""


class ProgramRun:
    """One run of a program in the guest of a running domain; `cancel` ends the waiting."""

    def __init__(self, domain: Domain, request: RunRequest, cancel: CancelToken) -> None:
        self._domain = domain
        self._request = request
        self._cancel = cancel
        self._spool = f"{_SPOOL}{os.urandom(16).hex()}"
        self._has_spool = False

    def execute(self) -> RunResult:
        """Run the program; for the errors see `run_in_guest`."""
        self._cancel.begin()
        try:
            return self._run_with_spool()
        except _NoSpoolError as reason:
            _LOG.info("output goes through the agent in one message: %s", reason)
        finally:
            if self._has_spool:
                self._remove_spool()
        return self._run_plainly()

    def _run_with_spool(self) -> RunResult:
        stdin = self._request.stdin
        if stdin is not None and len(stdin) > _INPUT_BYTES:
            self._upload(stdin)
            stdin = None
        pid = self._start_shell(_RUN, [self._request.program, *self._request.arguments], stdin)
        self._has_spool = True
        end = self._await_program(pid)
        if end.stdout or end.stderr:
            if end.exit_code == _NOT_FOUND:
                raise self._not_run("there is no such program, or it is not executable")
            raise _NoSpoolError(end.stderr.decode(errors="replace").strip())
        return self._with_output(end)

    def _run_plainly(self) -> RunResult:
        """Run the program without a shell; the agent keeps the output."""
        request = self._request
        if request.stdin is not None and len(request.stdin) > _INPUT_BYTES:
            raise self._not_run(
                f"the input has {len(request.stdin)} bytes, and more than {_INPUT_BYTES} need a shell in the guest "
                "and a place for temporary files"
            )
        try:
            pid = self._call_start(request.program, request.arguments, request.stdin)
        except ProgramError as error:
            raise self._not_run(error.message) from error
        return self._await_program(pid)

    def _upload(self, stdin: bytes) -> None:
        for offset in range(0, len(stdin), _INPUT_BYTES):
            pid = self._start_shell(_WRITE, [], stdin[offset : offset + _INPUT_BYTES])
            self._has_spool = True
            end = self._await(pid, _HELPER_SECONDS)
            if end is None or end.exit_code != 0:
                raise _NoSpoolError("the input cannot be kept in the guest")

    def _with_output(self, end: RunResult) -> RunResult:
        """Return how the program ended, with the output that is fetched now."""
        stdout, stderr = bytearray(), bytearray()
        limit = _MAX_CHUNKS * _CHUNK_BYTES
        for number in range(_MAX_CHUNKS + 1):
            piece = self._read_piece(number)
            stdout += piece.stdout
            stderr += piece.stderr
            if max(len(piece.stdout), len(piece.stderr)) < _CHUNK_BYTES:
                self._has_spool = False
                break
        kept = end._replace(stdout=bytes(stdout[:limit]), stderr=bytes(stderr[:limit]))
        return kept._replace(stdout_truncated=len(stdout) > limit, stderr_truncated=len(stderr) > limit)

    def _read_piece(self, number: int) -> RunResult:
        words = [str(_CHUNK_BYTES), str(number), str((number + 1) * _CHUNK_BYTES)]
        try:
            piece = self._await(self._start_shell(_READ, words), _HELPER_SECONDS)
            if piece is not None and (number or piece.exit_code == 0):
                return piece
            reason = "reading the output takes too long" if piece is None else "the files with the output are gone"
        except _NoSpoolError as error:
            # the program has run and must not run again
            reason = str(error)
        raise ProgramError(
            f"'{self._request.program}' has run in the guest of domain '{self._domain.name}', but its output is lost: "
            f"{reason}"
        )

    def _await_program(self, pid: int) -> RunResult:
        """Wait for the program's end; an error that ends the waiting earlier names the process."""
        name, seconds = self._domain.name, self._request.timeout_seconds
        kill = virtomate("guest-run", name, "kill", str(pid))
        try:
            end = self._await(pid, seconds)
        except InterruptedBySignalError as error:
            hint = f"Process {pid} goes on in the guest of domain '{name}'; {kill} ends the process."
            raise error.adding(hint=hint) from error
        except AgentUnresponsiveError as error:
            raise error.adding(f"; process {pid} may go on") from error
        if end is None:
            raise TimedOutError(
                f"'{self._request.program}' did not end within {counted(seconds or 0, 'second')}; process {pid} goes "
                f"on in the guest of domain '{name}'",
                hint=f"{kill} ends the process.",
            )
        return end

    def _await(self, pid: int, seconds: float | None) -> RunResult | None:
        """Wait for the end of a process; return None if the process did not end in time."""
        heard = time.monotonic()
        for _ in backoff(float("inf") if seconds is None else seconds, self._cancel):
            try:
                end = call_interruptibly(lambda: program_end(self._domain, pid), self._cancel)
            except NoAgentError:
                raise
            except AgentUnresponsiveError:
                if time.monotonic() - heard > _PATIENCE_SECONDS:
                    raise
                continue
            heard = time.monotonic()
            if end is not None:
                return end
        return None

    def _start_shell(self, script: str, words: Sequence[str], stdin: bytes | None = None) -> int:
        try:
            return self._call_start(_SHELL, ["-c", script, "sh", self._spool, *words], stdin)
        except ProgramError as error:
            raise _NoSpoolError(error.message) from error

    def _call_start(self, program: str, arguments: Sequence[str], stdin: bytes | None) -> int:
        return call_interruptibly(lambda: start_program(self._domain, program, arguments, stdin=stdin), self._cancel)

    def _remove_spool(self) -> None:
        """Remove the files; a program that goes on keeps writing into the removed files."""
        words = ["-c", _REMOVE, "sh", self._spool]
        # the error to report is the earlier error
        with suppress(VirtomateError):
            call_interruptibly(
                lambda: start_program(self._domain, _SHELL, words, capture=False), CancelToken(), _CLEANUP_SECONDS
            )

    def _not_run(self, reason: str) -> ProgramError:
        return ProgramError(
            f"cannot run '{self._request.program}' in the guest of domain '{self._domain.name}': {reason}"
        )
