"""What original and clone still share: nothing is changed here, everything is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from virtomate.definition.own_paths import CHARACTER_DEVICES
from virtomate.definition.readers import child, devices, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# Devices that hold nothing two domains could get into each other's way with, or whose parts are looked at by name.
_KNOWN_DEVICES = frozenset(
    {
        "emulator", "disk", "controller", "interface", "input", "graphics", "video", "sound", "audio", "watchdog",
        "memballoon", "hub", "panic", "vsock", "iommu", "crypto", "pstore", "nvram", "tpm", "filesystem", "hostdev",
        "shmem", "lease", "memory", *CHARACTER_DEVICES,
    }
)  # fmt: skip
_TELLING_ATTRIBUTES = frozenset({"@path", "@file", "@dev", "@socket", "@port", "@addr", "@host"})

_INTERFACES = {
    "vhostuser": "vhost-user socket",
    "vdpa": "vDPA device",
    "hostdev": "host device",
    "udp": "UDP port",
    "server": "TCP port",
}
_FILE_SYSTEM_SOURCES = ("@dir", "@file", "@dev", "@name", "@socket")
_ADDRESS_PARAMETERS = frozenset({"IP", "IPV6", "MAC", "CTRL_IP_LEARNING", "DHCPSERVER"})
_SUSPECT_ARGUMENT = re.compile(r"/|:\d|port=|hostfwd|socket|tcp:|udp:|unix:|cid=|mac=", re.IGNORECASE)


def shared_things(domain: Document) -> tuple[str, ...]:
    """A sentence for each thing that original and clone both use, disks and own paths left aside.

    Source: https://libvirt.org/formatdomain.html#devices
    """
    found = (
        *_character_ports(domain),
        *_host_devices(domain),
        *_memory(domain),
        *_file_systems(domain),
        *_interfaces(domain),
        *_graphics(domain),
        *_inputs(domain),
        *_firmware(domain),
        *_labels(domain),
        *_tpm(domain),
        *_data_stores(domain),
        *_command_line(domain),
        *_unknown_devices(domain),
    )
    return tuple(dict.fromkeys(f"{what} is kept: original and clone both use it" for what in found))


def _character_ports(domain: Document) -> Iterator[str]:
    """TCP and UDP ports behind character devices (#tcp-client-server, #udp-network-console), and D-Bus names."""
    for kind in CHARACTER_DEVICES:
        for device in devices(domain, kind):
            character = child(device, "backend") if kind == "rng" else device
            if device.get("@type") == "dbus":
                yield f"{kind} channel on D-Bus"
            for source in _as_list(character.get("source")):
                port = source.get("@service")
                if port is not None:
                    yield f"{kind} port {source.get('@host', '')}:{port}"


def _host_devices(domain: Document) -> Iterator[str]:
    """Host devices of every kind (#host-device-assignment): one domain at a time can have them."""
    for device in devices(domain, "hostdev"):
        source = child(device, "source")
        address = source.get("address")
        parts = next(iter(_as_list(address)), {})
        where = ":".join(str(value) for key, value in parts.items() if key != "@type")
        kind = device.get("@type") or device.get("@mode") or "unknown"
        yield f"host device ({kind}{' ' + where if where else ''})"


def _memory(domain: Document) -> Iterator[str]:
    """Memory in a file (#memory-devices), shared memory (#shared-memory-device) and leases (#device-leases)."""
    for memory in devices(domain, "memory"):
        source = child(memory, "source")
        path = text(source.get("path"))
        if path is not None:
            yield f"{memory.get('@model', 'memory')} file '{path}'"
    for shmem in devices(domain, "shmem"):
        yield f"shared memory '{shmem.get('@name', '')}'"
    for lease in devices(domain, "lease"):
        yield f"lease '{text(lease.get('key')) or ''}'"


def _file_systems(domain: Document) -> Iterator[str]:
    """Host directories that both guests may write to (#filesystems)."""
    for filesystem in devices(domain, "filesystem"):
        if "readonly" not in filesystem:
            source = child(filesystem, "source")
            where = next((str(source[key]) for key in _FILE_SYSTEM_SOURCES if key in source), "")
            yield f"writable file system '{where}'"


def _interfaces(domain: Document) -> Iterator[str]:
    """Interfaces that end in something only one guest can have (#network-interfaces)."""
    for interface in devices(domain, "interface"):
        kind = str(interface.get("@type", ""))
        source = child(interface, "source")
        if kind in _INTERFACES:
            where = source.get("@path") or source.get("@dev") or source.get("@port") or ""
            yield f"{_INTERFACES[kind]} of an interface{f' ({where})' if where else ''}"
        if kind == "direct" and source.get("@mode") == "passthrough":
            yield f"host interface '{source.get('@dev', '')}', passed through"
        target = child(interface, "target").get("@dev")
        if target is not None:
            yield f"interface target '{target}'"
        if child(interface, "virtualport").get("@type") == "midonet":
            yield "Midonet port of an interface"
        parameters = _as_list(child(interface, "filterref").get("parameter"))
        for parameter in parameters:
            if parameter.get("@name") in _ADDRESS_PARAMETERS:
                yield f"network filter parameter {parameter['@name']}={parameter.get('@value', '')}"
        for forward in _as_list(interface.get("portForward")):
            ports = [str(part.get("@start", "")) for part in _as_list(forward.get("range"))]
            yield f"port forward {forward.get('@proto', '')} {', '.join(ports)}".rstrip()


def _graphics(domain: Document) -> Iterator[str]:
    """A D-Bus address that somebody chose (#graphical-framebuffers)."""
    for graphics in devices(domain, "graphics"):
        if graphics.get("@type") == "dbus" and "@address" in graphics:
            yield f"D-Bus address '{graphics['@address']}'"


def _inputs(domain: Document) -> Iterator[str]:
    """Input devices of the host (#input-devices)."""
    for device in devices(domain, "input"):
        source = child(device, "source")
        path = source.get("@dev") or source.get("@evdev")
        if path is not None:
            yield f"host input device '{path}'"


def _firmware(domain: Document) -> Iterator[str]:
    """Firmware that the guest may write to (#bios-bootloader)."""
    loader = child(child(domain, "os"), "loader")
    if loader.get("@type") == "pflash" and loader.get("@readonly") != "yes":
        yield f"writable loader '{text(loader) or ''}'"


def _labels(domain: Document) -> Iterator[str]:
    """A fixed security label (#security-label): it no longer keeps the two apart."""
    for label in _as_list(domain.get("seclabel")):
        if label.get("@type") == "static":
            yield f"static security label '{text(label.get('label')) or ''}'"


def _tpm(domain: Document) -> Iterator[str]:
    """A TPM of the host, or one whose state is at a given place (#tpm-device)."""
    for tpm in devices(domain, "tpm"):
        backend = child(tpm, "backend")
        where = child(backend, "device").get("@path") or child(backend, "source").get("@path")
        if where is not None:
            yield f"TPM at '{where}'"


def _data_stores(domain: Document) -> Iterator[str]:
    """Data files of disks that keep their data elsewhere (#hard-drives-floppy-disks-cdroms, dataStore)."""
    for disk in devices(domain, "disk"):
        store = child(child(disk, "source"), "dataStore")
        if store:
            yield f"data store of disk {child(disk, 'target').get('@dev', '')}"


def _command_line(domain: Document) -> Iterator[str]:
    """Arguments for QEMU that look like ports, paths or addresses (https://libvirt.org/drvqemu.html)."""
    for argument in _as_list(child(domain, "qemu:commandline").get("qemu:arg")):
        value = str(argument.get("@value", ""))
        if _SUSPECT_ARGUMENT.search(value):
            yield f"QEMU argument '{value}'"


def _unknown_devices(domain: Document) -> Iterator[str]:
    """Devices that this program does not know, where they hold a path, port or address."""
    for kind in child(domain, "devices"):
        if kind in _KNOWN_DEVICES:
            continue
        for device in devices(domain, kind):
            for value in _telling_values(device):
                yield f"{kind} '{value}'"


def _telling_values(element: dict[str, Any]) -> Iterator[str]:
    for key, value in element.items():
        if key in _TELLING_ATTRIBUTES or (isinstance(value, str) and value.startswith("/")):
            yield str(value)
        for part in _as_list(value):
            yield from _telling_values(part)


def _as_list(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """An element that may stand once, more than once, or not at all, without those that have no content."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]
