"""Storage volume and pool documents: what libvirt tells, and what is asked of it.

Source: https://libvirt.org/formatstorage.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from virtomate.definition import codec
from virtomate.definition.readers import child, text
from virtomate.paths import normalise


class Location(NamedTuple):
    """Where content is, and how it is written; what libvirt does not tell is None."""

    path: str | None
    format: str | None


class VolumeListing(NamedTuple):
    """One line of `volume-list`.

    Attributes:
        key: What libvirt tells volumes apart by; in a directory the path.
        type: `file`, `block`, `dir`, `network`, `netdir` or `ploop`.
        capacity: What a guest sees.
        allocation: What is taken on the host.
        physical: Length of the file, None for what has none.
        backing_store: What lies below, None for a volume that stands alone.
    """

    name: str
    key: str | None
    type: str
    capacity: int
    allocation: int
    physical: int | None
    target: Location
    backing_store: Location | None


@dataclass(frozen=True)
class VolumeDescription:
    """A volume as libvirt describes it; sizes in bytes.

    Attributes:
        capacity: What a guest sees.
        allocation: What is taken on the host.
        physical: Length of the file.
        format: What libvirt takes the content for.
        compat: Version of a qcow2 (`0.10` or `1.1`).
        cluster_size: Of a qcow2, None where libvirt does not tell.
        features: Names of a qcow2's features, such as `lazy_refcounts`.
        backing_path: What lies below, None for a self-contained volume.
        mode: Permission bits in octal digits.
        changed: Change time as libvirt writes it, seconds and nanoseconds since 1970.
        acl: Access control list of the file as Linux keeps it, empty where it has none; None where that is not known,
            since libvirt does not tell.
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
    acl: bytes | None = None

    @property
    def is_preallocated(self) -> bool:
        """Whether the whole capacity is taken on the host."""
        return 0 < self.capacity <= self.allocation


@dataclass(frozen=True)
class NewVolume:
    """A volume to be created.

    Attributes:
        allocation: What libvirt should allocate beforehand; None would mean everything, so it is always given.
    """

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


@dataclass(frozen=True)
class PoolDescription:
    """A pool as its document has it; the path is normalised.

    Attributes:
        mode: Permission bits of its directory as of libvirt's last look, without the sticky bit, which libvirt does not
            tell; None where it tells nothing.
        owner: User ID of its directory's owner, likewise.
        group: Its group ID, likewise.
    """

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
    return VolumeDescription(
        pool=pool,
        name=text(volume.get("name")) or "",
        path=normalise(text(target.get("path")) or ""),
        capacity=_bytes(volume.get("capacity")),
        allocation=_bytes(volume.get("allocation")),
        physical=_bytes(volume.get("physical")),
        format=str(child(target, "format").get("@type", "raw")),
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
    )


def read_volume_listing(document: str) -> VolumeListing:
    """Read what a listing tells of a volume, as libvirt has it, from its document."""
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
    """The document that creates a volume; whatever libvirt would otherwise choose by itself is given."""
    target: dict[str, Any] = {"format": {"@type": volume.format}}
    permissions = {
        key: value for key, value in (("mode", volume.mode), ("owner", volume.owner), ("group", volume.group)) if value
    }
    if permissions:
        target["permissions"] = permissions
    if volume.compat:
        target["compat"] = volume.compat
    if volume.cluster_size:
        target["clusterSize"] = {"@unit": "B", "#text": str(volume.cluster_size)}
    if volume.features:
        target["features"] = dict.fromkeys(volume.features)
    content: dict[str, Any] = {
        "name": volume.name,
        "capacity": {"@unit": "bytes", "#text": str(volume.capacity)},
        "allocation": {"@unit": "bytes", "#text": str(volume.allocation)},
        "target": target,
    }
    return codec.unparse(content, "volume")


def directory_pool_document(name: str, path: str) -> str:
    """The document of a pool over a directory."""
    return codec.unparse({"@type": "dir", "name": name, "target": {"path": path}}, "pool")


def _location(element: dict[str, Any]) -> Location:
    return Location(text(element.get("path")), child(element, "format").get("@type"))


def _bytes(element: Any) -> int:  # noqa: ANN401
    """A size; libvirt always writes bytes, with or without saying so."""
    value = text(element)
    return int(value) if value else 0


def _number(element: Any, base: int) -> int | None:  # noqa: ANN401
    """A mode, or the ID of a user or group; -1 stands for one that nobody chose."""
    try:
        number = int(text(element) or "", base)
    except ValueError:
        return None
    return number if number >= 0 else None
