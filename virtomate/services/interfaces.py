"""The network interfaces of active domains, and their addresses."""

from __future__ import annotations

import ipaddress
import shlex
from typing import TYPE_CHECKING

from virtomate.errors import IllegalStateError
from virtomate.hypervisor.agent import interface_addresses
from virtomate.hypervisor.domains import find_domain

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.kinds import AddressSource
    from virtomate.records import Address, DomainInterface


def list_interfaces(connection: Connection, name_or_uuid: str, source: AddressSource) -> tuple[DomainInterface, ...]:
    """The interfaces of a domain, by name, with the addresses that the source knows.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is not active; with `agent`, it is not running.
        AgentUnresponsiveError: The agent was to be asked and does not answer.
    """
    return read_interfaces(find_domain(connection, name_or_uuid), source)


def read_interfaces(domain: Domain, source: AddressSource) -> tuple[DomainInterface, ...]:
    """The interfaces of a domain as they are now; see `list_interfaces`. Does not wait."""
    require_active(domain)
    return interface_addresses(domain, source)


def has_usable_address(interfaces: tuple[DomainInterface, ...]) -> bool:
    """Whether there is an address that others can use: neither a loopback nor a link-local one."""
    return any(_is_usable(address) for interface in interfaces for address in interface.addresses)


def require_active(domain: Domain) -> None:
    """Refuse a domain that nothing runs in.

    Raises:
        IllegalStateError: It is not active.
    """
    if not domain.is_active():
        raise IllegalStateError(
            f"domain '{domain.name}' is {domain.state()}, and must be running",
            hint=f"Start it: virsh start {shlex.quote(domain.name)}",
        )


def _is_usable(address: Address) -> bool:
    parsed = ipaddress.ip_address(address.address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_link_local)
