"""As much of libvirt as a claim asks for: domains that are defined, renamed and undefined, and calls that go wrong."""

# The methods have their names and meanings from libvirt.
# ruff: noqa: D102, N802

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import libvirt

from virtomate.hypervisor.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable


class Fault(Enum):
    """How a call goes wrong.

    `refused`: libvirt says no. `lost`: the connection breaks, and libvirt has not heard the call. `carried out`: it
    breaks, and libvirt has done what it was asked for.
    """

    REFUSED = "refused"
    LOST = "lost"
    CARRIED_OUT = "carried out"


def error(code: int, domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    """An error of libvirt's."""
    made = libvirt.libvirtError("it does not work")
    made.err = (code, domain, "it does not work", libvirt.VIR_ERR_ERROR, None, None, None, 0, 0)
    return made


@dataclass
class FakeDomain:
    """A defined domain; redefining it replaces its text."""

    host: FakeHost
    title: str
    identity: str
    text: str
    active: bool = False

    def name(self) -> str:
        return self.title

    def UUIDString(self) -> str:
        return self.identity

    def XMLDesc(self, _flags: int) -> str:
        return str(self.host.call("read", lambda: self.text))

    def isActive(self) -> bool:
        return self.active

    def state(self, _flags: int) -> list[int]:
        return [libvirt.VIR_DOMAIN_RUNNING if self.active else libvirt.VIR_DOMAIN_SHUTOFF, 0]

    def shutdown(self) -> None:
        self.host.call("shut down", lambda: self._become(active=False))

    def create(self) -> None:
        self.host.call("start", lambda: self._become(active=True))

    def _become(self, *, active: bool) -> None:
        if self.active is active:
            raise error(libvirt.VIR_ERR_OPERATION_INVALID)
        self.active = active

    def rename(self, name: str, _flags: int) -> None:
        self.host.call("rename", lambda: self._rename(name))

    def _rename(self, name: str) -> None:
        if any(other.title == name for other in self.host.domains):
            raise error(libvirt.VIR_ERR_OPERATION_INVALID)
        self.text = self.text.replace(f"<name>{self.title}</name>", f"<name>{name}</name>")
        self.title = name

    def undefineFlags(self, flags: int) -> None:
        assert flags == libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        self.host.call("undefine", lambda: self.host.domains.remove(self))

    def connect(self) -> FakeHost:
        return self.host


@dataclass
class FakeHost:
    """A connection's handle.

    Attributes:
        faults: What goes wrong, by the name of the call and how often it was made before.
        meanwhile: What others do right after a call, likewise.
        calls: How often each call was made.
    """

    domains: list[FakeDomain] = field(default_factory=list)
    faults: dict[tuple[str, int], Fault] = field(default_factory=dict)
    meanwhile: dict[tuple[str, int], Callable[[FakeHost], object]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def session(self) -> Any:
        """A session whose connection this is."""
        return SimpleNamespace(connection=Connection(cast("Any", self)))

    def call(self, name: str, carry_out: Callable[[], Any]) -> Any:
        number = self.calls.get(name, 0)
        self.calls[name] = number + 1
        fault = self.faults.get((name, number))
        if fault is Fault.REFUSED:
            raise error(libvirt.VIR_ERR_INTERNAL_ERROR)
        if fault is Fault.LOST:
            raise error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
        result = carry_out()
        if (others := self.meanwhile.get((name, number))) is not None:
            others(self)
        if fault is Fault.CARRIED_OUT:
            raise error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
        return result

    def add(self, name: str, uuid: str, text: str = "") -> FakeDomain:
        """Have a domain, in place of the one with the same UUID."""
        self.domains = [domain for domain in self.domains if domain.identity != uuid]
        text = text or f"<domain><name>{name}</name><uuid>{uuid}</uuid></domain>"
        self.domains.append(FakeDomain(self, name, uuid, text))
        return self.domains[-1]

    def defineXMLFlags(self, text: str, _flags: int) -> FakeDomain:
        return cast("FakeDomain", self.call("define", lambda: self._define(text)))

    def _define(self, text: str) -> FakeDomain:
        name, uuid = (re.findall(f"<{tag}>(.*?)</{tag}>", text)[0] for tag in ("name", "uuid"))
        if any((domain.title == name) != (domain.identity == uuid) for domain in self.domains):
            raise error(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_DOMAIN)
        for domain in self.domains:
            if domain.identity == uuid:
                domain.text = text
                return domain
        return self.add(name, uuid, text)

    def lookupByName(self, name: str) -> FakeDomain:
        return self._find("title", name)

    def lookupByUUIDString(self, uuid: str) -> FakeDomain:
        return cast("FakeDomain", self.call("look up", lambda: self._find("identity", uuid)))

    def _find(self, attribute: str, value: str) -> FakeDomain:
        for domain in self.domains:
            if getattr(domain, attribute) == value:
                return domain
        raise error(libvirt.VIR_ERR_NO_DOMAIN)

    def listAllDomains(self, _flags: int) -> list[FakeDomain]:
        return list(self.domains)
