"""The backing chain of a disk, as the headers of its images tell it."""

from __future__ import annotations

import os
import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.duplication import select
from virtomate.duplication.host_images import made_up_devices, may_be_image
from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.image_headers import HEADER_BYTES, read_qcow2_header
from virtomate.enums import Mode
from virtomate.errors import (
    ConnectionLostError,
    HypervisorError,
    IllegalStateError,
    NotFoundError,
    UnsupportedError,
)
from virtomate.hypervisor.storage import read_head
from virtomate.paths import files_in, normalise
from virtomate.services.storage import with_known_format
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, virtomate

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.image_headers import Qcow2Header
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.storage import FoundVolume, PoolIndex

# Deeper chains are not believed: QEMU opens all of their images.
_MAX_DEPTH = 200
_BLOCK_BYTES = 512


class Image(NamedTuple):
    """An image below a disk.

    Attributes:
        name: The name in the image above.
        path: The file that the name leads to; None where the name is not a plain path.
        format: The format in the image above.
        allocation: Bytes on the host; None where they are not known.
        volume: The volume as libvirt describes it, None where the file is in no active pool.
    """

    name: str
    path: str | None
    format: str
    allocation: int | None = None
    volume: VolumeDescription | None = None


class DiskChain(NamedTuple):
    """A disk with its own image, and the images below that, nearest first.

    Attributes:
        volume: The disk's own image, in the format of the definition.
        header: The header of the disk's own image; None where the format has none that is read here.
        is_encrypted: Whether an image of the chain is encrypted.
    """

    disk: DiskDefinition
    volume: VolumeDescription
    header: Qcow2Header | None
    below: tuple[Image, ...]
    is_encrypted: bool = False

    @property
    def missing_bytes(self) -> int:
        """At most so many bytes must be copied into the disk's own image until nothing is needed from below."""
        known = [image.allocation for image in self.below if image.allocation is not None]
        return min(sum(known), self.volume.capacity) if len(known) == len(self.below) else self.volume.capacity


def find_disk_volume(pools: PoolIndex, disk: DiskDefinition) -> FoundVolume:
    """Return the volume of a disk; raise NotFoundError or IllegalStateError, with the disk's target, for none."""
    try:
        if disk.type == "volume":
            return pools.find_named(disk.pool or "", disk.volume or "")
        return pools.find_path(disk.path or "")
    except (NotFoundError, IllegalStateError) as error:
        raise type(error)(f"disk {disk.target}: {error.message}", error.hint) from error


def read_chain(connection: Connection, pools: PoolIndex, name: str, disk: DiskDefinition) -> DiskChain:
    """Read the chain of a disk, whose source is a file, of the domain with a name.

    Raises:
        NotFoundError: An image is missing.
        IllegalStateError: The disk's own image is in no active storage pool, or libvirt cannot look at it now.
        UnsupportedError: The disk's own image has another format than the definition says, or an image keeps its data
            elsewhere, is corrupt, or does not say what the image below is.
    """
    found = find_disk_volume(pools, disk)
    if disk.format is not None:
        found = with_known_format(name, found, disk.format)
    volume = select.as_format(found.description, disk.format or found.description.format)
    if volume.format != "qcow2":
        return DiskChain(disk, volume, None, ())
    top = header = read_header(connection, found)
    select.check_header(volume, header, Mode.COPY)
    volume = select.as_headed(volume, header)
    is_encrypted = volume.is_encrypted
    below: list[Image] = []
    path: str | None = volume.path
    while path is not None and header is not None and header.has_backing_file:
        image, header = _below(connection, pools, name, path, header)
        if image.path in {volume.path, *(other.path for other in below)} - {None} or len(below) > _MAX_DEPTH:
            raise UnsupportedError(f"'{image.path}' rests on itself")
        below.append(image)
        is_encrypted |= image.format == "luks" or (header is not None and header.is_encrypted)
        path = image.path
    return DiskChain(disk, volume, top, tuple(below), is_encrypted)


def read_header(connection: Connection, found: FoundVolume) -> Qcow2Header | None:
    """Return the header of a qcow2 volume, None for a volume that does not begin like one."""
    descriptor = open_visible(found.description, os.O_RDONLY)
    if descriptor is None:
        return read_qcow2_header(read_head(connection, found.volume, HEADER_BYTES))
    try:
        return read_qcow2_header(os.pread(descriptor, HEADER_BYTES, 0))
    finally:
        os.close(descriptor)


def plain_path(directory: str, name: str) -> str | None:
    """Return the path that the name of a base leads to; None for a name that is more than a path."""
    if not name or ":" in name.partition("/")[0] or files_in(name) != (name,):
        return None
    return normalise(posixpath.join(directory, name))


def _below(
    connection: Connection, pools: PoolIndex, name: str, above: str, header: Qcow2Header
) -> tuple[Image, Qcow2Header | None]:
    """Return the image below an image of the domain with a name, and its header if that can be read."""
    below, format_ = header.backing_file or "", header.backing_format
    if format_ is None:
        raise UnsupportedError(
            f"the image '{above}' does not say what format the one below it has",
            hint=f"Write it down: qemu-img rebase -u -F FORMAT -b BELOW {shell_word(above)}",
        )
    path = plain_path(posixpath.dirname(above), below)
    if path is None:
        return Image(below, None, format_), None
    # a file that can be read here needs no temporary pool
    is_readable = connection.is_local and os.access(path, os.R_OK)
    try:
        found = (pools.opening(None) if is_readable else pools).find_path(path)
    except NotFoundError as error:
        raise missing(name, above, path) from error
    except ConnectionLostError:
        raise
    except (HypervisorError, IllegalStateError, UnsupportedError):
        return _below_outside(connection, name, above, Image(below, path, format_))
    image = Image(below, path, format_, found.description.allocation, select.as_format(found.description, format_))
    if format_ != "qcow2":
        return image, None
    base_header = read_header(connection, found)
    select.check_header(found.description, base_header, Mode.COPY)
    return image, base_header


def _below_outside(connection: Connection, name: str, above: str, image: Image) -> tuple[Image, Qcow2Header | None]:
    """Return an image in no active storage pool, as far as it can be seen here."""
    path = image.path
    if not connection.is_local or path is None:
        return image, None
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise missing(name, above, path) from error
    except (OSError, ValueError):
        return image, None
    image = image._replace(allocation=status.st_blocks * _BLOCK_BYTES)
    if image.format != "qcow2" or not may_be_image(status, made_up_devices()):
        return image, None
    header = None
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            header = read_qcow2_header(os.pread(descriptor, HEADER_BYTES, 0))
        finally:
            os.close(descriptor)
    return image, header


def missing(name: str, above: str, path: str) -> NotFoundError:
    """Return the error for an image of the domain with a name whose base is not there."""
    return NotFoundError(
        f"'{above}' rests on '{path}', and there is no such file",
        hint=f"Bring the file back, or name its new place: {virtomate('domain-rebase', name, options='--base PATH')}",
    )
