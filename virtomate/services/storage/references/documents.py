"""Every document by which a domain may come to use a file: definitions, managed-save images, snapshots."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from virtomate.errors import NotFoundError, VirtomateError
from virtomate.hypervisor.domains import (
    list_active_domains,
    list_domains,
    list_domains_with_checkpoints,
    list_domains_with_snapshots,
    list_saved_domains,
)
from virtomate.notices import Notice, ScanWarning, notice
from virtomate.services.definitions import Definitions
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.definition.mentions import Mentions
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain, DomainRecord
    from virtomate.services.storage.references.cache import ReferenceCache


class DomainDocument(NamedTuple):
    """A document that mentions files on behalf of a domain.

    Attributes:
        says: A phrase that names what mentions them: "domain 'web'", "snapshot 's1' of domain 'web'".
        is_definition: Whether it is a definition of the domain as it is now, or as it next starts.
    """

    domain_name: str
    domain_uuid: str
    says: str
    mentions: Mentions
    is_definition: bool


def read_documents(connection: Connection, cache: ReferenceCache, warnings: list[Notice]) -> list[DomainDocument]:
    """Read all documents of all domains; an active domain has two, since it may use other things now than later.

    A domain that vanishes meanwhile is passed over. What cannot be read is named in a warning.

    Raises:
        VirtomateError: The domains cannot be listed, or the connection broke.
    """
    return list(_Reading(connection, cache, warnings).documents())


class _Reading:
    """The reading of all documents."""

    def __init__(self, connection: Connection, cache: ReferenceCache, warnings: list[Notice]) -> None:
        self._connection = connection
        self._cache = cache
        self._warnings = warnings
        self._definitions = Definitions()

    def documents(self) -> Iterator[DomainDocument]:
        """Read one after the other."""
        active = {domain.uuid for domain in list_active_domains(self._connection)}
        for domain in list_domains(self._connection):
            says = f"domain '{domain.name}'"
            definition = f"the definition of {says}"
            yield from self._read(domain, says, definition, partial(self._definitions.inactive, domain))
            if domain.uuid in active:
                yield from self._read(domain, says, definition, partial(self._definitions.live, domain))
        abridged = sorted(self._definitions.abridged)
        self._warnings += (Notice(ScanWarning.OVERSIZE_DEFINITION, name) for name in abridged)
        for domain in list_saved_domains(self._connection):
            says = f"the managed-save image of domain '{domain.name}'"
            yield from self._read(domain, says, says, domain.saved_definition, is_definition=False)
        for domain in list_domains_with_snapshots(self._connection):
            yield from self._read_records(domain, "snapshot", domain.snapshots)
        for domain in list_domains_with_checkpoints(self._connection):
            yield from self._read_records(domain, "checkpoint", domain.checkpoints)

    def _read_records(
        self, domain: Domain, kind: str, list_records: Callable[[], list[DomainRecord]]
    ) -> Iterator[DomainDocument]:
        try:
            records = list_records()
        except VirtomateError as error:
            self._pass_over(f"the {kind}s of domain '{domain.name}'", error)
            return
        for record in records:
            says = f"{kind} '{record.name}' of domain '{domain.name}'"
            yield from self._read(domain, says, says, record.document, is_definition=False)

    def _read(
        self, domain: Domain, says: str, what: str, read: Callable[[], str], *, is_definition: bool = True
    ) -> Iterator[DomainDocument]:
        try:
            text = read()
        except VirtomateError as error:
            self._pass_over(what, error)
            return
        mentions = self._cache.mentions(text)
        if not mentions.is_whole:
            self._warnings.append(Notice(ScanWarning.CUT_DOCUMENT, what))
        if mentions.has_deep_record:
            self._warnings.append(Notice(ScanWarning.DEEP_RECORD, what))
        yield DomainDocument(domain.name, domain.uuid, says, mentions, is_definition)

    def _pass_over(self, what: str, error: VirtomateError) -> None:
        if isinstance(error, NotFoundError):
            return
        if not self._connection.is_alive:
            raise error
        self._warnings.append(notice(ScanWarning.UNREADABLE_DOCUMENT, what, reason=error.message))
