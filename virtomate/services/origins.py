"""The originals of clones, by the clones' records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import PROVENANCE_NAMESPACE
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import find_domain, list_domains

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain


def find_record(domain: Domain) -> Provenance | None:
    """Return the record of a clone; None for a domain that is no clone, or that has vanished."""
    # asking for our element alone moves a tenth of what a definition has
    element = domain.metadata_element(PROVENANCE_NAMESPACE)
    if element is None:
        return None
    from virtomate.definition.provenance import read_record  # noqa: PLC0415 - most domains are no clones

    return read_record(element, domain.uuid)


def is_original(connection: Connection, name_or_uuid: str) -> Callable[[Provenance], bool]:
    """Return a test whether the original in a clone's record is a domain, given by name or UUID.

    An existing domain is known by its UUID, since it may have been renamed, and another domain may have had its name. A
    domain that is gone is known by the name and the UUID in the records of its clones, and so is one on another host.

    Raises:
        NotFoundError: The domain does not exist, and has no clones.
    """

    def is_remembered(record: Provenance) -> bool:
        return record.source.name == name_or_uuid or record.source.uuid == name_or_uuid.lower()

    try:
        uuid = find_domain(connection, name_or_uuid).uuid
    except NotFoundError:
        records = map(find_record, list_domains(connection))
        if not any(record is not None and is_remembered(record) for record in records):
            raise
        return is_remembered
    return lambda record: record.host is None and record.source.uuid == uuid
