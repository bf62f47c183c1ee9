"""What is taken: names that new volumes have by now, and files that definitions name, whether they are there or not.

A definition whose file is away would start with the clone's.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.errors import ConflictError
from virtomate.paths import normalise
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping


class NamedFiles(NamedTuple):
    """Files and volumes that definitions name.

    Attributes:
        paths: Directory of a file and name of the domain that names it, by the file's base name.
        volumes: Name of a pool, and of the domain that names the volume, by the volume's name.
    """

    paths: Mapping[str, frozenset[tuple[str, str]]]
    volumes: Mapping[str, frozenset[tuple[str, str]]]


def named_files(mentions: Iterable[tuple[str, Iterable[str | tuple[str, str]]]]) -> NamedFiles:
    """Sort what domains name.

    Args:
        mentions: For each domain its name, and the absolute paths and the volumes, by pool and name, that it names.
    """
    paths: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    volumes: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for domain, places in mentions:
        for place in places:
            if isinstance(place, tuple):
                volumes[place[1]].add((place[0], domain))
            else:
                directory, name = posixpath.split(normalise(place))
                paths[name].add((directory, domain))
    return NamedFiles(_frozen(paths), _frozen(volumes))


def _frozen(found: Mapping[str, set[tuple[str, str]]]) -> dict[str, frozenset[tuple[str, str]]]:
    return {name: frozenset(places) for name, places in found.items()}


class TakenNames:
    """Names that new volumes cannot have, by directory; two spellings and two pools of one directory are one.

    Args:
        named: What definitions name.
        directory_of: The directory of a pool by its name, None where it has none.
        is_local: Whether the daemon runs on this host, so that its directories can be told apart by their inodes.
    """

    def __init__(self, named: NamedFiles, directory_of: Callable[[str], str | None], *, is_local: bool) -> None:
        self._named = named
        self._directory_of = directory_of
        self._is_local = is_local
        self._names: defaultdict[Hashable, set[str]] = defaultdict(set)
        self._keys: dict[str, Hashable] = {}
        self._latest: list[str] = []

    def directory(self, directory: str) -> Hashable:
        """What is the same for all spellings of a directory, as far as they can be told from here."""
        if directory not in self._keys:
            self._keys[directory] = _identity(directory) if self._is_local else directory
        return self._keys[directory]

    def has(self, directory: str, name: str) -> bool:
        """Whether a new volume of this run has the name."""
        return name in self._names[self.directory(directory)]

    def refuse_named(self, directory: str, name: str, hint: str) -> None:
        """Refuse a name that a definition has for a file, whether that is there or not.

        Raises:
            ConflictError: A domain names it.
        """
        places = [(place, domain) for place, domain in self._named.paths.get(name, ())]
        for pool, domain in self._named.volumes.get(name, ()):
            if (place := self._directory_of(pool)) is not None:
                places.append((place, domain))
        for place, domain in sorted(places):
            if self.directory(place) == self.directory(directory):
                raise ConflictError(f"domain '{domain}' names '{posixpath.join(directory, name)}' as its own", hint)

    def add(self, directory: str, name: str) -> None:
        """Note that a new volume gets this name."""
        self._names[self.directory(directory)].add(name)
        self._latest.append(posixpath.join(directory, name))

    def give_back(self, paths: Iterable[str]) -> None:
        """Forget the names of new volumes that will not be made."""
        for directory, name in map(posixpath.split, paths):
            self._names[self.directory(directory)].discard(name)

    @contextmanager
    def kept_on_success(self) -> Iterator[None]:
        """Forget the names of a block that fails."""
        self._latest.clear()
        try:
            yield
        except BaseException:
            self.give_back(self._latest)
            raise


def _identity(directory: str) -> Hashable:
    try:
        status = os.stat(directory)
    except (OSError, ValueError):
        return directory
    return status.st_dev, status.st_ino
