"""Whom the addresses of many domains come from, and who is not waited for."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import pytest

from virtomate.enums import AddressSource
from virtomate.hypervisor.agent import Address, DomainInterface
from virtomate.services.guest import addresses, usable_interfaces
from virtomate.services.listings import DomainListing, with_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from virtomate.hypervisor.session import Session

LEASED = (DomainInterface("vnet0", "52:54:00:00:00:01", (Address("IPv4", "192.0.2.1", 24),)),)
TOLD = (DomainInterface("eth0", "52:54:00:00:00:02", (Address("IPv4", "192.0.2.2", 24),)),)


# longer than a busy machine takes for anything
LONG_SECONDS = 60.0


class PatientQueue(SimpleQueue[Any]):
    """A queue whose reader loses patience only when the two have answered that are going to."""

    _taken = 0

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return what was put there."""
        assert timeout == addresses._PATIENCE_SECONDS
        item = super().get(block, LONG_SECONDS if self._taken < 2 else 0.2)
        self._taken += 1
        return item


class FakeSession:
    """A session whose siblings need no hypervisor."""

    def sibling(self) -> FakeSession:
        """Another one."""
        return FakeSession()

    def connect(self) -> None:
        """Nothing is there to connect to."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, AddressSource]]]:
    """Who has been asked: `leased` has a lease, agents tell of all others, but for those whose names begin with h."""
    questions: list[tuple[str, AddressSource]] = []
    is_over = threading.Event()

    def ask(_: object, uuid: str, source: AddressSource) -> tuple[DomainInterface, ...]:
        questions.append((uuid, source))
        if source is AddressSource.LEASE:
            return LEASED if uuid == "leased" else ()
        if uuid.startswith("h"):
            is_over.wait()
        return TOLD

    monkeypatch.setattr(addresses, "_ask", ask)
    yield questions
    is_over.set()


def listed(*names: str, state: str = "running") -> list[DomainListing]:
    """Domains whose UUIDs are their names."""
    return [DomainListing(name, name, state, None) for name in names]


def find(listings: list[DomainListing]) -> dict[str, tuple[DomainInterface, ...] | None]:
    """What is found out, by name."""
    session = cast("Session", FakeSession())
    return {item.name: item.addresses for item in with_addresses(session, listings)}


def test_leases_come_first(asked: list[tuple[str, AddressSource]], monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent is asked only where there is no lease, a paused guest's not at all, and nobody of what is off."""
    monkeypatch.setattr(addresses, "_PATIENCE_SECONDS", LONG_SECONDS)
    paused, off = listed("paused", state="paused"), listed("off", state="shut-off")

    assert find([*listed("leased", "told"), *paused, *off]) == {"leased": LEASED, "told": TOLD, "paused": (), "off": ()}
    lease, agent = AddressSource.LEASE, AddressSource.AGENT
    assert asked == [("leased", lease), ("told", lease), ("paused", lease), ("told", agent)]


@pytest.mark.usefixtures("asked")
def test_agents_that_hang_are_left_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other agents tell is there, however long some would take."""
    monkeypatch.setattr(addresses, "SimpleQueue", PatientQueue)

    found = find(listed("h1", "h2", "told", "h3", "too"))

    assert found == {"h1": (), "h2": (), "told": TOLD, "h3": (), "too": TOLD}


@pytest.mark.usefixtures("asked")
def test_nobody_is_asked_for_an_empty_list() -> None:
    """Where nothing runs, there is nobody to wait for."""
    assert find([]) == {}


def test_addresses_that_others_cannot_use_are_none() -> None:
    """The addresses of the loopback interface and link-local ones are left out."""
    local = DomainInterface("eth0", "52:54:00:00:00:02", (Address("IPv6", "fe80::1", 64),))

    assert [interface.addresses for interface in usable_interfaces([local, *TOLD])] == [(), TOLD[0].addresses]
