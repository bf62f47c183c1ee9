"""The claim that keeps the journal of a flattening by copy, and whether the copy may be all that there is of a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from virtomate.definition import codec, file_readers
from virtomate.errors import IllegalStateError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.paths import normalise
from virtomate.services.storage import find_volume, read_pools
from virtomate.services.storage.artifacts import delete_command, pool_of
from virtomate.words import virsh, virtomate

if TYPE_CHECKING:
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

_UUIDS = UUID("d3b2c1f0-6f0e-4f6c-9a53-5b1a6b1f5c0a")


def claim_name(domain_uuid: str) -> str:
    """Return the name of the claim of a copy for a domain."""
    return f"virtomate-flatten-{domain_uuid}"


def claim_uuid(domain_uuid: str) -> str:
    """Return the UUID of the claim of a copy for a domain."""
    return str(uuid5(_UUIDS, domain_uuid))


def has_disk(connection: Connection, domain: Domain, path: str) -> bool:
    """Return whether a disk of the definition for the next start has the file at a path."""
    pools = read_pools(connection)
    definition = codec.parse_definition(domain.inactive_definition_without_secrets()).domain
    found = (disk.path or pools.path_of(disk.pool or "", disk.volume or "") for disk in file_readers.disks(definition))
    return path in {normalise(name) for name in found if name is not None}


def refuse_only_copy(connection: Connection, record: Provenance) -> None:
    """Refuse to delete a copy that may be all that there is of a disk; any other record passes.

    A copy takes the place of its overlay in one call, then the overlay goes. So the copy is dispensable as long as the
    domain has the overlay. Where the domain is gone, nothing tells which of the two its disk was, and what the guest
    has written since. The journal does not tell whether the copy is complete: a copy with a token stays planned.

    Raises:
        IllegalStateError: The copy is there, and the domain is gone, or has another volume instead of both.
    """
    source = record.source
    if record.finished or record.uuid != claim_uuid(source.uuid):
        return
    domain = find_domain_by_uuid(connection, source.uuid)
    if domain is not None and any(has_disk(connection, domain, path) for path in record.reserved):
        return
    for made in record.made:
        with pool_of(connection, made) as known:
            is_gone = known is None or not known.is_active or find_volume(known.pool, made.volume or "") is None
        is_used = domain is not None and has_disk(connection, domain, made.path)
        if is_gone or is_used:
            continue
        state = "does not exist any more" if domain is None else "has another volume"
        delete = delete_command(made)
        raise IllegalStateError(
            f"volume '{made.path}' may be all that there is of a disk of domain '{source.name}', which {state}: a run "
            "of domain-flatten that was killed has made the volume",
            hint="Define the domain with its UUID and this volume again, then run "
            f"{virtomate('domain-flatten', source.name)}. To keep the volume and forget the run: "
            f"{virsh('undefine', claim_name(source.uuid))}. If nothing of the volume is needed, delete it: {delete}",
        )
