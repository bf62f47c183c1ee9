"""What is done inside a guest, through its agent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from virtomate.errors import UsageError
from virtomate.hypervisor.domains import find_domain
from virtomate.services.guest.addresses import require_active
from virtomate.services.guest.program import ProgramRun
from virtomate.services.guest.records import PingResult
from virtomate.services.guest.wait import wait_for_agent

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.agent import RunResult
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.services.guest.records import RunRequest


def ping_guest(connection: Connection, name_or_uuid: str, seconds: float, cancel: CancelToken) -> PingResult:
    """Wait until a guest agent answers.

    Args:
        connection: Where the domain is.
        name_or_uuid: The domain.
        seconds: How long to wait; with 0 it is asked once.
        cancel: Ends the waiting.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is not running, or not any more.
        AgentUnresponsiveError: The agent did not answer in time, or there is none.
        InterruptedBySignalError: A signal arrived.
    """
    begin = time.monotonic()
    domain = find_domain(connection, name_or_uuid)
    require_active(domain)
    wait_for_agent(domain, seconds, cancel)
    return PingResult(domain.name, domain.uuid, round(time.monotonic() - begin, 3))


def run_in_guest(session: Session, request: RunRequest, cancel: CancelToken) -> RunResult:
    """Run a program in a guest and return how it ended.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is not running, or not any more.
        AgentUnresponsiveError: The agent does not answer, or not any more.
        ProgramError: The program cannot be run, or its end is not known.
        TimedOutError: It did not end in time, and goes on.
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
