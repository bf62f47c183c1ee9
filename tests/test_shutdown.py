"""Commands that shut a domain down."""

from __future__ import annotations

import pytest

from virtomate.words import Reach, shutdown_commands


@pytest.mark.parametrize(
    ("state", "commands"),
    [
        ("running", "virsh shutdown 'a b'"),
        ("blocked", "virsh shutdown 'a b'"),
        ("paused", "virsh resume 'a b'; virsh shutdown 'a b'"),
        ("suspended", "virsh dompmwakeup 'a b'; virsh shutdown 'a b'"),
        ("crashed", "virsh destroy 'a b'"),
    ],
)
def test_commands_suit_the_state(state: str, commands: str) -> None:
    """What does not hear the request to shut down is woken up before, or switched off."""
    assert Reach().fill(shutdown_commands("a b", state)) == commands
