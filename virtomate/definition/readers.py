"""What a domain's definition says, as records.

Source for the elements: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# What libvirt calls the file behind the second flash device when it starts QEMU.
_NVRAM_NODE_NAME = "libvirt-pflash1-storage"
# What decides which firmware libvirt selects: https://libvirt.org/formatdomain.html#bios-bootloader
_FIRMWARE = frozenset({"@firmware", "type", "firmware", "loader", "nvram"})
_FEATURES_OF_FIRMWARE = frozenset({"acpi", "apic", "gic", "smm"})

# what the source of a disk is named by where it is no file, volume or URL
_SOURCES_OF_DISKS = ("@dev", "@path", "@dir", "@name")

# as libvirt writes them
_ESCAPES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&"))

_MAC_ADDRESS = r"<mac\s+address=['\"]([0-9A-Fa-f:]{17})['\"]"


@dataclass(frozen=True)
class BackingStore:
    """What a definition says is below a disk, or below another backing store.

    Attributes:
        type: How it is named, as that of a disk; None where the definition says that nothing is below.
        path: Path of the file or block device, None where it is named otherwise.
        pool: Pool and volume where the type is `volume`.
    """

    type: str | None = None
    path: str | None = None
    pool: str | None = None
    volume: str | None = None
    format: str | None = None
    is_encrypted: bool = False


@dataclass(frozen=True)
class DiskDefinition:
    """A `<disk>` as its definition has it.

    Attributes:
        index: Position among the definition's disks.
        target: Name of the device in the guest, `vda`.
        device: `disk`, `lun`, `cdrom` or `floppy`.
        type: How the source is named: `file`, `volume`, `block`, `network` and so on.
        path: Source path where the type is `file`.
        pool: Pool and volume where the type is `volume`.
        address: Where the type is neither: the device, URL, socket or directory; None where there is none to tell.
        format: The driver's format, or None where the definition leaves it to the pool.
        is_sliced: Whether only a slice of the source is the disk.
        below: What the definition itself says is below the source, nearest first; it need not say all.
    """

    index: int
    target: str
    device: str
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
        """Whether no medium is in the drive."""
        if self.type == "file":
            return self.path is None
        if self.type == "volume":
            return self.volume is None
        return self.type == "block" and self.address is None

    @property
    def location(self) -> str:
        """A phrase that names the source."""
        if self.type == "volume" and self.volume is not None:
            return f"{self.pool}/{self.volume}"
        return self.path or self.address or f"a {self.type} source"


@dataclass(frozen=True)
class InterfaceDefinition:
    """A network interface of an active domain.

    Attributes:
        name: Its name on the host; where it has none there, libvirt's for the device.
        mac: Its MAC address in lower case, None where it has none.
    """

    name: str
    mac: str | None


@dataclass(frozen=True)
class NvramDefinition:
    """The `<nvram>` of a definition: where the firmware's variables are kept.

    Attributes:
        path: Path of the file, None where the definition leaves it to libvirt or it is no file.
        type: `file`, or what else the source is.
        format: `raw` unless the definition says otherwise.
        template: What libvirt makes the file from where it is missing, None where the definition does not say.
    """

    path: str | None
    type: str
    format: str
    template: str | None = None


def disks(domain: Document) -> tuple[DiskDefinition, ...]:
    """The disks of a domain, in order."""
    return tuple(_disk(index, disk) for index, disk in enumerate(devices(domain, "disk")))


def devices(domain: Document, kind: str) -> list[dict[str, Any]]:
    """The devices of one kind; an element without content counts as an empty one."""
    return [device or {} for device in child(domain, "devices").get(kind, [])]


def child(element: Document, name: str) -> dict[str, Any]:
    """A child element, or an empty one where it is absent, without content or plain text."""
    value = element.get(name)
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """An element that may stand once, more than once, or not at all, without those that have no content."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def text(value: Any) -> str | None:  # noqa: ANN401
    """The text of an element, whether it has attributes or not."""
    if isinstance(value, dict):
        value = value.get("#text")
    return value if isinstance(value, str) else None


def name(domain: Document) -> str:
    """The domain's name."""
    return text(domain.get("name")) or ""


def uuid(domain: Document) -> str:
    """The domain's UUID."""
    return text(domain.get("uuid")) or ""


def mac_addresses(domain: Document) -> tuple[str, ...]:
    """The MAC addresses of all network interfaces, in lower case."""
    return tuple(
        str(mac).lower()
        for interface in devices(domain, "interface")
        if (mac := child(interface, "mac").get("@address"))
    )


def interfaces(domain: Document) -> tuple[InterfaceDefinition, ...]:
    """The network interfaces of an active domain, in order."""
    return tuple(
        InterfaceDefinition(
            name=str(
                child(interface, "target").get("@dev") or child(interface, "alias").get("@name") or f"net{number}"
            ),
            mac=str(child(interface, "mac").get("@address", "")).lower() or None,
        )
        for number, interface in enumerate(devices(domain, "interface"))
    )


def network_names(domain: Document) -> tuple[str, ...]:
    """The networks of libvirt's that its interfaces are connected to, each once."""
    sources = (child(interface, "source") for interface in devices(domain, "interface"))
    return tuple(dict.fromkeys(str(network) for source in sources if (network := source.get("@network"))))


def find_mac_addresses(definition: str) -> set[str]:
    """The MAC addresses in the text of a definition, in lower case, and maybe some that only metadata mention."""
    return {address.lower() for address in re.findall(_MAC_ADDRESS, definition)}


def find_named_files(definition: str) -> set[str | tuple[str, str]]:
    """The absolute paths in the text of a definition of libvirt's, and volumes named by pool and name.

    Maybe some that only metadata mention. The text is only cut up and not parsed, which takes a fiftieth of the time.
    """
    found: set[str | tuple[str, str]] = {
        _unescaped(piece) for piece in definition.split("'") if piece.startswith("/") and not piece.startswith("/>")
    }
    found.update(_unescaped(f"/{piece.partition('<')[0]}") for piece in definition.split(">/")[1:])
    for piece in definition.split("<source ")[1:]:
        element = piece.partition(">")[0]
        _, _, pool = element.partition(" pool='" if not element.startswith("pool='") else "pool='")
        _, _, volume = element.partition(" volume='")
        if pool and volume:
            found.add((_unescaped(pool.partition("'")[0]), _unescaped(volume.partition("'")[0])))
    return found


def command_line_arguments(domain: Document) -> tuple[str, ...]:
    """What the definition adds to QEMU's command line."""
    arguments = child(domain, "qemu:commandline").get("qemu:arg", [])
    return tuple(str(argument.get("@value", "")) for argument in arguments if isinstance(argument, dict))


def nvram(domain: Document) -> NvramDefinition | None:
    """Where the NVRAM is; None where the definition shows none.

    There are two spellings: the path as text, and `type='file'` with a `<source>` (libvirt 8.5 and later).
    """
    os_element = child(domain, "os")
    if "nvram" not in os_element:
        return None
    element = os_element["nvram"]
    attributes = element if isinstance(element, dict) else {}
    kind = str(attributes.get("@type", "file"))
    format_ = str(attributes.get("@format", "raw"))
    path = child(attributes, "source").get("@file") if "@type" in attributes else text(element)
    return NvramDefinition(path.strip() if isinstance(path, str) else None, kind, format_, attributes.get("@template"))


def has_selected_nvram(domain: Document) -> bool:
    """Whether libvirt gives the domain an NVRAM of its own choice, which libvirt 9.0 does not show.

    That is so for autoselected EFI firmware (`<os firmware='efi'>`), and for a loader of type pflash that is read-only.
    A definition that turns the NVRAM off has a stateless loader.
    """
    os_element = child(domain, "os")
    loader = child(os_element, "loader")
    if loader.get("@stateless") == "yes":
        return False
    if os_element.get("@firmware") == "efi":
        return True
    return loader.get("@type") == "pflash" and loader.get("@readonly") == "yes"


def firmware_only(domain: Document) -> Document:
    """As much of a definition as decides about the firmware and where its NVRAM is.

    With this alone libvirt is asked for the path: it fails for host devices, which it does not look up unless a domain
    is really started, and the daemon of 9.0 even dies of an `<interface type='hostdev'>`.
    """
    os_element = child(domain, "os")
    features = child(domain, "features")
    emulator = child(domain, "devices").get("emulator")
    few: Document = {
        **{key: domain[key] for key in ("@type", "name", "uuid", "memory", "vcpu") if key in domain},
        "os": {key: value for key, value in os_element.items() if key in _FIRMWARE},
        "features": {key: value for key, value in features.items() if key in _FEATURES_OF_FIRMWARE},
    }
    return few if emulator is None else {**few, "devices": {"emulator": emulator}}


def own_nvram_probe(domain: Document) -> Document:
    """A domain of that name and machine whose NVRAM libvirt places itself, whatever firmware there is on its host."""
    probe = firmware_only(domain)
    os_element = {key: value for key, value in probe["os"].items() if key == "type"}
    # libvirt does not look for it before a start
    return {**probe, "os": {**os_element, "loader": {"@readonly": "yes", "@type": "pflash", "#text": "/firmware"}}}


def selects_firmware(domain: Document) -> bool:
    """Whether libvirt selects the firmware, since the definition says what kind it is to be."""
    return "@firmware" in child(domain, "os")


def loader_path(domain: Document) -> str | None:
    """The firmware that the definition names."""
    return text(child(domain, "os").get("loader"))


def nvram_path_of_command_line(command_line: str) -> str | None:
    """The NVRAM's path from the command line that libvirt would start QEMU with (`domainXMLToNative`)."""
    for word in shlex.split(command_line):
        if not word.startswith("{"):
            continue
        try:
            node = json.loads(word)
        except ValueError:
            continue
        if isinstance(node, dict) and node.get("node-name") == _NVRAM_NODE_NAME and "filename" in node:
            return str(node["filename"])
    return None


def has_value(definition: str, value: str) -> bool:
    """Whether a value stands as a whole in the text of a definition: as an attribute, or as the text of an element.

    MAC addresses are expected in lower case, in which libvirt writes them.
    """
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    quoted = escaped.replace('"', "&quot;")
    # libvirt writes attributes of its own with single quotes, and those in metadata with double ones
    return any(
        f"{begin}{form}{end}" in definition
        for form in {escaped, quoted, quoted.replace("'", "&apos;")}
        for begin, end in ("''", '""', "><")
    )


def _unescaped(value: str) -> str:
    if "&" not in value:
        return value
    for escape, character in _ESCAPES:
        value = value.replace(escape, character)
    return value


def open_for_writing(domain: Document) -> Iterator[DiskDefinition]:
    """The disks that an active domain with this (live) definition may write to."""
    return (disk for disk in disks(domain) if not disk.is_readonly and not disk.is_empty)


def _disk(index: int, disk: dict[str, Any]) -> DiskDefinition:
    source = child(disk, "source")
    device = str(disk.get("@device", "disk"))
    return DiskDefinition(
        index=index,
        target=str(child(disk, "target").get("@dev", f"disk {index}")),
        device=device,
        type=str(disk.get("@type", "file")),
        path=source.get("@file"),
        pool=source.get("@pool"),
        volume=source.get("@volume"),
        address=_address(str(disk.get("@type", "file")), source),
        format=child(disk, "driver").get("@type"),
        # libvirt makes every CD-ROM read-only, and says so in the definitions it returns
        is_readonly="readonly" in disk or device == "cdrom",
        is_shareable="shareable" in disk,
        is_sliced="slices" in source,
        below=tuple(_backing_stores(disk)),
    )


def _address(kind: str, source: dict[str, Any]) -> str | None:
    """A word that names the source of a disk that is no file and no volume, network disks and NVMe ones as a URL.

    Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms (source)
    """
    if kind in {"file", "volume"}:
        return None
    if kind == "network":
        return _url(source)
    if kind == "nvme":
        parts = next((part for part in source.get("address", []) if isinstance(part, dict)), {})
        numbers = [str(parts.get(f"@{key}", "0")).removeprefix("0x") for key in ("domain", "bus", "slot", "function")]
        domain, bus, slot, function = numbers
        return f"nvme://{domain.zfill(4)}:{bus.zfill(2)}:{slot.zfill(2)}.{function}/{source.get('@namespace', '1')}"
    return next((str(source[key]) for key in _SOURCES_OF_DISKS if source.get(key)), None)


def _url(source: dict[str, Any]) -> str:
    """The URL of a network disk, in QEMU's spelling; several hosts stand side by side."""
    protocol, name = source.get("@protocol", "network"), str(source.get("@name", "")).lstrip("/")
    hosts = [host for host in source.get("host", []) if isinstance(host, dict)]
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
    """The backing stores in a disk, each of which is in the one above."""
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
