"""Guests that are taken for one machine, by the leases that were seen and the addresses that they have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.output.records import STARTED
from virtomate.errors import HypervisorError, VirtomateError
from virtomate.hypervisor.agent import Address, DomainInterface
from virtomate.hypervisor.networks import Lease
from virtomate.notices import StartWarning
from virtomate.services.clone_parts import InterfaceResult
from virtomate.services.guest import LeaseHistory, Twin, read_leases
from virtomate.services.same_machines import Machine, clone_machine, original_machine, same_machines

MINE, OTHER, THIRD = (f"52:54:00:00:00:0{number}" for number in (2, 3, 4))
ADDRESS = "192.0.2.7"


def lease(mac: str | None, address: str = ADDRESS, client: str | None = "ff:01", network: str = "default") -> Lease:
    """A lease."""
    return Lease(network, address, mac, None, client)


@pytest.mark.parametrize(
    ("leases", "expected"),
    [
        ([lease(MINE)], []),
        # the server gave the lease of one guest to the other
        ([lease(OTHER), lease(MINE)], [Twin(OTHER, "ff:01", ADDRESS)]),
        ([lease(OTHER, "192.0.2.8"), lease(MINE)], [Twin(OTHER, "ff:01", None)]),
        ([lease(OTHER, client="ff:02"), lease(MINE)], [Twin(OTHER, None, ADDRESS)]),
        ([lease(OTHER, "192.0.2.8", network="other"), lease(MINE)], []),
        ([lease(OTHER, "192.0.2.8", client=None), lease(MINE, client=None)], []),
        ([lease(OTHER, "192.0.2.8"), lease(OTHER, ADDRESS, "ff:02"), lease(MINE)], [Twin(OTHER, "ff:01", ADDRESS)]),
        # of IPv6 the server may not know the MAC address
        ([lease(None, "fd00::1"), lease(MINE)], []),
    ],
)
def test_twins(leases: list[Lease], expected: list[Twin]) -> None:
    """Whoever had a lease under the same client ID, or the same address, is told."""
    assert LeaseHistory(leases).twins({MINE}, {ADDRESS}) == tuple(expected)


def test_interfaces_of_one_guest() -> None:
    """A guest with two interfaces may call itself the same on both."""
    assert LeaseHistory([lease(MINE), lease(OTHER, "192.0.2.8")]).twins({MINE, OTHER}, {ADDRESS}) == ()


def leasing(leases: list[Lease], fault: VirtomateError | None = None) -> SimpleNamespace:
    """A network with leases, or the error of a network that libvirt cannot tell about."""

    def told() -> list[Lease]:
        if fault is not None:
            raise fault
        return leases

    return SimpleNamespace(leases=told)


def test_leases_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that libvirt cannot tell about hides no other network, and is no reason to start no clone."""
    networks = {"broken": leasing([], HypervisorError("the file is not JSON")), "default": leasing([lease(MINE)])}
    monkeypatch.setattr("virtomate.services.guest.leases.find_network", lambda _connection, name: networks.get(name))

    assert read_leases(None, ["broken", "gone", "default"]) == (lease(MINE),)  # type: ignore[arg-type]


def test_look_that_took_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that nobody waits for any more may end while the leases are compared."""
    later = leasing([lease(THIRD, "192.0.2.9", "ff:03")])
    monkeypatch.setattr("virtomate.services.guest.leases.find_network", lambda *_words: later)
    history = LeaseHistory([lease(OTHER, "192.0.2.8"), lease(MINE)])

    class Macs(frozenset[str]):
        def __contains__(self, mac: object) -> bool:
            history.look(None, ["default"])  # type: ignore[arg-type]
            return super().__contains__(mac)

    assert history.twins(Macs({MINE}), {ADDRESS}) == (Twin(OTHER, "ff:01", None),)


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The active domains: one called `running`, with the third MAC address."""
    definition = f"<domain><devices><interface><mac address='{THIRD}'/></interface></devices></domain>"
    domains = [SimpleNamespace(name="running", uuid="1", live_definition=lambda: definition)]
    monkeypatch.setattr("virtomate.services.same_machines.list_active_domains", lambda _connection: domains)
    return domains


def warnings(leases: list[Lease], *others: Machine) -> list[dict[str, str]]:
    """The details of the warnings about a clone whose original has no address, beside other machines."""
    every = (original_machine(STARTED, ()), *others)
    found = list(same_machines(None, STARTED, LeaseHistory(leases), every))  # type: ignore[arg-type]
    assert all((item.code, item.subject) == (StartWarning.SAME_MACHINE_ID, "web-1") for item in found)
    return [dict(item.details) for item in found]


@pytest.mark.usefixtures("active")
def test_what_is_said() -> None:
    """Others are called by the names of their domains where these are known, and a shut off original by its name."""
    client = f"DHCP client ID (ff:01) and IP address {ADDRESS}"
    original = STARTED.interfaces[0].source_mac

    assert warnings([lease(THIRD), lease(MINE)]) == [{"what": client, "others": "'running'"}]
    assert warnings([lease(original), lease(MINE)]) == [{"what": client, "others": f"'{STARTED.source.name}'"}]
    assert warnings([lease(OTHER), lease(MINE)]) == [{"what": client, "others": OTHER}]
    address = f"IP address {ADDRESS}"
    assert warnings([lease(THIRD, client="a"), lease(MINE)]) == [{"what": address, "others": "'running'"}]
    # nobody has that address any more
    assert warnings([lease(OTHER, client="a"), lease(original, client="b"), lease(MINE)]) == []


@pytest.mark.usefixtures("active")
def test_clones_of_one_command() -> None:
    """A fixed address of the guest shows in the addresses of clones and original alone; many make one warning."""
    clones = [
        STARTED._replace(name=f"web-{number}", interfaces=(InterfaceResult(f"52:54:00:00:01:{number:02}", "x"),))
        for number in range(2, 9)
    ]
    elsewhere = (DomainInterface("eth0", "52:54:00:00:01:99", (Address("IPv4", "192.0.2.99", 24),)),)

    machines = [clone_machine(clone) for clone in clones]
    assert warnings([], machines[0], clone_machine(clones[1]._replace(addresses=elsewhere))) == [
        {"what": f"IP address {ADDRESS}", "others": "'web-2'"}
    ]
    original = original_machine(STARTED, STARTED.addresses or ())
    assert warnings([], original) == [{"what": f"IP address {ADDRESS}", "others": f"'{STARTED.source.name}'"}]
    leases = [lease(clone.interfaces[0].mac) for clone in clones]
    assert warnings([*leases, lease(MINE)], *machines) == [
        {"what": f"DHCP client ID (ff:01) and IP address {ADDRESS}", "others": "'web-2', 'web-3', 'web-4' and 4 more"}
    ]
