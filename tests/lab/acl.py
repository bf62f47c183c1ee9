"""Access control lists of files, written and read without the programs of the package `acl`."""

import os
import struct
from contextlib import suppress
from pathlib import Path

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

# of those entries that are about the owner, the group, the mask and everybody else
_NOBODY_IN_PARTICULAR = 0xFFFFFFFF


def access_list(owner: int, user: tuple[int, int], group: int, mask: int, other: int = 0) -> bytes:
    """Return a list as Linux keeps it (<linux/posix_acl_xattr.h>), with an entry for one user beside the usual ones.

    Args:
        owner: what the owner may do, as the digit that chmod takes.
        user: the ID of a user, and what this user may do.
        group: what the group may do.
        mask: what user and group may do at most.
        other: what everybody else may do.
    """
    entries = [
        (0x01, owner, _NOBODY_IN_PARTICULAR),
        (0x02, user[1], user[0]),
        (0x04, group, _NOBODY_IN_PARTICULAR),
        (0x10, mask, _NOBODY_IN_PARTICULAR),
        (0x20, other, _NOBODY_IN_PARTICULAR),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def read_list(path: Path) -> bytes:
    """Return a file's list; empty if it has none."""
    with suppress(OSError):
        return os.getxattr(path, ACCESS)
    return b""
