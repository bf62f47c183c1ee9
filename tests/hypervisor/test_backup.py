"""The wait for the files of a backup that has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from tests.hypervisor.raised import raised
from virtomate.errors import HypervisorError
from virtomate.hypervisor.backup import wait_for_close
from virtomate.hypervisor.domains import Domain

TIMEOUT, OFF, GONE = libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN


def domain(*codes: int) -> tuple[Domain, list[int]]:
    """Return a domain whose balloon is asked with these failures before it answers, and the failures still to come."""
    left = list(codes)

    def ask() -> dict[str, int]:
        if left:
            raise raised(left.pop(0))
        return {}

    handle: Any = SimpleNamespace(name=lambda: "web", UUIDString=lambda: "", memoryStats=ask)
    return Domain(handle), left


@pytest.mark.parametrize("codes", [(), (TIMEOUT, TIMEOUT), (OFF,), (TIMEOUT, OFF), (GONE,)])
def test_wait_for_close(codes: tuple[int, ...]) -> None:
    """The wait lasts as long as the domain is locked, and ends with the run of the domain."""
    found, left = domain(*codes)

    wait_for_close(found)

    assert left == []


def test_wait_for_close_that_fails() -> None:
    """Any other failure is told: the files may still be open."""
    found, _ = domain(TIMEOUT, libvirt.VIR_ERR_INTERNAL_ERROR)

    with pytest.raises(HypervisorError, match="cannot wait for the end of the backup of domain 'web'"):
        wait_for_close(found)
