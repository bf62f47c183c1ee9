"""What is done inside a guest, through its agent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from virtomate.hypervisor.domains import find_domain
from virtomate.records import PingResult
from virtomate.services.interfaces import require_active
from virtomate.services.wait import wait_for_agent

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection


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
