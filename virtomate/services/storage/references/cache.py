"""What was read from definitions and images, for the next look in the same run."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from virtomate.definition.mentions import read_mentions

if TYPE_CHECKING:
    import os

    from virtomate.definition.mentions import Mentions
    from virtomate.duplication.image_headers import ImageLinks

# A file that has just been written may be written again within the same tick of its file system's clock.
_SETTLED_NANOSECONDS = 2_000_000_000

_Fingerprint = tuple[int, int, int, int, int]


class ReferenceCache:
    """Keeps what documents mention, by their text, and the links of images, by their times."""

    def __init__(self) -> None:
        self._mentions: dict[bytes, Mentions] = {}
        self._links: dict[_Fingerprint, ImageLinks] = {}

    def mentions(self, document: str) -> Mentions:
        """Return what a document mentions."""
        digest = hashlib.blake2b(document.encode(errors="replace"), digest_size=32).digest()
        if digest not in self._mentions:
            self._mentions[digest] = read_mentions(document)
        return self._mentions[digest]

    def links(self, status: os.stat_result) -> ImageLinks | None:
        """Return the links of an image with this status, None where they have not been read."""
        return self._links.get(_fingerprint(status))

    def add_links(self, status: os.stat_result, links: ImageLinks) -> None:
        """Remember the links of an image, unless it was written just now."""
        if max(status.st_mtime_ns, status.st_ctime_ns) + _SETTLED_NANOSECONDS < time.time_ns():
            self._links[_fingerprint(status)] = links


def _fingerprint(status: os.stat_result) -> _Fingerprint:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
