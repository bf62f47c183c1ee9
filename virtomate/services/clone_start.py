"""What happens to complete clones: they are started and waited for, and kept if that fails."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import backoff, call_interruptibly
from virtomate.definition import codec, readers
from virtomate.enums import Action, AddressSource, WaitFor
from virtomate.errors import (
    ConnectionLostError,
    HypervisorError,
    InterruptedBySignalError,
    NoAnswerError,
    NotFoundError,
    ProgramError,
    TimedOutError,
    VirtomateError,
)
from virtomate.hypervisor.domains import find_domain, find_domain_by_uuid
from virtomate.services.guest import (
    LeaseHistory,
    has_usable_address,
    read_addresses,
    read_leases,
    usable_interfaces,
    wait_for_agent,
    with_all_interfaces,
)
from virtomate.services.linked import refuse_broken
from virtomate.services.origins import find_record
from virtomate.services.same_machines import Machine, clone_machine, original_machine, same_machines
from virtomate.words import counted, quoted, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress
    from virtomate.services.clone_records import CloneResult, Wait

_LOG = logging.getLogger(__name__)

# What may have made a disk that rests on another image.
_RESTING = frozenset({Action.LINKED, Action.SHALLOW_COPIED, Action.REFLINKED})
# The host's own sources first: an agent that does not answer is noticed after seconds.
_SOURCES = (AddressSource.LEASE, AddressSource.ARP, AddressSource.AGENT)
# How long the addresses of an original that runs are waited for.
_PATIENCE_SECONDS = 10.0


def start_clone(
    session: Session, result: CloneResult, cancel: CancelToken, networks: Iterable[str] = ()
) -> CloneResult:
    """Start a complete clone, and return its result; with the error where the clone could not be started.

    The result has the leases that these networks had before, since the clone's guest may take a lease over.
    """
    try:
        cancel.check()
        domain = find_domain_by_uuid(session.connection, result.uuid)
        if domain is None:
            gone = NotFoundError(f"domain '{result.name}' is not there any more, and cannot be started")
            return result._replace(error=gone)
        if any(disk.action in _RESTING for disk in result.disks):
            # somebody may have written to the base since the clone was planned
            refuse_broken(session.connection, domain.name, find_record(domain))
        result = result._replace(leases=read_leases(session.connection, networks))
        domain.start()
    except VirtomateError as error:
        hint = _advise(session, result, error) if error.hint is None else None
        return result._replace(error=error.adding("; the clone is complete, and is kept", hint))
    return result._replace(is_started=True)


def _advise(session: Session, result: CloneResult, error: VirtomateError) -> str:
    """Return what to do about a domain that was not started; libvirt only tells the reason."""
    start = virsh("start", result.name)
    if isinstance(error, InterruptedBySignalError):
        return f"Start it: {start}"
    with suppress(VirtomateError):
        domain = find_domain(session.connection, result.uuid)
        definition = codec.parse_definition(domain.inactive_definition_without_secrets())
        for network in readers.network_names(definition.domain):
            is_active = session.connection.is_network_active(network)
            if is_active is None:
                edit = virsh("edit", result.name)
                return f"There is no network '{network}'. Connect the clone to another one ({edit}), then: {start}"
            if not is_active:
                return f"Start the network, then the clone: {virsh('net-start', network)}; {start}"
    return f"Mend that, then start it: {start}. Its log on libvirt's host, {result.name}.log, may say more."


def wait_for_clones(
    session: Session, results: tuple[CloneResult, ...], wait: Wait, progress: Progress, cancel: CancelToken
) -> Iterator[CloneResult]:
    """Wait until the clones that were started answer, one after another, since they boot in parallel.

    Each clone has the whole time of `wait`, counted from now, so the last clone gets no more time than the first. Yield
    each result in its order as soon as it is known: with the clone's addresses, or with the error. Where an IP address
    is waited for, there is a warning about a clone whose guest is taken for another guest.
    """
    history = LeaseHistory(lease for result in results for lease in result.leases)
    machines: list[Machine] = []
    begin = time.monotonic()
    started = [result.name for result in results if result.is_started]
    if started:
        what = "the guest agent" if wait.what is WaitFor.AGENT else "an IP address"
        progress.note(f"waiting for {what} of {quoted(started)}, {counted(wait.seconds, 'second')} at most")
    for result in results:
        if not result.is_started:
            yield result
            continue
        progress.waiting(result.name, begin)
        try:
            domain = find_domain(session.connection, result.uuid)
            observe = partial(history.look, session.connection)
            addresses = _wait(domain, wait, max(0.0, begin + wait.seconds - time.monotonic()), cancel, observe)
        except VirtomateError as error:
            answered = result._replace(addresses=(), error=error)
        else:
            answered = result._replace(addresses=addresses)
        finally:
            progress.close()
        if wait.what is WaitFor.IP and not cancel.is_set:
            with suppress(VirtomateError):
                machines = machines or [_original(session, answered, cancel)]
                warnings = tuple(same_machines(session.connection, answered, history, machines))
                answered = answered._replace(warnings=(*answered.warnings, *warnings))
        machines.append(clone_machine(answered))
        yield answered


def _original(session: Session, result: CloneResult, cancel: CancelToken) -> Machine:
    """Return the original of a clone with the addresses of its guest, if it runs and they are known soon."""
    domain = None
    if result.host is None:
        domain = find_domain_by_uuid(session.connection, result.source.uuid)
    known: tuple[DomainInterface, ...] = ()
    if domain is not None and domain.is_active():
        with suppress(TimedOutError):
            known = call_interruptibly(lambda: _find_addresses(domain), cancel, _PATIENCE_SECONDS)
    return original_machine(result, usable_interfaces(known))


def _wait(
    domain: Domain, wait: Wait, left_seconds: float, cancel: CancelToken, observe: Callable[[Iterable[str]], None]
) -> tuple[DomainInterface, ...]:
    if wait.what is WaitFor.AGENT:
        wait_for_agent(domain, wait.seconds, cancel, left=left_seconds)
        return usable_interfaces(with_all_interfaces(domain, _ask(domain, AddressSource.AGENT)))
    networks = readers.network_names(codec.parse_definition(domain.live_definition()).domain)

    def look() -> tuple[DomainInterface, ...]:
        known = _find_addresses(domain)
        observe(networks)
        return known

    for left in backoff(left_seconds, cancel):
        with suppress(TimedOutError):
            known = call_interruptibly(look, cancel, left if left_seconds else None)
            if known:
                return usable_interfaces(with_all_interfaces(domain, known))
    raise NoAnswerError(
        f"domain '{domain.name}' had no IP address within {counted(wait.seconds, 'second')}",
        hint=f"The guest may need longer to start; {virtomate('domain-iface-list', domain.name)} shows its addresses.",
    )


def _find_addresses(domain: Domain) -> tuple[DomainInterface, ...]:
    """Return the interfaces that the first source tells which knows a usable address."""
    sources = (_ask(domain, source) for source in _SOURCES)
    return next((interfaces for interfaces in sources if has_usable_address(interfaces)), ())


def _ask(domain: Domain, source: AddressSource) -> tuple[DomainInterface, ...]:
    """Return the interfaces that a source knows; no interfaces where the source fails."""
    try:
        return read_addresses(domain, source)
    except ConnectionLostError:
        raise
    except (HypervisorError, ProgramError) as error:
        # the agent is not there yet or tells no addresses, or libvirt cannot read the kernel's ARP table
        _LOG.debug("no addresses: %s", error)
        return ()
