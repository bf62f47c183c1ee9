"""A digest of what a qcow2 holds beside its header, which tells whether a guest has written to the image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import data_extents

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken

_CLUSTER_BITS = slice(20, 24)
_DIGEST_BYTES = 16
_BLOCK_BYTES = 1 << 20


def digest_beside_header(descriptor: int, cancel: CancelToken) -> str:
    """Return a digest of an open qcow2 without its first cluster, in which a new name of the base is written.

    Blocks of zeroes do not count, since a file system can change them into holes and back.
    """
    import hashlib  # noqa: PLC0415 - few linked clones are rebased

    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    end = os.fstat(descriptor).st_size
    begin = 1 << int.from_bytes(os.pread(descriptor, 24, 0)[_CLUSTER_BITS])
    offset = begin
    for data, hole in data_extents(descriptor, begin, end):
        # blocks are the same wherever the data in them begins
        offset = max(offset, data - data % _BLOCK_BYTES)
        while offset < hole:
            cancel.check()
            block = os.pread(descriptor, _BLOCK_BYTES - offset % _BLOCK_BYTES, offset)
            if block.strip(b"\0"):
                digest.update(offset.to_bytes(8) + len(block).to_bytes(8) + block)
            offset += len(block)
            if not block:
                break
    return digest.hexdigest()
