"""The state of an emulated TPM at a place that the definition names (`<source>`, libvirt from 10.10 on).

libvirt removes what is at that place together with the definition, a directory with all that it holds
(src/qemu/qemu_tpm.c). So the clone gets a place of its own beside the original's, which bears the clone's token, and
virtomate alone removes that place: no placeholder of ours names such a place. A new TPM always gets a directory, since
swtpm_setup removes a file before it makes another one, which bears no token (src/swtpm_setup/swtpm_setup.c).
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition.volume import NewDirectory, NewVolume
from virtomate.duplication.transfers.base import Place
from virtomate.enums import ArtifactKind, SideFileAction
from virtomate.errors import ConflictError
from virtomate.services.clone.side_files import DirectoryPlan, SideFilePlan
from virtomate.services.clone.tpm_state import (
    NEVER_MADE,
    copied,
    duplication,
    is_certainly_missing,
    label_of,
    require_state,
)
from virtomate.services.clone.volume_names import distinct_volume_name, new_volume_name
from virtomate.services.storage import find_volume, new_pool_name
from virtomate.services.transaction import Empty, VolumeJob
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import FoundVolume, TemporaryPools

_OWNER_ONLY = 0o700


class SurveyedSource(NamedTuple):
    """The place of the state of the original's TPM.

    Attributes:
        path: Normalised path.
        file: Name of the file with the state, in the directory at the path; None where the path is that of the file.
        is_copied: Whether the clones get a copy of the state.
    """

    path: str
    file: str | None
    is_copied: bool

    def plan(self, survey: Survey, clone: DomainReference, taken: TakenNames) -> SideFilePlan:
        """Plan the state of one clone, before any temporary pool is started, and add its name to the taken names.

        Raises:
            ConflictError: The path of the clone's state is taken.
            UsageError: The name would be too long.
        """
        directory, model = posixpath.split(self.path)
        name = new_volume_name(model, survey.source.reference.name, clone.name, is_overlay=False)
        name = distinct_volume_name(name, "tpm", taken.names(directory))
        taken.take(directory, name, "Choose another name for the clone.")
        path, is_local = posixpath.join(directory, name), survey.connection.is_local
        _require_free(survey, path)
        uncovered = frozenset({directory})
        fresh = SideFilePlan(ArtifactKind.TPM_SOURCE, SideFileAction.FRESH, self.path, path, "dir", uncovered)
        if not self.is_copied:
            return fresh
        # the daemon probably sees what this process sees
        state = self.path if self.file is None else posixpath.join(self.path, self.file)
        is_missing = is_local and is_certainly_missing(state)
        return fresh._replace(reason=NEVER_MADE) if is_missing else self._copied(survey, fresh)

    def settle(
        self, survey: Survey, plan: SideFilePlan, clone: DomainReference, temporary: TemporaryPools
    ) -> SideFilePlan:
        """Plan the state of one clone again with what temporary pools tell.

        Raises:
            ConflictError: The path of the clone's state is taken.
            IllegalStateError: The file does not hold the state of a TPM.
            HypervisorError: A directory cannot be read.
        """
        directory, model = posixpath.split(self.path)
        path = plan.path or ""
        pool = temporary.over(directory)
        # the emulator makes files without a word to the pool
        pool.refresh()
        _require_free(survey, path, pool)
        found = find_volume(pool, model)
        outside = Place(pool.name, pool.uuid, directory, posixpath.basename(path))
        state = found if self.file is None else self._find_state(found, temporary)
        is_copied = self.is_copied and state is not None and state.description.physical > 0
        if self.file is None and state is not None and is_copied:
            require_state(survey, state)
            way = duplication(survey, clone, state.description, outside, ArtifactKind.TPM_SOURCE)
            return self._copied(survey, plan)._replace(uncovered=frozenset(), duplication=way)
        new = _new_directory(survey, outside.name, found)
        directory_plan = DirectoryPlan(VolumeJob(label_of(survey, clone), ArtifactKind.TPM_SOURCE, outside, Empty(new)))
        plan = plan._replace(uncovered=frozenset(), format="dir", directory=directory_plan)
        if state is None or self.file is None or not is_copied:
            reason = NEVER_MADE if self.is_copied else None
            return plan._replace(action=SideFileAction.FRESH, warnings=(), reason=reason)
        require_state(survey, state)
        place = Place(new_pool_name(), str(uuid4()), outside.path, self.file)
        inner = NewDirectory(place.pool_uuid, int(new.mode or "0", 8), None, None)
        return self._copied(survey, plan)._replace(
            duplication=duplication(survey, clone, state.description, place, ArtifactKind.TPM),
            directory=directory_plan._replace(place=place, inner=inner),
        )

    def _copied(self, survey: Survey, plan: SideFilePlan) -> SideFilePlan:
        return copied(survey, plan)._replace(format="file" if self.file is None else "dir")

    def _find_state(self, directory: FoundVolume | None, temporary: TemporaryPools) -> FoundVolume | None:
        if directory is None or self.file is None or not self.is_copied:
            return None
        pool = temporary.over(self.path)
        # the emulator replaces the file
        pool.refresh()
        return find_volume(pool, self.file)


def _new_directory(survey: Survey, name: str, found: FoundVolume | None) -> NewVolume:
    """Return the directory for a clone, like that of the original, and with the owner of the original's state."""
    new = NewVolume(name, 0, 0, "dir", f"{_OWNER_ONLY:04o}")
    if found is None:
        return new
    if found.description.is_directory:
        new = new._replace(mode=found.description.mode)
    return new._replace(owner=found.description.owner, group=found.description.group) if survey.keeps_owner else new


def _require_free(survey: Survey, path: str, pool: Pool | None = None) -> None:
    """Raise ConflictError if there is something at the path of a clone's state."""
    is_there = survey.connection.is_local and os.path.lexists(path)
    is_there = is_there or (pool is not None and pool.find_volume(posixpath.basename(path)) is not None)
    if is_there and not survey.gives_way(path):
        raise ConflictError(
            f"there is already '{path}', which the clone would take for the state of its TPM",
            hint="Choose another name for the clone, or move that away.",
        )
