"""Which clones are to be deleted: by name or UUID, by a pattern, by their original."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from virtomate.errors import NotFoundError, UsageError
from virtomate.hypervisor.domains import find_domain, list_domains
from virtomate.services.origins import find_record, is_original

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.delete.records import Selection
    from virtomate.services.delete.refusals import Refusals

_SIGNS_OF_PATTERNS = frozenset("*?[")


def select_domains(
    connection: Connection, selection: Selection, refusals: Refusals, cancel: CancelToken
) -> tuple[Domain, ...]:
    """Return the selected domains: first those of the words in their order, then the clones of originals.

    A word is a name or UUID, else a pattern for names of clones. Words without a domain are added to the refusals.

    Raises:
        UsageError: Two words name one domain.
        NotFoundError: An original does not exist, and has no clones.
    """
    found: dict[str, Domain] = {}
    named: set[str] = set()
    for word in selection.names:
        cancel.check()
        try:
            domain = find_domain(connection, word)
        except NotFoundError as error:
            if not _SIGNS_OF_PATTERNS.intersection(word):
                refusals.missing[word] = error
            elif matching := tuple(_matching(connection, word)):
                found |= {domain.uuid: domain for domain in matching if domain.uuid not in found}
            else:
                refusals.unmatched.append(word)
            continue
        if domain.uuid in named:
            raise UsageError(f"domain '{domain.name}' is named twice")
        named.add(domain.uuid)
        found.setdefault(domain.uuid, domain)
    for original in selection.clones_of:
        cancel.check()
        is_wanted = is_original(connection, original)
        for domain, record in _clones(list_domains(connection)):
            if is_wanted(record.source):
                found.setdefault(domain.uuid, domain)
    return tuple(found.values())


def _matching(connection: Connection, pattern: str) -> Iterator[Domain]:
    matching = [domain for domain in list_domains(connection) if fnmatchcase(domain.name, pattern)]
    return (domain for domain, _ in _clones(matching))


def _clones(domains: list[Domain]) -> Iterator[tuple[Domain, Provenance]]:
    """Yield clones, finished or not, and unfinished imports, by name; no domains that only record something."""
    for domain in sorted(domains, key=lambda domain: domain.name):
        record = find_record(domain)
        # images of a running original are deleted with the last clone that rests on them
        if record is not None and record.what in {"clone", "import"} and not (record.is_moment and record.finished):
            yield domain, record
