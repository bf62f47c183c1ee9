"""Disk images in a Ceph cluster (RBD), as definitions of domains and of pools name them.

Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms, https://libvirt.org/storage.html#rbd-pool
and BlockdevOptionsRbd in https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.readers import as_list, child, devices, text
from virtomate.paths import url_in
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from virtomate.definition.codec import Document

PROTOCOL = "rbd"
# Where a monitor of Ceph listens unless it is said otherwise.
_PORT = "6789"
# What a source says of its disk, and not of the image.
_OF_DISK = frozenset({"encryption", "slices", "reservations", "privateData", "@index", "@startupPolicy"})


class NetworkImage(NamedTuple):
    """An image in a Ceph cluster.

    Attributes:
        pool: Pool of the cluster, which is no storage pool of libvirt's.
        hosts: The monitors, each a name and a port.
        user: Name of the cluster's user, None without authentication.
        config: Path of Ceph's configuration on the host, if the definition names the file.
        source: The image as the `<source>` of a backing store, with `<auth>`.
    """

    pool: str
    image: str
    snapshot: str | None
    hosts: tuple[tuple[str, str], ...]
    user: str | None
    config: str | None
    source: Document

    @property
    def url(self) -> str:
        """The name of the image for people, which is also its name in records."""
        return url_in(self.backing_name) or ""

    @property
    def backing_name(self) -> str:
        """The name of the image in the header of an overlay; no secret has a place in the name."""
        file = {
            "driver": PROTOCOL,
            "pool": self.pool,
            "image": self.image,
            "snapshot": self.snapshot,
            "server": [{"host": host, "port": port} for host, port in self.hosts],
            "user": self.user,
            "conf": self.config,
        }
        known = {key: value for key, value in file.items() if value}
        return "json:" + json.dumps({"driver": "raw", "file": known}, separators=(",", ":"))


def image_of_disk(domain: Document, position: int) -> NetworkImage | None:
    """Return the image of the disk at a position, None where the disk has none that is understood."""
    disk = devices(domain, "disk")[position]
    source = child(disk, "source")
    if disk.get("@type") != "network" or source.get("@protocol") != PROTOCOL:
        return None
    auth = disk.get("auth") or source.get("auth")
    kept = {key: value for key, value in source.items() if key not in _OF_DISK}
    return _image(str(source.get("@name", "")), {**kept, **({"auth": auth} if auth else {})})


def is_encrypted(domain: Document, position: int) -> bool:
    """Return whether the disk at a position is encrypted by QEMU or by Ceph's client."""
    disk = devices(domain, "disk")[position]
    return "encryption" in disk or "encryption" in child(disk, "source")


def image_of_volume(pool: str, volume: str) -> NetworkImage | None:
    """Return the image that is a volume of a storage pool of type rbd, by the document of the pool."""
    described = child(codec.parse(pool, "pool"), "source")
    auth = child(described, "auth")
    source: dict[str, Any] = {"@protocol": PROTOCOL, "@name": f"{text(described.get('name')) or ''}/{volume}"}
    source["host"] = as_list(described.get("host"))
    if auth:
        secret = {"@type": "ceph", **child(auth, "secret")}
        source["auth"] = {"@username": auth.get("@username"), "secret": secret}
    return _image(source["@name"], source)


def holds_image(pool: str, image: NetworkImage) -> bool:
    """Return whether a storage pool of type rbd, by its document, has an image."""
    described = child(codec.parse(pool, "pool"), "source")
    hosts = {host for host, _ in _hosts(described)}
    return text(described.get("name")) == image.pool and not hosts.isdisjoint(host for host, _ in image.hosts)


def _image(name: str, source: dict[str, Any]) -> NetworkImage | None:
    pool, _, image = name.partition("/")
    if not pool or not image:
        return None
    return NetworkImage(
        pool=pool,
        image=image,
        snapshot=child(source, "snapshot").get("@name"),
        hosts=_hosts(source),
        user=child(source, "auth").get("@username"),
        config=child(source, "config").get("@file"),
        source=dict(source),
    )


def _hosts(source: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    hosts = [host for host in as_list(source.get("host")) if isinstance(host, dict) and "@name" in host]
    return tuple((str(host["@name"]), str(host.get("@port", _PORT))) for host in hosts)
