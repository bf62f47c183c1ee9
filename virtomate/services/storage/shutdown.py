"""How a domain is shut down, which depends on its state: libvirt passes nothing on to a guest that is paused."""

from __future__ import annotations

from virtomate.words import virsh

# `suspended` is the state of a guest that went to sleep by itself.
_FIRST = {"paused": "resume", "suspended": "dompmwakeup"}
# What has crashed hears nothing.
_INSTEAD = {"crashed": "destroy"}


def shutdown_commands(name: str, state: str) -> str:
    """Return the commands that shut down a domain in this state, as listings call it."""
    commands = [_INSTEAD.get(state, "shutdown")]
    if state in _FIRST:
        commands.insert(0, _FIRST[state])
    return "; ".join(virsh(command, name) for command in commands)
