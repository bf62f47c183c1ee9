"""Waiting for what happens in a guest, without keeping a processor or a signal waiting."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from virtomate.errors import AgentUnresponsiveError, NoAgentError, TimedOutError
from virtomate.hypervisor.agent import ping_agent
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.domains import Domain

Result = TypeVar("Result")

_LOOK_EVERY_SECONDS = 0.05
_FIRST_INTERVAL_SECONDS = 0.02
_LAST_INTERVAL_SECONDS = 0.5
_INTERVAL_GROWTH = 1.5


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


def call_interruptibly(call: Callable[[], Result], cancel: CancelToken, seconds: float | None = None) -> Result:
    """Make a call that may take long without keeping a signal waiting.

    Python handles no signal while its main thread is inside libvirt, so the call is made in another thread. When a
    signal ends the waiting, the connection that the call uses may be busy for some seconds more.

    Raises:
        InterruptedBySignalError: A signal arrived.
        TimedOutError: The call did not return in time.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
            errors.append(error)
        done.set()

    deadline = None if seconds is None else time.monotonic() + seconds
    threading.Thread(target=work, name="libvirt-call", daemon=True).start()
    while not done.wait(_LOOK_EVERY_SECONDS):
        cancel.check()
        if deadline is not None and time.monotonic() >= deadline:
            raise TimedOutError(f"libvirt did not answer within {counted(seconds or 0, 'second')}")
    if errors:
        raise errors[0]
    return results[0]


def backoff(seconds: float, cancel: CancelToken) -> Iterator[float]:
    """When to look again: at once, then at growing intervals until the time is over; each is the seconds left."""
    deadline = time.monotonic() + seconds
    interval = _FIRST_INTERVAL_SECONDS
    while True:
        cancel.check()
        yield max(0.0, deadline - time.monotonic())
        left = deadline - time.monotonic()
        if left <= 0:
            return
        cancel.wait(min(interval, left))
        interval = min(interval * _INTERVAL_GROWTH, _LAST_INTERVAL_SECONDS)
