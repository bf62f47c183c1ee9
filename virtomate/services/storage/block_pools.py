"""Pools whose volumes are block devices."""

from __future__ import annotations

import os
import posixpath
import re
from math import gcd
from typing import TYPE_CHECKING

from virtomate.definition.provenance import Fingerprint
from virtomate.definition.volume import volume_document
from virtomate.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.definition.provenance import Artifact
    from virtomate.definition.volume import PoolDescription, VolumeDescription
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage.backend import PoolSpace

LOGICAL = "logical"
# The directory of such a pool, /dev for most, holds devices that are not in the pool, too.
SCATTERED_POOLS = frozenset({"disk", "iscsi", "scsi", "mpath"})
BLOCK_POOLS = SCATTERED_POOLS | {LOGICAL}

# lvm(8): the characters of a name, and what names are reserved for LVM itself
_SIGNS = "a-zA-Z0-9+_.-"
_RESERVED = re.compile(
    "^(snapshot|pvmove)|_(cdata|cmeta|corig|cvol|imeta|iorig|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vdata|vorigin|"
    "wcorig)"
)
# The name of the device has both names, with their hyphens doubled, and libdevmapper allows 127 bytes. LVM names
# devices below a logical volume after it, and needs a little more room for that.
_MAX_DEVICE_NAME_BYTES = 127 - len("_rimage_00")
# The size of an extent unless somebody chose another.
_EXTENT_BYTES = 4 * 1024 * 1024
# Larger ones are rare, and a group with few volumes may look as if its extents were larger.
_MOST_EXTENT_BYTES = 64 * 1024 * 1024

_WHY_NOT = {
    "disk": "libvirt chooses the names of partitions, leaves a partition behind whose name is not the one that was "
    "asked for, and cannot delete a partition of a device whose name ends with a digit",
    "iscsi": "its volumes are made where the target is",
    "scsi": "its volumes are made where the adapter leads to",
    "mpath": "its volumes are devices of the host",
}


class BlockPools:
    """Pools whose volumes are block devices that libvirt cannot make, see `LogicalPools`."""

    makes_devices = True
    document = staticmethod(volume_document)

    def path_of(self, pool: PoolDescription, volume: str) -> str | None:
        """Return the path below the pool's directory; None where only libvirt knows where a volume's device is."""
        return None if pool.path is None or pool.type != LOGICAL else posixpath.join(pool.path, volume)

    def require_new_volumes(self, pool: PoolDescription) -> None:
        """Refuse the pool."""
        raise UnsupportedError(
            f"no new volumes can be made in storage pool '{pool.name}', which is of type {pool.type}: "
            f"{_WHY_NOT.get(pool.type, 'libvirt makes none')}",
            hint="Name a pool of type dir, fs, netfs, vstorage or logical.",
        )

    def new_fingerprint(self, volume: VolumeDescription, pool: Pool) -> Fingerprint:
        """Return the key by which libvirt knows the device."""
        del pool
        return self.fingerprint(volume)

    def fingerprint(self, volume: VolumeDescription) -> Fingerprint:
        """Return the key by which libvirt knows the device; of a device that has no key but its path, nothing.

        The times and the inode number of a device's node are new after every start of the host.
        """
        return Fingerprint(None, key=volume.key)

    def absence(self, made: Artifact, pool: Pool) -> Fingerprint | None:
        """Return nothing: a pool that is active has all of its devices."""
        del made, pool
        return None

    def seen_space(
        self, pool: Pool, description: PoolDescription, known: Iterable[VolumeDescription] = ()
    ) -> PoolSpace | None:
        """Return nothing: only libvirt tells the space."""
        del pool, description, known
        return None

    def list_paths(self, directory: str) -> list[str]:
        """Return the devices in a directory that can be read."""
        paths = (posixpath.join(directory, name) for name in os.listdir(directory))
        return [path for path in paths if os.access(path, os.R_OK)]


class LogicalPools(BlockPools):
    """Pools over volume groups of LVM."""

    def require_new_volumes(self, pool: PoolDescription) -> None:
        """Refuse a pool whose directory libvirt does not tell."""
        if pool.path is None:
            super().require_new_volumes(pool)

    def absence(self, made: Artifact, pool: Pool) -> Fingerprint | None:
        """Return the fingerprint of something unknown if the volume group has volumes that libvirt does not list.

        libvirt passes over volumes that are not active, and over thin pools.
        """
        del made
        listed = sum(volume.allocation_bytes() for volume in pool.list_volumes())
        return Fingerprint(None) if pool.info().allocation > listed else None


def check_logical_name(pool: PoolDescription, name: str) -> None:
    """Raise UsageError if a name cannot be that of a logical volume in the pool."""
    group = posixpath.basename(pool.path or "")
    length = len(f"{group}{name}".replace("-", "--").encode()) + 1
    if re.fullmatch(f"[{_SIGNS}]+", name) is None or name.startswith("-") or name in {".", ".."}:
        reason = "a name must have letters, digits and + _ . - alone, and not begin with a hyphen"
    elif (reserved := _RESERVED.search(name)) is not None:
        reason = f"LVM keeps names with '{reserved[0]}' for itself"
    elif length > _MAX_DEVICE_NAME_BYTES:
        reason = f"with the volume group '{group}', and hyphens counted twice, it has {length} bytes, and "
        reason += f"{_MAX_DEVICE_NAME_BYTES} are possible"
    else:
        return
    raise UsageError(
        f"'{name}' cannot be the name of a logical volume in storage pool '{pool.name}': {reason}; another name can be "
        "given by --disk TARGET=MODE,name=NAME"
    )


def logical_name(name: str) -> str:
    """Return a name with an underscore for every character that no logical volume can have in its name."""
    return re.sub(f"[^{_SIGNS}]|^-", "_", name)


def rounded_to_extents(size: int, figures: Iterable[int]) -> int:
    """Return the bytes that a volume of a size takes of a volume group.

    libvirt does not tell the size of the extents, a power of two in nearly all groups. All figures of the volume group
    and of its volumes are multiples of the size; the more figures, the more certain.
    """
    common = gcd(*figures) or _EXTENT_BYTES
    extent = min(common & -common, _MOST_EXTENT_BYTES)
    return -(-size // extent) * extent
