"""POSIX access control lists of volumes' files, in the form of Linux (acl(5), <linux/posix_acl_xattr.h>).

libvirt does not know such lists, and reports the mask as the permissions of a file's group. The mask is more than the
group has where the list grants others more.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import open_visible, visible_status

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription

# of the owner, the group and all others (chmod(2))
WRITE_BITS = 0o222

_ATTRIBUTE = "system.posix_acl_access"
_HEADER_BYTES = 4
# tag, permissions, user or group ID
_ENTRY = struct.Struct("<HHI")
_OWNER = 0x01
_GROUP = 0x04
_MASK = 0x10
_OTHERS = 0x20
_GROUP_SHIFT = 3
_ALL = 0o7

# no list, or a file system without them
_ABSENT = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


def with_acl(volume: VolumeDescription) -> VolumeDescription:
    """Return the volume with its list, if the file is seen here, and with the group's permissions, not the mask's."""
    if visible_status(volume) is None:
        return volume
    try:
        acl = os.getxattr(volume.path, _ATTRIBUTE, follow_symlinks=False)
    except OSError as error:
        return volume._replace(acl=b"") if error.errno in _ABSENT else volume
    return volume._replace(acl=acl, mode=None if volume.mode is None else mode_without_mask(volume.mode, acl))


def with_mode(volume: VolumeDescription, mode: int) -> VolumeDescription:
    """Return a volume, with its list, as it would be with these permission bits of its file (chmod(2), acl(5))."""
    digits = f"{mode:04o}"
    if not volume.acl:
        return volume._replace(mode=digits)
    entries = tuple(_ENTRY.iter_unpack(volume.acl[_HEADER_BYTES:]))
    masked = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP
    granted = {_OWNER: mode >> 2 * _GROUP_SHIFT & _ALL, masked: mode >> _GROUP_SHIFT & _ALL, _OTHERS: mode & _ALL}
    changed = (_ENTRY.pack(tag, granted.get(tag, permissions), holder) for tag, permissions, holder in entries)
    acl = volume.acl[:_HEADER_BYTES] + b"".join(changed)
    return volume._replace(mode=mode_without_mask(digits, acl), acl=acl)


def mode_without_mask(mode: str, acl: bytes) -> str:
    """Return a file's octal permission bits, with the permissions that the list grants to the file's group."""
    # one entry each; the tags of named users and groups are others
    permissions = {tag: granted for tag, granted, _ in _ENTRY.iter_unpack(acl[_HEADER_BYTES:])}
    group = permissions.get(_GROUP, 0) & permissions.get(_MASK, _ALL)
    return f"{int(mode, 8) & ~(_ALL << _GROUP_SHIFT) | group << _GROUP_SHIFT:04o}"


def may_be_given_here(volume: VolumeDescription) -> bool:
    """Return whether a new volume with the owner of this one can be given a list here."""
    return os.geteuid() == 0 or volume.owner == str(os.geteuid())


def give_acl(acl: bytes, volume: VolumeDescription) -> bool:
    """Give a volume's file a list, or none if empty, instead of an inherited list; return whether that is a change.

    Raises:
        OSError: The list cannot be changed, or the file is not seen here.
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
