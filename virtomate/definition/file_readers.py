"""The disks, the firmware and the NVRAM of a domain's definition.

Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms and #bios-bootloader
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import as_list, child, devices, text
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# libvirt's name for the file behind the second flash device of QEMU.
_NVRAM_NODE_NAME = "libvirt-pflash1-storage"
# The elements that decide which firmware libvirt selects.
_FIRMWARE = frozenset({"@firmware", "type", "firmware", "loader", "nvram"})
_FEATURES_OF_FIRMWARE = frozenset({"acpi", "apic", "gic", "smm"})


class BackingStore(NamedTuple):
    """The image below a disk or another backing store: a path, or pool and volume; without a type, the chain ends."""

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
        path: Path of the source, if the type is `file` or `block`.
        pool: Pool and volume, if the type is `volume`.
        address: URL, socket or directory that names a source of another type.
        format: The driver's format; None where the pool decides.
        is_sliced: Whether the disk is only a slice of the source.
        is_passed_through: Whether the guest sends SCSI commands to the device.
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
    is_passed_through: bool
    below: tuple[BackingStore, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether the drive has no medium."""
        sources = {"file": self.path, "volume": self.volume, "block": self.path}
        return self.type in sources and sources[self.type] is None

    @property
    def location(self) -> str:
        """Return a phrase that names the source."""
        if self.type == "volume" and self.volume is not None:
            return f"{self.pool}/{self.volume}"
        return self.path or self.address or f"a {self.type} source"

    def has_volume_of(self, other: DiskDefinition) -> bool:
        """Return whether the other disk names the same volume."""
        return (self.path, self.pool, self.volume) == (other.path, other.pool, other.volume)


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
        path=source.get("@dev" if type_ == "block" else "@file"),
        pool=source.get("@pool"),
        volume=source.get("@volume"),
        address=_address(type_, source),
        format=child(disk, "driver").get("@type"),
        # libvirt makes every CD-ROM read-only
        is_readonly="readonly" in disk or disk.get("@device") == "cdrom",
        is_shareable="shareable" in disk,
        is_sliced="slices" in source,
        is_passed_through=disk.get("@device") == "lun",
        below=tuple(_backing_stores(disk)),
    )


def _address(kind: str, source: dict[str, Any]) -> str | None:
    """Return the address of a source that is neither a file nor a volume; for network disks and NVMe a URL."""
    if kind in {"file", "volume", "block"}:
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


class NvramDefinition(NamedTuple):
    """The `<nvram>` of a definition, which holds the firmware's variables.

    Attributes:
        path: Path of the file; None where libvirt places the file, or the source is not a file.
        type: `file`, or another kind of source.
        template: File that libvirt copies where the NVRAM is missing, if the definition names a template.
    """

    path: str | None
    type: str
    format: str
    template: str | None = None


def nvram(domain: Document) -> NvramDefinition | None:
    """Return the NVRAM, if the definition shows it.

    The path is the element's text or, since libvirt 8.5, in a `<source>` beside `type='file'`.
    """
    os_element = child(domain, "os")
    if "nvram" not in os_element:
        return None
    attributes = child(os_element, "nvram")
    path = child(attributes, "source").get("@file") if "@type" in attributes else text(os_element["nvram"])
    return NvramDefinition(
        path=path.strip() if isinstance(path, str) else None,
        type=str(attributes.get("@type", "file")),
        format=str(attributes.get("@format", "raw")),
        template=attributes.get("@template"),
    )


def has_selected_nvram(domain: Document) -> bool:
    """Return whether libvirt places the NVRAM itself, which the definitions of libvirt 9.0 do not show.

    libvirt does so for autoselected EFI firmware (`<os firmware='efi'>`) and for a read-only pflash loader, unless the
    loader is stateless.
    """
    os_element = child(domain, "os")
    loader = child(os_element, "loader")
    is_read_only_flash = loader.get("@type") == "pflash" and loader.get("@readonly") == "yes"
    return loader.get("@stateless") != "yes" and (os_element.get("@firmware") == "efi" or is_read_only_flash)


def firmware_only(domain: Document) -> Document:
    """Return the part of a definition that decides about the firmware and the path of the NVRAM.

    libvirt is asked for the path with this part alone, since the same call fails for many host devices, and libvirt 9.0
    crashes on an `<interface type='hostdev'>`.
    """
    few: Document = {
        **{key: domain[key] for key in ("@type", "name", "uuid", "memory", "vcpu") if key in domain},
        "os": {key: value for key, value in child(domain, "os").items() if key in _FIRMWARE},
        "features": {key: value for key, value in child(domain, "features").items() if key in _FEATURES_OF_FIRMWARE},
    }
    emulator = child(domain, "devices").get("emulator")
    return few if emulator is None else {**few, "devices": {"emulator": emulator}}


def own_nvram_probe(domain: Document) -> Document:
    """Return a domain of the same name and machine whose NVRAM libvirt places itself, with any firmware or without."""
    probe = firmware_only(domain)
    # libvirt does not look for the loader before a start
    loader = {"@readonly": "yes", "@type": "pflash", "#text": "/firmware"}
    kept = {key: value for key, value in probe["os"].items() if key == "type"}
    return {**probe, "os": {**kept, "loader": loader}}


def selects_firmware(domain: Document) -> bool:
    """Return whether libvirt selects the firmware: the definition names its kind."""
    return "@firmware" in child(domain, "os")


def loader_path(domain: Document) -> str | None:
    """Return the path of the firmware, if the definition names it."""
    return text(child(domain, "os").get("loader"))


def nvram_path_of_command_line(command_line: str) -> str | None:
    """Return the NVRAM's path from the command line that libvirt would start QEMU with (`domainXMLToNative`)."""
    for word in shlex.split(command_line):
        if word.startswith("{") and _NVRAM_NODE_NAME in word:
            with suppress(ValueError):
                node = json.loads(word)
                if node.get("node-name") == _NVRAM_NODE_NAME and "filename" in node:
                    return str(node["filename"])
    return None
