"""The names of clones and of their volumes: how names are made, and which names are taken.

A file that a definition names is taken even where the file is missing: that domain would start with the clone's file.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from virtomate.errors import ConflictError, UsageError
from virtomate.names import MAX_FILE_NAME_BYTES
from virtomate.paths import normalise
from virtomate.services.storage import logical_name

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from virtomate.definition.mentions import Mentions
    from virtomate.services.clone.in_use import InUse

# What a freeze adds to the name of a volume, for an overlay on it.
OVERLAY = r"-overlay(?:-(?P<number>[1-9][0-9]*))?"
_IMAGE_SUFFIX = r"(?i)\.(raw|img|qcow2)$"


def automatic_names(source: str) -> Iterator[str]:
    """Return names for clones of a domain, without end: `base-clone`, `base-clone-2`, and so on."""
    return itertools.chain((f"{source}-clone",), (f"{source}-clone-{number}" for number in itertools.count(2)))


def new_volume_name(volume: str, source: str, clone: str, *, is_overlay: bool) -> str:
    """Return the name of a clone's volume.

    If the name of the original volume begins with the original's name as a whole word, the clone's name replaces that
    word; otherwise the clone's name is put in front. An overlay is qcow2, whatever the original volume is.
    """
    rest = volume.removeprefix(source)
    is_named_after_source = rest != volume and (not rest or rest[0] in ".-_")
    name = clone + rest if is_named_after_source else f"{clone}-{volume}"
    return re.sub(_IMAGE_SUFFIX, ".qcow2", name) if is_overlay else name


def name_on_device(volume: str) -> str:
    """Return the name for a logical volume that is made of the volume with a name."""
    return logical_name(re.sub(_IMAGE_SUFFIX, "", volume))


def name_of_file(volume: str, *, is_overlay: bool) -> str:
    """Return the name for a file that is made of the block device with a name, or rests on the device."""
    return re.sub(_IMAGE_SUFFIX, "", volume) + (".qcow2" if is_overlay else ".raw")


def name_before_freezes(volume: str) -> str:
    """Return what the volume of a disk may have been called before the disk moved onto overlays of freezes."""
    return re.sub(rf"{OVERLAY}(?=\.qcow2$)", "", volume)


def distinct_volume_name(name: str, target: str, taken: set[str]) -> str:
    """Return the name, with the disk's target added if the name is taken.

    Raises:
        UsageError: The name is too long for a file.
    """
    stem, suffix = posixpath.splitext(name)
    numbered = (f"{stem}-{target}-{number}{suffix}" for number in itertools.count(2))
    candidates = itertools.chain((name, f"{stem}-{target}{suffix}"), numbered)
    candidate = next(candidate for candidate in candidates if candidate not in taken)
    if len(candidate.encode()) > MAX_FILE_NAME_BYTES:
        raise UsageError(
            f"the clone's volume would be called '{candidate}', which has more than {MAX_FILE_NAME_BYTES} bytes; "
            "a shorter name for the clone is needed"
        )
    return candidate


class TakenNames:
    """Names that new volumes cannot have, by directory; two spellings and two pools of a directory are the same.

    Args:
        in_use: The files and volumes that domains name.
        directory_of: Returns the directory of a pool by the pool's name, None for a pool without a directory.
        is_local: Whether the daemon runs on this host, whose directories can be compared by their inodes.
    """

    def __init__(self, in_use: InUse, directory_of: Callable[[str], str | None], *, is_local: bool) -> None:
        self._in_use = in_use
        self._directory_of = directory_of
        self._is_local = is_local
        self._names: defaultdict[Hashable, set[str]] = defaultdict(set)
        self._keys: dict[str, Hashable] = {}
        self._latest: list[str] = []

    def names(self, directory: str) -> set[str]:
        """Return the names that new volumes of this run have in a directory."""
        return self._names[self._key(directory)]

    def latest_names(self, directory: str) -> set[str]:
        """Return the names that volumes of the clone being planned have in a directory."""
        places = map(posixpath.split, self._latest)
        return {name for place, name in places if self._key(place) == self._key(directory)}

    def take(self, directory: str, name: str, hint: str) -> None:
        """Give a name to a new volume.

        Raises:
            ConflictError: Another new volume has the path, or a domain names the path.
        """
        path, key = posixpath.join(directory, name), self._key(directory)
        if name in self._names[key]:
            raise ConflictError(f"two new volumes would be '{path}'", hint)
        self.refuse_mentioned(directory, name, hint)
        self._names[key].add(name)
        self._latest.append(path)

    def refuse_mentioned(self, directory: str, name: str, hint: str) -> None:
        """Raise ConflictError if a domain names a file of this name in a directory."""
        key = self._key(directory)
        for domain, mentions in self._in_use.mentioning(name):
            if any(place and self._key(place) == key for place in self._directories_of(name, mentions)):
                raise ConflictError(f"domain '{domain}' names '{posixpath.join(directory, name)}' as its own", hint)

    def _directories_of(self, name: str, mentions: Mentions) -> Iterator[str | None]:
        """Yield the directories of the files and volumes of this name that a definition mentions."""
        for place in map(posixpath.split, map(normalise, mentions.paths)):
            if place[1] == name:
                yield place[0]
        for pool, volume in mentions.volumes:
            if volume == name:
                yield self._directory_of(pool)

    def give_back(self, paths: Iterable[str]) -> None:
        """Forget the names of new volumes that will not be made."""
        for directory, name in map(posixpath.split, paths):
            self.names(directory).discard(name)

    @contextmanager
    def for_clone(self) -> Iterator[None]:
        """Plan a clone in the block; if the block fails, the names that were taken in it are free again."""
        self._latest.clear()
        try:
            yield
        except BaseException:
            self.give_back(self._latest)
            raise

    def _key(self, directory: str) -> Hashable:
        """Return the same for all spellings of a directory, as far as this host can tell."""
        if directory not in self._keys:
            self._keys[directory] = directory
            if self._is_local:
                with suppress(OSError, ValueError):
                    status = os.stat(directory)
                    self._keys[directory] = status.st_dev, status.st_ino
        return self._keys[directory]
