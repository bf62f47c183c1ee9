"""The disks of a domain's definition, as records.

Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import as_list, child, devices
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document


class BackingStore(NamedTuple):
    """The image below a disk or below another backing store, as the definition has it.

    Attributes:
        type: Type as of a disk; None where the definition says that nothing is below.
        path: Path, if the type is `file` or `block`.
        pool: Pool and volume, if the type is `volume`.
    """

    type: str | None = None
    path: str | None = None
    pool: str | None = None
    volume: str | None = None
    format: str | None = None
    is_encrypted: bool = False


class DiskDefinition(NamedTuple):
    """A `<disk>` element.

    Attributes:
        position: Position among the definition's disks.
        target: Name of the device in the guest, such as `vda`.
        type: Kind of the source: `file`, `volume`, `block`, `network` and so on.
        path: Path of the source, if the type is `file`.
        pool: Pool and volume, if the type is `volume`.
        address: Device, URL, socket or directory of a source of another type, if the definition names one.
        format: The driver's format; None where the pool decides.
        is_sliced: Whether the disk is only a slice of the source.
        below: The part of the backing chain that the definition names, nearest first.
    """

    position: int
    target: str
    type: str
    path: str | None
    pool: str | None
    volume: str | None
    address: str | None
    format: str | None
    is_readonly: bool
    is_shareable: bool
    is_sliced: bool
    below: tuple[BackingStore, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether the drive has no medium."""
        if self.type == "file":
            return self.path is None
        if self.type == "volume":
            return self.volume is None
        return self.type == "block" and self.address is None

    @property
    def location(self) -> str:
        """Return a phrase that names the source."""
        if self.type == "volume" and self.volume is not None:
            return f"{self.pool}/{self.volume}"
        return self.path or self.address or f"a {self.type} source"


def disks(domain: Document) -> tuple[DiskDefinition, ...]:
    """Return the disks of a domain, in order."""
    return tuple(_disk(index, disk) for index, disk in enumerate(devices(domain, "disk")))


def open_for_writing(domain: Document) -> Iterator[DiskDefinition]:
    """Return the disks that an active domain with this live definition may write to."""
    return (disk for disk in disks(domain) if not disk.is_readonly and not disk.is_empty)


def _disk(index: int, disk: dict[str, Any]) -> DiskDefinition:
    source = child(disk, "source")
    type_ = str(disk.get("@type", "file"))
    return DiskDefinition(
        position=index,
        target=str(child(disk, "target").get("@dev", f"disk {index}")),
        type=type_,
        path=source.get("@file"),
        pool=source.get("@pool"),
        volume=source.get("@volume"),
        address=_address(type_, source),
        format=child(disk, "driver").get("@type"),
        # libvirt makes every CD-ROM read-only
        is_readonly="readonly" in disk or disk.get("@device") == "cdrom",
        is_shareable="shareable" in disk,
        is_sliced="slices" in source,
        below=tuple(_backing_stores(disk)),
    )


def _address(kind: str, source: dict[str, Any]) -> str | None:
    """Return the address of a source that is neither a file nor a volume; for network disks and NVMe a URL."""
    if kind in {"file", "volume"}:
        return None
    if kind == "network":
        return _url(source)
    if kind == "nvme":
        parts = next(iter(as_list(source.get("address"))), {})
        numbers = [str(parts.get(f"@{key}", "0")).removeprefix("0x") for key in ("domain", "bus", "slot", "function")]
        domain, bus, slot, function = numbers
        return f"nvme://{domain.zfill(4)}:{bus.zfill(2)}:{slot.zfill(2)}.{function}/{source.get('@namespace', '1')}"
    return next((str(source[key]) for key in ("@dev", "@path", "@dir", "@name") if source.get(key)), None)


def _url(source: dict[str, Any]) -> str:
    """Return the URL of a network disk in QEMU's spelling, several hosts separated by commas."""
    protocol, name = source.get("@protocol", "network"), str(source.get("@name", "")).lstrip("/")
    hosts = as_list(source.get("host"))
    queries = [f"socket={host['@socket']}" for host in hosts if "@socket" in host]
    if queries:
        protocol = f"{protocol}+unix"
    if "@query" in source:
        queries.append(str(source["@query"]))
    query = f"?{'&'.join(queries)}" if queries else ""
    return f"{protocol}://{','.join(_host(host) for host in hosts if '@name' in host)}/{name}{query}"


def _host(host: dict[str, Any]) -> str:
    name = f"[{host['@name']}]" if ":" in host["@name"] else host["@name"]
    return f"{name}:{host['@port']}" if "@port" in host else name


def _backing_stores(element: dict[str, Any]) -> Iterator[BackingStore]:
    """Return the backing stores of a disk, each of which is nested in the next above."""
    while "backingStore" in element:
        element = child(element, "backingStore")
        if "source" not in element:
            yield BackingStore()
            return
        source = child(element, "source")
        yield BackingStore(
            type=str(element.get("@type", "file")),
            path=source.get("@file") or source.get("@dev"),
            pool=source.get("@pool"),
            volume=source.get("@volume"),
            format=child(element, "format").get("@type"),
            is_encrypted="encryption" in source,
        )
