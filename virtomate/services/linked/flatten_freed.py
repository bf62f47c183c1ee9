"""The bases that nobody uses any more when domains have been flattened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.notices import Kept, notice
from virtomate.services.storage.references import freed_base, scan_references, users_of_file
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.hypervisor.connection import Connection
    from virtomate.notices import Notice
    from virtomate.services.linked.flatten_plan import DomainPlan
    from virtomate.services.storage.references import References


def find_freed_bases(connection: Connection, flattened: tuple[DomainPlan, ...]) -> Mapping[str, tuple[Notice, ...]]:
    """Return what is told of bases that nobody uses any more, by the UUID of the last domain that rested on them.

    What a record lists is not told of: it is deleted with its clone, or with the last clone of a running original that
    was made to rest on it. Nor are bases of clones whose original is on another host, since domains there use them.
    """
    rested: dict[str, str] = {}
    for plan in flattened:
        is_of_other_host = plan.record is not None and plan.record.host is not None
        for disk in () if is_of_other_host else plan.disks:
            rested |= {image.path: plan.domain.uuid for image in disk.chain.below if image.path is not None}
    records = [plan.record for plan in flattened if plan.record is not None]
    own = {made.path for record in records for made in record.made}
    moments = {record.moment for record in records}
    paths = [path for path in rested if path not in own]
    if not paths:
        return {}
    references = scan_references(connection, {})
    found: dict[str, tuple[Notice, ...]] = {}
    for path in paths:
        if references.is_there(path) and (told := _told(path, references, moments)) is not None:
            found[rested[path]] = (*found.get(rested[path], ()), told)
    return found


def _told(path: str, references: References, moments: set[str | None]) -> Notice | None:
    """Return what is told of an image that is nobody's any more; None of any other."""
    image = references.lineage.find(path)
    uses = () if image is None else references.lineage.uses(image)
    # a domain without disks may keep the image
    keepers = {use.domain for use in uses if use.target is None}
    uuids = {keeper.uuid for keeper in keepers}
    if len(keepers) < len(uses) or not all(user.domain_uuid in uuids for user in users_of_file(path, references)):
        return None
    if not keepers:
        return freed_base(path, references)
    if not moments.isdisjoint(uuids):
        return None
    keeper = min(keepers)
    return notice(Kept.UNUSED_IMAGE, path, keeper=keeper.name, command=virtomate("domain-delete", keeper.name))
