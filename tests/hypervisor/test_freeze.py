"""What an agent is asked about its file systems, and how long the asking may take."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import libvirt
import libvirt_qemu
import pytest

from tests.hypervisor.raised import raised
from virtomate.hypervisor import freeze
from virtomate.hypervisor.domains import Domain

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAIN = Domain(SimpleNamespace(name=lambda: "web", UUIDString=lambda: ""))


@pytest.mark.parametrize(
    ("ask", "answer", "expected"),
    [
        (freeze.is_frozen, "frozen", True),
        (freeze.is_frozen, "thawed", False),
        (freeze.count_file_systems, [{}, {}], 2),
        (freeze.freeze, 3, 3),
        (freeze.thaw, 3, 3),
    ],
)
def test_hung_agent_is_given_up_before_the_watchdog_thaws(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[Domain], object], answer: object, expected: object
) -> None:
    """Libvirt waits for a hung agent as long as the command may take: less than the 10 s of the watchdog."""
    limits = []

    def call(_domain: object, _message: str, seconds: int, _flags: int) -> str:
        limits.append(seconds)
        return json.dumps({"return": answer})

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", call)

    assert ask(DOMAIN) == expected
    assert 0 < limits[0] < 10


def test_agent_that_tells_no_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent without that command may freeze all the same."""

    def call(*_arguments: Any) -> str:
        raise raised(libvirt.VIR_ERR_INTERNAL_ERROR)

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", call)

    assert freeze.count_file_systems(DOMAIN) is None
