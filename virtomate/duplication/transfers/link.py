"""Linked clones: an overlay on the original, a qcow2 image of version 1.1 that holds nothing yet.

Written here and not by qemu-img, an overlay begins as an empty file with the permissions of the finished overlay, which
nobody else can have open; the token is on the overlay from the first byte on; and no process has to be run.

Source: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.duplication import hostfs
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.image_headers import LONGEST_NAME, header_extensions
from virtomate.duplication.transfers.stream import write_volume
from virtomate.errors import UnsupportedError
from virtomate.hypervisor.storage import get_volume
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext

# With 32 subclusters a small write copies 4 KiB from below, and not a whole cluster.
_SUBCLUSTER_CLUSTER_BITS = 17
_PLAIN_CLUSTER_BITS = 16
_EXTENDED_L2 = 1 << 4

_SECTOR_BYTES = 512
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQIIB7x")
_NOT_ENCRYPTED = 0
_NO_SNAPSHOTS = (0, 0)
_REFCOUNT_ORDER = 4  # 16 bits
_ZLIB = 0  # for compressed clusters
# QEMU opens no image with a longer first table.
_MAX_L1_BYTES = 32 * 1024 * 1024


class OverlayImage(NamedTuple):
    """A new overlay: its size in bytes, and the offset and content of each piece of data; all else is holes.

    The header is the last piece: until then the file is no image.
    """

    size: int
    pieces: tuple[tuple[int, bytes], ...]


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Make an overlay of the empty file; there is nothing to copy.

    Where the file cannot be seen or opened here, the overlay is uploaded over the connection.

    Raises:
        IllegalStateError: The file has become a symbolic link.
    """
    source, connection = duplication.source, context.connection
    has_subclusters = connection.knows_subclusters
    image = overlay_image(
        duplication.new_capacity,
        duplication.backing_name,
        source.format,
        context.token,
        has_subclusters=has_subclusters,
    )
    descriptor = hostfs.open_visible(created, os.O_WRONLY)
    if descriptor is None:
        # libvirt would follow the link
        hostfs.refuse_link(created.path)
        volume = get_volume(connection, created.pool, created.name)
        write_volume(_in_order(image), volume, connection, duplication.label, context.progress, context.cancel)
        return 0
    try:
        os.ftruncate(descriptor, image.size)
        for offset, data in image.pieces:
            hostfs.write(descriptor, data, offset)
        os.fdatasync(descriptor)
    except OSError as error:
        # where a full file system has no room for an attribute, only the header or emptiness proves whose the file is
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        raise write_failure(error, created.path) from error
    finally:
        os.close(descriptor)
    return 0


def _in_order(image: OverlayImage) -> Iterator[bytes | int]:
    position = 0
    for offset, data in sorted(image.pieces):
        yield offset - position
        yield data
        position = offset + len(data)
    yield image.size - position


def overlay_image(
    capacity: int, backing_path: str, backing_format: str, token: str, *, has_subclusters: bool
) -> OverlayImage:
    """Lay out a new overlay, or raise UnsupportedError for a path or capacity that is too much for a qcow2.

    The capacity in bytes is rounded up to whole sectors, as QEMU counts them. Subclusters need QEMU 5.2.
    """
    cluster_bits = _SUBCLUSTER_CLUSTER_BITS if has_subclusters else _PLAIN_CLUSTER_BITS
    cluster = 1 << cluster_bits
    size = -(-capacity // _SECTOR_BYTES) * _SECTOR_BYTES
    l2_entries = cluster // (16 if has_subclusters else 8)
    l1_size = -(-size // (cluster * l2_entries))
    l1_clusters = max(1, -(-l1_size * 8 // cluster))
    name = os.fsencode(backing_path)
    excess = None
    if len(name) > LONGEST_NAME:
        excess = f"the path has {len(name)} bytes, and qcow2 allows {LONGEST_NAME}"
    elif l1_size * 8 > _MAX_L1_BYTES:
        excess = f"its capacity of {capacity} bytes is more than qcow2 allows"
    if excess is not None:
        raise UnsupportedError(f"no overlay can rest on '{backing_path}': {excess}", hint="Use --mode copy.")
    extensions = header_extensions(backing_format, token)
    # header, refcount table, refcount block, and the first table
    clusters = 3 + l1_clusters
    backing = (_HEADER.size + len(extensions), len(name))
    tables = (l1_size, 3 * cluster, cluster, 1)
    features = (_EXTENDED_L2 if has_subclusters else 0, 0, 0)
    header = _HEADER.pack(
        *(b"QFI\xfb", 3, *backing, cluster_bits, size, _NOT_ENCRYPTED, *tables, *_NO_SNAPSHOTS, *features),
        *(_REFCOUNT_ORDER, _HEADER.size, _ZLIB),
    )
    return OverlayImage(
        size=clusters * cluster,
        pieces=(
            (2 * cluster, struct.pack(">H", 1) * clusters),
            (cluster, struct.pack(">Q", 2 * cluster)),
            (0, header + extensions + name),
        ),
    )
