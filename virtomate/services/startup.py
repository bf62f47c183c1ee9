"""What happens to complete clones that were started: they are waited for, and kept whatever comes of it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from virtomate.errors import ConnectionLostError, HypervisorError, NoAnswerError, TimedOutError, VirtomateError
from virtomate.hypervisor.domains import find_domain
from virtomate.kinds import AddressSource, WaitFor
from virtomate.services.interfaces import has_usable_address, read_interfaces
from virtomate.services.wait import wait_for_agent, wait_until

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.domains import Domain
    from virtomate.progress import Progress
    from virtomate.records import CloneResult, DomainInterface, Wait
    from virtomate.services.session import Session

# The host's own knowledge first: an agent that does not answer takes a while to say so.
_SOURCES = (AddressSource.LEASE, AddressSource.ARP, AddressSource.AGENT)


def wait_for_clones(
    session: Session, results: tuple[CloneResult, ...], wait: Wait, progress: Progress, cancel: CancelToken
) -> tuple[CloneResult, ...]:
    """Wait until the clones that were started answer.

    They boot side by side, so one is waited for after another, each as long as was asked for from now on, and the last
    ones no longer than the first.

    Returns:
        The results with the clones' addresses, or with the error of those that did not answer.
    """
    deadline = time.monotonic() + wait.seconds
    waited = []
    for result in results:
        if not result.is_started:
            waited.append(result)
            continue
        what = "the guest agent" if wait.what is WaitFor.AGENT else "an IP address"
        progress.note(f"waiting for {what} of '{result.name}'")
        try:
            domain = find_domain(session.connection, result.uuid)
            addresses = _wait(domain, wait, max(0.0, deadline - time.monotonic()), cancel)
        except VirtomateError as error:
            waited.append(replace(result, addresses=(), error=error))
        else:
            waited.append(replace(result, addresses=addresses))
    return tuple(waited)


def _wait(domain: Domain, wait: Wait, seconds: float, cancel: CancelToken) -> tuple[DomainInterface, ...]:
    if wait.what is WaitFor.AGENT:
        wait_for_agent(domain, wait.seconds, cancel, left=seconds)
        return read_interfaces(domain, AddressSource.AGENT)
    try:
        return wait_until(lambda: _find_addresses(domain), has_usable_address, seconds, cancel)
    except TimedOutError as error:
        raise NoAnswerError(
            f"domain '{domain.name}' had no IP address within {wait.seconds:g} seconds",
            hint="The guest may need longer to start; virtomate domain-iface-list shows its addresses.",
        ) from error


def _find_addresses(domain: Domain) -> tuple[DomainInterface, ...]:
    """The interfaces as the first source sees them that knows an address."""
    for source in _SOURCES:
        try:
            interfaces = read_interfaces(domain, source)
        except ConnectionLostError:
            raise
        except HypervisorError:
            # there is no agent yet, or libvirt cannot ask the kernel for what it has heard
            continue
        if has_usable_address(interfaces):
            return interfaces
    return ()
