"""A look at images that clones rest on: at the files themselves where they are seen here, else through libvirt."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken
from virtomate.definition.lower_images import BaseFingerprint, fingerprint_base
from virtomate.definition.volume import describe_volume
from virtomate.duplication.content import digest_beside_header
from virtomate.duplication.devices import device_bytes
from virtomate.duplication.host_images import made_up_devices, read_head_here
from virtomate.duplication.hostfs import NANOSECONDS, birth_time, nanoseconds
from virtomate.duplication.image_headers import (
    HEADER_BYTES,
    LONG_HEADER_BYTES,
    ImageLinks,
    header_digest,
    read_links,
)
from virtomate.duplication.rebasing import opened_for_reading
from virtomate.errors import IllegalStateError, NotFoundError, OversizeError, VirtomateError
from virtomate.hypervisor.storage import read_head
from virtomate.paths import files_in, is_among_devices, is_url, normalise, url_in
from virtomate.services.storage import read_pools, refresh_when_idle
from virtomate.services.storage.devices import find_device
from virtomate.services.storage.references import Locator
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume
    from virtomate.services.storage import PoolEntry, PoolIndex


_QCOW2 = "qcow2"


class Sight(NamedTuple):
    """An image as it is now.

    Attributes:
        is_there: Whether the image exists; None if that cannot be told.
        fingerprint: What the image is like, if it exists.
        format: Format by libvirt's description, if libvirt was asked.
        backing: Path of the image below, None without such an image, or if the image was not read as a qcow2.
        backing_format: Format of the image below.
        is_read: Whether the image was read as a qcow2.
        obstacle: Why the image cannot be looked at.
        is_device: Whether the image is a block device.
    """

    path: str
    is_there: bool | None
    fingerprint: BaseFingerprint | None = None
    format: str | None = None
    backing: str | None = None
    backing_format: str | None = None
    is_read: bool = False
    obstacle: str | None = None
    is_device: bool = False


class Sights:
    """Looks at images, at each once."""

    def __init__(self, connection: Connection, cancel: CancelToken | None = None) -> None:
        self._connection = connection
        self._cancel = cancel or CancelToken()
        self._contents: dict[str, str | None] = {}
        self._locator = Locator(read_pools(connection), is_local=connection.is_local)
        self._made_up = made_up_devices() if connection.is_local else frozenset[int]()
        self._seen: dict[tuple[str, bool], Sight] = {}
        self._is_listed: dict[str, bool] = {}
        self._fresh: dict[str, bool] = {}
        self._files: dict[tuple[int, int], list[tuple[str, int | None]]] | None = None

    @property
    def pools(self) -> PoolIndex:
        """The pools of the connection."""
        return self._locator.pools

    def look(self, path: str, *, is_qcow2: bool) -> Sight:
        """Look at an image; only a qcow2 is read, since a guest can write anything to the beginning of a raw image."""
        path = normalise(path)
        if is_url(path):
            return Sight(path, is_there=None, obstacle="it is in a Ceph cluster")
        if (path, is_qcow2) not in self._seen:
            self._seen[path, is_qcow2] = self._look(path, is_qcow2=is_qcow2)
        return self._seen[path, is_qcow2]

    def content(self, path: str) -> str | None:
        """Return a digest of what a qcow2 holds beside its header, None where it cannot be read here without change."""
        if path not in self._contents:
            self._contents[path] = self._digest(path) if self._is_seen(posixpath.dirname(path)) else None
        return self._contents[path]

    def _digest(self, path: str) -> str | None:
        try:
            with opened_for_reading([(path, _QCOW2)]) as (image,):
                return digest_beside_header(image.descriptor, self._cancel)
        except (IllegalStateError, OSError):
            # somebody may be writing to the image
            return None

    def look_for_base(self, path: str) -> Sight:
        """Look at a qcow2 of which nothing counts but the image below.

        A fresh description of libvirt's is enough where the file is not seen: each header that is read over a
        connection takes several messages, and a host may have a thousand clones.
        """
        path = normalise(path)
        directory = posixpath.dirname(path)
        known = self._locator.pools.covering(directory)
        if known is None or not known.is_active or self._is_seen(directory) or not self._refresh(known):
            return self.look(path, is_qcow2=True)
        sight = self._look_through_libvirt(known, path, is_qcow2=False)
        return sight._replace(is_read=sight.format == _QCOW2)

    def find_elsewhere(self, path: str, then: BaseFingerprint) -> str | None:
        """Return where a file is now that was at a path: in another storage pool, or under another name."""
        alike = [(inode is None or inode != then.inode, file) for file, inode in self._alike(path, then)]
        # a move to another file system keeps the times, and gives another number
        return min(alike)[1] if alike else None

    def find_former(self, path: str, then: BaseFingerprint) -> str | None:
        """Return where the very file is now that was at a path, if its inode number is recorded."""
        files = (file for file, inode in self._alike(path, then) if inode is not None and inode == then.inode)
        return min(files, default=None)

    def _alike(self, path: str, then: BaseFingerprint) -> list[tuple[str, int | None]]:
        """Return the other files of the same length and modification time, each with its inode number if visible."""
        if self._files is None:
            self._files = defaultdict(list)
            directories = {known.description.path for known in self._locator.pools.known} | {posixpath.dirname(path)}
            for directory in sorted(item for item in directories if item is not None):
                for size, modified, file, inode in self._list(directory):
                    self._files[size, modified].append((file, inode))
        found = self._files.get((then.size, nanoseconds(then.modified)), ())
        return [(file, inode) for file, inode in found if file != normalise(path)]

    def _list(self, directory: str) -> Iterator[tuple[int, int, str, int | None]]:
        """Yield length, modification time, path and, if visible, inode number of all files in a directory."""
        if self._is_seen(directory):
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            yield status.st_size, status.st_mtime_ns, normalise(entry.path), status.st_ino
            return
        known = self._locator.pools.covering(directory)
        if known is None or not known.is_active:
            return
        self._refresh(known)
        with suppress(OversizeError):
            for volume in known.pool.list_volumes():
                with suppress(VirtomateError):
                    found = describe_volume(known.pool.name, volume.document())
                    yield found.physical, nanoseconds(found.modified), found.path, None

    def _is_seen(self, directory: str) -> bool:
        """Return whether the files of a directory are the daemon's, as far as storage pools can tell."""
        if directory not in self._is_listed:
            listings = [
                self._locator.list_files(known)
                for known in self._locator.pools.known
                if known.description.path == directory and known.is_active
            ]
            self._is_listed[directory] = None not in listings
        return self._is_listed[directory] and self._locator.is_seen(directory)

    def _look(self, path: str, *, is_qcow2: bool) -> Sight:
        directory = posixpath.dirname(path)
        where = self._locator.of_path(path) if self._is_seen(directory) else None
        status = None if where is None else where.status
        if status is not None and not stat.S_ISBLK(status.st_mode):
            return self._look_here(path, status, is_qcow2=is_qcow2)
        known = self._locator.pools.covering(directory)
        if known is not None and known.is_active:
            return self._look_through_libvirt(known, path, is_qcow2=is_qcow2)
        device = self._look_at_device(path, status) if status is not None or is_among_devices(path) else None
        if device is not None:
            return device
        if where is not None and (where.is_settled or (known is None and where.obstacle is None)):
            return Sight(path, is_there=False)
        if known is not None:
            return Sight(path, is_there=None, obstacle=f"storage pool '{known.pool.name}' is not active")
        obstacle = None if where is None else where.obstacle
        return Sight(path, is_there=None, obstacle=obstacle or "it is in no storage pool, and cannot be seen here")

    def _look_at_device(self, path: str, status: os.stat_result | None) -> Sight | None:
        """Look at a device in a directory that has devices of several pools, and of none."""
        found = find_device(self._connection, self.pools, path)
        if found is not None:
            return _described(path, found.description)
        if status is None:
            return None
        return Sight(path, True, BaseFingerprint(None, device_bytes(status.st_rdev)), is_device=True)

    def _look_here(self, path: str, status: os.stat_result, *, is_qcow2: bool) -> Sight:
        modified = f"{status.st_mtime_ns // NANOSECONDS}.{status.st_mtime_ns % NANOSECONDS:09}"
        # a symbolic link has a birth time of its own
        born = None if os.path.islink(path) else birth_time(path)
        sight = Sight(path, True, BaseFingerprint(modified, status.st_size, status.st_ino, born))
        if not is_qcow2:
            return sight
        try:
            return _with_header(sight, lambda length: read_head_here(path, self._made_up, length) or b"")
        except PermissionError:
            found = self._find(path)
            return sight if found is None else self._read_through_libvirt(sight, found)
        except (OSError, ValueError):
            return sight

    def _find(self, path: str) -> Volume | None:
        known = self._locator.pools.covering(posixpath.dirname(path))
        return None if known is None or not known.is_active else known.pool.find_volume(posixpath.basename(path))

    def _look_through_libvirt(self, known: PoolEntry, path: str, *, is_qcow2: bool) -> Sight:
        name = posixpath.basename(path)
        try:
            volume = known.pool.find_volume(name)
            if volume is None:
                is_fresh = self._refresh(known)
                volume = known.pool.find_volume(name)
                if volume is None:
                    reason = f"libvirt cannot refresh storage pool '{known.pool.name}'"
                    return Sight(path, is_there=False) if is_fresh else Sight(path, is_there=None, obstacle=reason)
            description = describe_volume(known.pool.name, volume.document())
        except NotFoundError:
            # the pool remembers the volume, and the file is gone
            return Sight(path, is_there=False)
        except VirtomateError as error:
            if not self._connection.is_alive:
                raise
            return Sight(path, is_there=None, obstacle=error.message)
        sight = _described(path, description)
        return self._read_through_libvirt(sight, volume) if is_qcow2 else sight

    def _read_through_libvirt(self, sight: Sight, volume: Volume) -> Sight:
        try:
            return _with_header(sight, lambda length: read_head(self._connection, volume, length))
        except VirtomateError:
            if not self._connection.is_alive:
                raise
            return sight

    def _refresh(self, known: PoolEntry) -> bool:
        name = known.pool.name
        if name not in self._fresh:
            self._fresh[name] = refresh_when_idle(known.pool)
        return self._fresh[name]


def _described(path: str, description: VolumeDescription) -> Sight:
    return Sight(
        path,
        True,
        fingerprint_base(description),
        format=description.format,
        backing=None if description.backing_path is None else _below(path, description.backing_path),
        backing_format=description.backing_format,
        is_device=description.is_device,
    )


def _with_header(sight: Sight, read: Callable[[int], bytes]) -> Sight:
    head = read(HEADER_BYTES)
    links: ImageLinks = read_links(head)
    if links.needs_more:
        links = read_links(read(LONG_HEADER_BYTES))
    fingerprint = None if sight.fingerprint is None else sight.fingerprint._replace(header=header_digest(head))
    return sight._replace(
        fingerprint=fingerprint,
        backing=None if links.backing is None else _below(sight.path, links.backing),
        backing_format=links.backing_format,
        is_read=links.format == _QCOW2 and not links.is_malformed,
    )


def _below(path: str, name: str) -> str:
    """Return the path that a name in an image leads to; the name may be relative to the image."""
    directory = posixpath.dirname(path)
    return next((normalise(posixpath.join(directory, file)) for file in files_in(name)), url_in(name) or name)
