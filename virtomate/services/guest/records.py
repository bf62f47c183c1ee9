"""What guests are asked, and what they answer."""

from __future__ import annotations

from virtomate.tuples import NamedTuple


class PingResult(NamedTuple):
    """An answer of a guest agent.

    Attributes:
        seconds: How long it was waited for.
    """

    name: str
    uuid: str
    seconds: float


class RunRequest(NamedTuple):
    """What `guest-run` was asked for.

    Attributes:
        domain: Name or UUID of the domain.
        program: Name or path of a program in the guest.
        stdin: What it gets to read; None leaves it without.
        timeout_seconds: How long it may take; None means as long as it wants.
    """

    domain: str
    program: str
    arguments: tuple[str, ...] = ()
    stdin: bytes | None = None
    timeout_seconds: float | None = None
