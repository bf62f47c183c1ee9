"""The state of an emulated TPM, which a clone gets as a copy of its original's.

libvirt keeps the state by the UUID of the domain, as UUID/tpm2/tpm2-00.permall, and removes UUID with the definition
(src/qemu/qemu_tpm.c). The emulator, swtpm, writes a new file each time and renames it, so whoever reads the file reads
a whole state (src/swtpm/swtpm_nvstore_dir.c).
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition.readers import child
from virtomate.definition.tpm import read_tpm
from virtomate.definition.volume import NewDirectory, NewVolume, describe_pool
from virtomate.duplication import select
from virtomate.duplication.hostfs import find_obstacle
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import Action, ArtifactKind, SideFileAction, TpmTreatment, Transfer
from virtomate.errors import ConflictError, HypervisorError, IllegalStateError, NotFoundError, UnsupportedError
from virtomate.notices import CloneWarning, Notice
from virtomate.services.clone.side_files import DirectoryPlan, SideFilePlan, is_moving_original
from virtomate.services.firmware import own_nvram_path
from virtomate.services.storage import find_volume, new_pool_name
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.definition.provenance import DomainReference
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import FoundVolume, TemporaryPools

# Where the system daemon keeps the states, and everything else (src/qemu/qemu_conf.c).
_OF_SYSTEM = "/var/lib/libvirt"
_STATES = "swtpm"
_FILES = {"1.2": ("tpm1.2", "tpm-00.permall"), "2.0": ("tpm2", "tpm2-00.permall")}
_OWNER_ONLY = 0o700
_NEVER_MADE = "the TPM of the original has no state yet"
_NEW_TPM = "Leave out --tpm copy: the clone starts with a new TPM."


class SurveyedTpm(NamedTuple):
    """The state of the original's TPM.

    Attributes:
        states: The directory in which libvirt keeps the states of all domains.
        inner: Name of the directory below that of a domain.
        file: Name of the file in it.
    """

    states: str
    inner: str
    file: str

    def path(self, uuid: str) -> str:
        """Return the path of the state of the domain with a UUID."""
        return posixpath.join(self.states, uuid, self.inner, self.file)

    def plan(self, survey: Survey, clone: DomainReference, taken: TakenNames) -> SideFilePlan:  # noqa: ARG002
        """Plan the state of one clone, before any temporary pool is started.

        Raises:
            ConflictError: There is state by the UUID of the clone.
        """
        source, target = self.path(survey.source.reference.uuid), self.path(clone.uuid)
        uncovered = frozenset({self.states})
        fresh = SideFilePlan(
            ArtifactKind.TPM, SideFileAction.FRESH, source, target, "raw", uncovered, reason=_NEVER_MADE
        )
        # The daemon probably sees what this process sees; the temporary pools will tell for sure.
        if survey.connection.is_local and _is_certainly_missing(source):
            return fresh
        return _copied(survey, fresh)

    def settle(
        self, survey: Survey, plan: SideFilePlan, clone: DomainReference, temporary: TemporaryPools
    ) -> SideFilePlan:
        """Plan the state of one clone again with what temporary pools tell.

        Raises:
            ConflictError: There is state by the UUID of the clone.
            HypervisorError: A directory cannot be read.
        """
        original = survey.source.reference.uuid
        fresh = plan._replace(
            action=SideFileAction.FRESH, uncovered=frozenset(), warnings=(), reason=_NEVER_MADE, directory=None
        )
        if (states := self._pool_of_states(survey.connection, temporary)) is None:
            return fresh
        if clone.uuid not in survey.request.giving_way.uuids:
            # libvirt removes the state of a clone that is deleted before
            require_no_state(states, clone.uuid, self.states)
        outer = find_volume(states, original)
        if outer is None or find_volume(temporary.over(self._directory(original)), self.inner) is None:
            return fresh
        pool = temporary.over(self._directory(original, self.inner))
        # the emulator replaces the file
        pool.refresh()
        found = find_volume(pool, self.file)
        if found is None or found.description.physical == 0:
            return fresh
        return self._settled(survey, _copied(survey, fresh), clone, (states, outer), (pool, found))

    def _settled(
        self,
        survey: Survey,
        plan: SideFilePlan,
        clone: DomainReference,
        outer: tuple[Pool, FoundVolume],
        inner: tuple[Pool, FoundVolume],
    ) -> SideFilePlan:
        """Return the settled plan of a copy.

        Args:
            survey: The survey.
            plan: The plan as far as it is known.
            clone: The clone.
            outer: The pool of all states, and the directory of the original in it.
            inner: The pool over the directory of the file, and the file in it.
        """
        (states, of_original), (pool, found) = outer, inner
        is_moving = is_moving_original(survey)
        # a few kilobytes, of which the length changes
        source = select.as_format(found.description, "raw")._replace(allocation=0)
        is_at_hand = not is_moving and find_obstacle(source) is None
        place = Place(new_pool_name(), str(uuid4()), self._directory(clone.uuid, self.inner), self.file)
        around, described = of_original.description, describe_pool(pool.document())
        owner, group = (described.owner, described.group) if survey.keeps_owner else (None, None)
        volume = NewVolume(clone.uuid, 0, 0, "dir", around.mode)
        if survey.keeps_owner:
            volume = volume._replace(owner=around.owner, group=around.group)
        mode = _OWNER_ONLY if described.mode is None else described.mode
        return plan._replace(
            duplication=Duplication(
                label=f"{clone.name}/tpm" if survey.has_siblings else "tpm",
                kind=ArtifactKind.TPM,
                source=source,
                place=place,
                action=Action.COPIED,
                transfers=(Transfer.HOST, Transfer.STREAM) if is_at_hand else (Transfer.STREAM,),
                below=(),
                keep_owner=survey.keeps_owner,
                is_read_again=False,
                is_moving=is_moving,
            ),
            directory=DirectoryPlan(states.name, volume, place, NewDirectory(place.pool_uuid, mode, owner, group)),
        )

    def _directory(self, *names: str) -> str:
        return posixpath.join(self.states, *names)

    def _pool_of_states(self, connection: Connection, temporary: TemporaryPools) -> Pool | None:
        """Return the pool over the directory of all states; None where no domain ever had any."""
        try:
            return temporary.over(self.states)
        except HypervisorError:
            above = posixpath.dirname(self.states)
            if not connection.is_alive or find_volume(temporary.over(above), posixpath.basename(self.states)):
                raise
            return None


def survey_tpm(survey: Survey) -> SurveyedTpm | None:
    """Look at the TPM of the original; return None where it has none, or none that is emulated.

    Raises:
        IllegalStateError: The original has an emulated TPM, and the request refuses that.
        UnsupportedError: The state of the TPM cannot be copied.
    """
    name, domain = survey.source.reference.name, survey.source.definition.domain
    tpm = read_tpm(domain)
    if tpm is None or not tpm.is_emulated:
        return None
    if survey.request.tpm is TpmTreatment.REFUSE:
        raise IllegalStateError(
            f"domain '{name}' has an emulated TPM, which --tpm refuse does not accept",
            hint="--tpm new gives the clone a new TPM, --tpm copy a copy of the state of this one.",
        )
    if tpm.path is not None:
        raise UnsupportedError(
            f"domain '{name}' names the place of its TPM's state, '{tpm.path}', and --tpm copy copies only state that "
            "libvirt keeps by the domain's UUID",
            hint=_NEW_TPM,
        )
    if survey.has_two_hosts:
        raise UnsupportedError("--tpm copy copies the state of a TPM on one host, and not to another", hint=_NEW_TPM)
    if survey.source.snapshot is not None:
        raise UnsupportedError(
            f"snapshot '{survey.source.snapshot.name}' does not contain the state of the TPM: what is there is the "
            "state of now",
            hint=_NEW_TPM,
        )
    if tpm.version not in _FILES:
        raise UnsupportedError(f"domain '{name}' has a TPM of version {tpm.version}, which is not known", _NEW_TPM)
    return SurveyedTpm(_states_directory(survey.connection, domain), *_FILES[tpm.version])


def require_no_state(states: Pool, uuid: str, directory: str) -> None:
    """Raise ConflictError if there is state of a TPM by a UUID; libvirt does not hear of what others put there."""
    states.refresh()
    if states.find_volume(uuid) is not None:
        raise taken_state(posixpath.join(directory, uuid))


def taken_state(path: str) -> ConflictError:
    """Return the error for a directory with the state of a TPM by the UUID of a clone."""
    return ConflictError(
        f"'{path}' holds the state of a TPM, which the clone would take for its own",
        hint="Leave out --uuid, choose another UUID, or move that directory away.",
    )


def _states_directory(connection: Connection, domain: Document) -> str:
    """Return the directory in which libvirt keeps the states of TPMs: in a session daemon, beside those of NVRAM."""
    if not connection.is_session:
        return posixpath.join(_OF_SYSTEM, _STATES)
    # libvirt refuses UEFI without ACPI, which a domain with another firmware may lack
    path = own_nvram_path(connection, {**domain, "features": {**child(domain, "features"), "acpi": None}})
    if path is None:
        raise NotFoundError("libvirt does not tell where it keeps the states of TPMs", hint=_NEW_TPM)
    of_qemu = posixpath.dirname(posixpath.dirname(path))
    # root has the system daemon under the name of a session as well
    return posixpath.join(_OF_SYSTEM if of_qemu.startswith(f"{_OF_SYSTEM}/") else of_qemu, _STATES)


def _copied(survey: Survey, plan: SideFilePlan) -> SideFilePlan:
    warning = Notice(CloneWarning.SAME_TPM, survey.source.reference.name)
    return plan._replace(action=SideFileAction.COPIED, warnings=(warning,), reason=None)


def _is_certainly_missing(path: str) -> bool:
    """Return whether a file is certainly missing: a directory above it can be entered, and does not lead to it."""
    while not os.path.lexists(path):
        above = posixpath.dirname(path)
        if os.access(above, os.X_OK):
            return True
        path = above
    return False
