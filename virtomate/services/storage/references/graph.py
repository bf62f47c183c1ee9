"""Who uses a file: a graph of all domains and all images of a connection.

libvirt deletes a volume whoever uses it, so only this graph protects a clone's volume that another domain or image
uses. A document or image that cannot be read is a warning, not an error: one broken volume somewhere does not prevent
other deletions. If that hides the base of an image, a linked clone's own record names the base.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from virtomate.definition.provenance import read_record
from virtomate.enums import ArtifactKind, Mode
from virtomate.paths import normalise
from virtomate.services.storage.backend import VolumeKey
from virtomate.services.storage.owner import may_be_running
from virtomate.services.storage.pools import find_volume, is_temporary, read_pools
from virtomate.services.storage.references.chains import Chains, sanitise
from virtomate.services.storage.references.documents import ReferenceCache, read_documents
from virtomate.services.storage.references.lineage import Lineage
from virtomate.services.storage.references.whereabouts import ANY_DEVICE, Key, Locator, device_key, volume_key
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
    """A user of a file.

    Attributes:
        says: A clause about the user that ends in "it": "domain 'web' uses it".
        kind: How it uses the file.
        domain_uuid: The domain that uses the file, None for an image.
        path: The image that rests on the file, None for a domain.
    """

    says: str
    kind: ReferenceKind
    domain_uuid: str | None = None
    path: str | None = None


class _Naming(NamedTuple):
    """A document names a file.

    Attributes:
        target: The disk whose chain has the file, None if the file is not a disk's.
        top: Path of that disk's own image, None if the file is that image.
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
        wanted: The files that may be deleted, by the UUID of the clone that owns them; its own use does not count.
        cache: What earlier scans have read; what is still the same is not read again.

    Raises:
        VirtomateError: The domains or pools cannot be listed, or the connection broke.
    """
    cache = cache or ReferenceCache()
    warnings: list[Notice] = []
    locator = Locator(read_pools(connection), is_local=connection.is_local)
    pools = locator.pools.known
    listings = [locator.list_files(known) for known in pools]
    documents = read_documents(connection, cache, warnings)
    chains = Chains(connection, locator, cache)
    named = {place: _locate(locator, place) for document in documents for place in _places(document)}
    paths = {normalise(found.path) for found in named.values() if found.path is not None}
    for known, listing in zip(pools, listings, strict=True):
        chains.read_pool(known, listing, paths)
    chains.read_files(named.values())
    chains.read_files(_beside(locator, wanted))
    disks = (disk for document in documents for disk in document.mentions.disks if not disk.is_cdrom)
    chains.finish((named[place], place in disk.raw) for disk in disks for place in disk.places)
    lineage = Lineage(locator, chains, documents, named)
    references = References(locator, chains, wanted, cache, (*warnings, *chains.warnings), lineage)
    for document in documents:
        references.add(document, named)
    return references


def _beside(locator: Locator, wanted: Mapping[str, Iterable[Artifact]]) -> Iterator[Whereabouts]:
    """Yield the files in the directories of volumes in no storage pool, as far as they are seen here."""
    outside = (made for things in wanted.values() for made in things if is_temporary(made.pool))
    directories = {posixpath.dirname(made.path) for made in outside if made.kind is ArtifactKind.VOLUME}
    for directory in sorted(directories):
        if locator.is_seen(directory):
            with suppress(OSError):
                yield from [locator.of_path(posixpath.join(directory, name)) for name in os.listdir(directory)]


class References:
    """What a look at all domains and images found.

    Attributes:
        warnings: What could not be looked at.
        cache: What this look has read, for the next one.
        lineage: Which image rests on which, of all images.
    """

    def __init__(
        self,
        locator: Locator,
        chains: Chains,
        wanted: Mapping[str, Iterable[Artifact]],
        cache: ReferenceCache,
        warnings: tuple[Notice, ...],
        lineage: Lineage,
    ) -> None:
        self.warnings = warnings
        self.cache = cache
        self.lineage = lineage
        self._locator = locator
        self._chains = chains
        self._owners = {made.path: uuid for uuid, things in wanted.items() for made in things}
        self._own_paths = {key: path for path in self._owners for key in locator.of_path(path).keys}
        self._namings: defaultdict[Key, list[_Naming]] = defaultdict(list)
        self._guesses: defaultdict[str, list[_Naming]] = defaultdict(list)
        self._arguments: list[tuple[str, _Naming]] = []
        self._by_record: defaultdict[Key, list[Reference]] = defaultdict(list)
        # by the UUID of the original: references by which any of its files may be used
        self._to_original: defaultdict[str, list[Reference]] = defaultdict(list)
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
        """The pools of the connection."""
        return self._locator.pools

    def is_there(self, path: str) -> bool:
        """Return whether a file exists, as far as it can be seen here or libvirt knows it."""
        directory, name = posixpath.split(path)
        if self._locator.is_seen(directory):
            return os.path.lexists(path)
        known = self.pools.covering(directory)
        return known is not None and known.is_active and known.pool.find_volume(name) is not None

    def users(self, made: Artifact) -> tuple[Reference, ...]:
        """Return who uses something that cloning made, other than the clone itself."""
        owner = self._owners.get(made.path)
        found: dict[str, Reference] = {}
        for reference in (*self._certain_users(made, owner), *self._possible_users(made, owner)):
            found.setdefault(reference.says, reference)
        return tuple(found.values())

    def has_disk(self, uuid: str, made: Artifact) -> bool:
        """Return whether a definition of the domain with a UUID names something that cloning made as a disk's image."""
        return any(
            naming.target is not None and naming.top is None and naming.document.is_definition
            for key in self._keys(made)
            for naming in self._namings.get(key, ())
            if naming.document.domain_uuid == uuid
        )

    def add(self, document: DomainDocument, named: Mapping[Place, Whereabouts]) -> None:
        """Note the files that a document names."""
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
        uuid = document.domain_uuid
        says = f"domain '{document.domain_name}' is being cloned from it"
        linking = Reference(says, ReferenceKind.LINKS, domain_uuid=uuid)
        # the UUID of an original on another host means nothing here
        is_linking = record.host is None and not record.finished and may_be_running(record.maker)
        if is_linking:
            self._to_original[record.source.uuid].append(linking)
        for made in record.made:
            if made.fingerprint is not None:
                for key in self._keys(made):
                    self._namings[key].append(_Naming(document, made.path))
            bases = self._locator.of_path(made.base).keys if made.base is not None else ()
            for key in bases if is_linking else ():
                self._by_record[key].append(linking)
            if self._is_hidden_volume(made):
                says = f"'{made.path}' of domain '{document.domain_name}' cannot be read and was made to rest on it"
                reference = Reference(says, ReferenceKind.RECORD, domain_uuid=uuid, path=made.path)
                for key in bases:
                    self._by_record[key].append(reference)
                if made.base is None and record.mode is Mode.LINKED:
                    # version 0.2.0 did not write down the base of an overlay
                    self._to_original[record.source.uuid].append(reference)

    def _is_hidden_volume(self, made: Artifact) -> bool:
        """Return whether something that cloning made is a volume whose base cannot be read."""
        where = self._locator.of_path(made.path)
        is_volume = made.kind is ArtifactKind.VOLUME
        return is_volume and not self._chains.is_read(where) and not self._chains.is_gone(where)

    def _certain_users(self, made: Artifact, owner: str | None) -> Iterator[Reference]:
        seen: set[frozenset[Key]] = set()
        for key in self._keys(made):
            for naming in self._namings.get(key, ()):
                if naming.document.domain_uuid != owner:
                    yield _uses(naming)
                elif naming.top is not None and not self._is_of(naming.top, owner):
                    says = _in_own_chain(sanitise(naming.top), naming, "rests on it")
                    yield Reference(says, ReferenceKind.OWN_CHAIN, path=naming.top)
            yield from (item for item in self._by_record.get(key, ()) if item.domain_uuid != owner)
            for link in self._links.get(key, ()):
                # an image that several paths lead to is one
                identity = frozenset(key for key in link.keys if key[0] != "path") or link.keys
                if identity not in seen and not self._goes_before(link, made, owner):
                    seen.add(identity)
                    yield self._rests(link, owner)
        for text, naming in self._arguments:
            if naming.document.domain_uuid != owner and stands_in(made.path, text):
                yield _uses(naming)
        others = [item for item in self._to_original.get(owner or "", ()) if item.domain_uuid != owner]
        is_volume = made.kind is ArtifactKind.VOLUME
        yield from (item for item in others if is_volume or item.kind is ReferenceKind.LINKS)

    def _possible_users(self, made: Artifact, owner: str | None) -> Iterator[Reference]:
        """Yield the possible users: they name a file of this name that may be this file."""
        name = posixpath.basename(made.path)
        is_file = _device_key_of(made) is None
        noun, devices = ("file", ()) if is_file else ("device", self._guesses.get(ANY_DEVICE, ()))
        for naming in (*self._guesses.get(name, ()), *devices):
            if naming.document.domain_uuid != owner and normalise(naming.path) != made.path:
                named = f"{naming.document.says} names '{sanitise(naming.path)}'"
                says = f"{named}, which cannot be seen and may be the same {noun}"
                yield Reference(says, ReferenceKind.MAY_NAME, domain_uuid=naming.document.domain_uuid)
        for link in self._loose_links.get(name, ()):
            if link.below.keys.isdisjoint(self._keys(made)):
                below = sanitise(normalise(link.below.path or name))
                says = f"'{sanitise(link.path)}' rests on '{below}', which cannot be seen and may be the same file"
                yield Reference(says, ReferenceKind.MAY_NAME, path=self._own_path(link))

    def _is_of(self, path: str, owner: str | None) -> bool:
        """Return whether a file was made for a clone."""
        keys = self._locator.of_path(path).keys if path.startswith("/") else frozenset[Key]()
        return any(self._owners[self._own_paths[key]] == owner for key in keys if key in self._own_paths)

    def _goes_before(self, link: Link, made: Artifact, owner: str | None) -> bool:
        """Return whether an image was made for the same clone as its base, and is removed before the base."""
        is_itself = not link.keys.isdisjoint(self._keys(made))
        return not is_itself and self._is_of(link.path, owner)

    def _keys(self, made: Artifact) -> frozenset[Key]:
        """Return the identities of the file, under each of its paths."""
        keys = self._locator.of_path(made.path).keys
        if made.volume is None:
            return keys
        volume = self.volume(made) if self._chains.has_described(made.volume) else None
        twins = () if volume is None else self._chains.twins(volume)
        own = {volume_key(VolumeKey(made.pool, made.volume))}
        if (key := _device_key_of(made)) is not None:
            own.add(device_key(key))
        return keys.union(own, *(self._locator.of_path(path).keys for path in twins))

    def volume(self, made: Artifact) -> VolumeDescription | None:
        """Return the volume that has an artifact's name now; None if there is none, or its pool is not active."""
        known = self.pools.find(made.pool)
        if made.volume is None or known is None or not known.is_active:
            return None
        key = VolumeKey(made.pool, made.volume)
        if key not in self._volumes:
            found = find_volume(known.pool, made.volume)
            self._volumes[key] = None if found is None else found.description
        return self._volumes[key]

    def _rests(self, link: Link, owner: str | None) -> Reference:
        """Return the reference of an image to the file, and who uses the image."""
        own_path = self._own_path(link)
        path = sanitise(own_path)
        needs = "keeps its data in it" if link.is_data else "rests on it"
        direct, above = self._namings_above(link)
        namings = direct + above
        if owner is not None and {naming.document.domain_uuid for naming in namings} == {owner}:
            naming = next((naming for naming in namings if naming.target is not None), namings[0])
            return Reference(_in_own_chain(path, naming, needs), ReferenceKind.OWN_CHAIN, path=own_path)
        says = f"'{path}' {needs}"
        if direct:
            says = f"'{path}' of {direct[0].document.says} {needs}"
        elif above:
            says = f"'{path}', on which {above[0].document.says} rests, {needs}"
        return Reference(says, ReferenceKind.RESTS, path=own_path)

    def _namings_above(self, link: Link) -> tuple[list[_Naming], list[_Naming]]:
        """Return the namings of an image, and those of all images above it, definitions before snapshots."""
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
        for namings in (direct, above):
            namings.sort(key=lambda naming: not naming.document.is_definition)
        return direct, above

    def _own_path(self, link: Link) -> str:
        """Return the path of an image, for artifacts in the spelling of the record."""
        return next((self._own_paths[key] for key in link.keys if key in self._own_paths), link.path)


def _places(document: DomainDocument) -> Iterator[Place]:
    yield from document.mentions.paths
    yield from document.mentions.volumes


def _locate(locator: Locator, place: Place) -> Whereabouts:
    return locator.of_path(place) if isinstance(place, str) else locator.of_volume(VolumeKey(*place))


def _path_of(place: Place, named: Mapping[Place, Whereabouts]) -> str:
    return named[place].path or "/".join(place)


def stands_in(path: str, argument: str) -> bool:
    """Return whether an argument contains the path, and not only a longer name that begins with the path."""
    _, *rests = argument.split(path)
    return any(not rest[:1].isalnum() and rest[:1] not in {"-", "_", ".", "/"} for rest in rests)


def _device_key_of(made: Artifact) -> str | None:
    """Return libvirt's key of a device that was made; None for a file."""
    return None if made.fingerprint is None else made.fingerprint.key


def _uses(naming: _Naming) -> Reference:
    return Reference(f"{naming.document.says} uses it", ReferenceKind.NAMES, domain_uuid=naming.document.domain_uuid)


def _in_own_chain(path: str, naming: _Naming, needs: str) -> str:
    chain = "a chain" if naming.target is None else f"the chain of disk {naming.target}"
    return f"'{path}', which is in {chain} of '{naming.document.domain_name}' itself, {needs}"
