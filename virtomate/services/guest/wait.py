"""Waiting for what happens in a guest, without keeping a processor or a signal waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from virtomate.cancel import CancelToken, backoff, call_interruptibly
from virtomate.errors import AgentUnresponsiveError, NoAgentError, TimedOutError
from virtomate.hypervisor.agent import ping_agent
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.hypervisor.domains import Domain

Result = TypeVar("Result")


def wait_for_agent(domain: Domain, seconds: float, cancel: CancelToken, left: float | None = None) -> None:
    """Wait until the guest agent answers; with 0 seconds, ask once.

    Args:
        domain: Where it runs.
        seconds: How long it was to be waited for.
        cancel: Looked at meanwhile.
        left: What is left of that time, where some of it was spent on others.

    Raises:
        IllegalStateError: The domain is not running, or not any more.
        AgentUnresponsiveError: The agent did not answer in time, or there is none.
        InterruptedBySignalError: A signal arrived.
    """
    limit = seconds if left is None else left
    for remaining in backoff(limit, cancel):
        try:
            # libvirt is given its five seconds where there is no waiting at all
            call_interruptibly(lambda: ping_agent(domain), cancel, remaining if limit else None)
        except NoAgentError:
            raise
        except (AgentUnresponsiveError, TimedOutError):
            # without waiting, libvirt's own words say more
            if not seconds:
                raise
        else:
            return
    raise AgentUnresponsiveError(
        f"the guest agent of domain '{domain.name}' did not answer within {counted(seconds, 'second')}",
        hint="The guest may need longer to start, or has no agent: qemu-guest-agent must be running in it.",
    )


def wait_until(
    look: Callable[[], Result], is_enough: Callable[[Result], bool], seconds: float, cancel: CancelToken
) -> Result:
    """Look again and again until what is seen is enough; with 0 seconds, look once.

    Raises:
        TimedOutError: It never was.
        InterruptedBySignalError: A signal arrived.
    """
    for left in backoff(seconds, cancel):
        try:
            seen = call_interruptibly(look, cancel, left if seconds else None)
        except TimedOutError:
            continue
        if is_enough(seen):
            return seen
    raise TimedOutError(f"it did not happen within {counted(seconds, 'second')}")
