"""The network interfaces of active domains, and their addresses."""

from __future__ import annotations

import ipaddress
import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.enums import AddressSource
from virtomate.errors import HypervisorError, IllegalStateError, VirtomateError
from virtomate.hypervisor.agent import DomainInterface, interface_addresses
from virtomate.hypervisor.domains import find_domain, find_domain_by_uuid
from virtomate.hypervisor.networks import ReservedAddress
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from virtomate.definition.readers import InterfaceDefinition
    from virtomate.hypervisor.agent import Address
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session

    Answers = SimpleQueue[tuple[str, tuple[DomainInterface, ...]]]

_LOG = logging.getLogger(__name__)

_NO_MAC_ADDRESS = "00:00:00:00:00:00"

# Agents that are asked at a time, each over its own connection.
_MAX_ASKED = 4
# libvirt waits five seconds for an agent that hangs, and has no shorter limit.
_PATIENCE_SECONDS = 1.0

_RUNNING = "running"
_INACTIVE = frozenset({"shut-off", "crashed", "no state"})


def list_interfaces(connection: Connection, name_or_uuid: str, source: AddressSource) -> tuple[DomainInterface, ...]:
    """Return the interfaces of a domain by name, with the addresses that the source knows.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is not active; with `agent`, it is not running.
        AgentUnresponsiveError: The source is the agent, and the agent does not answer.
    """
    domain = find_domain(connection, name_or_uuid)
    try:
        known = read_addresses(domain, source)
    except HypervisorError as error:
        # libvirt 9.0 does not understand the table of every kernel
        if source is AddressSource.ARP and error.hint is None:
            hint = "libvirt cannot read the ARP table of its host. Use --source lease or --source agent."
            raise error.adding(hint=hint) from error
        raise
    definition = codec.parse_definition(domain.live_definition()).domain
    listed = join_interfaces(known, readers.interfaces(definition))
    return _with_entries(connection, listed, readers.network_names(definition))


def _with_entries(
    connection: Connection, interfaces: Iterable[DomainInterface], networks: Iterable[str]
) -> tuple[DomainInterface, ...]:
    """Return interfaces with the addresses that these networks keep for them now."""
    kept = {
        entry.mac_address: ReservedAddress(network, entry.address, entry.name)
        for network in networks
        for definition in connection.network_definitions(network)[:1]
        for entry in readers.dhcp_entries(definition)
        if entry.address is not None
    }
    return tuple(item._replace(dhcp_entry=kept.get((item.hwaddr or "").lower())) for item in interfaces)


def with_all_interfaces(domain: Domain, known: Iterable[DomainInterface]) -> tuple[DomainInterface, ...]:
    """Return the interfaces that a source knows, and the other interfaces of the domain, by name."""
    return join_interfaces(known, readers.interfaces(codec.parse_definition(domain.live_definition()).domain))


def read_addresses(domain: Domain, source: AddressSource) -> tuple[DomainInterface, ...]:
    """Return the interfaces that the source knows, without waiting; for the errors see `list_interfaces`.

    An agent may report addresses that are not valid, which are left out.
    """
    require_active(domain)
    return tuple(_with(interface, _is_valid) for interface in interface_addresses(domain, source))


def join_interfaces(
    known: Iterable[DomainInterface], defined: Iterable[InterfaceDefinition]
) -> tuple[DomainInterface, ...]:
    """Return the interfaces that a source knows, and those of the definition that the source does not know, by name.

    The host names an interface as the definition does. The guest has names of its own; there the MAC address tells,
    which the interfaces of a team share.
    """
    known, defined = tuple(known), tuple(defined)
    names = {interface.name for interface in known}
    own_names = {interface.name for interface in defined}
    macs = {interface.hwaddr.lower() for interface in known if interface.hwaddr and interface.name not in own_names}
    missing = [
        DomainInterface(interface.name, interface.mac, ())
        for interface in defined
        if interface.name not in names and (interface.mac is None or interface.mac not in macs)
    ]
    return tuple(sorted((*known, *missing), key=lambda interface: interface.name))


def usable_interfaces(interfaces: Iterable[DomainInterface]) -> tuple[DomainInterface, ...]:
    """Return the interfaces with the addresses that other hosts can use, and without the loopback interface."""
    usable = (_with(interface, _is_usable) for interface in interfaces)
    return tuple(item for item in usable if item.addresses or item.hwaddr not in {None, _NO_MAC_ADDRESS})


def has_usable_address(interfaces: Iterable[DomainInterface]) -> bool:
    """Return whether there is an address that other hosts can use: neither a loopback nor a link-local address."""
    return any(interface.addresses for interface in usable_interfaces(interfaces))


def require_active(domain: Domain) -> None:
    """Raise IllegalStateError for a domain that is not active."""
    if not domain.is_active():
        raise IllegalStateError(
            f"domain '{domain.name}' is {domain.state()}, and must be running",
            hint=f"Start it: {virsh('start', domain.name)}",
        )


def find_addresses(session: Session, states: Mapping[str, str]) -> dict[str, tuple[DomainInterface, ...]]:
    """Return the addresses of domains by UUID: from the leases of libvirt's networks, else from the guests' agents.

    `states` are the states of the domains by UUID. A domain without a known address may be absent. When no agent has
    answered for a second, the answers of the other agents are not waited for.
    """
    found = {uuid: _ask(session, uuid, AddressSource.LEASE) for uuid, state in states.items() if state not in _INACTIVE}
    unknown = [uuid for uuid, state in states.items() if state == _RUNNING and not found[uuid]]
    return found | _ask_agents(session, unknown)


def _ask_agents(session: Session, uuids: list[str]) -> dict[str, tuple[DomainInterface, ...]]:
    """Return the answers of the agents that answer soon; the threads of the other agents end by themselves."""
    left: SimpleQueue[str] = SimpleQueue()
    for uuid in uuids:
        left.put(uuid)
    answers: Answers = SimpleQueue()
    siblings = _connected_siblings(session, min(_MAX_ASKED, len(uuids)))
    for sibling in siblings:
        threading.Thread(target=_work, args=(sibling, left, answers), name="agents", daemon=True).start()
    found: dict[str, tuple[DomainInterface, ...]] = {}
    try:
        while siblings and len(found) < len(uuids):
            uuid, interfaces = answers.get(timeout=_PATIENCE_SECONDS)
            found[uuid] = interfaces
    except Empty:
        _LOG.debug("%d agents did not answer soon enough", len(uuids) - len(found))
    return found


def _connected_siblings(session: Session, count: int) -> list[Session]:
    """Return at most so many sessions, connected before the waiting begins: a distant host costs no patience."""
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


def _ask(session: Session, uuid: str, source: AddressSource) -> tuple[DomainInterface, ...]:
    """Return the interfaces with usable addresses that a source knows; no interfaces where the source fails."""
    try:
        domain = find_domain_by_uuid(session.connection, uuid)
        known = () if domain is None else usable_interfaces(read_addresses(domain, source))
    except VirtomateError as error:
        _LOG.debug("no addresses of %s: %s", uuid, error)
        return ()
    return tuple(interface for interface in known if interface.addresses)


def _with(interface: DomainInterface, is_wanted: Callable[[Address], bool]) -> DomainInterface:
    return interface._replace(addresses=tuple(filter(is_wanted, interface.addresses)))


def _is_valid(address: Address) -> bool:
    try:
        ipaddress.ip_address(address.address)
    except ValueError:
        return False
    return True


def _is_usable(address: Address) -> bool:
    if not _is_valid(address):
        return False
    parsed = ipaddress.ip_address(address.address)
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)
