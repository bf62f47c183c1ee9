"""Every error that virtomate reports, with its JSON type, its exit status and what to do next.

Exit statuses are those that the manual pages document: 1 for a failure that left nothing behind, 2 for usage, 3 when
something could not be cleaned up, 125 when the guest agent did not answer, 128 plus the number of the signal after an
interruption.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_LEFTOVERS = 3
EXIT_NO_AGENT = 125
# an interruption adds the number of the signal
_SIGNALLED = 128


class VirtomateError(Exception):
    """Base of all errors that are shown to people as one sentence and a hint.

    Attributes:
        json_type: Value of `type` in JSON output.
        hint: What to do next, or None.
        leftovers: What could not be cleaned up, each a phrase that names it.
    """

    json_type = "VirtomateError"
    _exit_status = EXIT_FAILED

    def __init__(self, message: str, hint: str | None = None, leftovers: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.leftovers = leftovers

    @property
    def exit_status(self) -> int:
        """The status that the process ends with; leftovers outrank everything else."""
        return EXIT_LEFTOVERS if self.leftovers else self._exit_status


def combined_exit_status(errors: Iterable[VirtomateError]) -> int:
    """The status of a run in which several things failed: leftovers outrank signals, they outrank other failures."""
    statuses = {error.exit_status for error in errors}
    ranked = (EXIT_LEFTOVERS, *sorted(status for status in statuses if status > _SIGNALLED), EXIT_FAILED)
    return next((status for status in ranked if status in statuses), max(statuses, default=0))


def combined_error(errors: Sequence[VirtomateError]) -> VirtomateError:
    """One error that says what several say, each sentence and hint once; of several types it is an illegal state."""
    if len(errors) == 1:
        return errors[0]
    types = {type(error) for error in errors}
    hints = dict.fromkeys(error.hint for error in errors if error.hint is not None)
    return (types.pop() if len(types) == 1 else IllegalStateError)(
        "; ".join(dict.fromkeys(error.message for error in errors)), hint=" ".join(hints) or None
    )


class UsageError(VirtomateError):
    """An argument that cannot be used, whatever the hypervisor holds."""

    json_type = "UsageError"
    _exit_status = EXIT_USAGE


class NotFoundError(VirtomateError):
    """A domain, pool, volume or file that is not there."""

    json_type = "NotFoundError"


class ConflictError(VirtomateError):
    """Something already has the name, path or identity that was to be taken."""

    json_type = "Conflict"


class IllegalStateError(VirtomateError):
    """An object is not in the state that the operation needs."""

    json_type = "IllegalStateError"


class UnsupportedError(VirtomateError):
    """The host, its file system or the format cannot do what was asked."""

    json_type = "UnsupportedError"


class NoSpaceError(VirtomateError):
    """A pool has not enough space."""

    json_type = "NoSpaceError"


class SourceChangedError(VirtomateError):
    """The original changed while it was being copied, so that the copy is torn."""

    json_type = "SourceChangedError"


class HypervisorError(VirtomateError):
    """Libvirt refused or failed.

    Attributes:
        code: libvirt's error code (`virErrorNumber`), or None where there is none.
    """

    json_type = "libvirtError"

    def __init__(self, message: str, hint: str | None = None, code: int | None = None) -> None:
        super().__init__(message, hint)
        self.code = code


class SchemaError(HypervisorError):
    """A definition does not pass libvirt's schema, which libvirt itself asks of nobody."""


class NoFirmwareError(HypervisorError):
    """Libvirt finds no firmware on its host that a domain could be started with."""


class NoConnectionError(HypervisorError):
    """The connection to libvirt cannot be made."""


class SilentHostError(NoConnectionError):
    """Libvirt's host does not answer at all."""


class ConnectionLostError(HypervisorError):
    """The connection to libvirt broke: what the daemon did since is not known."""


class OversizeError(HypervisorError):
    """Something does not fit into a message of libvirt's; the connection is as it was."""


class AgentUnresponsiveError(HypervisorError):
    """The guest agent does not answer; it may do so later."""

    _exit_status = EXIT_NO_AGENT


class NoAgentError(AgentUnresponsiveError):
    """The domain has no channel to a guest agent, so that none will ever answer."""


class ProgramError(VirtomateError):
    """A program in the guest could not be run."""

    json_type = "ProgramError"


class TimedOutError(VirtomateError):
    """Something did not happen in the time that it was given."""

    json_type = "TimeoutError"


class NoAnswerError(TimedOutError):
    """A clone that was started does not show in time that it runs; it may do so later."""

    _exit_status = EXIT_NO_AGENT


class InterruptedBySignalError(VirtomateError):
    """A signal asked to stop."""

    json_type = "Interrupted"

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal, as shells do; leftovers outrank it."""
        return EXIT_LEFTOVERS if self.leftovers else _SIGNALLED + self.signal_number


class InternalError(VirtomateError):
    """A mistake in virtomate itself."""

    json_type = "InternalError"

    def __init__(self, error: Exception, leftovers: tuple[str, ...] = ()) -> None:
        super().__init__(
            f"this should not have happened: {type(error).__name__}: {error}",
            hint="Please report it, with what --log debug shows.",
            leftovers=leftovers,
        )


class OutputError(VirtomateError):
    """The result cannot be written to where it should go; what was done stays done."""

    json_type = "OutputError"


class UnreadableFileError(VirtomateError):
    """A local file that cannot be read, or is no file at all."""

    json_type = "UnreadableFileError"


class MalformedDocumentError(VirtomateError):
    """Text that is no XML document of the expected kind."""

    json_type = "MalformedDocumentError"


class TransferUnavailableError(VirtomateError):
    """A way of filling a volume turned out to be closed before anything was written."""

    json_type = "UnsupportedError"


class StoppedError(VirtomateError):
    """Work was stopped because something beside it failed; that failure is the one to report."""

    json_type = "Stopped"
