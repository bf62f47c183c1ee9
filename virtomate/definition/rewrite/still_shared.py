"""Rule: name everything that original and clone still share; change nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import as_list, child, devices, text
from virtomate.definition.rewrite.unshared import CHARACTER_DEVICES
from virtomate.notices import CloneWarning, Notice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# Known places are checked below or by another rule, or can be shared without harm.
_CHARACTER_PLACES = frozenset(
    {"source/@path", "source/@host", "source/@service", "log/@file", "target/@port", "target/@address", "@tty"}
)
_KNOWN_PLACES: dict[str, frozenset[str]] = {
    **dict.fromkeys(CHARACTER_DEVICES, _CHARACTER_PLACES),
    "audio": frozenset({"@path", "@serverName", "input/@dev", "output/@dev"}),
    "controller": frozenset({"target/@port"}),
    "filesystem": frozenset(
        {"binary/@path", "source/@dev", "source/@dir", "source/@file", "source/@socket", "target/@dir"}
    ),
    "graphics": frozenset(
        {"@address", "@port", "@socket", "@xauth", "gl/@rendernode", "listen/@address", "listen/@socket"}
    ),
    "hostdev": frozenset(
        {"rom/@file", "ip/@address", "route/@address", "source/block", "source/char", "source/host/@port"}
    ),
    "input": frozenset({"source/@dev", "source/@evdev"}),
    "interface": frozenset(
        {
            "backend/@logFile", "backend/@tap", "backend/@vhost", "downscript/@path", "guest/@dev", "ip/@address",
            "mac/@address", "portForward/@address", "portForward/@dev", "rom/@file", "route/@address", "script/@path",
            "source/@address", "source/@dev", "source/@path", "source/@port", "source/ip/@address",
            "source/local/@address", "source/local/@port", "source/route/@address", "target/@dev",
        }
    ),
    "lease": frozenset({"target/@path"}),
    "memory": frozenset({"source/path"}),
    "pstore": frozenset({"path"}),
    "rng": frozenset({"backend", "backend/@tty", *(f"backend/{place}" for place in _CHARACTER_PLACES)}),
    "shmem": frozenset({"server/@path"}),
    "smartcard": frozenset({*_CHARACTER_PLACES, "database"}),
    "tpm": frozenset({"backend/device/@path", "backend/source/@path"}),
    "video": frozenset({"model/acceleration/@rendernode"}),
    "vsock": frozenset({"cid/@address"}),
}  # fmt: skip
# The plan handles disks. An `<address>` of a device is an address in the guest.
_DEVICES_LOOKED_AT_ELSEWHERE = frozenset({"disk", "emulator"})
# Known places outside <devices>: files that are only read, free text that may begin with a slash, limits of host
# devices, and what other rules check. The plan handles the NVRAM.
_KNOWN_OUTSIDE_OF_DEVICES = frozenset(
    {
        "blkiotune/device/path", "bootloader", "bootloader_args", "description", "launchSecurity/dhCert",
        "launchSecurity/guestVisibleWorkarounds", "launchSecurity/hostData", "launchSecurity/idAuth",
        "launchSecurity/idBlock", "launchSecurity/session", "os/acpi/table", "os/boot/@dev", "os/cmdline", "os/dtb",
        "os/init", "os/initarg", "os/initdir", "os/initenv", "os/initrd", "os/kernel", "os/loader", "os/nvram",
        "os/root", "os/shim", "resource/partition", "seclabel/baselabel", "seclabel/imagelabel", "seclabel/label",
        "sysinfo/baseBoard/entry", "sysinfo/bios/entry", "sysinfo/chassis/entry", "sysinfo/entry",
        "sysinfo/entry/@file", "sysinfo/oemStrings/entry", "sysinfo/system/entry", "title",
    }
)  # fmt: skip
_IN_NVRAM = "os/nvram/"
_GUEST_ADDRESS = "address"
_TELLING_ATTRIBUTES = frozenset(
    {"@path", "@file", "@dev", "@socket", "@port", "@service", "@addr", "@address", "@host"}
)

_INTERFACES = {
    "vhostuser": "vhost-user socket",
    "vdpa": "vDPA device",
    "hostdev": "host device",
    "udp": "UDP port",
    "server": "TCP port",
    "client": "TCP connection",
}
_FILE_SYSTEM_SOURCES = ("@dir", "@file", "@dev", "@name", "@socket", "@volume")
_MEMORY_FILE_SYSTEM = "ram"
# variables of libvirt's filters with an address of the guest
_ADDRESS_PARAMETERS = frozenset({"IP", "IPV6", "MAC"})
_COMMAND_LINE = "commandline"
# Paths and addresses, ports and sockets, identifiers, host devices; `-s` opens the debugger's port. This only chooses
# warnings; `mentions` decides who uses a file.
_SUSPECT_ARGUMENT = re.compile(
    r"/|:\d|port=|hostfwd|socket(?!s=)|tcp:|udp:|unix:|ifname="
    r"|cid=|mac=|uuid=|guid=|serial=|ww[np]n=|[\da-f]{8}-[\da-f]{4}-|usb-host|hostbus=|hostaddr=|vfio|(?-i:^-s$)",
    re.IGNORECASE,
)


def shared_things(domain: Document) -> tuple[Notice, ...]:
    """A sentence for each thing that original and clone both use, disks and own paths left aside.

    Source: https://libvirt.org/formatdomain.html#devices
    """
    found = (
        *_character_ports(domain),
        *_host_devices(domain),
        *_memory(domain),
        *_file_systems(domain),
        *_interfaces(domain),
        *_endpoints(domain),
        *_files_and_labels(domain),
        *_command_lines(domain),
        *_unknown_places(domain),
    )
    return tuple(Notice(CloneWarning.SHARED, what) for what in dict.fromkeys(found))


def not_carried_over(domain: Document) -> tuple[Notice, ...]:
    """A sentence for what the definition speaks of and libvirt keeps elsewhere, by the original's UUID.

    Source: https://libvirt.org/formatdomain.html#tpm-device
    """
    backends = [child(tpm, "backend") for tpm in devices(domain, "tpm")]
    if any(backend.get("@type") == "emulator" and "source" not in backend for backend in backends):
        return (Notice(CloneWarning.TPM_STATE, "TPM"),)
    return ()


def _character_ports(domain: Document) -> Iterator[str]:
    """Ports, host devices and other programs' sockets behind character devices.

    Source: https://libvirt.org/formatdomain.html#tcp-client-server, #udp-network-console, #host-device-proxy and
    #unix-domain-socket-client-server
    """
    # a serial port and its console are one device with two elements
    seen = set()
    for kind in CHARACTER_DEVICES:
        for device in devices(domain, kind):
            character = child(device, "backend") if kind == "rng" else device
            type_ = character.get("@type")
            for source in as_list(character.get("source")):
                if "@service" in source:
                    where, what = f"{source.get('@host', '')}:{source['@service']}", f"{kind} port"
                elif type_ == "dev" and "@path" in source:
                    where, what = f"'{source['@path']}'", f"{kind} on host device"
                elif type_ == "unix" and source.get("@mode") == "connect":
                    where, what = f"'{source.get('@path', '')}'", f"{kind} connection to socket"
                else:
                    continue
                if where not in seen:
                    seen.add(where)
                    yield f"{what} {where}"


def _host_devices(domain: Document) -> Iterator[str]:
    """Host devices of every kind (#host-device-assignment)."""
    for device in devices(domain, "hostdev"):
        kind = device.get("@type") or device.get("@mode") or "unknown"
        where = ":".join(_values(child(device, "source")))
        yield f"host device ({kind}{' ' + where if where else ''})"


def _values(element: dict[str, Any]) -> Iterator[str]:
    """Return every value in an element, in order."""
    for key, value in element.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from _values(part)
            elif part is not None and key not in {"@type", "@startupPolicy", "@writeFiltering", "@guestReset"}:
                yield str(part)


def _memory(domain: Document) -> Iterator[str]:
    """Memory in a file (#memory-devices), shared memory (#shared-memory-device) and leases (#device-leases)."""
    for memory in devices(domain, "memory"):
        source = child(memory, "source")
        path = text(source.get("path"))
        if path is not None and "readonly" not in child(memory, "target"):
            yield f"{memory.get('@model', 'memory')} file '{path}'"
    for shmem in devices(domain, "shmem"):
        yield f"shared memory '{shmem.get('@name', '')}'"
    for lease in devices(domain, "lease"):
        yield f"lease '{text(lease.get('key')) or ''}'"


def _file_systems(domain: Document) -> Iterator[str]:
    """Writable host directories, and sockets of file servers (#filesystems)."""
    for filesystem in devices(domain, "filesystem"):
        source = child(filesystem, "source")
        if ("readonly" not in filesystem or "@socket" in source) and filesystem.get("@type") != _MEMORY_FILE_SYSTEM:
            where = next((str(source[key]) for key in _FILE_SYSTEM_SOURCES if key in source), "")
            yield f"writable file system '{where}'"


def _interfaces(domain: Document) -> Iterator[str]:
    """Interfaces whose other end only one guest can use (#network-interfaces)."""
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
        parameters = as_list(child(interface, "filterref").get("parameter"))
        for parameter in parameters:
            if parameter.get("@name") in _ADDRESS_PARAMETERS:
                yield f"network filter parameter {parameter['@name']}={parameter.get('@value', '')}"
        for forward in as_list(interface.get("portForward")):
            ports = [str(part.get("@start", "")) for part in as_list(forward.get("range"))]
            yield f"port forward {forward.get('@proto', '')} {', '.join(ports)}".rstrip()


def _endpoints(domain: Document) -> Iterator[str]:
    """D-Bus addresses (#graphical-framebuffers), input devices of the host (#input-devices), and TPMs (#tpm-device)."""
    for graphics in devices(domain, "graphics"):
        if graphics.get("@type") == "dbus" and "@address" in graphics:
            yield f"D-Bus address '{graphics['@address']}'"
    for device in devices(domain, "input"):
        source = child(device, "source")
        path = source.get("@dev") or source.get("@evdev")
        if path is not None:
            yield f"host input device '{path}'"
    for tpm in devices(domain, "tpm"):
        backend = child(tpm, "backend")
        where = child(backend, "device").get("@path") or child(backend, "source").get("@path")
        if where is not None:
            yield f"TPM at '{where}'"


def _files_and_labels(domain: Document) -> Iterator[str]:
    """Writable firmware (#bios-bootloader), fixed labels (#security-label), and external data files of disks."""
    loader = child(child(domain, "os"), "loader")
    path = text(loader)
    if path is not None and loader.get("@type") == "pflash" and loader.get("@readonly") != "yes":
        yield f"writable loader '{path}'"
    for label in as_list(domain.get("seclabel")):
        if label.get("@type") == "static":
            yield f"static security label '{text(label.get('label')) or ''}'"
    for disk in devices(domain, "disk"):
        if child(child(disk, "source"), "dataStore"):
            yield f"data store of disk {child(disk, 'target').get('@dev', '')}"


def _command_lines(domain: Document) -> Iterator[str]:
    """Arguments, environment and properties for a hypervisor that look as if only one domain can use them.

    Source: https://libvirt.org/drvqemu.html#pass-through-of-arbitrary-qemu-commands and
    #overriding-properties-of-qemu-devices
    """
    found = []
    for key in domain:
        prefix, _, name = key.partition(":")
        if name == _COMMAND_LINE:
            hypervisor = "QEMU" if prefix == "qemu" else prefix
            command_line = child(domain, key)
            arguments = as_list(command_line.get(f"{prefix}:arg"))
            found += [(f"{hypervisor} argument", str(argument.get("@value", "")), "") for argument in arguments]
            variables = as_list(command_line.get(f"{prefix}:env"))
            found += [(f"{hypervisor} environment variable", _setting(variable), "") for variable in variables]
    for device in as_list(child(domain, "qemu:override").get("qemu:device")):
        properties = as_list(child(device, "qemu:frontend").get("qemu:property"))
        of_device = f" of device '{device.get('@alias', '')}'"
        found += [("QEMU property", _setting(property_), of_device) for property_ in properties]
    return (f"{what} '{value}'{where}" for what, value, where in found if _SUSPECT_ARGUMENT.search(value))


def _setting(element: dict[str, Any]) -> str:
    return f"{element.get('@name', '')}={element.get('@value', '')}"


def _unknown_places(domain: Document) -> Iterator[str]:
    """Paths, ports and addresses in unknown elements and attributes, such as those of a later libvirt."""
    for kind, elements in child(domain, "devices").items():
        if kind in _DEVICES_LOOKED_AT_ELSEWHERE:
            continue
        known = _KNOWN_PLACES.get(kind, frozenset())
        for element in elements if isinstance(elements, list) else [elements]:
            for place, value in _telling_values(element, ""):
                if place not in known:
                    yield f"{kind}{place and ' ' + place} '{value}'"
    for kind, element in domain.items():
        if kind == "devices" or kind.endswith(f":{_COMMAND_LINE}"):
            continue
        for place, value in _telling_values(element, kind):
            if place not in _KNOWN_OUTSIDE_OF_DEVICES and not place.startswith(_IN_NVRAM):
                yield f"{place.replace('/', ' ', 1)} '{value}'"


def _telling_values(value: Any, place: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Return every path, port and address in a device with its place, such as `source/@path`."""
    if isinstance(value, dict):
        for key, part in value.items():
            if place or key != _GUEST_ADDRESS:
                inner = place if key == "#text" else f"{place}/{key}".lstrip("/")
                yield from _telling_values(part, inner)
    elif isinstance(value, list):
        for part in value:
            yield from _telling_values(part, place)
    elif isinstance(value, str) and (value.startswith("/") or place.rpartition("/")[2] in _TELLING_ATTRIBUTES):
        yield place, value
