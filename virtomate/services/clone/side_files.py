"""The files of a domain besides its disks: what a plan has of each, and what all kinds of such files have in common."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Protocol

from virtomate.definition.provenance import Artifact
from virtomate.enums import ArtifactKind, ArtifactState
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import NewDirectory
    from virtomate.duplication.transfers.base import Duplication, Place
    from virtomate.enums import SideFileAction
    from virtomate.notices import Notice
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction import VolumeJob


class DirectoryPlan(NamedTuple):
    """A directory that is made for a file.

    Attributes:
        job: The new directory; libvirt keeps one of kind `tpm` by the clone's UUID.
        place: The place of the file, in a pool of its own; None where no file is made.
        inner: The directory of the file: the new one, or one inside that is made together with the pool.
    """

    job: VolumeJob
    place: Place | None = None
    inner: NewDirectory | None = None

    @property
    def planned(self) -> tuple[Artifact, ...]:
        """The journal's lines before anything is made; libvirt removes what it keeps by UUID with the claim."""
        made = () if self.job.kind is ArtifactKind.TPM else (self.job.planned(),)
        if self.place is None:
            return made
        pool = Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, self.place.pool, None, self.place.directory)
        return (pool, *made)


class SideFilePlan(NamedTuple):
    """How a file beside the disks is handled for one clone.

    Attributes:
        action: The action; probably, where only temporary pools can tell.
        source_path: Path of the original's file, None where the original has no such file.
        path: Path of the clone's file, likewise.
        format: Format of an NVRAM; `dir` or `file` for the place of a TPM's state in a definition.
        uncovered: The directories of both that are in no pool and need temporary pools.
        duplication: How the file is duplicated; None where only temporary pools can tell, or nothing is to be copied.
        directory: The directory that is made for the file, None where the directory is there.
        reason: Why there is nothing to copy, where that has to be said.
    """

    kind: ArtifactKind
    action: SideFileAction
    source_path: str | None
    path: str | None
    format: str
    uncovered: frozenset[str] = frozenset()
    duplication: Duplication | None = None
    warnings: tuple[Notice, ...] = ()
    directory: DirectoryPlan | None = None
    reason: str | None = None


class SideFile(Protocol):
    """A kind of file beside the disks, as it was found at the original."""

    def plan(self, survey: Survey, clone: DomainReference, taken: TakenNames) -> SideFilePlan:
        """Plan the file of one clone, before any temporary pool is started."""

    def settle(
        self, survey: Survey, plan: SideFilePlan, clone: DomainReference, temporary: TemporaryPools
    ) -> SideFilePlan:
        """Plan the file of one clone again with what temporary pools tell."""


def is_moving_original(survey: Survey) -> bool:
    """Return whether the guest of the original may write to the file meanwhile."""
    is_running = survey.source.snapshot is not None and survey.source.snapshot.is_running
    return is_running or survey.source.running is not None


def is_missing(path: str) -> bool:
    """Return whether a file or directory is certainly missing, in a directory that can be seen here."""
    return os.access(posixpath.dirname(path), os.X_OK) and not os.path.lexists(path)
