"""The guest agent: whether it answers, and waiting until it does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from virtomate.cancel import backoff, call_interruptibly
from virtomate.errors import AgentUnresponsiveError, NoAgentError, TimedOutError
from virtomate.hypervisor.agent import call_agent
from virtomate.hypervisor.domains import find_domain
from virtomate.services.guest.addresses import require_active
from virtomate.tuples import NamedTuple
from virtomate.words import counted

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain


class PingResult(NamedTuple):
    """An answer of a guest agent, which came after so many seconds of waiting."""

    name: str
    uuid: str
    seconds: float


def ping_guest(connection: Connection, name_or_uuid: str, seconds: float, cancel: CancelToken) -> PingResult:
    """Wait so many seconds until the guest agent of a domain answers; for 0 seconds and errors see `wait_for_agent`.

    Raises:
        NotFoundError: There is no such domain.
    """
    begin = time.monotonic()
    domain = find_domain(connection, name_or_uuid)
    require_active(domain)
    wait_for_agent(domain, seconds, cancel)
    return PingResult(domain.name, domain.uuid, round(time.monotonic() - begin, 3))


def wait_for_agent(domain: Domain, seconds: float, cancel: CancelToken, left: float | None = None) -> None:
    """Wait until the guest agent answers; with 0 seconds, ask the agent once.

    Args:
        domain: The domain of the guest.
        seconds: The time that the error names.
        cancel: Ends the waiting.
        left: The part of that time that is left; None means all of it.

    Raises:
        IllegalStateError: The domain is not running, or not any more.
        AgentUnresponsiveError: The agent did not answer in time, or the domain has no agent.
        InterruptedBySignalError: A signal arrived.
    """
    limit = seconds if left is None else left
    for remaining in backoff(limit, cancel):
        try:
            # a single call may take libvirt's own limit of five seconds
            call_interruptibly(lambda: call_agent(domain, "guest-ping"), cancel, remaining if limit else None)
        except NoAgentError:
            raise
        except (AgentUnresponsiveError, TimedOutError):
            # libvirt's message says more than the time that nobody waited
            if not seconds:
                raise
        else:
            return
    raise AgentUnresponsiveError(
        f"the guest agent of domain '{domain.name}' did not answer within {counted(seconds, 'second')}",
        hint="The guest may need longer to start, or has no agent: qemu-guest-agent must be running in it.",
    )
