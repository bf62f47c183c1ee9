"""The bases that nobody uses any more when domains have been flattened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.services.storage.references import freed_base, scan_references, users_of_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.hypervisor.connection import Connection
    from virtomate.notices import Notice
    from virtomate.services.linked.flatten_plan import DomainPlan


def find_freed_bases(connection: Connection, flattened: tuple[DomainPlan, ...]) -> Mapping[str, tuple[Notice, ...]]:
    """Return what is told of bases that nobody uses any more, by the UUID of the last domain that rested on them.

    What a record lists is not told of: it is deleted with its clone, or with the last clone that rests on it.
    """
    rested: dict[str, str] = {}
    for plan in flattened:
        for disk in plan.disks:
            rested |= {image.path: plan.domain.uuid for image in disk.chain.below if image.path is not None}
    own = {made.path for plan in flattened if plan.record is not None for made in plan.record.made}
    paths = [path for path in rested if path not in own]
    if not paths:
        return {}
    references = scan_references(connection, {})
    found: dict[str, tuple[Notice, ...]] = {}
    for path in paths:
        image = references.lineage.find(path)
        # a domain without disks may keep the image, too
        is_kept = image is not None and bool(references.lineage.uses(image))
        if not is_kept and references.is_there(path) and not users_of_file(path, references):
            found[rested[path]] = (*found.get(rested[path], ()), freed_base(path, references))
    return found
