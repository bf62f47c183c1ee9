"""The file with the state of an emulated TPM, wherever it is, and how it is copied.

The emulator, swtpm, writes a new file in a directory each time and renames it, so whoever reads that file reads a whole
state (src/swtpm/swtpm_nvstore_dir.c).
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication import select
from virtomate.duplication.hostfs import find_obstacle
from virtomate.duplication.transfers.base import Duplication
from virtomate.enums import Action, SideFileAction, Transfer
from virtomate.errors import IllegalStateError
from virtomate.hypervisor.storage import read_head
from virtomate.notices import CloneWarning, Notice
from virtomate.services.clone.side_files import is_moving_original
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import NewVolume, PoolDescription, VolumeDescription
    from virtomate.duplication.transfers.base import Place
    from virtomate.enums import ArtifactKind
    from virtomate.services.clone.side_files import SideFilePlan
    from virtomate.services.clone.target import Survey
    from virtomate.services.storage import FoundVolume

# How files with a state begin: as one of several, after a byte with the version, and as the only one (swtpm_nvstore.c,
# swtpm_nvstore_linear.h).
_BLOB, _LINEAR = b"\x01\x00\x0a", b"nilmptws"
NEVER_MADE = "the TPM of the original has no state yet"
NEW_TPM = "Leave out --tpm copy: the clone starts with a new TPM."


class FoundState(NamedTuple):
    """The state of the original's TPM, with the owners that a copy gets.

    Attributes:
        around: The directory by the UUID of a domain; it has no name yet.
        directory: The directory of the file.
    """

    around: NewVolume
    directory: PoolDescription
    file: VolumeDescription


def label_of(survey: Survey, clone: DomainReference) -> str:
    """Return what progress calls the TPM of a clone."""
    return f"{clone.name}/tpm" if survey.has_siblings else "tpm"


def duplication(
    survey: Survey, clone: DomainReference, state: VolumeDescription, place: Place, kind: ArtifactKind
) -> Duplication:
    """Return how the file with the state of the original's TPM is copied."""
    is_moving = is_moving_original(survey)
    # a few kilobytes, of which the length changes
    source = select.as_format(state, "raw")._replace(allocation=0)
    is_near = survey.connection.is_local and survey.target.connection.is_local
    is_at_hand = is_near and not is_moving and find_obstacle(source) is None
    return Duplication(
        label=label_of(survey, clone),
        kind=kind,
        source=source,
        place=place,
        action=Action.COPIED,
        transfers=(Transfer.HOST, Transfer.STREAM) if is_at_hand else (Transfer.STREAM,),
        below=(),
        # on another host, the description names the owner there
        keep_owner=survey.keeps_owner or survey.has_two_hosts,
        is_read_again=False,
        is_moving=is_moving,
    )


def require_state(survey: Survey, found: FoundVolume) -> None:
    """Raise IllegalStateError for a file that is not the state of an emulated TPM, or a symbolic link.

    The emulator's user may write to the directory, and libvirt follows a link, which could lead to any file of its
    host.
    """
    path = found.description.path
    if survey.connection.is_local and os.path.islink(path):
        raise IllegalStateError(
            f"'{path}' is a symbolic link, and is not followed",
            hint="Find out who has put the link there, or put the state of the TPM in its place.",
        )
    head = read_head(survey.connection, found.volume, len(_LINEAR))
    if not (head.startswith(_LINEAR) or head[1:].startswith(_BLOB)):
        raise IllegalStateError(f"'{path}' does not hold the state of an emulated TPM", hint=NEW_TPM)


def copied(survey: Survey, plan: SideFilePlan) -> SideFilePlan:
    """Return a plan with a copy of the original's state."""
    warning = Notice(CloneWarning.SAME_TPM, survey.source.reference.name)
    return plan._replace(action=SideFileAction.COPIED, warnings=(warning,), reason=None)


def is_certainly_missing(path: str) -> bool:
    """Return whether a file is certainly missing: a directory above it can be entered, and does not lead to it."""
    while not os.path.lexists(path):
        above = posixpath.dirname(path)
        if os.access(above, os.X_OK):
            return True
        path = above
    return False
