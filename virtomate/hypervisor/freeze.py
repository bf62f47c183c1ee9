"""The freeze of a guest's file systems, through its agent, and the mark of a freeze on the running domain.

Source: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html

- An agent with frozen file systems only tells of the freeze, or thaws: it refuses a second freeze.
- An agent that cannot freeze one of the file systems thaws the others before it refuses.
- The agent does one thing after the other, and has no timer: what was frozen stays so until somebody thaws it.

The commands are sent as such, since libvirt's `fsFreeze` and `fsThaw` wait for the agent without any limit.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import libvirt

from virtomate.errors import ProgramError
from virtomate.hypervisor.agent import call_agent
from virtomate.hypervisor.translate import translating_errors

if TYPE_CHECKING:
    from virtomate.hypervisor.domains import Domain

# libvirt waits so long for a hung agent in any case, and longer if told to.
_ANSWER_SECONDS = 5
# The watchdog thaws after 10 s; the backup must have begun before that.
_FREEZE_SECONDS = 8

# not that of the mark of a frozen original: libvirt keeps one element for each namespace
_NAMESPACE = "urn:virtomate:quiesce:1"
_PREFIX = "virtomate-quiesce"


def is_frozen(domain: Domain) -> bool:
    """Return whether file systems of the guest are frozen; for the errors see `call_agent`."""
    return bool(call_agent(domain, "guest-fsfreeze-status", seconds=_ANSWER_SECONDS) == "frozen")


def count_file_systems(domain: Domain) -> int | None:
    """Return the number of file systems that are mounted in the guest; None where the agent does not tell."""
    with suppress(ProgramError):
        return len(call_agent(domain, "guest-get-fsinfo", seconds=_ANSWER_SECONDS))
    return None


def freeze(domain: Domain) -> int:
    """Freeze the file systems of the guest, and return how many were frozen.

    Raises:
        ProgramError: The agent refuses, and has frozen nothing.
        HypervisorError: The agent does not answer, and may still freeze them; for other errors see `call_agent`.
    """
    return int(call_agent(domain, "guest-fsfreeze-freeze", seconds=_FREEZE_SECONDS))


def thaw(domain: Domain) -> int:
    """Thaw the file systems of the guest, and return how many were thawed; for the errors see `call_agent`."""
    return int(call_agent(domain, "guest-fsfreeze-thaw", seconds=_ANSWER_SECONDS))


def put_mark(domain: Domain, element: str) -> None:
    """Put a mark on the domain for as long as it runs; its definition stays as it is."""
    _set_mark(domain, element)


def clear_mark(domain: Domain) -> None:
    """Remove the mark, if there is one."""
    if find_mark(domain) is not None:
        _set_mark(domain, None)


def find_mark(domain: Domain) -> str | None:
    """Return the mark of a running domain, without its namespace; None where there is no mark."""
    return domain.metadata_element(_NAMESPACE)


def _set_mark(domain: Domain, element: str | None) -> None:
    kind, flags = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
    with translating_errors(f"cannot mark domain '{domain.name}'"):
        domain.handle.setMetadata(kind, element, _PREFIX, _NAMESPACE, flags)
