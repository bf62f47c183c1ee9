"""The state of an emulated TPM, which a clone gets as a copy of its original's.

libvirt keeps the state by the UUID of the domain, as UUID/tpm2/tpm2-00.permall, and removes UUID with the definition
(src/qemu/qemu_tpm.c), unless the definition names another place.
"""

from __future__ import annotations

import os
import posixpath
import stat
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition.readers import child
from virtomate.definition.tpm import read_tpm
from virtomate.definition.volume import NewDirectory, NewVolume, describe_pool
from virtomate.duplication.transfers.base import Place
from virtomate.enums import ArtifactKind, SideFileAction, TpmTreatment
from virtomate.errors import ConflictError, HypervisorError, IllegalStateError, NotFoundError, UnsupportedError
from virtomate.paths import normalise
from virtomate.services.clone.side_files import DirectoryPlan, SideFilePlan
from virtomate.services.clone.tpm_state import (
    NEVER_MADE,
    NEW_TPM,
    copied,
    duplication,
    is_certainly_missing,
    label_of,
    require_state,
)
from virtomate.services.firmware import own_nvram_path
from virtomate.services.storage import find_volume, is_certainly_unwritable, new_pool_name
from virtomate.services.transaction import Empty, VolumeJob
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.tpm import TpmDefinition
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.side_files import SideFile
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import FoundVolume, TemporaryPools

# Where the system daemon keeps the states, and everything else (src/qemu/qemu_conf.c).
_OF_SYSTEM = "/var/lib/libvirt"
_STATES = "swtpm"
_FILES = {"1.2": ("tpm1.2", "tpm-00.permall"), "2.0": ("tpm2", "tpm2-00.permall")}
_OWNER_ONLY = 0o700


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
        refuse_seen_state(survey, self.states, clone)
        fresh = SideFilePlan(
            ArtifactKind.TPM, SideFileAction.FRESH, source, target, "raw", uncovered, reason=NEVER_MADE
        )
        # The daemon probably sees what this process sees; the temporary pools will tell for sure.
        if survey.connection.is_local and is_certainly_missing(source):
            return fresh
        return copied(survey, fresh)

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
            action=SideFileAction.FRESH, uncovered=frozenset(), warnings=(), reason=NEVER_MADE, directory=None
        )
        if (states := free_states(survey, self.states, clone, temporary)) is None:
            return fresh
        outer = find_volume(states, original)
        if outer is None or find_volume(temporary.over(self._directory(original)), self.inner) is None:
            return fresh
        pool = temporary.over(self._directory(original, self.inner))
        # the emulator replaces the file
        pool.refresh()
        found = find_volume(pool, self.file)
        if found is None or found.description.physical == 0:
            return fresh
        require_state(survey, found)
        return self._settled(survey, copied(survey, fresh), clone, (states, outer), (pool, found))

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
        place = Place(new_pool_name(), str(uuid4()), self._directory(clone.uuid, self.inner), self.file)
        around, described = of_original.description, describe_pool(pool.document())
        owner, group = (described.owner, described.group) if survey.keeps_owner else (None, None)
        volume = NewVolume(clone.uuid, 0, 0, "dir", around.mode)
        if survey.keeps_owner:
            volume = volume._replace(owner=around.owner, group=around.group)
        mode = _OWNER_ONLY if described.mode is None else described.mode
        outside = Place(states.name, states.uuid, self.states, clone.uuid)
        job = VolumeJob(label_of(survey, clone), ArtifactKind.TPM, outside, Empty(volume))
        return plan._replace(
            duplication=duplication(survey, clone, found.description, place, ArtifactKind.TPM),
            directory=DirectoryPlan(job, place, NewDirectory(place.pool_uuid, mode, owner, group)),
        )

    def _directory(self, *names: str) -> str:
        return posixpath.join(self.states, *names)


class UnusedState(NamedTuple):
    """A new TPM for a clone whose UUID was asked for: there may be state by that UUID, of an earlier domain.

    Attributes:
        states: The directory in which libvirt keeps the states of all domains.
    """

    states: str

    def plan(self, survey: Survey, clone: DomainReference, taken: TakenNames) -> SideFilePlan:  # noqa: ARG002
        """Plan the new TPM of one clone; raise ConflictError if there is state by the UUID of the clone."""
        refuse_seen_state(survey, self.states, clone)
        uncovered = frozenset({self.states})
        return SideFilePlan(ArtifactKind.TPM, SideFileAction.FRESH, None, None, "raw", uncovered)

    def settle(
        self, survey: Survey, plan: SideFilePlan, clone: DomainReference, temporary: TemporaryPools
    ) -> SideFilePlan:
        """Look for state by the UUID of the clone where it cannot be seen here, and raise ConflictError for that."""
        free_states(survey, self.states, clone, temporary)
        return plan._replace(uncovered=frozenset())


def survey_tpm(survey: Survey) -> SideFile | None:
    """Look at the TPM of the original; return None where nothing is to be made or looked for besides the disks.

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
    is_copied = survey.request.tpm is TpmTreatment.COPY
    if is_copied:
        _require_copyable(survey, tpm)
    inner, file = _FILES.get(tpm.version, ("", ""))
    if tpm.path is not None and not _is_left_to_libvirt(survey, tpm.path):
        from virtomate.services.clone.tpm_source import SurveyedSource  # noqa: PLC0415 - few definitions name a place

        return SurveyedSource(normalise(tpm.path), file if tpm.place == "dir" else None, is_copied)
    if not is_copied and survey.request.uuid is None:
        return None
    crossing = survey.crossing
    states = _states_directory(
        survey.target.connection,
        domain if crossing is None else crossing.domain,
        NEW_TPM if is_copied else "Leave out --uuid.",
    )
    return SurveyedTpm(states, inner, file) if is_copied else UnusedState(states)


def _require_copyable(survey: Survey, tpm: TpmDefinition) -> None:
    name = survey.source.reference.name
    if survey.has_two_hosts:
        raise UnsupportedError("--tpm copy copies the state of a TPM on one host, and not to another", hint=NEW_TPM)
    if survey.source.snapshot is not None:
        raise UnsupportedError(
            f"snapshot '{survey.source.snapshot.name}' does not contain the state of the TPM: what is there is the "
            "state of now",
            hint=NEW_TPM,
        )
    if tpm.version not in _FILES:
        raise UnsupportedError(f"domain '{name}' has a TPM of version {tpm.version}, which is not known", NEW_TPM)
    if tpm.path is not None and _is_device(survey.connection, tpm.path):
        raise UnsupportedError(
            f"domain '{name}' has the state of its TPM on the device '{tpm.path}', and --tpm copy copies only files",
            hint=NEW_TPM,
        )


def _is_left_to_libvirt(survey: Survey, path: str) -> bool:
    """Return whether libvirt is to keep the state of the clones by UUID, since none can be beside the original's."""
    connection = survey.connection
    is_unwritable = survey.request.tpm is TpmTreatment.NEW and is_certainly_unwritable(
        connection, posixpath.dirname(normalise(path))
    )
    return survey.has_two_hosts or is_unwritable or _is_device(connection, path)


def _is_device(connection: Connection, path: str) -> bool:
    if connection.is_local:
        with suppress(OSError, ValueError):
            return stat.S_ISBLK(os.stat(path).st_mode)
    return normalise(path).startswith("/dev/")


def refuse_seen_state(survey: Survey, states: str, clone: DomainReference) -> None:
    """Raise ConflictError if there is state by the UUID of a clone, as far as that can be seen here."""
    path = posixpath.join(states, clone.uuid)
    # libvirt removes the state of a clone that is deleted before
    is_seen = survey.target.connection.is_local and not survey.has_two_hosts and os.path.lexists(path)
    if is_seen and clone.uuid not in survey.request.giving_way.uuids:
        raise taken_state(path)


def free_states(survey: Survey, states: str, clone: DomainReference, temporary: TemporaryPools) -> Pool | None:
    """Return the pool over the directory of all states; None where no domain ever had any.

    Raises:
        ConflictError: There is state by the UUID of the clone.
        HypervisorError: The directory cannot be read.
    """
    try:
        pool = temporary.over(states)
    except HypervisorError:
        above = posixpath.dirname(states)
        is_alive = survey.target.connection.is_alive
        if not is_alive or find_volume(temporary.over(above), posixpath.basename(states)):
            raise
        return None
    if clone.uuid not in survey.request.giving_way.uuids:
        require_no_state(pool, clone.uuid, states)
    return pool


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


def _states_directory(connection: Connection, domain: Document, hint: str) -> str:
    """Return the directory in which libvirt keeps the states of TPMs: in a session daemon, beside those of NVRAM."""
    if not connection.is_session:
        return posixpath.join(_OF_SYSTEM, _STATES)
    # libvirt refuses UEFI without ACPI, which a domain with another firmware may lack
    path = own_nvram_path(connection, {**domain, "features": {**child(domain, "features"), "acpi": None}})
    if path is None:
        raise NotFoundError("libvirt does not tell where it keeps the states of TPMs", hint=hint)
    of_qemu = posixpath.dirname(posixpath.dirname(path))
    # root has the system daemon under the name of a session as well
    return posixpath.join(_OF_SYSTEM if of_qemu.startswith(f"{_OF_SYSTEM}/") else of_qemu, _STATES)
