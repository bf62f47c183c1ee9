"""The network interfaces of active domains, and their addresses."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.enums import AddressSource
from virtomate.errors import HypervisorError, IllegalStateError
from virtomate.hypervisor.agent import DomainInterface, interface_addresses
from virtomate.hypervisor.domains import find_domain
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from virtomate.definition.readers import InterfaceDefinition
    from virtomate.hypervisor.agent import Address
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

_NO_MAC_ADDRESS = "00:00:00:00:00:00"


def list_interfaces(connection: Connection, name_or_uuid: str, source: AddressSource) -> tuple[DomainInterface, ...]:
    """The interfaces of a domain, by name, with the addresses that the source knows.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is not active; with `agent`, it is not running.
        AgentUnresponsiveError: The agent was to be asked and does not answer.
    """
    domain = find_domain(connection, name_or_uuid)
    try:
        known = read_addresses(domain, source)
    except HypervisorError as error:
        # libvirt 9.0 does not understand the table of every kernel
        if source is AddressSource.ARP and error.hint is None:
            hint = "libvirt cannot read the ARP table of its host. Ask somebody else: --source lease or agent."
            raise error.adding(hint=hint) from error
        raise
    return with_all_interfaces(domain, known)


def with_all_interfaces(domain: Domain, known: Iterable[DomainInterface]) -> tuple[DomainInterface, ...]:
    """What a source knows of a domain's interfaces, and the others of the domain, by name."""
    return join_interfaces(known, readers.interfaces(codec.parse_definition(domain.live_definition()).domain))


def read_addresses(domain: Domain, source: AddressSource) -> tuple[DomainInterface, ...]:
    """The interfaces of a domain of which the source knows, as they are now; see `list_interfaces`. Does not wait.

    What an agent reports as an address and is none is left out.
    """
    require_active(domain)
    return tuple(_with(interface, _parse) for interface in interface_addresses(domain, source))


def join_interfaces(
    known: Iterable[DomainInterface], defined: Iterable[InterfaceDefinition]
) -> tuple[DomainInterface, ...]:
    """What a source knows, and the interfaces of the definition of which it does not, by name.

    The host calls an interface as the definition does, and the guest in its own way; there the MAC address tells. Two
    interfaces can have one, as those of a team do.
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
    """The interfaces without the addresses that only their guest can use, and without the loopback interface."""
    return tuple(
        usable
        for interface in interfaces
        if (usable := _with(interface, _parse_usable)).addresses or not _is_loopback(interface)
    )


def has_usable_address(interfaces: Iterable[DomainInterface]) -> bool:
    """Whether there is an address that others can use: neither a loopback nor a link-local one."""
    return any(interface.addresses for interface in usable_interfaces(interfaces))


def require_active(domain: Domain) -> None:
    """Refuse a domain that nothing runs in.

    Raises:
        IllegalStateError: It is not active.
    """
    if not domain.is_active():
        raise IllegalStateError(
            f"domain '{domain.name}' is {domain.state()}, and must be running",
            hint=f"Start it: {virsh('start', domain.name)}",
        )


def _with(interface: DomainInterface, is_wanted: Callable[[Address], object]) -> DomainInterface:
    return interface._replace(addresses=tuple(filter(is_wanted, interface.addresses)))


def _parse(address: Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address.address)
    except ValueError:
        return None


def _parse_usable(address: Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    parsed = _parse(address)
    if parsed is None or parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified:
        return None
    return parsed


def _is_loopback(interface: DomainInterface) -> bool:
    return interface.hwaddr in {None, _NO_MAC_ADDRESS}
