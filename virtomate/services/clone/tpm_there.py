"""The state of an emulated TPM on another host, where the emulator's user has another number."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.volume import NewVolume, describe_pool, volume_document
from virtomate.errors import ConflictError, HypervisorError

if TYPE_CHECKING:
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.tpm_state import FoundState
    from virtomate.services.storage import TemporaryPools

# Directories of the user as whom libvirt runs the emulator: libvirt gives the first to that user whenever it starts a
# TPM (src/qemu/qemu_tpm.c), and the packages of swtpm give the second to the user who is that without settings.
_OF_EMULATOR = ("/var/log/swtpm/libvirt/qemu", "/var/lib/swtpm-localca")
# libvirt makes the directories above the emulator's with this mode.
_PASSABLE = "0711"


def as_made_there(survey: Survey, found: FoundState, temporary: TemporaryPools) -> FoundState:
    """Return a state with the owners that libvirt would give it on the host of the clones."""
    user, group = (None, None) if survey.target.connection.is_session else _emulator(temporary)
    return found._replace(
        around=NewVolume("", 0, 0, "dir", _PASSABLE),
        directory=found.directory._replace(owner=user, group=group),
        file=found.file._replace(
            owner=None if user is None else str(user), group=None if group is None else str(group)
        ),
    )


def make_states(directory: str, temporary: TemporaryPools) -> Pool:
    """Make the directory for the states of all domains, as libvirt does for the first TPM; libvirt never removes it."""
    above, name = posixpath.split(directory)
    with suppress(ConflictError):
        temporary.over(above).create_volume(name, volume_document(NewVolume(name, 0, 0, "dir", _PASSABLE)))
    return temporary.over(directory)


def _emulator(temporary: TemporaryPools) -> tuple[int | None, int | None]:
    """Return the user and the group as whom libvirt runs the emulator; None where nothing shows that."""
    for directory in _OF_EMULATOR:
        with suppress(HypervisorError):
            described = describe_pool(temporary.over(directory).document())
            return described.owner, described.group
    return None, None
