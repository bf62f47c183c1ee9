"""A new overlay: a qcow2 image of version 1.1 that rests on another image and holds nothing yet.

Written here and not by qemu-img, an overlay begins as an empty file with the permissions that it is to have, which
nobody else can have open; it bears its token from the first byte on; and no process has to be run for it.

Source: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import os
import struct

from virtomate.duplication.image_headers import header_extensions
from virtomate.errors import UnsupportedError
from virtomate.tuples import NamedTuple

# With 32 subclusters a small write copies 4 KiB from below, and not a whole cluster.
_SUBCLUSTER_CLUSTER_BITS = 17
_PLAIN_CLUSTER_BITS = 16
_EXTENDED_L2 = 1 << 4

_SECTOR_BYTES = 512
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQIIB7x")
_REFCOUNT_ORDER = 4  # 16 bits
# QEMU opens no image whose backing name is longer, or whose first table is.
_MAX_BACKING_NAME_BYTES = 1023
_MAX_L1_BYTES = 32 * 1024 * 1024


class OverlayImage(NamedTuple):
    """The content of a new overlay.

    Attributes:
        size: Length of the file in bytes; what no piece covers is a hole.
        pieces: Each with its offset, the header last: until then the file is no image.
    """

    size: int
    pieces: tuple[tuple[int, bytes], ...]


def overlay_image(
    capacity: int, backing_path: str, backing_format: str, token: str, *, has_subclusters: bool
) -> OverlayImage:
    """Lay out a new overlay.

    Args:
        capacity: What the guest sees, in bytes; rounded up to whole sectors of 512, as QEMU counts them.
        backing_path: How the header names the image below.
        backing_format: The format of the image below.
        token: What proves whose the overlay is.
        has_subclusters: Whether clusters are divided, which needs QEMU 5.2.

    Raises:
        UnsupportedError: The backing name or the capacity is more than a qcow2 can have.
    """
    cluster_bits = _SUBCLUSTER_CLUSTER_BITS if has_subclusters else _PLAIN_CLUSTER_BITS
    cluster = 1 << cluster_bits
    size = -(-capacity // _SECTOR_BYTES) * _SECTOR_BYTES
    l2_entries = cluster // (16 if has_subclusters else 8)
    l1_size = -(-size // (cluster * l2_entries))
    l1_clusters = max(1, -(-l1_size * 8 // cluster))
    name = os.fsencode(backing_path)
    if len(name) > _MAX_BACKING_NAME_BYTES:
        raise UnsupportedError(
            f"no overlay can rest on '{backing_path}': the path has {len(name)} bytes, and qcow2 allows "
            f"{_MAX_BACKING_NAME_BYTES}",
            hint="Use --mode copy.",
        )
    if l1_size * 8 > _MAX_L1_BYTES:
        raise UnsupportedError(
            f"no overlay can rest on '{backing_path}': its capacity of {capacity} bytes is more than qcow2 allows",
            hint="Use --mode copy.",
        )
    extensions = header_extensions(backing_format, token)
    # header, refcount table, refcount block, and the first table
    clusters = 3 + l1_clusters
    header = _HEADER.pack(
        b"QFI\xfb",
        3,
        _HEADER.size + len(extensions),
        len(name),
        cluster_bits,
        size,
        0,  # not encrypted
        l1_size,
        3 * cluster,
        cluster,
        1,
        0,  # no snapshots
        0,
        _EXTENDED_L2 if has_subclusters else 0,
        0,
        0,
        _REFCOUNT_ORDER,
        _HEADER.size,
        0,  # compressed clusters would be by zlib
    )
    return OverlayImage(
        size=clusters * cluster,
        pieces=(
            (2 * cluster, struct.pack(">H", 1) * clusters),
            (cluster, struct.pack(">Q", 2 * cluster)),
            (0, header + extensions + name),
        ),
    )
