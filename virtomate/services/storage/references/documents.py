"""Every document by which a domain may come to use a file: definitions, managed-save images, snapshots."""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition.mentions import read_mentions
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
    import os
    from collections.abc import Callable, Iterator

    from virtomate.definition.mentions import Mentions
    from virtomate.duplication.image_headers import ImageLinks
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

# A file that has just been written may be written again within the same tick of its file system's clock.
_SETTLED_NANOSECONDS = 2_000_000_000


class ReferenceCache:
    """Keeps what documents mention, by their text, and the links of images, by their times, for the next scan."""

    def __init__(self) -> None:
        self._mentions: dict[bytes, Mentions] = {}
        self._links: dict[tuple[int, ...], ImageLinks] = {}

    def mentions(self, document: str) -> Mentions:
        """Return what a document mentions."""
        digest = hashlib.blake2b(document.encode(errors="replace"), digest_size=32).digest()
        if digest not in self._mentions:
            self._mentions[digest] = read_mentions(document)
        return self._mentions[digest]

    def links(self, status: os.stat_result) -> ImageLinks | None:
        """Return the links of an image with this status, None if they have not been read."""
        return self._links.get(_version(status))

    def add_links(self, status: os.stat_result, links: ImageLinks) -> None:
        """Remember the links of an image, unless it was written just now."""
        if max(status.st_mtime_ns, status.st_ctime_ns) + _SETTLED_NANOSECONDS < time.time_ns():
            self._links[_version(status)] = links


def _version(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


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


class _Source(NamedTuple):
    """Where a document comes from."""

    domain: Domain
    says: str
    read: Callable[[], str]
    is_definition: bool = False

    @property
    def name(self) -> str:
        """A phrase that names the document."""
        return f"the definition of {self.says}" if self.is_definition else self.says


def read_documents(connection: Connection, cache: ReferenceCache, warnings: list[Notice]) -> list[DomainDocument]:
    """Read all documents of all domains; an active domain has two, since it may use other things now than later.

    A domain that vanishes meanwhile is ignored. A document that cannot be read is named in a warning.
    """
    documents: list[DomainDocument] = []
    definitions = Definitions()

    def pass_over(name: str, error: VirtomateError) -> None:
        if isinstance(error, NotFoundError):
            return
        if not connection.is_alive:
            raise error
        warnings.append(notice(ScanWarning.UNREADABLE_DOCUMENT, name, reason=error.message))

    for source in _sources(connection, definitions, pass_over):
        try:
            text = source.read()
        except VirtomateError as error:
            pass_over(source.name, error)
            continue
        mentions = cache.mentions(text)
        if not mentions.is_whole:
            warnings.append(Notice(ScanWarning.CUT_DOCUMENT, source.name))
        if mentions.has_deep_record:
            warnings.append(Notice(ScanWarning.DEEP_RECORD, source.name))
        domain = source.domain
        documents.append(DomainDocument(domain.name, domain.uuid, source.says, mentions, source.is_definition))
    warnings += (Notice(ScanWarning.OVERSIZE_DEFINITION, name) for name in sorted(definitions.abridged))
    return documents


def _sources(
    connection: Connection, definitions: Definitions, pass_over: Callable[[str, VirtomateError], None]
) -> Iterator[_Source]:
    active = {domain.uuid for domain in list_active_domains(connection)}
    for domain in list_domains(connection):
        says = f"domain '{domain.name}'"
        yield _Source(domain, says, partial(definitions.inactive, domain), is_definition=True)
        if domain.uuid in active:
            yield _Source(domain, says, partial(definitions.live, domain), is_definition=True)
    for domain in list_saved_domains(connection):
        yield _Source(domain, f"the managed-save image of domain '{domain.name}'", domain.saved_definition)
    records = (
        *(("snapshot", domain, domain.snapshots) for domain in list_domains_with_snapshots(connection)),
        *(("checkpoint", domain, domain.checkpoints) for domain in list_domains_with_checkpoints(connection)),
    )
    for kind, domain, list_records in records:
        try:
            found = list_records()
        except VirtomateError as error:
            pass_over(f"the {kind}s of domain '{domain.name}'", error)
            continue
        for record in found:
            yield _Source(domain, f"{kind} '{record.name}' of domain '{domain.name}'", record.document)
