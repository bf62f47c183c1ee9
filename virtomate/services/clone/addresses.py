"""The DHCP entries of clones: which addresses their interfaces get, and the entries' making and undo.

libvirt refuses a second entry with the same address, so that its update of the network is the lock between runs.
"""

from __future__ import annotations

import logging
from ipaddress import IPv4Address
from itertools import islice
from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.definition.host_entries import HostEntry
from virtomate.errors import ConflictError, IllegalStateError, UnsupportedError, UsageError, combined_error
from virtomate.services.clone.target import errors_of
from virtomate.services.host_entries import (
    DhcpNetwork,
    add_entry,
    read_dhcp_network,
    remove_entry,
    reserved_addresses,
)
from virtomate.tuples import NamedTuple
from virtomate.words import counted, virsh

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtomate.definition.codec import Document
    from virtomate.errors import VirtomateError
    from virtomate.rollback import Rollback
    from virtomate.services.address_wish import AddressWish
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone_parts import InterfaceResult
    from virtomate.services.transaction import Claim, Run

_LOG = logging.getLogger(__name__)

_OTHER_ADDRESS = (
    "Choose another address, or let virtomate choose with --ip-range. A lease ends by itself when its time is over."
)


class SurveyedAddresses(NamedTuple):
    """The addresses that one interface of all clones gets.

    Attributes:
        position: Position of the interface in the definition.
        known: The network of the interface.
        addresses: The address of each clone, in order.
        is_named: Whether the entries have names, which one network takes once.
    """

    position: int
    known: DhcpNetwork
    addresses: tuple[str, ...]
    wish: AddressWish
    is_named: bool


class EntryPlan(NamedTuple):
    """A DHCP entry that is to be made.

    Attributes:
        wish: What was asked for; with a range, another address of the range will do.
    """

    entry: HostEntry
    wish: AddressWish


def survey_addresses(survey: Survey, prepared: Document) -> tuple[SurveyedAddresses, ...]:
    """Choose the addresses of all clones, or refuse what cannot be had.

    Args:
        survey: The original, whose interfaces have their names.
        prepared: The definition of the clones, whose interfaces may be in other networks.

    Raises:
        UsageError: There is no such interface, an address or range does not fit to its network, or the range has too
            few free addresses.
        ConflictError: An address is taken.
        VirtomateError: An interface is in no network with a DHCP server.
    """
    request, domain = survey.request, survey.source.definition.domain
    name, count = survey.source.reference.name, max(len(request.names), request.auto_names)
    found: list[SurveyedAddresses] = []
    networks: dict[str, DhcpNetwork] = {}
    refusals: list[VirtomateError] = []
    for wish in request.addresses:
        position = _position(domain, prepared, name, wish.interface)
        if any(other.position == position for other in found):
            raise UsageError(f"two options give addresses for interface {position + 1} of domain '{name}'")
        network = _network(prepared, name, position)
        if network not in networks:
            with errors_of(request.target_uri):
                there = read_dhcp_network(survey.target.connection, network)
            networks[network] = there.without(request.giving_way.entries)
        known = networks[network]
        taken = {*request.taken_addresses, *(address for other in found for address in other.addresses)}
        if wish.addresses:
            refusals += _refusals(known, wish.addresses, request.mac_addresses)
            addresses = wish.addresses
        else:
            addresses = _from_range(known, wish, count, taken)
        if both := taken & set(addresses):
            raise UsageError(f"address '{min(both)}' is given for two interfaces")
        is_named = all(other.known is not known for other in found)
        found.append(SurveyedAddresses(position, known, addresses, wish, is_named))
    if refusals:
        raise combined_error(refusals)
    return tuple(found)


def plan_entries(
    surveyed: Iterable[SurveyedAddresses], number: int, name: str, interfaces: Sequence[InterfaceResult]
) -> tuple[EntryPlan, ...]:
    """Return the entries of one clone.

    Args:
        surveyed: The addresses of all clones.
        number: Number of the clone, from 0 on.
        name: What the guest is called: the host name that was asked for, or the name of the clone.
        interfaces: The interfaces of the clone.

    Raises:
        ConflictError: The network has an entry with this name or MAC address.
    """
    from virtomate.services.seed import check_host_name  # noqa: PLC0415 - few clones get an entry

    try:
        check_host_name(name)
        host_name: str | None = name
    except UsageError:
        host_name = None
    plans = []
    for item in surveyed:
        entry_name = host_name if item.is_named else None
        entry = HostEntry(item.known.name, interfaces[item.position].mac, item.addresses[number], entry_name)
        if (error := _same_identity(item.known, entry)) is not None:
            raise error
        plans.append(EntryPlan(entry, item.wish))
    return tuple(plans)


def with_entries(interfaces: Iterable[InterfaceResult], entries: Iterable[HostEntry]) -> tuple[InterfaceResult, ...]:
    """Return the interfaces with the addresses that networks keep for them."""
    kept = reserved_addresses(entries)
    return tuple(interface._replace(dhcp_entry=kept.get(interface.mac)) for interface in interfaces)


def make_entries(run: Run, claim: Claim, plans: Iterable[EntryPlan], undo: Rollback) -> tuple[HostEntry, ...]:
    """Make the entries of a claimed clone, whose journal lists them, and return them.

    Raises:
        IllegalStateError: An address was taken since the plan, and there is no other.
        VirtomateError: libvirt does not make an entry.
    """
    made = []
    for number, plan in enumerate(plans):
        run.cancel.check()
        making = _EntryInTheMaking(run, claim, plan, number)
        undo.push(f"the {plan.entry.what}", making.undo)
        made.append(making.make())
    return tuple(made)


class _EntryInTheMaking:
    """The making of an entry, and its undo; only the thread of the transaction uses it."""

    def __init__(self, run: Run, claim: Claim, plan: EntryPlan, number: int) -> None:
        self._run = run
        self._claim = claim
        self._plan = plan
        self._number = number
        self._entry: HostEntry | None = None

    def make(self) -> HostEntry:
        """Make the entry; where others have taken the address meanwhile, with the next free one of the range."""
        entry = self._plan.entry
        while True:
            connection = self._run.target.connection
            known = read_dhcp_network(connection, entry.network)
            _LOG.info("making the %s", entry.what)
            # If the connection breaks in the call, the undo has a look.
            self._entry = entry
            try:
                add_entry(known, entry)
            except IllegalStateError as error:
                # libvirt has changed nothing
                self._entry = None
                entry = self._after(entry, error)
                self._record(entry)
                self._run.cancel.check()
            else:
                return entry

    def undo(self) -> None:
        """Remove the entry, if it was made."""
        self._claim.require_unfinished()
        if self._entry is not None:
            remove_entry(self._run.target.connection, self._entry)
            self._entry = None

    def _after(self, entry: HostEntry, error: IllegalStateError) -> HostEntry:
        """Return the entry to try after one that libvirt has refused."""
        known, wish = read_dhcp_network(self._run.target.connection, entry.network), self._plan.wish
        address = IPv4Address(entry.address)
        holder = known.holder(address)
        if (other := _same_identity(known, entry)) is not None:
            raise IllegalStateError(f"{other.message} by now") from error
        if holder is None:
            raise error
        if wish.addresses:
            raise IllegalStateError(f"address '{address}' {holder} by now", hint=_OTHER_ADDRESS) from error
        first, last = IPv4Address(wish.first), IPv4Address(wish.last)
        # after the refused address first: the addresses before are those of other clones of this run
        later = known.free(address + 1, last) if address < last else iter(())
        free = next(later, None) or next(known.free(first, address), None)
        if free is None:
            raise IllegalStateError(
                f"no address of '{wish.text}' is free any more in network '{known.name}'"
            ) from error
        return entry._replace(address=str(free))

    def _record(self, entry: HostEntry) -> None:
        entries = list(self._claim.provenance.entries)
        entries[self._number] = entry
        self._claim.record_entries(tuple(entries))


def _position(domain: Document, prepared: Document, name: str, word: str | None) -> int:
    """Return the position of the interface that a word names; without a word, of the first in a libvirt network."""
    interfaces = readers.devices(domain, "interface")
    if word is None:
        ours = readers.devices(prepared, "interface")
        networks = (number for number, item in enumerate(ours) if readers.child(item, "source").get("@network"))
        first = next(networks, None)
        if first is None:
            raise UnsupportedError(
                f"no interface of domain '{name}' is connected to a libvirt network, so libvirt's DHCP server gives "
                "the clone no address",
                hint="Set the address in the guest, such as with --seed and --network-data.",
            )
        return first
    if (position := readers.find_interface(domain, word)) is None:
        known = ", ".join(
            f"{number} ({readers.child(item, 'mac').get('@address')})" for number, item in enumerate(interfaces, 1)
        )
        expected = f"; expected: {known}" if interfaces else ""
        raise UsageError(f"domain '{name}' has no network interface '{word}'{expected}")
    return position


def _network(domain: Document, name: str, position: int) -> str:
    interface = readers.devices(domain, "interface")[position]
    network = readers.child(interface, "source").get("@network")
    if network is None:
        bridge = readers.child(interface, "source").get("@bridge")
        place = f"bridge '{bridge}'" if bridge else f"type '{interface.get('@type')}'"
        raise UnsupportedError(
            f"interface {position + 1} of domain '{name}' is connected to no libvirt network ({place}), so libvirt's "
            "DHCP server gives it no address",
            hint=f"Connect it to a libvirt network ({virsh('edit', name)}), or set the address in the guest.",
        )
    return str(network)


def _refusals(known: DhcpNetwork, addresses: Iterable[str], macs: Iterable[str]) -> list[VirtomateError]:
    """Return the errors for addresses that the network cannot give."""
    refusals: list[VirtomateError] = []
    own = frozenset(macs)
    for text in addresses:
        address = IPv4Address(text)
        if (reason := known.mismatch(address)) is not None:
            refusals.append(UsageError(f"address '{text}' {reason}"))
        elif (reason := known.holder(address, own)) is not None:
            refusals.append(ConflictError(f"address '{text}' {reason}", hint=_OTHER_ADDRESS))
    return refusals


def _from_range(known: DhcpNetwork, wish: AddressWish, count: int, taken: set[str]) -> tuple[str, ...]:
    """Return the first free addresses of a range, one for each clone."""
    first, last, subnet = IPv4Address(wish.first), IPv4Address(wish.last), known.server.subnet
    for address in (first, last):
        if address not in subnet:
            raise UsageError(f"'{wish.text}' is not in {subnet}, the subnet of network '{known.name}'")
    free = (str(address) for address in known.free(first, last))
    addresses = tuple(islice((address for address in free if address not in taken), count))
    if len(addresses) < count:
        raise UsageError(
            f"'{wish.text}' has {counted(len(addresses), 'free address')} in network '{known.name}', "
            f"and {counted(count, 'clone')} would need {'one' if count == 1 else 'one each'}"
        )
    return addresses


def _same_identity(known: DhcpNetwork, entry: HostEntry) -> ConflictError | None:
    """Return the error if the network has an entry with the same name or MAC address."""
    for other, what, value in (
        (None if entry.name is None else known.named(entry.name), "name", entry.name),
        (known.of_mac(entry.mac_address), "MAC address", entry.mac_address),
    ):
        if other is not None:
            hint = f"Choose another {what}, or remove the entry: {virsh('net-edit', known.name)}"
            return ConflictError(f"the {other.what} already has the {what} '{value}'", hint=hint)
    return None
