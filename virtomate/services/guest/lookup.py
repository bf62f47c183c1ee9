"""The addresses of many domains at once, from whoever knows them without delay."""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from virtomate.enums import AddressSource
from virtomate.errors import VirtomateError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.services.guest.addresses import read_addresses, usable_interfaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.session import Session

    Answers = SimpleQueue[tuple[str, tuple[DomainInterface, ...]]]

_LOG = logging.getLogger(__name__)

# Agents that are asked at a time, each over a connection of its own.
_MAX_ASKED = 4

# libvirt takes five seconds for an agent that hangs, and cannot be told to take less.
_PATIENCE_SECONDS = 1.0

_RUNNING = "running"
_INACTIVE = frozenset({"shut-off", "crashed", "no state"})


def find_addresses(session: Session, states: Mapping[str, str]) -> dict[str, tuple[DomainInterface, ...]]:
    """Return the addresses that the leases of libvirt's networks, or else the guests' agents, tell, by UUID.

    A domain without a known address may be absent. When no agent has answered for a second, the agents that have not
    answered yet are not waited for.

    Args:
        session: Where the domains are.
        states: The states of the domains by UUID.
    """
    found = {uuid: _ask(session, uuid, AddressSource.LEASE) for uuid, state in states.items() if state not in _INACTIVE}
    unknown = [uuid for uuid, state in states.items() if state == _RUNNING and not found[uuid]]
    return found | _ask_agents(session, unknown)


def _ask_agents(session: Session, uuids: Iterable[str]) -> dict[str, tuple[DomainInterface, ...]]:
    """What the agents of domains tell that answer soon; the others are left to themselves."""
    left: SimpleQueue[str] = SimpleQueue()
    for uuid in uuids:
        left.put(uuid)
    expected = left.qsize()
    answers: Answers = SimpleQueue()
    workers = [
        threading.Thread(target=_work, args=(sibling, left, answers), name="agents", daemon=True)
        for sibling in _connected_siblings(session, min(_MAX_ASKED, expected))
    ]
    for worker in workers:
        worker.start()
    return _collect(answers, expected if workers else 0)


def _connected_siblings(session: Session, count: int) -> list[Session]:
    """Up to so many sessions; they are connected before anybody waits, so that a distant host costs no patience."""
    siblings = [session.sibling() for _ in range(count)]
    for number, sibling in enumerate(siblings):
        try:
            sibling.connect()
        except VirtomateError as error:
            _LOG.debug("no more connections for agents: %s", error)
            return siblings[:number]
    return siblings


def _work(session: Session, left: SimpleQueue[str], answers: Answers) -> None:
    with session:
        while True:
            try:
                uuid = left.get_nowait()
            except Empty:
                return
            answers.put((uuid, _ask(session, uuid, AddressSource.AGENT)))


def _collect(answers: Answers, expected: int) -> dict[str, tuple[DomainInterface, ...]]:
    found: dict[str, tuple[DomainInterface, ...]] = {}
    try:
        while len(found) < expected:
            uuid, interfaces = answers.get(timeout=_PATIENCE_SECONDS)
            found[uuid] = interfaces
    except Empty:
        _LOG.debug("%d agents did not answer soon enough", expected - len(found))
    return found


def _ask(session: Session, uuid: str, source: AddressSource) -> tuple[DomainInterface, ...]:
    """What one source knows of a domain that others can use; nothing where it does not tell."""
    try:
        domain = find_domain_by_uuid(session.connection, uuid)
        known = () if domain is None else usable_interfaces(read_addresses(domain, source))
    except VirtomateError as error:
        _LOG.debug("no addresses of %s: %s", uuid, error)
        return ()
    return tuple(interface for interface in known if interface.addresses)
