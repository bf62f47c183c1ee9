"""Who may write to a volume later, by all documents of all domains.

A definition, managed-save image, snapshot or checkpoint that names a volume as a disk opens the volume for writing when
its domain is started, restored or reverted. A disk that is read-only, and a volume that is only in the backing chain of
a disk, are not written to. Images are not looked at: whoever rests on a volume only reads the volume.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import visible_status
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.services.storage.backend import VolumeKey
from virtomate.services.storage.pools import describe, read_pools
from virtomate.services.storage.references.documents import ReferenceCache, read_documents
from virtomate.services.storage.references.graph import stands_in
from virtomate.services.storage.references.whereabouts import Locator
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.mentions import DiskMention, Place
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.notices import Notice
    from virtomate.services.storage.references.documents import DomainDocument
    from virtomate.services.storage.references.whereabouts import Key, Whereabouts


# The times of a file that is being written may change between two looks.
_LOOKS = 5


class Writer(NamedTuple):
    """A document by which a domain may write to a volume.

    Attributes:
        says: A phrase that names the document: "domain 'web'", "snapshot 's1' of domain 'web'".
        domain_uuid: The document's domain.
        is_definition: Whether the document is a definition of the domain as it is now, or as it next starts.
        disks: Targets of the domain's disks that are the volume, and may be written to.
        names_otherwise: Whether something else than a disk is the volume.
    """

    says: str
    domain_uuid: str
    is_definition: bool
    disks: tuple[str, ...]
    names_otherwise: bool


def find_writers(
    connection: Connection, volumes: Iterable[VolumeDescription], cache: ReferenceCache | None = None
) -> tuple[dict[str, tuple[Writer, ...]], tuple[Notice, ...]]:
    """Return who may write to volumes, by the volumes' paths, and warnings about what could not be read.

    Raises:
        VirtomateError: The domains or pools cannot be listed, or the connection broke.
    """
    volumes = tuple(volumes)
    warnings: list[Notice] = []
    documents = read_documents(connection, cache or ReferenceCache(), warnings)
    is_seen = connection.is_local and all(_is_seen(connection, volume) for volume in volumes)
    locator = Locator(read_pools(connection), is_local=is_seen)
    found = {volume.path: tuple(_writers(volume, documents, locator)) for volume in volumes}
    return found, tuple(warnings)


def _is_seen(connection: Connection, volume: VolumeDescription) -> bool:
    """Return whether the file of a volume is seen here; a file that a guest writes to is looked at several times."""
    if visible_status(volume) is not None:
        return True
    pool, name = get_pool(connection, volume.pool), volume.name
    looks = (describe(pool, get_volume(connection, volume.pool, name)).description for _ in range(_LOOKS))
    return any(visible_status(seen) is not None for seen in looks)


def _writers(volume: VolumeDescription, documents: Iterable[DomainDocument], locator: Locator) -> Iterator[Writer]:
    known = locator.of_path(volume.path).keys | locator.of_volume(VolumeKey(volume.pool, volume.name)).keys
    name = posixpath.basename(volume.path)

    def is_it(place: Place) -> bool:
        where = locator.of_path(place) if isinstance(place, str) else locator.of_volume(VolumeKey(*place))
        return _may_be(where, known, name)

    for document in documents:
        mentions = document.mentions
        named: frozenset[Place] = mentions.paths | mentions.volumes
        every = {place for place in named if is_it(place)}
        # the same path may also stand in the middle of an argument
        in_arguments = any(stands_in(volume.path, argument) for argument in mentions.arguments)
        if not every and not in_arguments:
            continue
        written = tuple(disk.target or "" for disk in mentions.disks if _is_written(disk) and is_it(disk.places[0]))
        in_disks = {place for disk in mentions.disks for place in disk.places}
        otherwise = in_arguments or not every <= in_disks
        if written or otherwise:
            yield Writer(document.says, document.domain_uuid, document.is_definition, written, otherwise)


def _may_be(where: Whereabouts, known: frozenset[Key], name: str) -> bool:
    """Return whether something is a volume, or may be because it has the same name and cannot be looked at."""
    return not known.isdisjoint(where.keys) or name in where.base_names


def _is_written(disk: DiskMention) -> bool:
    return bool(disk.places) and not (disk.is_cdrom or disk.is_readonly)
