"""Who uses a file: a graph of all domains and all images of a connection.

libvirt deletes a volume whoever uses it, so this is all that stands between a clone's volume and a domain that was
given it, or an image that rests on it. Whatever cannot be read is a warning and no error: one broken volume somewhere
does not keep other clones from being deleted. Where that hides what an image rests on, a linked clone's own record
tells what it was made to rest on.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from enum import Enum
from typing import TYPE_CHECKING

from virtomate.definition.provenance import read_record
from virtomate.enums import ArtifactKind, Mode
from virtomate.paths import normalise
from virtomate.services.storage.backend import VolumeKey
from virtomate.services.storage.owner import may_be_running
from virtomate.services.storage.pools import find_volume, read_pools
from virtomate.services.storage.references.cache import ReferenceCache
from virtomate.services.storage.references.chains import Chains, sanitise
from virtomate.services.storage.references.documents import read_documents
from virtomate.services.storage.references.listing import list_files
from virtomate.services.storage.references.whereabouts import Key, Locator, volume_key
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from virtomate.definition.mentions import Place
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.notices import Notice
    from virtomate.services.storage.pools import PoolIndex
    from virtomate.services.storage.references.chains import Link
    from virtomate.services.storage.references.documents import DomainDocument
    from virtomate.services.storage.references.whereabouts import Whereabouts


class ReferenceKind(Enum):
    """How something uses a file."""

    NAMES = "names it"
    RESTS = "rests on it"
    OWN_CHAIN = "is in the chain of the very domain that the file was made for, and rests on it"
    LINKS = "is being cloned from it"
    RECORD = "was made to rest on it, and cannot be looked at"
    MAY_NAME = "names a file that cannot be looked at and has the same name"


class Reference(NamedTuple):
    """What uses a file.

    Attributes:
        says: A clause about it that ends in "it": "domain 'web' uses it".
        kind: How it uses the file.
        domain_uuid: The domain that it is, None for an image.
        path: The image that rests on the file, None for a domain.
    """

    says: str
    kind: ReferenceKind
    domain_uuid: str | None = None
    path: str | None = None


class _Naming(NamedTuple):
    """A document names a file.

    Attributes:
        target: The disk that it is for, if it is for one.
        top: Path of that disk's own image, if the file only is below it.
    """

    document: DomainDocument
    path: str
    target: str | None = None
    top: str | None = None


def scan_references(
    connection: Connection, wanted: Mapping[str, Iterable[Artifact]], cache: ReferenceCache | None = None
) -> References:
    """Look at every document of every domain and at every image once.

    Args:
        connection: Where to look.
        wanted: What may be deleted, by the UUID of the clone it was made for, whose own use of it does not count.
        cache: What earlier looks have read; what is still the same is not read again.

    Raises:
        VirtomateError: The domains or pools cannot be listed, or the connection broke.
    """
    cache = cache or ReferenceCache()
    warnings: list[Notice] = []
    pools = read_pools(connection)
    locator = Locator(pools, is_local=connection.is_local)
    listings = {known.pool.name: list_files(known, locator) for known in pools.known}
    documents = read_documents(connection, cache, warnings)
    chains = Chains(connection, locator, cache)
    named = {place: _locate(locator, place) for document in documents for place in _places(document)}
    paths = {normalise(found.path) for found in named.values() if found.path is not None}
    for known in pools.known:
        chains.read_pool(known, listings[known.pool.name], paths)
    chains.read_files(named.values())
    chains.finish(_images(documents, named))
    references = References(locator, chains, {uuid: tuple(made) for uuid, made in wanted.items()})
    for document in documents:
        references.add(document, named)
    references.warnings = (*warnings, *chains.warnings)
    references.cache = cache
    return references


class References:
    """What a look at all domains and images found.

    Attributes:
        warnings: What could not be looked at.
        cache: What this look has read, for the next one.
    """

    def __init__(self, locator: Locator, chains: Chains, wanted: Mapping[str, tuple[Artifact, ...]]) -> None:
        self.warnings: tuple[Notice, ...] = ()
        self.cache = ReferenceCache()
        self._locator = locator
        self._chains = chains
        self._owners = {made.path: uuid for uuid, things in wanted.items() for made in things}
        self._own_paths = {key: path for path in self._owners for key in locator.of_path(path).keys}
        self._namings: defaultdict[Key, list[_Naming]] = defaultdict(list)
        self._guesses: defaultdict[str, list[_Naming]] = defaultdict(list)
        self._arguments: list[tuple[str, _Naming]] = []
        self._linking: defaultdict[str, list[Reference]] = defaultdict(list)
        self._by_record: defaultdict[Key, list[Reference]] = defaultdict(list)
        self._records: defaultdict[str, list[Reference]] = defaultdict(list)
        self._volumes: dict[VolumeKey, VolumeDescription | None] = {}
        self._links: defaultdict[Key, list[Link]] = defaultdict(list)
        self._loose_links: defaultdict[str, list[Link]] = defaultdict(list)
        for link in chains.links:
            for key in link.below.keys:
                self._links[key].append(link)
            for name in link.below.base_names:
                self._loose_links[name].append(link)

    @property
    def pools(self) -> PoolIndex:
        """The pools there."""
        return self._locator.pools

    def is_there(self, path: str) -> bool:
        """Return whether there is such a file, as far as it can be seen here or libvirt knows it."""
        if self._locator.is_seen(posixpath.dirname(path)):
            return os.path.lexists(path)
        known = self.pools.covering(posixpath.dirname(path))
        return known is not None and known.is_active and known.pool.find_volume(posixpath.basename(path)) is not None

    def volume(self, made: Artifact) -> VolumeDescription | None:
        """Return the volume that has its name now; None where there is none, or its pool is not active."""
        known = self.pools.find(made.pool)
        if made.volume is None or known is None or not known.is_active:
            return None
        key = VolumeKey(made.pool, made.volume)
        if key not in self._volumes:
            found = find_volume(known.pool, made.volume)
            self._volumes[key] = None if found is None else found.description
        return self._volumes[key]

    def users(self, made: Artifact) -> tuple[Reference, ...]:
        """Who uses something that cloning made, other than the clone itself."""
        owner = self._owners.get(made.path)
        found: dict[str, Reference] = {}
        for reference in (*self._certain_users(made, owner), *self._possible_users(made, owner)):
            found.setdefault(reference.says, reference)
        return tuple(found.values())

    def add(self, document: DomainDocument, named: Mapping[Place, Whereabouts]) -> None:
        """Note what a document names."""
        for place in _places(document):
            self._add_naming(_Naming(document, _path_of(place, named)), named[place])
        for disk in document.mentions.disks:
            for place in disk.places:
                top = None if place == disk.places[0] else _path_of(disk.places[0], named)
                self._add_naming(_Naming(document, _path_of(place, named), disk.target, top), named[place])
        self._arguments += ((text, _Naming(document, text)) for text in document.mentions.arguments)
        if document.is_definition:
            for element in document.mentions.records:
                record = read_record(element, document.domain_uuid)
                if record is not None:
                    self._add_record(document, record)

    def _add_naming(self, naming: _Naming, where: Whereabouts) -> None:
        for key in where.keys:
            self._namings[key].append(naming)
        for name in where.base_names:
            self._guesses[name].append(naming)

    def _add_record(self, document: DomainDocument, record: Provenance) -> None:
        for made in record.made:
            if made.fingerprint is not None:
                for key in self._keys(made):
                    self._namings[key].append(_Naming(document, made.path))
        if not record.finished and record.maker is not None and may_be_running(record.maker):
            says = f"domain '{document.domain_name}' is being cloned from it"
            reference = Reference(says, ReferenceKind.LINKS, domain_uuid=document.domain_uuid)
            self._linking[record.source.uuid].append(reference)
            for made in record.made:
                if made.base is not None:
                    self._add_base(made.base, reference)
        for made in self._hidden_volumes(record):
            says = f"'{made.path}' of domain '{document.domain_name}' cannot be read and was made to rest on it"
            reference = Reference(says, ReferenceKind.RECORD, domain_uuid=document.domain_uuid, path=made.path)
            if made.base is not None:
                self._add_base(made.base, reference)
            elif record.mode is Mode.LINKED:
                # version 0.2.0 did not write down what an overlay was made to rest on
                self._records[record.source.uuid].append(reference)

    def _add_base(self, path: str, reference: Reference) -> None:
        for key in self._locator.of_path(path).keys:
            self._by_record[key].append(reference)

    def _hidden_volumes(self, record: Provenance) -> Iterator[Artifact]:
        """Yield the volumes of a clone whose bases are not known."""
        for made in record.made:
            where = self._locator.of_path(made.path)
            is_volume = made.kind is ArtifactKind.VOLUME
            if is_volume and not self._chains.is_read(where) and not self._chains.is_gone(where):
                yield made

    def _certain_users(self, made: Artifact, owner: str | None) -> Iterator[Reference]:
        seen: set[frozenset[Key]] = set()
        for key in self._keys(made):
            for naming in self._namings.get(key, ()):
                if naming.document.domain_uuid != owner:
                    yield _uses(naming)
                elif naming.top is not None and not self._is_of(naming.top, owner):
                    yield _is_below_own_disk(naming, naming.top)
            yield from (item for item in self._by_record.get(key, ()) if item.domain_uuid != owner)
            for link in self._links.get(key, ()):
                # an image that several paths lead to is one
                identity = frozenset(key for key in link.keys if key[0] != "path") or link.keys
                if identity not in seen:
                    seen.add(identity)
                    yield self._rests(link, owner)
        for text, naming in self._arguments:
            if naming.document.domain_uuid != owner and _stands_in(made.path, text):
                yield _uses(naming)
        yield from (item for item in self._linking.get(owner or "", ()) if item.domain_uuid != owner)
        if made.kind is ArtifactKind.VOLUME:
            yield from self._records.get(owner or "", ())

    def _possible_users(self, made: Artifact, owner: str | None) -> Iterator[Reference]:
        """Yield the possible users: they name a file of this name that cannot be told from this one."""
        name = posixpath.basename(made.path)
        for naming in self._guesses.get(name, ()):
            if naming.document.domain_uuid != owner and normalise(naming.path) != made.path:
                says = f"{naming.document.says} names '{sanitise(naming.path)}', which cannot be seen and may be it"
                yield Reference(says, ReferenceKind.MAY_NAME, domain_uuid=naming.document.domain_uuid)
        for link in self._loose_links.get(name, ()):
            if link.below.keys.isdisjoint(self._keys(made)):
                below = sanitise(normalise(link.below.path or name))
                says = f"'{sanitise(link.path)}' rests on '{below}', which cannot be seen and may be it"
                yield Reference(says, ReferenceKind.MAY_NAME, path=self._own_path(link))

    def _is_of(self, path: str, owner: str | None) -> bool:
        """Return whether a file was made for a clone."""
        keys = self._locator.of_path(path).keys if path.startswith("/") else frozenset[Key]()
        return any(self._owners[self._own_paths[key]] == owner for key in keys if key in self._own_paths)

    def _keys(self, made: Artifact) -> frozenset[Key]:
        """Return what tells the file from others, under each of the names that it has."""
        keys = self._locator.of_path(made.path).keys
        if made.volume is None:
            return keys
        twins = self._twins(made)
        return keys.union(
            {volume_key(VolumeKey(made.pool, made.volume))}, *(self._locator.of_path(path).keys for path in twins)
        )

    def _twins(self, made: Artifact) -> list[str]:
        if not self._chains.has_described(posixpath.basename(made.path)):
            return []
        volume = self.volume(made)
        return [] if volume is None else self._chains.twins(volume)

    def _rests(self, link: Link, owner: str | None) -> Reference:
        """Return the reference of an image to the file, and who uses the image."""
        path = sanitise(self._own_path(link))
        needs = "keeps its data in it" if link.is_data else "rests on it"
        direct, above = self._namings_above(link)
        namings = direct + above
        uuids = {naming.document.domain_uuid for naming in namings}
        if owner is not None and uuids == {owner}:
            naming = next((naming for naming in namings if naming.target is not None), namings[0])
            return Reference(_in_own_chain(path, naming, needs), ReferenceKind.OWN_CHAIN, path=self._own_path(link))
        if direct:
            says = f"'{path}' of {direct[0].document.says} {needs}"
        elif above:
            says = f"'{path}', on which {above[0].document.says} rests, {needs}"
        else:
            says = f"'{path}' {needs}"
        return Reference(says, ReferenceKind.RESTS, path=self._own_path(link))

    def _namings_above(self, link: Link) -> tuple[list[_Naming], list[_Naming]]:
        """Return what names an image, and what names an image anywhere above it."""
        direct = [naming for key in link.keys for naming in self._namings.get(key, ())]
        above: list[_Naming] = []
        seen = set(link.keys)
        left = list(link.keys)
        while left:
            for higher in self._links.get(left.pop(), ()):
                new = higher.keys - seen
                seen |= new
                left += new
                above += (naming for key in new for naming in self._namings.get(key, ()))
        # what is so now comes before what a snapshot keeps
        return _definitions_first(direct), _definitions_first(above)

    def _own_path(self, link: Link) -> str:
        """Return the path of an image, for artifacts in the spelling of the record."""
        return next((self._own_paths[key] for key in link.keys if key in self._own_paths), link.path)


def _places(document: DomainDocument) -> Iterator[Place]:
    yield from document.mentions.paths
    yield from document.mentions.volumes


def _locate(locator: Locator, place: Place) -> Whereabouts:
    return locator.of_path(place) if isinstance(place, str) else locator.of_volume(VolumeKey(*place))


def _images(documents: list[DomainDocument], named: Mapping[Place, Whereabouts]) -> list[Whereabouts]:
    """Return the images of disks that may be overlays."""
    disks = (disk for document in documents for disk in document.mentions.disks if not disk.is_cdrom)
    return [named[place] for disk in disks for place in disk.places]


def _path_of(place: Place, named: Mapping[Place, Whereabouts]) -> str:
    return named[place].path or "/".join(place)


def _stands_in(path: str, argument: str) -> bool:
    """Return whether an argument contains the path, and not only a longer name that begins with the path."""
    _, *rests = argument.split(path)
    return any(not rest[:1].isalnum() and rest[:1] not in {"-", "_", ".", "/"} for rest in rests)


def _definitions_first(namings: list[_Naming]) -> list[_Naming]:
    return sorted(namings, key=lambda naming: not naming.document.is_definition)


def _uses(naming: _Naming) -> Reference:
    return Reference(f"{naming.document.says} uses it", ReferenceKind.NAMES, domain_uuid=naming.document.domain_uuid)


def _is_below_own_disk(naming: _Naming, top: str) -> Reference:
    return Reference(_in_own_chain(sanitise(top), naming, "rests on it"), ReferenceKind.OWN_CHAIN, path=top)


def _in_own_chain(path: str, naming: _Naming, needs: str) -> str:
    chain = "a chain" if naming.target is None else f"the chain of disk {naming.target}"
    return f"'{path}', which is in {chain} of '{naming.document.domain_name}' itself, {needs}"
