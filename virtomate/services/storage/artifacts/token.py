"""Tokens: what proves that a file is the one that cloning made for a certain clone.

A record in a definition proves nothing by itself, since whoever may define a domain may write one. A token, the UUID of
the clone and a random text, stands in the record and on the file; on somebody else's file a forger cannot put it, and
where a file or a record is copied along, the UUID is another clone's. It is an extended attribute wherever the file can
be seen here (ext4, XFS and Btrfs keep it through chown, relabelling and starts of the domain), and a header extension
of the overlays that we make, which is read over a connection, too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import NANOSECONDS, open_visible
from virtomate.duplication.image_headers import HEADER_BYTES, read_qcow2_header

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription

ATTRIBUTE = "user.virtomate.id"


def put_token(volume: VolumeDescription, token: str) -> VolumeDescription | None:
    """Put a token on a volume's file, where it is seen here and the file system keeps attributes.

    Returns:
        The volume with the change time that it has since, or None where there is no token on it.
    """
    descriptor = open_visible(volume, os.O_WRONLY)
    if descriptor is None:
        return None
    try:
        os.setxattr(descriptor, ATTRIBUTE, token.encode())
        changed = os.fstat(descriptor).st_ctime_ns
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return volume._replace(changed=f"{changed // NANOSECONDS}.{changed % NANOSECONDS:09}")


def read_attribute(descriptor: int) -> str | None:
    """Return the token in a file's extended attribute; None where there is none."""
    try:
        return os.getxattr(descriptor, ATTRIBUTE).decode(errors="replace")
    except OSError:
        return None


def read_header_token(head: bytes) -> str | None:
    """Return the token in the header of an overlay, by its first bytes; None where there is none."""
    header = read_qcow2_header(head[:HEADER_BYTES])
    return None if header is None else header.token
