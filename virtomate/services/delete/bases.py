"""Bases of clones that cloning did not make: they are never deleted, and named when nothing rests on them any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.paths import normalise
from virtomate.services.delete.records import FreedBase
from virtomate.services.storage.references import freed_base, users_of_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtomate.services.delete.records import Deletion
    from virtomate.services.storage.references import References


def find_freed_bases(deletions: Sequence[Deletion], references: References) -> tuple[FreedBase, ...]:
    """Return the bases of finished clones, and the images below, that nobody uses when the clones are deleted.

    Bases of clones whose original is on another host are left out: domains there use them.
    """
    doomed = {deletion.uuid for deletion in deletions}
    gone = {made.path for deletion in deletions for made in deletion.provenance.made}
    gone -= {base.made.path for deletion in deletions for base in deletion.handed}
    users: dict[str, set[str]] = {}
    for deletion in deletions:
        bases = tuple(_bases(deletion, references))
        if deletion.provenance.host is not None:
            gone |= {*bases}
        for path in bases:
            users.setdefault(path, set()).add(deletion.uuid)
    freed = []
    for path, clones in users.items():
        if path not in gone and references.is_there(path):
            others = users_of_file(path, references)
            if all(user.domain_uuid in doomed or user.path in gone for user in others):
                freed.append(FreedBase(freed_base(path, references), frozenset(clones)))
                gone.add(path)
    return tuple(freed)


def _bases(deletion: Deletion, references: References) -> Iterator[str]:
    """Yield the paths of the images below the clone's own, nearest first."""
    for made in deletion.provenance.made if deletion.is_finished else ():
        if made.base is not None:
            # the image itself may have got another base since
            for path in (made.path, made.base):
                image = references.lineage.find(path)
                for lower in () if image is None else references.lineage.chain(image):
                    yield lower.path
            yield normalise(made.base)
