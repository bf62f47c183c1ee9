"""Clones on another host whose files the host of the original sees and uses: they do not give way to new clones.

The host of the clones knows nothing of such a user, which may be the original itself: a domain that was moved to
another host can have left its definition behind.
"""

from __future__ import annotations

import posixpath
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import nanoseconds
from virtomate.errors import IllegalStateError, VirtomateError, combined_error
from virtomate.hypervisor.host import host_name
from virtomate.paths import normalise
from virtomate.services.storage import find_volume
from virtomate.services.storage.artifacts import name_artifact, over_directory
from virtomate.services.storage.references import scan_references, users_of_file

if TYPE_CHECKING:
    from virtomate.definition.provenance import Artifact
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.delete import Deletion, DeletionPlan
    from virtomate.services.storage import PoolIndex
    from virtomate.services.transaction import Run


def refuse_used_here(run: Run, plan: DeletionPlan) -> None:
    """Raise IllegalStateError if the host of the original uses a file that would be deleted on the other host."""
    made_there: dict[str, list[tuple[Deletion, Artifact]]] = {}
    for deletion in plan.deletions:
        for made in deletion.artifacts:
            if made.volume is not None:
                made_there.setdefault(made.volume, []).append((deletion, made))
    references = scan_references(run.source.connection, {})
    shared: dict[str, tuple[Deletion, Artifact]] = {}
    for image in references.lineage.images:
        for deletion, made in made_there.get(posixpath.basename(image.path), ()):
            run.cancel.check()
            if _is_same(run.source.connection, references.pools, image.path, plan.references.pools, made):
                shared[normalise(image.path)] = deletion, made
    errors: list[VirtomateError] = []
    for path, (deletion, made) in shared.items():
        users = [user for user in users_of_file(path, references) if normalise(user.path or "/") not in shared]
        if users:
            host = host_name(run.source.connection)
            errors.append(
                IllegalStateError(
                    f"the clone '{deletion.name}' cannot be replaced: host '{host}' sees {name_artifact(made)}, too, "
                    f"as '{path}', and there {users[0].says}",
                    hint="Choose another name for the new clone.",
                )
            )
    if errors:
        raise combined_error(errors)


def _is_same(connection: Connection, here: PoolIndex, path: str, there: PoolIndex, made: Artifact) -> bool:
    """Return whether both hosts tell the same time of the last change; the file may be written to meanwhile."""
    known = there.find(made.pool)
    with suppress(VirtomateError), ExitStack() as stack:
        covering = here.covering(posixpath.dirname(path))
        if covering is None or not covering.is_active:
            covering = stack.enter_context(over_directory(connection, posixpath.dirname(path)))
        before = find_volume(covering.pool, posixpath.basename(path))
        found = None if known is None else find_volume(known.pool, made.volume or "")
        after = find_volume(covering.pool, posixpath.basename(path))
        if before is None or found is None or after is None:
            return False
        if before.description.is_device:
            return before.description.key == found.description.key
        return _is_between(before.description, found.description, after.description)
    return False


def _is_between(before: VolumeDescription, volume: VolumeDescription, after: VolumeDescription) -> bool:
    if before.changed is None or volume.changed is None or after.changed is None:
        return False
    return nanoseconds(before.changed) <= nanoseconds(volume.changed) <= nanoseconds(after.changed)
