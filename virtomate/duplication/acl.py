"""POSIX access control lists of volumes' files, as Linux keeps them (acl(5), <linux/posix_acl_xattr.h>).

libvirt knows nothing of them. What it tells as the permissions of a file's group is the list's mask, which is more than
the group may do as soon as the list grants somebody else more.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import open_visible, visible_status

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription

_ATTRIBUTE = "system.posix_acl_access"
_HEADER = struct.Struct("<I")
# tag, permissions, user or group ID
_ENTRY = struct.Struct("<HHI")
_GROUP = 0x04
_MASK = 0x10
_GROUP_SHIFT = 3
_ALL = 0o7

# no list, or a file system without them
_ABSENT = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


def with_acl(volume: VolumeDescription) -> VolumeDescription:
    """The volume with its list, if its file is seen here; its mode then has what its group may do, and not the mask."""
    if visible_status(volume) is None:
        return volume
    try:
        acl = os.getxattr(volume.path, _ATTRIBUTE, follow_symlinks=False)
    except OSError as error:
        return volume._replace(acl=b"") if error.errno in _ABSENT else volume
    return volume._replace(acl=acl, mode=None if volume.mode is None else mode_without_mask(volume.mode, acl))


def mode_without_mask(mode: str, acl: bytes) -> str:
    """The permission bits of a file that has a list, in octal digits, with what the list lets the file's group do."""
    permissions = {
        tag: granted for tag, granted, _ in _ENTRY.iter_unpack(acl[_HEADER.size :]) if tag in {_GROUP, _MASK}
    }
    group = permissions.get(_GROUP, 0) & permissions.get(_MASK, _ALL)
    return f"{int(mode, 8) & ~(_ALL << _GROUP_SHIFT) | group << _GROUP_SHIFT:04o}"


def may_be_given_here(volume: VolumeDescription) -> bool:
    """Whether a new volume with this one's owner can be given a list here."""
    return os.geteuid() == 0 or volume.owner == str(os.geteuid())


def give_acl(acl: bytes, volume: VolumeDescription) -> bool:
    """Give a volume's file this list, or none, also instead of one that it has from its directory.

    Args:
        acl: The list; empty for none.
        volume: The volume, which must be seen here.

    Returns:
        Whether it was changed.

    Raises:
        OSError: It cannot be.
    """
    descriptor = open_visible(volume, os.O_RDONLY)
    if descriptor is None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        if acl == _read(descriptor):
            return False
        if acl:
            os.setxattr(descriptor, _ATTRIBUTE, acl)
        else:
            os.removexattr(descriptor, _ATTRIBUTE)
    finally:
        os.close(descriptor)
    return True


def _read(descriptor: int) -> bytes:
    try:
        return os.getxattr(descriptor, _ATTRIBUTE)
    except OSError as error:
        if error.errno in _ABSENT:
            return b""
        raise
