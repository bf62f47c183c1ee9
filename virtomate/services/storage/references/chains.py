"""Which image rests on which: the headers of all images that pools and definitions lead to, to the end of each chain.

If files can be seen, their headers are read, in any directory; libvirt may remember older ones. Otherwise libvirt
describes the volumes of its pools.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections import defaultdict
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication.host_images import made_up_devices, may_be_image, read_links_here
from virtomate.duplication.image_headers import LONG_HEADER_BYTES, ImageLinks, read_links
from virtomate.errors import IllegalStateError, NotFoundError, OversizeError, VirtomateError
from virtomate.hypervisor.storage import read_head
from virtomate.notices import Notice, ScanWarning, notice
from virtomate.paths import files_in, normalise, url_in
from virtomate.services.storage.file_pools import FILE_POOLS
from virtomate.services.storage.pools import read_pools
from virtomate.services.storage.references.whereabouts import has_directory, is_in_service
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume
    from virtomate.services.storage.pools import PoolEntry
    from virtomate.services.storage.references.documents import ReferenceCache
    from virtomate.services.storage.references.whereabouts import Key, Locator, Whereabouts

_NAMED_FILES = 2
_NO_LINKS = ImageLinks()


class Link(NamedTuple):
    """An image needs another file.

    Attributes:
        path: Path of the image.
        keys: The identities of the image.
        is_data: Whether the other file holds the image's data; otherwise the image rests on it.
        below: The other file.
        is_raw: Whether the image calls the other file raw: nothing is below the other file.
    """

    path: str
    keys: frozenset[Key]
    is_data: bool
    below: Whereabouts
    is_raw: bool = False


class Chains:
    """All images, and the files that they need.

    Attributes:
        warnings: What could not be read.
    """

    def __init__(self, connection: Connection, locator: Locator, cache: ReferenceCache) -> None:
        self.links: list[Link] = []
        self.warnings: list[Notice] = []
        self._connection = connection
        self._locator = locator
        self._cache = cache
        self._made_up = made_up_devices() if locator.is_local else frozenset[int]()
        self._visited: set[tuple[Key, str]] = set()
        self._read: set[Key] = set()
        self._listed: set[str] = set()
        self._undescribed: set[str] = set()
        self._malformed: list[str] = []
        self._unreadable: dict[str, str] = {}
        self._left: list[Whereabouts] = []
        self._described: defaultdict[str, list[VolumeDescription]] = defaultdict(list)

    def is_read(self, image: Whereabouts) -> bool:
        """Return whether the links of an image are known."""
        return not self._read.isdisjoint(image.keys)

    def is_gone(self, image: Whereabouts) -> bool:
        """Return whether the image certainly does not exist."""
        if image.path is None or self.is_read(image) or image.status is not None:
            return False
        path = normalise(image.path)
        directory = posixpath.dirname(path)
        if path in self._undescribed:
            return False
        return image.is_settled and (self._locator.is_seen(directory) or directory in self._listed)

    def has_described(self, name: str) -> bool:
        """Return whether libvirt has described volumes of this name that cannot be seen here."""
        return name in self._described

    def twins(self, volume: VolumeDescription) -> list[str]:
        """Return other paths of a volume that cannot be seen here.

        If one directory is a link to another, there are volumes of the same name, length and times, to the nanosecond.
        """
        return [
            other.path
            for other in self._described[posixpath.basename(volume.path)]
            if other.path != volume.path
            and volume.changed is not None
            and (other.physical, other.changed, other.modified) == (volume.physical, volume.changed, volume.modified)
        ]

    def same_volumes(self) -> Iterator[list[str]]:
        """Yield the paths of volumes that cannot be seen here and are the same, see `twins`."""
        for volumes in self._described.values():
            if len(volumes) > 1:
                yield from ([volume.path, *others] for volume in volumes if (others := self.twins(volume)))

    def read_pool(self, known: PoolEntry, listing: list[str] | None, named: set[str]) -> None:
        """Read all images of a pool, active or not.

        Args:
            known: The pool.
            listing: The paths of its files, None if they cannot be seen from here.
            named: Paths that definitions name.
        """
        directory = known.description.path
        if directory is None or not has_directory(known):
            return
        self.read_files(self._locator.of_path(path) for path in listing or ())
        if not known.is_active or known.description.type not in FILE_POOLS:
            return
        if listing is None:
            self._ask_for_volumes(known, directory, named, None)
        elif hidden := {path for path in self._unreadable if posixpath.dirname(path) == directory}:
            self._ask_for_volumes(known, directory, named, hidden)

    def finish(self, images: Iterable[tuple[Whereabouts, bool]]) -> None:
        """Add warnings of images that could not be read, and may rest on others.

        Args:
            images: The images that definitions name, each with whether the definition calls it raw.
        """
        raw, others = set[str](), set[str]()
        for image, is_raw in (*images, *((link.below, link.is_raw) for link in self.links)):
            if image.path is None:
                continue
            (raw if is_raw else others).add(image.path)
            if image.obstacle is not None and not self.is_read(image):
                self._unreadable.setdefault(image.path, image.obstacle)
        hidden = [path for path in self._unreadable if not self.is_read(self._locator.of_path(path))]
        hidden = [path for path in hidden if path in others or path not in raw]
        if hidden:
            self._warn(hidden, self._unreadable[hidden[0]])
        if self._malformed:
            self._warn(self._malformed, "malformed image header")

    def _warn(self, paths: list[str], reason: str) -> None:
        named = [f"'{sanitise(path)}'" for path in paths[:_NAMED_FILES]]
        rest = len(paths) - len(named)
        which = f"{', '.join(named)} and {rest} more" if rest else " and ".join(named)
        self.warnings.append(notice(ScanWarning.UNREADABLE_IMAGE, which, reason=reason))

    def read_files(self, files: Iterable[Whereabouts]) -> None:
        """Read images and all images below them; each once in each directory, to which relative names refer."""
        self._left.extend(files)
        while self._left:
            file = self._left.pop()
            if file.status is None or file.path is None or not may_be_image(file.status, self._made_up):
                continue
            directory = posixpath.dirname(normalise(file.path))
            visit = {(key, directory) for key in file.keys if key[0] != "path"}
            if visit <= self._visited:
                continue
            self._visited |= visit
            links = self._links_of(file.path, file.status)
            if links is not None:
                self._read |= file.keys
                self._add(file.path, file.keys, links)

    def _links_of(self, path: str, status: os.stat_result) -> ImageLinks | None:
        links = _NO_LINKS if stat.S_ISREG(status.st_mode) and not status.st_size else self._cache.links(status)
        if links is None:
            try:
                links = read_links_here(path, self._made_up)
            except (OSError, ValueError) as error:
                self._unreadable[path] = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
                return None
            if links is not None:
                self._cache.add_links(status, links)
        return links

    def _add(self, path: str, keys: frozenset[Key], links: ImageLinks) -> None:
        if links.is_malformed:
            self._malformed.append(path)
        if links.backing is not None:
            self._add_name(path, keys, links.backing, is_data=False, is_raw=links.backing_format == "raw")
        for name in links.data:
            self._add_name(path, keys, name, is_data=True, is_raw=True)

    def _add_name(self, path: str, keys: frozenset[Key], name: str, *, is_data: bool, is_raw: bool) -> None:
        if (url := url_in(name)) is not None:
            self.links.append(Link(path, keys, is_data, self._locator.of_path(url)))
            return
        directories = {posixpath.dirname(path)}
        if self._locator.is_seen(posixpath.dirname(normalise(path))) and os.path.islink(path):
            # QEMU looks beside the path that it was given
            directories.add(posixpath.dirname(os.path.realpath(path)))
        found = [
            self._locator.of_path(posixpath.join(directory, file))
            for file in files_in(name)
            for directory in directories
        ]
        if any(below.status is not None for below in found):
            # if one reading of the name leads to a file, the other readings need not be settled
            found = [below for below in found if below.is_settled]
        self.links += (Link(path, keys, is_data, below, is_raw) for below in found)
        self._left += found

    def _ask_for_volumes(self, known: PoolEntry, directory: str, named: set[str], only: set[str] | None) -> None:
        """Have libvirt describe the volumes of a pool, all or those with some paths, after a refresh."""
        is_fresh = known.pool.refresh()
        if not is_fresh and not is_in_service(known.pool):
            self._locator.pools = read_pools(self._connection)
            self.warnings.append(Notice(ScanWarning.UNREADABLE_POOL, known.pool.name))
            return
        if is_fresh:
            self._listed.add(directory)
        broken: dict[str, str] = {}
        for volume in self._volumes(known, directory, named, only):
            path = posixpath.join(directory, volume.name)
            try:
                self._ask_for_volume(known, volume, path, is_suspect=not is_fresh and path in named)
            except NotFoundError:
                continue
            except VirtomateError as error:
                if not self._connection.is_alive:
                    raise
                broken[path] = error.message
                self._undescribed.add(path)
        if broken:
            self._warn(list(broken), next(iter(broken.values())))

    def _volumes(self, known: PoolEntry, directory: str, named: set[str], only: set[str] | None) -> Iterator[Volume]:
        """Yield the volumes of a pool, or those at the paths `only`; the `named` ones if libvirt cannot list all."""
        volumes: list[Volume] = []
        if only is None:
            try:
                volumes = known.pool.list_volumes()
            except OversizeError:
                self._listed.discard(directory)
                self.warnings.append(Notice(ScanWarning.UNLISTED_POOL, known.pool.name))
                only = {path for path in named if posixpath.dirname(path) == directory}
        yield from volumes
        for path in sorted(only or ()):
            if (volume := known.pool.find_volume(posixpath.basename(path))) is not None:
                yield volume

    def _ask_for_volume(self, known: PoolEntry, volume: Volume, path: str, *, is_suspect: bool) -> None:
        document = volume.document()
        description = describe_volume(known.pool.name, document)
        found = self._locator.of_path(path)
        self._described[volume.name].append(description)
        self._read |= found.keys
        if is_suspect and (links := self._read_through_libvirt(volume)) is not None:
            self._add(path, found.keys, links)
        elif description.backing_path:
            is_raw = description.backing_format == "raw"
            self._add_name(path, found.keys, description.backing_path, is_data=False, is_raw=is_raw)

    def _read_through_libvirt(self, volume: Volume) -> ImageLinks | None:
        """Read the links from the image: libvirt may remember old ones while it builds another volume."""
        try:
            return read_links(read_head(self._connection, volume, LONG_HEADER_BYTES))
        except IllegalStateError:
            # libvirt is still building the volume, and then knows its base
            return None


def sanitise(path: str) -> str:
    """Return a path for a sentence; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")
