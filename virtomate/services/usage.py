"""Who uses a volume: one look at all domains and all volumes, for as many volumes as are to be deleted.

libvirt deletes a volume whoever uses it, so this is all that stands between a clone's volume and a domain that was
given it, or an image that rests on it.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition.provenance import NAMESPACE, read_provenance
from virtomate.definition.volume import backing_paths, describe_volume, normalise
from virtomate.duplication.images import HEADER_BYTES, read_qcow2_header
from virtomate.errors import IllegalStateError, NotFoundError
from virtomate.hypervisor.domains import list_active_domains, list_domains
from virtomate.hypervisor.storage import read_head
from virtomate.services.definitions import Definitions
from virtomate.services.maker import is_running
from virtomate.services.pools import read_pools

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from virtomate.definition.codec import Definition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.storage import Pool, Volume
    from virtomate.records import Made
    from virtomate.services.pools import KnownPool, PoolDirectory

# Pools whose volumes are files, of which one may rest on another.
_FILE_POOLS = {"dir", "fs", "netfs", "vstorage"}

Place = str | tuple[str, str]


@dataclass(frozen=True)
class User:
    """What uses a volume.

    Attributes:
        says: A sentence about it that ends in "it": "domain 'web' uses it".
        domain_uuid: The domain that it is, None for an image.
        path: The image that rests on the volume, None for a domain.
    """

    says: str
    domain_uuid: str | None = None
    path: str | None = None


class Usage:
    """What a look at all domains and volumes found.

    Attributes:
        pools: The pools there.
        abridged: Names of domains of which nothing but the disks could be looked at.
    """

    def __init__(self, pools: PoolDirectory, *, is_local: bool) -> None:
        self.pools = pools
        self.abridged: frozenset[str] = frozenset()
        self._is_local = is_local
        self._users: defaultdict[str, dict[str, User]] = defaultdict(dict)
        self._volumes: dict[tuple[str, str], VolumeDescription] = {}

    def is_there(self, path: str) -> bool:
        """Whether there is such a file, as far as it can be seen here or libvirt knows it."""
        if self._is_local:
            return os.path.lexists(path)
        known = self.pools.covering(posixpath.dirname(path))
        return known is not None and known.is_active and known.pool.find_volume(posixpath.basename(path)) is not None

    def users(self, made: Made) -> tuple[User, ...]:
        """Who uses something that cloning made, other than the clone itself."""
        return tuple(self._users[made.path].values())

    def volume(self, made: Made) -> VolumeDescription | None:
        """The volume that has its name now; None where there is none, or its pool could not be looked through."""
        return None if made.volume is None else self._volumes.get((made.pool, made.volume))

    def add_user(self, path: str, user: User) -> None:
        """Note that somebody uses the volume with this path."""
        self._users[path].setdefault(user.says, user)

    def add_volume(self, description: VolumeDescription) -> None:
        """Note what a volume is like now."""
        self._volumes[description.pool, description.name] = description


def scan_usage(connection: Connection, wanted: Mapping[str, Iterable[Made]]) -> Usage:
    """Look at every domain and every volume once; an active domain twice, since it may use other things now.

    Args:
        connection: Where to look.
        wanted: What may be deleted, by the UUID of the clone it was made for.

    Raises:
        VirtomateError: A domain or volume cannot be looked at, so that nothing can be said.
    """
    usage = Usage(read_pools(connection), is_local=connection.is_local)
    scan = _Scan(connection, usage, {uuid: tuple(made) for uuid, made in wanted.items()})
    scan.look_at_domains()
    scan.look_at_volumes()
    scan.look_outside_of_pools()
    return usage


class _Scan:
    """One look."""

    def __init__(self, connection: Connection, usage: Usage, wanted: Mapping[str, tuple[Made, ...]]) -> None:
        self._connection = connection
        self._usage = usage
        self._is_local = connection.is_local
        self._wanted = wanted
        self._own_paths = {uuid: {made.path for made in things} for uuid, things in wanted.items()}
        self._inodes: dict[str, tuple[int, int] | None] = {}
        self._paths: dict[str | tuple[int, int], set[str]] = defaultdict(set)
        for path in {path for paths in self._own_paths.values() for path in paths}:
            self._paths[path].add(path)
            if (inode := self._inode(path)) is not None:
                self._paths[inode].add(path)
        self._domain_names: dict[str, str] = {}
        self._volume_paths: set[str] = set()
        self._unlisted_paths: set[str] = set()

    def look_at_domains(self) -> None:
        definitions = Definitions()
        active = {domain.uuid for domain in list_active_domains(self._connection)}
        for domain in list_domains(self._connection):
            try:
                self._look_at_definition(domain, definitions.inactive(domain))
                if domain.uuid in active:
                    self._look_at_definition(domain, definitions.live(domain))
            except NotFoundError:
                continue
        self._usage.abridged = frozenset(definitions.abridged)

    def look_at_volumes(self) -> None:
        active = [known for known in self._usage.pools.known if known.is_active]
        for known in active:
            if known.description.type in _FILE_POOLS:
                # what somebody made without libvirt counts as well
                is_fresh = known.pool.refresh()
                if not is_fresh and not _is_in_service(known.pool):
                    self._usage.pools = read_pools(self._connection)
                    continue
                self._look_through(known, is_fresh=is_fresh)
                if not is_fresh and known.description.path is not None:
                    # while something is being built in it, libvirt does not look for new files
                    self._unlisted_paths |= _list_files(known.description.path)

    def look_outside_of_pools(self) -> None:
        """Look at images that no pool has told of, as far as they can be read here."""
        if not self._is_local:
            return
        for path in (self._domain_names.keys() | self._unlisted_paths) - self._volume_paths:
            if (below := _name_below(path)) is not None:
                self._rests(path, below)

    def _look_at_definition(self, domain: Domain, text: str) -> None:
        found = {self._path_of(place) for place in readers.find_places(text)}
        for path in found:
            if path is not None:
                self._domain_names.setdefault(path, domain.name)
        is_of_interest = (
            "qemu:commandline" in text
            or (NAMESPACE in text and any(uuid in self._wanted for uuid in _uuids(text)))
            or any(True for path in found if path is not None and self._wanted_at(path))
        )
        # parsing a thousand definitions takes longer than all the rest
        if is_of_interest:
            self._look_closely(domain, codec.parse_definition(text))

    def _look_closely(self, domain: Domain, definition: Definition) -> None:
        own = self._own_paths.get(domain.uuid, set())
        user = User(f"domain '{domain.name}' uses it", domain_uuid=domain.uuid)
        for path in self._named_in(definition) - own:
            self._usage.add_user(path, user)
        if own:
            self._look_at_own_chains(domain, definition, own)
        provenance = read_provenance(definition)
        if provenance is not None and not provenance.finished and provenance.maker and is_running(provenance.maker):
            for made in self._wanted.get(provenance.source.uuid, ()):
                self._usage.add_user(made.path, User(f"domain '{domain.name}' is being cloned from it"))

    def _named_in(self, definition: Definition) -> set[str]:
        """Which of the wanted paths a definition names, whatever for, or a record of ours in it."""
        named: set[str] = set()
        for place in readers.places(definition.domain):
            named |= self._wanted_at(self._path_of(place))
        for argument in readers.command_line_arguments(definition.domain):
            named |= {path for paths in self._own_paths.values() for path in paths if path in argument}
        if (provenance := read_provenance(definition)) is not None:
            for made in provenance.made:
                named |= self._wanted_at(made.path) if made.evidence is not None else set()
        return named

    def _look_at_own_chains(self, domain: Domain, definition: Definition, own: set[str]) -> None:
        """Find images that the clone has come to use since, and that rest on its own volumes."""
        for disk, element in zip(
            readers.disks(definition.domain), readers.devices(definition.domain, "disk"), strict=True
        ):
            top = self._path_of(disk.path or (disk.pool or "", disk.volume or ""))
            if self._wanted_at(top) & own:
                continue
            for place in readers.places(element):
                for path in self._wanted_at(self._path_of(place)) & own:
                    says = f"disk {disk.target} of domain '{domain.name}' ({disk.location}) rests on it"
                    self._usage.add_user(path, User(says, path=top))

    def _look_through(self, known: KnownPool, *, is_fresh: bool) -> None:
        wanted = {made.volume for things in self._wanted.values() for made in things if made.pool == known.pool.name}
        for volume in known.pool.list_volumes():
            try:
                document = volume.document()
            except NotFoundError:
                continue
            path = posixpath.join(known.description.path or "", volume.name)
            self._volume_paths.add(path)
            is_old_news = not is_fresh and path in self._domain_names
            if (
                is_old_news
                and "<backingStore>" not in document
                and (below := self._read_name_below(volume)) is not None
            ):
                # an overlay that libvirt takes for an empty file, since something is being built beside it
                self._rests(path, below)
            if volume.name not in wanted and "<backingStore>" not in document:
                continue
            description = describe_volume(known.pool.name, document)
            self._usage.add_volume(description)
            if description.backing_path:
                self._rests(description.path, description.backing_path)

    def _read_name_below(self, volume: Volume) -> str | None:
        """How an image names what is below it, whatever libvirt remembers of it."""
        try:
            header = read_qcow2_header(read_head(self._connection, volume, HEADER_BYTES))
        except IllegalStateError:
            # libvirt is still building it, and then knows what it is to rest on
            return None
        return None if header is None else header.backing_file

    def _rests(self, path: str, backing_name: str) -> None:
        """Note that an image rests on another."""
        of_domain = f" of domain '{name}'" if (name := self._domain_names.get(path)) else ""
        for below in backing_paths(path, backing_name):
            for wanted in self._wanted_at(below):
                self._usage.add_user(wanted, User(f"'{path}'{of_domain} rests on it", path=path))

    def _path_of(self, place: Place) -> str | None:
        if isinstance(place, tuple):
            place = self._usage.pools.path_of(*place) or ""
        return normalise(place) if place else None

    def _wanted_at(self, path: str | None) -> set[str]:
        """Which of the wanted paths lead to the same file as this one."""
        if path is None:
            return set()
        same = self._paths.get(path, set())
        inode = self._inode(path)
        return same if inode is None else same | self._paths.get(inode, set())

    def _inode(self, path: str) -> tuple[int, int] | None:
        """What tells a file that has several paths, where it can be seen from here."""
        if not self._is_local:
            return None
        if path not in self._inodes:
            try:
                status = os.stat(path)  # noqa: PTH116 - no path object is needed for a thousand of them
            except (OSError, ValueError):
                self._inodes[path] = None
            else:
                self._inodes[path] = (status.st_dev, status.st_ino)
        return self._inodes[path]


def _is_in_service(pool: Pool) -> bool:
    """Whether a pool still is; libvirt stops one whose directory is not there any more."""
    try:
        return pool.is_active()
    except NotFoundError:
        return False


def _list_files(directory: str) -> set[str]:
    """The paths of a directory's files, as far as it can be read here."""
    try:
        return {posixpath.join(directory, name) for name in os.listdir(directory)}  # noqa: PTH208 - likewise
    except OSError:
        return set()


def _uuids(text: str) -> Iterator[str]:
    """Every UUID that stands in quotes."""
    for word in text.replace('"', "'").split("'"):
        if len(word) == 36 and word.count("-") == 4:  # noqa: PLR2004 - the form of a UUID
            yield word


def _name_below(path: str) -> str | None:
    """How an image here names what is below it; None where it is no qcow2 overlay, or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - likewise
            return None
        with Path(path).open("rb") as file:
            header = read_qcow2_header(file.read(HEADER_BYTES))
    except (OSError, ValueError):
        return None
    return None if header is None else header.backing_file
