"""The files of a domain besides its disks: what a plan has of each, and what all kinds of such files have in common."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Protocol

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import NewDirectory, NewVolume
    from virtomate.duplication.transfers.base import Duplication, Place
    from virtomate.enums import ArtifactKind, SideFileAction
    from virtomate.notices import Notice
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import TemporaryPools


class DirectoryPlan(NamedTuple):
    """A directory that libvirt keeps by the clone's UUID, and that is made for a file.

    Attributes:
        pool: Name of the running pool over the directory that the new one is made in.
        volume: The new directory, as a volume of that pool.
        place: The place of the file, in a directory inside of the new one and a pool over that.
        inner: The inner directory, which is made with its pool.
    """

    pool: str
    volume: NewVolume
    place: Place
    inner: NewDirectory


class SideFilePlan(NamedTuple):
    """How a file beside the disks is handled for one clone.

    Attributes:
        action: The action; probably, where only temporary pools can tell.
        source_path: Path of the original's file, None where the original has no such file.
        path: Path of the clone's file, likewise.
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
