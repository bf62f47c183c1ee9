"""How a domain is shut down, which depends on its state: libvirt passes nothing on to a guest that is paused."""

from __future__ import annotations

from virtomate.words import shell_word

# `suspended` is the state of a guest that went to sleep by itself.
_FIRST = {"paused": "virsh resume", "suspended": "virsh dompmwakeup"}
# What has crashed hears nothing.
_INSTEAD = {"crashed": "virsh destroy"}


def shutdown_commands(name: str, state: str) -> str:
    """The commands that shut a domain down, as a shell takes them.

    Args:
        name: The domain's name.
        state: Its state, as listings call it.
    """
    word = shell_word(name)
    commands = [f"{_INSTEAD.get(state, 'virsh shutdown')} {word}"]
    if state in _FIRST:
        commands.insert(0, f"{_FIRST[state]} {word}")
    return "; ".join(commands)
