"""Waiting: for calls that take long, and for addresses that are of use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.output.records import CLONED, STARTED
from virtomate.cancel import CancelToken
from virtomate.definition.readers import InterfaceDefinition
from virtomate.enums import AddressSource, WaitFor
from virtomate.errors import AgentUnresponsiveError, ProgramError
from virtomate.hypervisor.agent import Address, DomainInterface
from virtomate.progress import Progress
from virtomate.services.clone_records import Wait
from virtomate.services.clone_start import wait_for_clones
from virtomate.services.guest.addresses import has_usable_address, join_interfaces, usable_interfaces

MAC = "52:54:00:00:00:07"
DEFINITION = f"""
<domain><devices>
  <interface type='network'><mac address='{MAC}'/><target dev='vnet7'/><alias name='net0'/></interface>
</devices></domain>"""
LOOPBACK = DomainInterface("lo", "00:00:00:00:00:00", (Address("IPv4", "127.0.0.1", 8),))


class Notes(Progress):
    """What is said while clones are waited for."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.waited: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    def waiting(self, what: str, since: float) -> None:
        """Keep it."""
        assert since > 0
        self.waited.append(what)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session in which every clone is found, running and without anything that would answer."""
    found = SimpleNamespace(is_active=lambda: True, live_definition=lambda: DEFINITION)
    monkeypatch.setattr(
        "virtomate.services.clone_start.find_domain", lambda _, uuid: SimpleNamespace(name=uuid, **vars(found))
    )
    monkeypatch.setattr("virtomate.services.clone_start.find_domain_by_uuid", lambda *_words: None)
    return SimpleNamespace(connection=None)


def test_clones_that_do_not_answer_are_told_the_time_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, session: Any
) -> None:
    """The first clone that is waited for leaves the others no time, and all of them are named and reported alike."""

    def fail(*_words: object) -> None:
        raise AgentUnresponsiveError("it is not connected")

    monkeypatch.setattr("virtomate.services.guest.agent.call_agent", fail)
    progress = Notes()
    clones = (CLONED, STARTED, STARTED._replace(name="web-2"))

    results = list(wait_for_clones(session, clones, Wait(WaitFor.AGENT, 0.1), progress, CancelToken()))

    times = [str(result.error).partition("did not answer ")[2] for result in results]
    assert times == ["", "within 0.1 seconds", "within 0.1 seconds"]
    assert progress.notes == ["waiting for the guest agent of 'web-1' and 'web-2', 0.1 seconds at most"]
    assert progress.waited == ["web-1", "web-2"]


def test_agent_that_answers_and_does_not_tell_addresses(monkeypatch: pytest.MonkeyPatch, session: Any) -> None:
    """An agent that answers has been waited for, even if it refuses to tell of the guest's interfaces."""

    def refuse(*_words: object) -> None:
        raise ProgramError("the command guest-network-get-interfaces has been disabled")

    monkeypatch.setattr("virtomate.services.guest.agent.call_agent", lambda *_words: None)
    monkeypatch.setattr("virtomate.services.guest.addresses.interface_addresses", refuse)

    (result,) = wait_for_clones(session, (STARTED,), Wait(WaitFor.AGENT, 60), Progress(), CancelToken())

    assert (result.error, result.addresses) == (None, (DomainInterface("vnet7", MAC, ()),))


def test_address_that_is_none_is_no_answer(monkeypatch: pytest.MonkeyPatch, session: Any) -> None:
    """What an agent takes for an address is waited for no less than no address, and is not shown beside real ones."""
    reports = iter(["10.0.0.999", "", "192.0.2.7"])

    def report(_domain: object, source: AddressSource) -> tuple[DomainInterface, ...]:
        if source is not AddressSource.AGENT:
            return ()
        return (DomainInterface("eth0", MAC, (Address("IPv4", "nowhere", 24), Address("IPv4", next(reports), 24))),)

    monkeypatch.setattr("virtomate.services.guest.addresses.interface_addresses", report)

    (result,) = wait_for_clones(session, (STARTED,), Wait(WaitFor.IP, 60), Progress(), CancelToken())

    assert (result.error, result.addresses) == (None, (_interface("192.0.2.7", mac=MAC),))
    assert list(reports) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.1.2", "fe80::1%eth0", "fe80::1", "0.0.0.0", "none"])
def test_addresses_that_only_their_guest_can_use(address: str) -> None:
    """Loopback and link-local addresses are not waited for, nor is what is no address; the interfaces stay."""
    interfaces = (LOOPBACK, _interface(address), DomainInterface("eth1", MAC, ()))

    assert not has_usable_address(interfaces)
    assert [(item.name, item.addresses) for item in usable_interfaces(interfaces)] == [("eth0", ()), ("eth1", ())]


@pytest.mark.parametrize("address", ["192.168.77.10", "10.0.0.1", "2001:db8::1", "fd00::1"])
def test_usable_addresses(address: str) -> None:
    """An address that others can reach is of use, a private one included."""
    assert has_usable_address((LOOPBACK, _interface(address)))
    assert usable_interfaces((LOOPBACK, _interface(address), _interface("fe80::1"))) == (
        _interface(address),
        DomainInterface("eth0", "52:54:00:00:00:01", ()),
    )


DEFINED = (
    InterfaceDefinition("vnet0", "52:54:00:00:00:01"),
    InterfaceDefinition("net1", "52:54:00:00:00:02"),
    InterfaceDefinition("vnet10", "52:54:00:00:00:02"),
    InterfaceDefinition("net3", None),
)


def test_interfaces_of_which_the_host_knows_some() -> None:
    """The host has the definition's names, so two interfaces with one MAC address are kept apart."""
    known = (_interface("192.0.2.7", "vnet0"), DomainInterface("vnet10", "52:54:00:00:00:02", ()))

    joined = join_interfaces(known, DEFINED)

    assert [(item.name, item.hwaddr) for item in joined] == [
        ("net1", "52:54:00:00:00:02"),
        ("net3", None),
        ("vnet0", "52:54:00:00:00:01"),
        ("vnet10", "52:54:00:00:00:02"),
    ]
    assert joined[2] == known[0]


def test_interfaces_of_which_the_guest_knows_some() -> None:
    """The guest has names of its own: what has a MAC address that it tells of is not listed again."""
    known = (LOOPBACK, DomainInterface("eth0", "52:54:00:00:00:01".upper(), ()))

    joined = join_interfaces(known, DEFINED[:2])

    assert [(item.name, item.hwaddr) for item in joined] == [
        ("eth0", "52:54:00:00:00:01"),
        ("lo", "00:00:00:00:00:00"),
        ("net1", "52:54:00:00:00:02"),
    ]


def _interface(address: str, name: str = "eth0", mac: str = "52:54:00:00:00:01") -> DomainInterface:
    return DomainInterface(name, mac, (Address("IPv4", address, 24),))
