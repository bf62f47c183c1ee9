"""Documents of storage volumes and pools (https://libvirt.org/formatstorage.html)."""

from __future__ import annotations

from typing import Any

from virtomate.definition import codec
from virtomate.definition.readers import as_list, child, text
from virtomate.paths import normalise
from virtomate.tuples import NamedTuple

# How much later a host may see what another host has done on a network file system; see `is_seen_as`.
SEEN_LATER_SECONDS = 3


class Location(NamedTuple):
    """Path and format of an image, as far as libvirt reports them."""

    path: str | None
    format: str | None


class VolumeListing(NamedTuple):
    """A volume in a listing; sizes in bytes, as in `VolumeDescription`.

    Attributes:
        key: libvirt's identifier; for a file the path.
        type: `file`, `block`, `dir`, `network`, `netdir` or `ploop`.
        backing_store: The image below.
    """

    name: str
    key: str | None
    type: str
    capacity: int
    allocation: int
    physical: int | None
    target: Location
    backing_store: Location | None


class VolumeDescription(NamedTuple):
    """A volume as libvirt describes it; sizes in bytes.

    Attributes:
        capacity: Size that a guest sees.
        allocation: Space on the host.
        physical: Length of the file.
        compat: Version of a qcow2 (`0.10` or `1.1`).
        cluster_size: Cluster size of a qcow2, if libvirt reports it.
        features: Names of a qcow2's features, such as `lazy_refcounts`.
        backing_path: Path of the image below.
        mode: Permission bits in octal digits.
        changed: Change time as libvirt writes it, seconds and nanoseconds since 1970.
        type: `file`, `block`, `dir`, `network`, `netdir` or `ploop`.
        key: libvirt's identifier, if it is another than the path: for a logical volume its UUID in LVM.
        acl: Access control list as Linux stores it, empty if the file has none; None if the file cannot be seen.
        inode: Inode number, if the file was looked at and could be seen.
        birth_time: Nanoseconds since 1970, like `inode`, if the file system stores the time.
        header: Digest of the header of a qcow2, if the header was read.
    """

    pool: str
    name: str
    path: str
    capacity: int
    allocation: int
    physical: int
    format: str
    compat: str | None
    cluster_size: int | None
    features: tuple[str, ...]
    backing_path: str | None
    backing_format: str | None
    is_encrypted: bool
    mode: str | None
    owner: str | None
    group: str | None
    changed: str | None
    modified: str | None
    type: str = "file"
    key: str | None = None
    acl: bytes | None = None
    inode: int | None = None
    birth_time: int | None = None
    header: str | None = None

    @property
    def is_device(self) -> bool:
        """Return whether the volume is a block device."""
        return self.type == "block"

    @property
    def is_directory(self) -> bool:
        """Return whether the volume is a directory."""
        return self.type == "dir"

    def is_seen_as(self, other: VolumeDescription) -> bool:
        """Return whether two hosts tell the same time of change and length, as of one file that both see."""
        return self.changed is not None and (self.changed, self.physical) == (other.changed, other.physical)

    @property
    def is_preallocated(self) -> bool:
        """Return whether the whole capacity of a file is allocated."""
        return not self.is_device and 0 < self.capacity <= self.allocation


def outside_pools(name: str, path: str, capacity: int, *, allocation: int = 0, kind: str = "file") -> VolumeDescription:
    """Return the description of raw content in no storage pool, of which libvirt tells little."""
    return VolumeDescription(
        pool="",
        name=name,
        path=path,
        capacity=capacity,
        allocation=allocation,
        physical=allocation,
        format="raw",
        compat=None,
        cluster_size=None,
        features=(),
        backing_path=None,
        backing_format=None,
        is_encrypted=False,
        mode=None,
        owner=None,
        group=None,
        changed=None,
        modified=None,
        type=kind,
    )


class NewVolume(NamedTuple):
    """A volume to be created; without an allocation, libvirt would allocate the whole capacity."""

    name: str
    capacity: int
    allocation: int
    format: str
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    compat: str | None = None
    cluster_size: int | None = None
    features: tuple[str, ...] = ()


class NewDirectory(NamedTuple):
    """A directory that is made together with the pool over it; an owner or group of None is that of the daemon."""

    pool_uuid: str
    mode: int
    owner: int | None
    group: int | None


class PoolDescription(NamedTuple):
    """A pool, with a normalised path, and its directory as of the last refresh; libvirt reports no sticky bit."""

    name: str
    type: str
    path: str | None
    mode: int | None = None
    owner: int | None = None
    group: int | None = None


def describe_pool(document: str) -> PoolDescription:
    """Read a pool's document."""
    pool = codec.parse(document, "pool")
    target = child(pool, "target")
    path = text(target.get("path"))
    permissions = child(target, "permissions")
    return PoolDescription(
        name=text(pool.get("name")) or "",
        type=str(pool.get("@type", "")),
        path=normalise(path) if path else None,
        mode=_number(permissions.get("mode"), 8),
        owner=_number(permissions.get("owner"), 10),
        group=_number(permissions.get("group"), 10),
    )


def describe_volume(pool: str, document: str) -> VolumeDescription:
    """Read a volume's document."""
    volume = codec.parse(document, "volume")
    target = child(volume, "target")
    backing = child(volume, "backingStore")
    permissions = child(target, "permissions")
    timestamps = child(target, "timestamps")
    kind = str(volume.get("@type", "file"))
    path, key = text(target.get("path")) or "", text(volume.get("key"))
    return VolumeDescription(
        pool=pool,
        name=text(volume.get("name")) or "",
        path=normalise(path),
        capacity=_bytes(volume.get("capacity")),
        allocation=_bytes(volume.get("allocation")),
        physical=_bytes(volume.get("physical")),
        # what libvirt tells of a device is the kind of its partition
        format="raw" if kind == "block" else str(child(target, "format").get("@type", "raw")),
        compat=text(target.get("compat")),
        cluster_size=_bytes(target.get("clusterSize")) or None,
        features=tuple(child(target, "features")),
        backing_path=text(backing.get("path")),
        backing_format=child(backing, "format").get("@type"),
        is_encrypted="encryption" in target,
        mode=text(permissions.get("mode")),
        owner=text(permissions.get("owner")),
        group=text(permissions.get("group")),
        changed=text(timestamps.get("ctime")),
        modified=text(timestamps.get("mtime")),
        type=kind,
        key=None if key in {path, normalise(path)} else key,
    )


def network_source(document: str) -> tuple[str, str] | None:
    """Return the only host, and the directory, that a pool is mounted from, by the pool's document."""
    source = child(codec.parse(document, "pool"), "source")
    hosts, directory = as_list(source.get("host")), child(source, "dir").get("@path")
    return None if len(hosts) != 1 or directory is None else (str(hosts[0].get("@name")), str(directory))


def read_volume_listing(document: str) -> VolumeListing:
    """Read a volume's document for a listing."""
    volume = codec.parse(document, "volume")
    return VolumeListing(
        name=text(volume.get("name")) or "",
        key=text(volume.get("key")),
        type=str(volume.get("@type", "")),
        capacity=_bytes(volume.get("capacity")),
        allocation=_bytes(volume.get("allocation")),
        physical=_bytes(volume["physical"]) if "physical" in volume else None,
        target=_location(child(volume, "target")),
        backing_store=_location(child(volume, "backingStore")) if volume.get("backingStore") else None,
    )


def volume_document(volume: NewVolume) -> str:
    """Return the document that creates a volume; it leaves no choice to libvirt."""
    permissions = {"mode": volume.mode, "owner": volume.owner, "group": volume.group}
    target = {
        "format": {"@type": volume.format},
        "permissions": {key: value for key, value in permissions.items() if value},
        "compat": volume.compat,
        "clusterSize": volume.cluster_size and {"@unit": "B", "#text": str(volume.cluster_size)},
        "features": dict.fromkeys(volume.features),
    }
    content = {
        "name": volume.name,
        "capacity": {"@unit": "bytes", "#text": str(volume.capacity)},
        "allocation": {"@unit": "bytes", "#text": str(volume.allocation)},
        "target": {key: value for key, value in target.items() if value},
    }
    return codec.unparse(content, "volume")


def directory_pool_document(name: str, path: str, new: NewDirectory | None = None) -> str:
    """Return the document of a pool over a directory, which may be a new one."""
    target: dict[str, Any] = {"path": path}
    if new is None:
        return codec.unparse({"@type": "dir", "name": name, "target": target}, "pool")
    permissions = {"mode": f"{new.mode:04o}", "owner": new.owner, "group": new.group}
    target["permissions"] = {key: str(value) for key, value in permissions.items() if value is not None}
    return codec.unparse({"@type": "dir", "name": name, "uuid": new.pool_uuid, "target": target}, "pool")


def _location(element: dict[str, Any]) -> Location:
    return Location(text(element.get("path")), child(element, "format").get("@type"))


def _bytes(element: Any) -> int:  # noqa: ANN401
    """Return a size; libvirt always reports bytes."""
    return int(text(element) or 0)


def _number(element: Any, base: int) -> int | None:  # noqa: ANN401
    """Return a mode, or a user or group ID; libvirt writes -1 for the default."""
    try:
        number = int(text(element) or "", base)
    except ValueError:
        return None
    return number if number >= 0 else None
