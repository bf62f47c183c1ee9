"""What happens to complete clones: they are started and waited for, and kept whatever comes of it."""

from __future__ import annotations

import shlex
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.errors import (
    ConnectionLostError,
    HypervisorError,
    InterruptedBySignalError,
    NoAnswerError,
    NotFoundError,
    TimedOutError,
    VirtomateError,
)
from virtomate.hypervisor.domains import find_domain, find_domain_by_uuid
from virtomate.hypervisor.networks import is_network_active
from virtomate.kinds import AddressSource, WaitFor
from virtomate.services.interfaces import has_usable_address, read_interfaces
from virtomate.services.wait import wait_for_agent, wait_until
from virtomate.words import counted

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.domains import Domain
    from virtomate.progress import Progress
    from virtomate.records import CloneResult, DomainInterface, Wait
    from virtomate.services.session import Session

# The host's own knowledge first: an agent that does not answer takes a while to say so.
_SOURCES = (AddressSource.LEASE, AddressSource.ARP, AddressSource.AGENT)


def start_clone(session: Session, result: CloneResult, cancel: CancelToken) -> CloneResult:
    """Start a complete clone.

    Returns:
        The result, with the error where it could not be started.
    """
    try:
        cancel.check()
        domain = find_domain_by_uuid(session.connection, result.uuid)
        if domain is None:
            gone = NotFoundError(f"domain '{result.name}' is not there any more, and cannot be started")
            return replace(result, error=gone)
        domain.start()
    except VirtomateError as error:
        error.message += "; the clone is complete, and is kept"
        if error.hint is None:
            error.hint = _advise(session, result, error)
        return replace(result, error=error)
    return replace(result, is_started=True)


def _advise(session: Session, result: CloneResult, error: VirtomateError) -> str:
    """What helps a domain that was not started: libvirt tells what it misses, but not what to do about it."""
    start = f"virsh start {shlex.quote(result.name)}"
    if isinstance(error, InterruptedBySignalError):
        return f"Start it: {start}"
    with suppress(VirtomateError):
        domain = find_domain(session.connection, result.uuid)
        definition = codec.parse_definition(domain.inactive_definition_without_secrets())
        for network in readers.network_names(definition.domain):
            is_active = is_network_active(session.connection, network)
            if is_active is None:
                edit = f"virsh edit {shlex.quote(result.name)}"
                return f"There is no network '{network}'. Connect the clone to another one ({edit}), then: {start}"
            if not is_active:
                return f"Start the network, then the clone: virsh net-start {shlex.quote(network)}; {start}"
    return f"Mend that, then start it: {start}. Its log on libvirt's host, {result.name}.log, may say more."


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
            f"domain '{domain.name}' had no IP address within {counted(wait.seconds, 'second')}",
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
