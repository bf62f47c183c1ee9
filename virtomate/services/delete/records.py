"""What `domain-delete` would do, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.notices import Kept, notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.host_entries import HostEntry
    from virtomate.definition.provenance import Artifact, DomainReference, Provenance
    from virtomate.enums import DeletionStatus
    from virtomate.errors import VirtomateError
    from virtomate.notices import Notice
    from virtomate.services.storage.artifacts import Verdict


class Selection(NamedTuple):
    """Which clones are to be deleted, and what goes with them.

    Attributes:
        names: Names, UUIDs and patterns.
        clones_of: Names or UUIDs of originals whose clones are to be deleted.
        with_dependents: Whether the clones that rest on these clones are deleted as well.
        force: Whether running clones are ended first.
    """

    names: tuple[str, ...] = ()
    clones_of: tuple[str, ...] = ()
    with_dependents: bool = False
    force: bool = False


class DoomedThing(NamedTuple):
    """Something that is removed with a clone.

    Attributes:
        what: A phrase that names the thing.
        size_bytes: Space that the thing takes on the host, if that is known.
        doubt: Why it is not proved that the thing was made for the clone; None if that is proved, or needs no proof.
        owner: User and group of a file in doubt, as numbers, if they are known.
        modified: When a file in doubt was last written to, in seconds since 1970, if that is known.
        artifact: The volume or NVRAM, None for anything else.
        entry: The DHCP entry. What is neither is kept by libvirt, and removed with the clone's definition.
        verdict: What is proved of the artifact; the verdict must be the same when the artifact is removed.
        is_outside: Whether the artifact is in no storage pool, so that its removal needs a temporary pool.
    """

    what: str
    size_bytes: int | None = None
    doubt: str | None = None
    owner: str | None = None
    modified: float | None = None
    artifact: Artifact | None = None
    entry: HostEntry | None = None
    verdict: Verdict | None = None
    is_outside: bool = False


class HandedBase(NamedTuple):
    """A volume of a clone that stays when the clone is deleted, and the domain that keeps the volume then."""

    made: Artifact
    keeper: DomainReference

    @property
    def told(self) -> Notice:
        """What is said of the volume."""
        return notice(Kept.USED_BASE, self.made.path, keeper=self.keeper.name)


class Deletion(NamedTuple):
    """What the deletion of one clone would do.

    Attributes:
        provenance: The clone's record.
        text: The clone's definition as libvirt gave it, passwords included.
        doomed: What would be removed besides the definition.
        foreign: Files at the places of artifacts that belong to somebody else by now.
        unreachable: Artifacts of an unfinished clone that cannot be looked at.
        cures: How they can be looked at again, each a sentence.
        kept_disks: The clone's disks, NVRAM and DHCP entries that cloning did not make.
        handed: Volumes that stay, since others rest on them, each with the domain that keeps the volume.
        needs: UUIDs of clones that must be deleted before, since they use artifacts of this one.
        state: State of a running clone, which is ended first; None of a clone that is shut off.
    """

    name: str
    uuid: str
    provenance: Provenance
    text: str = ""
    doomed: tuple[DoomedThing, ...] = ()
    foreign: tuple[Notice, ...] = ()
    unreachable: tuple[Notice, ...] = ()
    cures: tuple[str, ...] = ()
    kept_disks: tuple[Notice, ...] = ()
    handed: tuple[HandedBase, ...] = ()
    needs: frozenset[str] = frozenset()
    state: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the clone was completed, and no deletion of it has begun."""
        return self.provenance.finished

    @property
    def kept(self) -> tuple[Notice, ...]:
        """What would stay."""
        return (*self.kept_things, *self.foreign, *self.unreachable)

    @property
    def kept_things(self) -> tuple[Notice, ...]:
        """What would stay and is no cause for concern."""
        return (*self.kept_disks, *(base.told for base in self.handed))

    @property
    def without_figures(self) -> Deletion:
        """The same without what changes while the clone runs: the sizes and times of its files."""
        if self.state is None:
            return self
        return self._replace(doomed=tuple(thing._replace(size_bytes=None, modified=None) for thing in self.doomed))

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The artifacts that would be removed."""
        return tuple(thing.artifact for thing in self.doomed if thing.artifact is not None)


class FreedBase(NamedTuple):
    """A volume that cloning did not make, and on which nothing rests when clones are deleted.

    Attributes:
        told: What is said of the volume.
        users: UUIDs of the clones that rest on the volume.
    """

    told: Notice
    users: frozenset[str]


class DeletionResult(NamedTuple):
    """What `domain-delete` did about one clone.

    Attributes:
        removed: What was removed besides the definition, each a phrase.
        kept: Disks, bases, NVRAM and DHCP entries that the clone had and cloning did not make.
        restarted: Name of the original, if it was started again: a run that was killed had shut it down.
    """

    status: DeletionStatus
    name: str
    uuid: str
    removed: tuple[str, ...] = ()
    kept: tuple[Notice, ...] = ()
    restarted: str | None = None
    error: VirtomateError | None = None


class Consent(NamedTuple):
    """What may be deleted without a question.

    Attributes:
        finished: Finished clones, and what has other disks or a managed-save image.
        unproved: Files of which nothing proves that they were made for the clone.
    """

    finished: bool = False
    unproved: bool = False
