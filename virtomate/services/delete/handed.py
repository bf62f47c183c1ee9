"""Bases that only cloning made and on which others rest when their clone is deleted.

A clone that was frozen for clones of its own leaves such bases: its former volumes. Each base is handed to a domain of
its own, see `keepers`.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from virtomate.definition.provenance import DomainReference
from virtomate.enums import ArtifactKind
from virtomate.hypervisor.domains import list_domains
from virtomate.services.delete.keepers import find_keeper, keeper_uuid
from virtomate.services.delete.records import HandedBase
from virtomate.services.storage.references import ReferenceKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.definition.provenance import Artifact
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.delete.survey import Clone
    from virtomate.services.storage.references import Image, References

# With this much of the clone's name, a keeper's name is never too long for libvirt.
_NAME_BYTES = 200
# How a base is used for certain. Others may write to the file, or are at work on the file.
_RESTING = frozenset({ReferenceKind.NAMES, ReferenceKind.RESTS, ReferenceKind.RECORD})


def find_handed(
    connection: Connection, clones: Sequence[Clone], references: References
) -> dict[str, tuple[HandedBase, ...]]:
    """Return the bases that stay although clones are deleted, by the UUID of the clone for which the base was made.

    A volume that is used in another way than as a base is not among them, so that its use refuses the deletion.
    """
    bases = [(clone, made) for clone in clones for made in clone.provenance.made if _is_base(clone, made, references)]
    uuids = {clone.domain.uuid for clone in clones}
    gone = {path for clone in clones for path in clone.own_paths}
    # a deletion that was killed may have handed bases over
    stay = [made for clone, made in bases if _is_kept(clone, made, references)]
    kept: set[Image] = set()
    while True:
        gone -= {made.path for made in stay}
        kept |= {image for made in stay if (image := references.lineage.find(made.path)) is not None}
        # a base that stays keeps the bases below
        stay = [made for _, made in bases if made.path in gone and _stays(made, uuids, gone, kept, references)]
        if not stay:
            break
    found: dict[str, tuple[HandedBase, ...]] = {}
    names = {domain.name for domain in list_domains(connection)} if kept else set()
    for clone, made in bases:
        if made.path not in gone:
            handed = HandedBase(made, _keeper(connection, clone, made, names))
            found[clone.domain.uuid] = (*found.get(clone.domain.uuid, ()), handed)
    return found


def _is_base(clone: Clone, made: Artifact, references: References) -> bool:
    """Return whether a volume of a clone is no disk any more, neither its own nor a part of the chain of one."""
    record, lineage = clone.provenance, references.lineage
    is_whole = record.finished or record.replaced is not None
    image = lineage.find(made.path) if made.kind is ArtifactKind.VOLUME and is_whole else None
    if image is None or record.is_moment or any(use.target is not None for use in lineage.uses(image)):
        return False
    own = [lower for path in clone.own_paths if (lower := lineage.find(path)) is not None]
    above = (overlay for overlay in lineage.dependents(image) if overlay not in own)
    return all(use.domain.uuid != clone.domain.uuid for overlay in above for use in lineage.uses(overlay))


def _is_kept(clone: Clone, made: Artifact, references: References) -> bool:
    """Return whether a base has a keeper already."""
    image = references.lineage.find(made.path)
    uuid = keeper_uuid(clone.domain.uuid, clone.provenance, made)
    return image is not None and any(use.domain.uuid == uuid for use in references.lineage.uses(image))


def _stays(made: Artifact, uuids: set[str], gone: set[str], kept: set[Image], references: References) -> bool:
    """Return whether somebody who stays rests on a base, and nobody uses the base in another way."""
    image = references.lineage.find(made.path)
    if image is not None and not kept.isdisjoint(references.lineage.overlays(image)):
        return True
    staying = [
        user for user in references.users(made) if user.domain_uuid not in uuids and (user.path or "") not in gone
    ]
    return bool(staying) and all(user.kind in _RESTING for user in staying)


def _keeper(connection: Connection, clone: Clone, made: Artifact, names: set[str]) -> DomainReference:
    """Return the keeper of a base, which may be there already, and add its name to the names."""
    found = find_keeper(connection, clone.domain.uuid, clone.provenance, made)
    if found is not None:
        return DomainReference(found.name, found.uuid)
    stem = clone.domain.name.encode()[:_NAME_BYTES].decode(errors="ignore")
    tried = (f"{stem}-base" if number == 1 else f"{stem}-base-{number}" for number in count(1))
    name = next(name for name in tried if name not in names)
    names.add(name)
    return DomainReference(name, keeper_uuid(clone.domain.uuid, clone.provenance, made))
