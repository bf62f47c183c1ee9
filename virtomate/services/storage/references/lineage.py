"""Which image rests on which, and which domains use the images, whatever tool made them.

The images themselves say on what they rest. Where an image cannot be read, the chain in a definition or the record of a
clone says so.
"""

from __future__ import annotations

import posixpath
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from virtomate.definition.provenance import DomainReference, read_record
from virtomate.enums import ArtifactKind
from virtomate.paths import is_url, normalise
from virtomate.services.storage.backend import VolumeKey
from virtomate.services.storage.file_pools import FILE_POOLS
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from virtomate.definition.mentions import Place
    from virtomate.services.storage.references.chains import Chains
    from virtomate.services.storage.references.documents import DomainDocument
    from virtomate.services.storage.references.whereabouts import Key, Locator, Whereabouts


class Image(NamedTuple):
    """An image that a domain uses, that rests on another image, or on which another image rests.

    Attributes:
        path: Path of the image, in a storage pool if one of the paths is in a pool.
        volume: The volume, None for an image in no storage pool.
        is_missing: Whether the image certainly does not exist.
    """

    path: str
    volume: VolumeKey | None
    is_missing: bool


class DiskUse(NamedTuple):
    """A domain has an image as the own image of a disk.

    Attributes:
        target: Target of the disk; None if the definition has none, or if a domain without disks keeps the image.
    """

    domain: DomainReference
    target: str | None


class _Classes:
    """The identities of files, joined as far as they lead to the same file."""

    def __init__(self) -> None:
        self._above: dict[Key, Key] = {}

    def add(self, keys: Iterable[Key]) -> Key:
        """Join identities, and return what stands for their file, until more are joined."""
        first, *others = map(self.of, keys)
        for other in others:
            if other != first:
                self._above[other] = first
        return first

    def of(self, key: Key) -> Key:
        """Return what stands for the file of an identity."""
        while (above := self._above.get(key, key)) != key:
            self._above[key] = self._above.get(above, above)
            key = above
        return key


class _Found(NamedTuple):
    """What the look at all documents and images has found, by what stands for each file."""

    images: dict[Key, Image]
    below: dict[Key, tuple[Key, ...]]
    above: dict[Key, tuple[Key, ...]]
    uses: dict[Key, tuple[DiskUse, ...]]
    by_path: dict[str, Key]


class Lineage:
    """The images of a connection, what they rest on, and what uses them.

    An image that keeps its data in another file rests on that file, too.
    """

    def __init__(
        self,
        locator: Locator,
        chains: Chains,
        documents: Iterable[DomainDocument],
        named: Mapping[Place, Whereabouts],
    ) -> None:
        self._locator = locator
        self._chains = chains
        self._documents = documents
        self._named = named

    @property
    def images(self) -> tuple[Image, ...]:
        """All images that a domain uses as a disk's own, or that rest on another, or on which another rests."""
        return tuple(sorted(self._found.images.values()))

    def find(self, path: str) -> Image | None:
        """Return the image with a path, under any of the paths by which a definition, pool or image leads to it."""
        key = self._found.by_path.get(normalise(path))
        return None if key is None else self._found.images[key]

    def bases(self, image: Image) -> tuple[Image, ...]:
        """Return the images directly below; hardly ever more than one."""
        return self._beside(image, self._found.below)

    def overlays(self, image: Image) -> tuple[Image, ...]:
        """Return the images directly above."""
        return self._beside(image, self._found.above)

    def chain(self, image: Image) -> tuple[Image, ...]:
        """Return all images below, nearest first."""
        return _all_beside(image, self.bases)

    def dependents(self, image: Image) -> tuple[Image, ...]:
        """Return all images above, nearest first: these are lost when somebody writes to the image."""
        return _all_beside(image, self.overlays)

    def uses(self, image: Image) -> tuple[DiskUse, ...]:
        """Return the disks of domains that have the image as their own, by the name of the domain."""
        return self._found.uses.get(self._found.by_path[image.path], ())

    def disks(self, domain_uuid: str) -> tuple[tuple[str | None, Image], ...]:
        """Return the own images of a domain's disks, each with the target of the disk."""
        return tuple(self._by_domain.get(domain_uuid, ()))

    @cached_property
    def _by_domain(self) -> dict[str, list[tuple[str | None, Image]]]:
        found: dict[str, list[tuple[str | None, Image]]] = {}
        for key, uses in self._found.uses.items():
            for use in uses:
                found.setdefault(use.domain.uuid, []).append((use.target, self._found.images[key]))
        for disks in found.values():
            disks.sort(key=lambda disk: (disk[0] or "", disk[1]))
        return found

    def _beside(self, image: Image, edges: Mapping[Key, tuple[Key, ...]]) -> tuple[Image, ...]:
        keys = edges.get(self._found.by_path[image.path], ())
        return tuple(sorted(self._found.images[key] for key in keys))

    @cached_property
    def _found(self) -> _Found:
        return _Reader(self._locator, self._chains, self._named).read(self._documents)


class _Reader:
    def __init__(self, locator: Locator, chains: Chains, named: Mapping[Place, Whereabouts]) -> None:
        self._locator = locator
        self._chains = chains
        self._named = named
        self._classes = _Classes()
        self._paths: dict[str, Key] = {}
        self._absent: set[str] = set()
        self._edges: dict[tuple[Key, Key], None] = {}
        self._uses: dict[tuple[Key, DiskUse], None] = {}
        self._volumes: dict[str, str | None] = {}

    def read(self, documents: Iterable[DomainDocument]) -> _Found:
        """Join what documents and images say."""
        for paths in self._chains.same_volumes():
            self._classes.add(key for path in paths for key in self._locator.of_path(path).keys)
        for link in self._chains.links:
            self._paths[normalise(link.path)] = upper = self._classes.add(link.keys)
            self._edges[upper, self._add(link.below)] = None
        for document in documents:
            if document.is_definition:
                self._read_definition(document)
        return self._collected()

    def _read_definition(self, document: DomainDocument) -> None:
        domain = DomainReference(document.domain_name, document.domain_uuid)
        for disk in document.mentions.disks:
            chain = [self._named[place] for place in disk.places]
            for where in chain[:1]:
                self._uses[self._add(where), DiskUse(domain, disk.target)] = None
            for upper, lower in pairwise(chain):
                self._guess(upper, lower)
        for element in document.mentions.records:
            record = read_record(element, document.domain_uuid)
            for made in () if record is None else record.made:
                where = self._locator.of_path(made.path)
                if made.base is not None:
                    self._guess(where, self._locator.of_path(made.base))
                if record is not None and record.is_moment and made.kind is ArtifactKind.VOLUME:
                    # the domain that keeps the images of a running original has no disks
                    self._uses[self._add(where), DiskUse(domain, None)] = None

    def _guess(self, upper: Whereabouts, lower: Whereabouts) -> None:
        """Believe a definition or record that an image rests on another, where the image cannot be read."""
        if not self._chains.is_read(upper) and not self._is_absent(upper):
            self._edges[self._add(upper), self._add(lower)] = None

    def _add(self, where: Whereabouts) -> Key:
        key = self._classes.add(where.keys)
        if where.path is not None:
            path = normalise(where.path)
            self._paths[path] = key
            if self._is_absent(where):
                self._absent.add(path)
        return key

    def _is_absent(self, where: Whereabouts) -> bool:
        if where.path is None or is_url(where.path) or where.status is not None or self._chains.is_read(where):
            return False
        # a file that cannot be looked at may be there; an empty directory may be the place of a mount
        is_nowhere = where.obstacle is None and self._locator.is_seen(posixpath.dirname(normalise(where.path)))
        return is_nowhere or self._chains.is_gone(where)

    def _add_other_paths(self) -> None:
        """Add the paths, in a storage pool for example, by which no definition and no image names an image."""
        known = {self._classes.of(key) for key in self._paths.values()}
        for where in self._locator.looked_at():
            keys = {self._classes.of(key) for key in where.keys} & known
            if where.path is not None and keys:
                self._paths.setdefault(normalise(where.path), keys.pop())

    def _collected(self) -> _Found:
        self._add_other_paths()
        paths: dict[Key, list[str]] = {}
        for path, key in self._paths.items():
            paths.setdefault(self._classes.of(key), []).append(path)
        images = {key: self._image(found) for key, found in paths.items()}
        below: dict[Key, dict[Key, None]] = {}
        for upper, lower in ((self._classes.of(upper), self._classes.of(lower)) for upper, lower in self._edges):
            if upper != lower and upper in images and lower in images:
                below.setdefault(upper, {})[lower] = None
        # of the readings of one name, those that lead nowhere do not count, unless all do
        kept = {
            upper: tuple(key for key in lower if not images[key].is_missing) or tuple(lower)[:1]
            for upper, lower in below.items()
        }
        above: dict[Key, list[Key]] = {}
        for upper, lowers in kept.items():
            for key in lowers:
                above.setdefault(key, []).append(upper)
        uses: dict[Key, list[DiskUse]] = {}
        for key, use in dict.fromkeys((self._classes.of(key), use) for key, use in self._uses):
            if key in images:
                uses.setdefault(key, []).append(use)
        involved = kept.keys() | above.keys() | uses.keys()
        return _Found(
            images={key: image for key, image in images.items() if key in involved},
            below=kept,
            above={key: tuple(found) for key, found in above.items()},
            uses={key: tuple(sorted(found, key=_by_name)) for key, found in uses.items()},
            by_path={path: key for key, found in paths.items() if key in involved for path in found},
        )

    def _image(self, paths: list[str]) -> Image:
        path, pool = min(((path, self._pool_of(path)) for path in paths), key=lambda found: (not found[1], found[0]))
        volume = None if pool is None else VolumeKey(pool, posixpath.basename(path))
        return Image(path, volume, all(item in self._absent for item in paths))

    def _pool_of(self, path: str) -> str | None:
        """Return the name of the storage pool over a path's directory."""
        directory = posixpath.dirname(path)
        if directory not in self._volumes:
            known = self._locator.pools.covering(directory)
            is_known = known is not None and known.description.type in FILE_POOLS
            self._volumes[directory] = known.pool.name if known is not None and is_known else None
        return self._volumes[directory]


def _by_name(use: DiskUse) -> tuple[str, str, str]:
    return use.domain.name, use.domain.uuid, use.target or ""


def _all_beside(image: Image, beside: Callable[[Image], tuple[Image, ...]]) -> tuple[Image, ...]:
    found: dict[Image, None] = {}
    left = list(beside(image))
    while left:
        item = left.pop(0)
        if item not in found and item != image:
            found[item] = None
            left += beside(item)
    return tuple(found)
