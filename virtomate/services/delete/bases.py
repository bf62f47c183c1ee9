"""Bases of clones that cloning did not make: they are never deleted, and named when nothing rests on them any more."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.definition.provenance import Artifact
from virtomate.enums import ArtifactKind, ArtifactState
from virtomate.notices import Kept, notice
from virtomate.paths import normalise
from virtomate.services.delete.records import FreedBase
from virtomate.words import shell_word, virsh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtomate.services.delete.records import Deletion
    from virtomate.services.storage.references import References


def find_freed_bases(deletions: Sequence[Deletion], references: References) -> tuple[FreedBase, ...]:
    """Return the bases of finished clones, and the images below, that nobody uses when the clones are deleted."""
    doomed = {deletion.uuid for deletion in deletions}
    gone = {made.path for deletion in deletions for made in deletion.provenance.made}
    users: dict[str, set[str]] = {}
    for deletion in deletions:
        for path in _bases(deletion, references):
            users.setdefault(path, set()).add(deletion.uuid)
    freed = []
    for path, clones in users.items():
        if path not in gone and references.is_there(path):
            others = references.users(_as_artifact(path, references))
            if all(user.domain_uuid in doomed or user.path in gone for user in others):
                freed.append(FreedBase(notice(Kept.BASE, path, command=_command(path, references)), frozenset(clones)))
                gone.add(path)
    return tuple(freed)


def _bases(deletion: Deletion, references: References) -> Iterator[str]:
    """Yield the paths of the images below the clone's own, nearest first."""
    for made in deletion.provenance.made if deletion.is_finished else ():
        if made.base is not None:
            yield normalise(made.base)
            image = references.lineage.find(made.base)
            for lower in () if image is None else references.lineage.chain(image):
                yield lower.path


def _as_artifact(path: str, references: References) -> Artifact:
    directory, name = posixpath.split(path)
    known = references.pools.covering(directory)
    pool = "" if known is None else known.pool.name
    return Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, pool, None if known is None else name, path)


def _command(path: str, references: References) -> str:
    """Return the command that deletes a base."""
    directory, name = posixpath.split(path)
    known = references.pools.covering(directory)
    if known is None:
        return f"rm -- {shell_word(path)}"
    return virsh("vol-delete", name, options=f"--pool {shell_word(known.pool.name)}")
