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
    FoundState,
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
    from virtomate.services.storage import TemporaryPools

# Where the system daemon keeps the states, and everything else (src/qemu/qemu_conf.c).
_OF_SYSTEM = "/var/lib/libvirt"
_STATES = "swtpm"
_FILES = {"1.2": ("tpm1.2", "tpm-00.permall"), "2.0": ("tpm2", "tpm2-00.permall")}
_OWNER_ONLY = 0o700


class SurveyedTpm(NamedTuple):
    """The state of the original's TPM, of which each clone gets a copy that libvirt keeps by the clone's UUID.

    Attributes:
        states: The directory in which libvirt keeps the states of all domains on the host of the clones.
        inner: Name of the directory below that of a domain.
        file: Name of the file in it.
        original: The directory of the original's file: a directory that may be missing, and the names below it.
    """

    states: str
    inner: str
    file: str
    original: tuple[str, ...]

    def plan(self, survey: Survey, clone: DomainReference, taken: TakenNames) -> SideFilePlan:  # noqa: ARG002
        """Plan the state of one clone, before any temporary pool is started.

        Raises:
            ConflictError: There is state by the UUID of the clone.
        """
        source = posixpath.join(*self.original, self.file)
        target = posixpath.join(self.states, clone.uuid, self.inner, self.file)
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
            IllegalStateError: The file does not hold the state of a TPM.
            HypervisorError: A directory cannot be read.
        """
        states = free_states(survey, self.states, clone, temporary)
        found = self._find(survey, temporary.at_original)
        if found is not None and survey.has_two_hosts:
            from virtomate.services.clone.tpm_there import as_made_there, make_states  # noqa: PLC0415 - few leave

            states, found = states or make_states(self.states, temporary), as_made_there(survey, found, temporary)
        if states is None or found is None:
            return plan._replace(
                action=SideFileAction.FRESH, uncovered=frozenset(), warnings=(), reason=NEVER_MADE, directory=None
            )
        place = Place(new_pool_name(), str(uuid4()), posixpath.join(self.states, clone.uuid, self.inner), self.file)
        outside = Place(states.name, states.uuid, self.states, clone.uuid)
        volume = found.around._replace(name=clone.uuid)
        job = VolumeJob(label_of(survey, clone), ArtifactKind.TPM, outside, Empty(volume))
        mode = _OWNER_ONLY if found.directory.mode is None else found.directory.mode
        directory = NewDirectory(place.pool_uuid, mode, found.directory.owner, found.directory.group)
        return copied(survey, plan)._replace(
            uncovered=frozenset(),
            duplication=duplication(survey, clone, found.file, place, ArtifactKind.TPM),
            directory=DirectoryPlan(job, place, directory),
        )

    def _find(self, survey: Survey, temporary: TemporaryPools) -> FoundState | None:
        """Return the state of the original's TPM, None if it has none."""
        directory, *names = self.original
        pool = pool_over(survey.connection, directory, temporary)
        outer = None
        for name in names:
            inside = None if pool is None else find_volume(pool, name)
            if inside is None:
                return None
            outer = outer or inside
            directory = posixpath.join(directory, name)
            pool = temporary.over(directory)
        if pool is None or outer is None:
            return None
        # the emulator replaces the file
        pool.refresh()
        found = find_volume(pool, self.file)
        if found is None or found.description.physical == 0:
            return None
        require_state(survey, found)
        around, inner = outer.description, describe_pool(pool.document())
        volume = NewVolume("", 0, 0, "dir", around.mode)
        if survey.keeps_owner:
            return FoundState(volume._replace(owner=around.owner, group=around.group), inner, found.description)
        return FoundState(volume, inner._replace(owner=None, group=None), found.description)


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
    if tpm.path is not None and not _is_left_to_libvirt(survey, tpm, tpm.path):
        from virtomate.services.clone.tpm_source import SurveyedSource  # noqa: PLC0415 - few definitions name a place

        return SurveyedSource(normalise(tpm.path), file if tpm.place == "dir" else None, is_copied)
    if not is_copied and survey.request.uuid is None:
        return None
    hint = NEW_TPM if is_copied else "Leave out --uuid."
    there = domain if survey.crossing is None else survey.crossing.domain
    states = _states_directory(survey.target.connection, there, hint)
    if not is_copied:
        return UnusedState(states)
    if tpm.path is not None:
        return SurveyedTpm(states, inner, file, posixpath.split(normalise(tpm.path)))
    here = _states_directory(survey.connection, domain, hint) if survey.has_two_hosts else states
    return SurveyedTpm(states, inner, file, (here, survey.source.reference.uuid, inner))


def _require_copyable(survey: Survey, tpm: TpmDefinition) -> None:
    name = survey.source.reference.name
    if survey.has_two_hosts and tpm.place == "file":
        raise UnsupportedError(
            f"domain '{name}' has the state of its TPM in one file, '{tpm.path}', and on another host libvirt would "
            "keep the state in a directory, whose files have another format",
            hint=NEW_TPM,
        )
    if survey.source.snapshot is not None:
        raise UnsupportedError(
            f"snapshot '{survey.source.snapshot.name}' does not contain the state of the TPM: what is there is the "
            "state of now",
            hint=NEW_TPM,
        )
    if tpm.version not in _FILES:
        raise UnsupportedError(f"domain '{name}' has a TPM of version {tpm.version}, which is not known", NEW_TPM)
    if _is_on_device(survey.connection, tpm):
        raise UnsupportedError(
            f"domain '{name}' has the state of its TPM on the device '{tpm.path}', and --tpm copy copies only files",
            hint=NEW_TPM,
        )


def _is_left_to_libvirt(survey: Survey, tpm: TpmDefinition, path: str) -> bool:
    """Return whether libvirt is to keep the state of the clones by UUID, since none can be beside the original's."""
    connection = survey.connection
    is_unwritable = survey.request.tpm is TpmTreatment.NEW and is_certainly_unwritable(
        connection, posixpath.dirname(normalise(path))
    )
    return survey.has_two_hosts or is_unwritable or _is_on_device(connection, tpm)


def _is_on_device(connection: Connection, tpm: TpmDefinition) -> bool:
    """Return whether the state of a TPM is on a device; on another host all files in /dev but those in /dev/shm are."""
    if tpm.path is None or tpm.place != "file":
        return False
    if connection.is_local:
        with suppress(OSError, ValueError):
            return stat.S_ISBLK(os.stat(tpm.path).st_mode)
    path = normalise(tpm.path)
    return path.startswith("/dev/") and not path.startswith("/dev/shm/")  # noqa: S108 - only looked at


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
    pool = pool_over(survey.target.connection, states, temporary)
    if pool is not None and clone.uuid not in survey.request.giving_way.uuids:
        require_no_state(pool, clone.uuid, states)
    return pool


def pool_over(connection: Connection, directory: str, temporary: TemporaryPools) -> Pool | None:
    """Return the pool over a directory, None if there is no such directory; raise HypervisorError for other reasons."""
    try:
        return temporary.over(directory)
    except HypervisorError:
        if not connection.is_alive or find_volume(
            temporary.over(posixpath.dirname(directory)), posixpath.basename(directory)
        ):
            raise
        return None


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
