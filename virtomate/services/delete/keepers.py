"""The keeper of a base: a domain without disks whose record lists the base when the clone with the base is deleted.

The keeper cannot be started, and is deleted with the last clone that rests on the base, as the domain with the images
of a running original is.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from virtomate.definition import codec
from virtomate.definition.placeholders import moment_definition
from virtomate.definition.provenance import DomainReference, Provenance, find_provenance, with_provenance
from virtomate.enums import Mode
from virtomate.errors import VirtomateError
from virtomate.hypervisor.domains import define_domain, find_domain_by_uuid

if TYPE_CHECKING:
    from virtomate.definition.provenance import Artifact
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.delete.records import Deletion

_LOG = logging.getLogger(__name__)
_UUIDS = UUID("5c0f7f0e-6a7b-4a40-8a31-2c9d5d3a9b17")


def hand_over(connection: Connection, deletion: Deletion) -> None:
    """Define the keepers of a clone's bases, unless an earlier deletion of the clone has done so.

    Raises:
        ConflictError: Another domain has got the name of a keeper.
        HypervisorError: libvirt does not accept a keeper.
    """
    like = codec.parse_definition(deletion.text).domain
    for made, keeper in deletion.handed:
        if find_domain_by_uuid(connection, keeper.uuid) is None:
            record = _record(deletion, made, keeper.uuid)
            definition = with_provenance(moment_definition(keeper.name, record, like), record)
            _LOG.info("handing %s to %r", made.path, keeper.name)
            define_domain(connection, keeper.name, codec.unparse_definition(definition))


def take_back(connection: Connection, uuid: str, record: Provenance) -> None:
    """Undefine the keepers of a clone's bases, for the clone is not deleted and keeps the bases itself."""
    for made in record.made:
        # a keeper beside the clone is harmless
        with suppress(VirtomateError):
            domain = find_keeper(connection, uuid, record, made)
            if domain is not None:
                domain.undefine_with_state()


def find_keeper(connection: Connection, uuid: str, record: Provenance, made: Artifact) -> Domain | None:
    """Return the keeper of a volume of a clone, None if the volume was never handed over."""
    domain = find_domain_by_uuid(connection, keeper_uuid(uuid, record, made))
    found = None if domain is None else find_provenance(domain.inactive_definition_without_secrets(), domain.uuid)
    return domain if found is not None and found.is_moment else None


def keeper_uuid(uuid: str, record: Provenance, made: Artifact) -> str:
    """Return the UUID of a base's keeper, the same in every deletion of this clone, so that there is only one."""
    return str(uuid5(_UUIDS, f"{uuid}:{record.mark}:{made.path}"))


def _record(deletion: Deletion, made: Artifact, uuid: str) -> Provenance:
    """Return the record of a keeper. The base goes on bearing the token of the clone."""
    record = deletion.provenance
    return Provenance(
        finished=True,
        uuid=uuid,
        token=os.urandom(16).hex(),
        source=DomainReference(deletion.name, deletion.uuid),
        mode=Mode.COPY if made.base is None else Mode.LINKED,
        created=time.time(),
        made=(made,),
        mark=record.mark,
        moment=uuid,
        owner=record.owner or record.uuid,
    )
