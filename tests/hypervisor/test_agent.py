"""What is said where libvirt does not tell the addresses of a domain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import libvirt
import pytest

from tests.hypervisor.raised import raised
from virtomate.enums import AddressSource
from virtomate.errors import HypervisorError, NoAgentError, ProgramError, VirtomateError
from virtomate.hypervisor.agent import interface_addresses
from virtomate.hypervisor.domains import Domain

UNSUPPORTED, INTERNAL = libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, libvirt.VIR_ERR_INTERNAL_ERROR


@pytest.mark.parametrize(
    ("source", "code", "expected"),
    [
        (AddressSource.AGENT, UNSUPPORTED, NoAgentError),
        (AddressSource.AGENT, INTERNAL, ProgramError),
        (AddressSource.ARP, UNSUPPORTED, HypervisorError),
        (AddressSource.LEASE, INTERNAL, HypervisorError),
    ],
)
def test_only_an_agent_is_to_blame_for_what_it_was_asked(
    source: AddressSource, code: int, expected: type[VirtomateError]
) -> None:
    """Where leases or the ARP table cannot be read, nothing is said of an agent, though the codes are the same."""

    def fail(_source: int, _flags: int) -> NoReturn:
        raise raised(code)

    handle: Any = SimpleNamespace(name=lambda: "web", UUIDString=lambda: "", interfaceAddresses=fail)

    with pytest.raises(VirtomateError) as caught:
        interface_addresses(Domain(handle), source)

    assert type(caught.value) is expected
    assert ("agent" in caught.value.message) is (expected is NoAgentError)
