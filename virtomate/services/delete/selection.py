"""Which clones are to be deleted: by name or UUID, by a pattern, by their original."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.hypervisor.domains import list_domains
from virtomate.services.origins import find_record, is_original
from virtomate.services.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.delete.records import Selection
    from virtomate.services.delete.refusals import Refusals


def select_domains(
    connection: Connection, selection: Selection, refusals: Refusals, cancel: CancelToken
) -> tuple[Domain, ...]:
    """Return the selected domains: first those of the words in their order, then the clones of originals.

    A word is a name or UUID, else a pattern for names of clones. Words without a domain are added to the refusals.

    Raises:
        UsageError: Two words name one domain.
        NotFoundError: An original does not exist, and has no clones.
    """
    selected = select(connection, selection.names, cancel, lambda domain: any(_clones([domain])))
    refusals.missing |= selected.missing
    refusals.unmatched += selected.unmatched
    found = {domain.uuid: domain for domain in selected.domains}
    for original in selection.clones_of:
        cancel.check()
        is_wanted = is_original(connection, original)
        for domain, record in _clones(list_domains(connection)):
            if is_wanted(record):
                found.setdefault(domain.uuid, domain)
    return tuple(found.values())


def _clones(domains: list[Domain]) -> Iterator[tuple[Domain, Provenance]]:
    """Yield clones, finished or not, and unfinished imports, by name; no domains that only record something."""
    for domain in sorted(domains, key=lambda domain: domain.name):
        record = find_record(domain)
        # images of a running original are deleted with the last clone that rests on them
        if record is not None and record.what in {"clone", "import"} and not (record.is_moment and record.finished):
            yield domain, record
