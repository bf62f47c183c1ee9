"""Every error that virtomate reports, with its JSON type, its exit status and the subject of its hint.

    error                       JSON type               exit  hint
    VirtomateError
      UsageError                UsageError              2     how to write the argument
      NotFoundError             NotFoundError           1     a similar name, or the command that lists the names
      ConflictError             Conflict                1     another name, or whose thing is in the way
      IllegalStateError         IllegalStateError       1     how to bring the object into the right state
      UnsupportedError          UnsupportedError        1     another mode, transfer or format
      NoSpaceError              NoSpaceError            1     where to make room
        QuotaError              NoSpaceError            1     to raise the quota
      SourceChangedError        SourceChangedError      1     to try again
      RefusedWarningError       RefusedWarningError     1     to remove the cause, or to allow the warning
      HypervisorError           libvirtError            1     which account or daemon to look at
        UnwritableError         libvirtError            1     what may be written instead
        SchemaError             libvirtError            1
        NoFirmwareError         libvirtError            1
        NoConnectionError       libvirtError            1     how to reach the daemon
          SilentHostError       libvirtError            1     how to reach the host
        ConnectionLostError     libvirtError            1     to check the daemon and the network
        OversizeError           libvirtError            1     how to shorten the document
        AgentUnresponsiveError  libvirtError            125   how to wait for the agent
          NoAgentError          libvirtError            125   how to give the guest an agent
      ProgramError              ProgramError            1
      TimedOutError             TimeoutError            1
        NoAnswerError           TimeoutError            125   how to wait longer
      InterruptedBySignalError  Interrupted             128+  the command that lists or removes what is left
      InternalError             InternalError           1     to report the mistake
      OutputError               OutputError             1
      UnreadableFileError       UnreadableFileError     1     what can be imported instead
      MalformedDocumentError    MalformedDocumentError  1

Each error ends with 3 instead when something could not be cleaned up. 128+ is 128 plus the number of the signal.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

    from virtomate.notices import Notice

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_LEFTOVERS = 3
EXIT_NO_AGENT = 125
# shells add the number of the signal
_SIGNALLED = 128


class VirtomateError(Exception):
    """Base of all errors that people see as one sentence and a hint.

    Attributes:
        json_type: Value of `type` in JSON output: the name of the direct subclass, unless that class names another.
        hint: What to do next, or None.
        leftovers: What could not be cleaned up.
        notices: The warnings that are the reason.
    """

    json_type = "VirtomateError"
    notices: tuple[Notice, ...] = ()
    _exit_status = EXIT_FAILED

    def __init_subclass__(cls) -> None:
        """Name the JSON type after the class."""
        if VirtomateError in cls.__bases__:
            cls.json_type = cls.__dict__.get("json_type", cls.__name__)

    def __init__(self, message: str, hint: str | None = None, leftovers: tuple[Notice, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.leftovers = leftovers

    def adding(
        self, message: str = "", hint: str | None = None, leftovers: tuple[Notice, ...] = (), *, before: str = ""
    ) -> Self:
        """Return a copy with a longer sentence, another sentence of hint, and more leftovers."""
        copy = type(self).__new__(type(self), before + self.message + message)
        vars(copy).update(vars(self))
        copy.message = before + self.message + message
        copy.hint = " ".join(filter(None, (self.hint, hint))) or None
        copy.leftovers += leftovers
        copy.__cause__ = self
        return copy

    @property
    def exit_status(self) -> int:
        """Return the exit status of the process; leftovers outrank everything else."""
        return EXIT_LEFTOVERS if self.leftovers else self._exit_status


@contextmanager
def rewording(reword: Callable[[str], str]) -> Iterator[None]:
    """Pass the message and the hint of an error of the block through a function."""
    try:
        yield
    except VirtomateError as error:
        error.message, error.hint = reword(error.message), error.hint and reword(error.hint)
        raise


def combined_exit_status(errors: Iterable[VirtomateError]) -> int:
    """Return the exit status for several errors: leftovers outrank signals, and signals outrank other failures."""
    statuses = {error.exit_status for error in errors}
    ranked = (EXIT_LEFTOVERS, *sorted(status for status in statuses if status > _SIGNALLED), EXIT_FAILED)
    return next((status for status in ranked if status in statuses), max(statuses, default=0))


def combined_error(errors: Sequence[VirtomateError]) -> VirtomateError:
    """Return one error with each sentence and hint once; several types become an IllegalStateError."""
    if len(errors) == 1:
        return errors[0]
    types = {type(error) for error in errors}
    combined = types.pop() if len(types) == 1 else IllegalStateError
    hints = dict.fromkeys(error.hint for error in errors if error.hint is not None)
    return combined("; ".join(dict.fromkeys(error.message for error in errors)), " ".join(hints) or None)


class UsageError(VirtomateError):
    """An argument that cannot be used, whatever the hypervisor holds."""

    _exit_status = EXIT_USAGE


class NotFoundError(VirtomateError):
    """A domain, pool, volume or file does not exist."""


class ConflictError(VirtomateError):
    """The requested name, path or identity is already taken."""

    json_type = "Conflict"


class IllegalStateError(VirtomateError):
    """An object is not in the state that the operation needs."""


class UnsupportedError(VirtomateError):
    """The host, its file system or the format does not support the request."""


class NoSpaceError(VirtomateError):
    """A pool has not enough space."""


class QuotaError(NoSpaceError):
    """A quota is used up; the file system may have room for others."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="Raise the quota of the user, group, project or subvolume, or delete files that count against it. "
            "Then run the command again.",
        )


def lack_of_room(message: str, place: str = "the file system") -> NoSpaceError | None:
    """Return the error for a message that says in the system's words what is used up; None for another message."""
    if os.strerror(errno.EDQUOT) in message:
        return QuotaError(message)
    if os.strerror(errno.ENOSPC) in message:
        return NoSpaceError(message, hint=f"Make room on {place}, then run the command again.")
    return None


class SourceChangedError(VirtomateError):
    """The original changed during the copy, so that the copy is inconsistent."""


class RefusedWarningError(VirtomateError):
    """The user does not accept a warning."""

    def __init__(self, notices: tuple[Notice, ...]) -> None:
        codes = list(dict.fromkeys(notice.code.value for notice in notices))
        super().__init__(
            f"--fail-on refuses the warning{'s' if len(codes) > 1 else ''} {', '.join(codes)}",
            hint="Remove the cause, or leave the code out of --fail-on.",
        )
        self.notices = notices


class HypervisorError(VirtomateError):
    """Libvirt refused or failed, perhaps with an error code (`virErrorNumber`)."""

    json_type = "libvirtError"

    def __init__(self, message: str, hint: str | None = None, code: int | None = None) -> None:
        super().__init__(message, hint)
        self.code = code


class UnwritableError(HypervisorError):
    """Libvirt may not make a file in a directory, or may not give the file to a user.

    Attributes:
        is_read_only: Whether the directory's file system is read-only.
    """

    def __init__(self, message: str, hint: str | None = None, code: int | None = None, *, is_read_only: bool) -> None:
        super().__init__(message, hint, code)
        self.is_read_only = is_read_only


class SchemaError(HypervisorError):
    """A definition does not pass libvirt's schema, which libvirt does not check unless asked."""


class NoFirmwareError(HypervisorError):
    """Libvirt finds no firmware on its host that could start a domain."""


class NoConnectionError(HypervisorError):
    """The connection to libvirt cannot be made."""


class SilentHostError(NoConnectionError):
    """Libvirt's host does not answer at all."""


class ConnectionLostError(HypervisorError):
    """The connection to libvirt broke; whether the daemon carried out the last call is unknown."""


class OversizeError(HypervisorError):
    """A document does not fit into a message of libvirt; the connection still works."""


class AgentUnresponsiveError(HypervisorError):
    """The guest agent does not answer, but may answer later."""

    _exit_status = EXIT_NO_AGENT


class NoAgentError(AgentUnresponsiveError):
    """The domain has no channel to a guest agent, so that no agent will ever answer."""


class ProgramError(VirtomateError):
    """A program in the guest could not be run."""


class TimedOutError(VirtomateError):
    """A time limit was reached."""

    json_type = "TimeoutError"


class NoAnswerError(TimedOutError):
    """A clone was started and did not answer in time, but may answer later."""

    _exit_status = EXIT_NO_AGENT


def signal_cause(signal_number: int) -> str:
    """Return the words after "interrupted": a user who pressed Ctrl-C need not know the signal's name."""
    return "" if signal_number == signal.SIGINT else f" by {signal.Signals(signal_number).name}"


class InterruptedBySignalError(VirtomateError):
    """A signal asked to stop."""

    json_type = "Interrupted"

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted{signal_cause(signal_number)}")
        self.signal_number = signal_number
        self._exit_status = _SIGNALLED + signal_number


class InternalError(VirtomateError):
    """A mistake in virtomate itself."""

    def __init__(self, error: Exception, leftovers: tuple[Notice, ...] = ()) -> None:
        message = f"this should not have happened: {type(error).__name__}: {error}"
        super().__init__(message, "Please report it, with what --log debug shows.", leftovers)


class OutputError(VirtomateError):
    """The result cannot be written to its destination; the work itself is done."""


class UnreadableFileError(VirtomateError):
    """A local file cannot be read, or is not a regular file."""


class MalformedDocumentError(VirtomateError):
    """Text is not an XML document of the expected kind."""
