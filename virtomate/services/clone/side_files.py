"""The files of a domain besides its disks: what a plan has of each, and what all kinds of such files have in common."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Protocol

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.enums import ArtifactKind, SideFileAction
    from virtomate.notices import Notice
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import TemporaryPools


class SideFilePlan(NamedTuple):
    """How a file beside the disks is handled for one clone.

    Attributes:
        action: The action; probably, where only temporary pools can tell.
        source_path: Path of the original's file, None where the original has no such file.
        path: Path of the clone's file, likewise.
        uncovered: The directories of both that are in no pool and need temporary pools.
        duplication: How the file is duplicated; None where only temporary pools can tell, or nothing is to be copied.
    """

    kind: ArtifactKind
    action: SideFileAction
    source_path: str | None
    path: str | None
    format: str
    uncovered: frozenset[str] = frozenset()
    duplication: Duplication | None = None
    warnings: tuple[Notice, ...] = ()


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
