"""Rule: warn of everything that original and clone still share, or that identifies both; change nothing.

The anchors in the docstrings are those of https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import as_list, child, devices, text
from virtomate.definition.rewrite.told import smbios_serials, told_from_outside, told_in
from virtomate.definition.rewrite.unshared import CHARACTER_DEVICES, character_devices
from virtomate.notices import CloneWarning, Notice, notice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from virtomate.definition.codec import Document

# Known places, separated by blanks: they are checked below or by another rule, or can be shared without harm.
_CHARACTER_PLACES = "source/@path source/@host source/@service log/@file target/@port target/@address @tty"
_KNOWN_PLACES = {
    **dict.fromkeys(CHARACTER_DEVICES, _CHARACTER_PLACES),
    "audio": "@path @serverName input/@dev output/@dev",
    "controller": "target/@port",
    "filesystem": "binary/@path source/@dev source/@dir source/@file source/@socket target/@dir",
    "graphics": "@address @port @socket @xauth gl/@rendernode listen/@address listen/@socket",
    "hostdev": "rom/@file ip/@address route/@address source/block source/char source/host/@port",
    "input": "source/@dev source/@evdev",
    "interface": (
        "backend/@logFile backend/@tap backend/@vhost downscript/@path guest/@dev ip/@address mac/@address "
        "portForward/@address portForward/@dev rom/@file route/@address script/@path source/@address source/@dev "
        "source/@path source/@port source/ip/@address source/local/@address source/local/@port source/route/@address "
        "target/@dev"
    ),
    "lease": "target/@path",
    "memory": "source/path",
    "pstore": "path",
    "rng": " ".join(["backend", "backend/@tty", *(f"backend/{place}" for place in _CHARACTER_PLACES.split())]),
    "shmem": "server/@path",
    "smartcard": f"{_CHARACTER_PLACES} database",
    "tpm": "backend/device/@path backend/source/@path",
    "video": "model/acceleration/@rendernode",
    "vsock": "cid/@address",
}
# Known places outside <devices>: files that are only read, free text that may begin with a slash, limits of host
# devices, and places that other rules check. The plan handles the NVRAM.
_KNOWN_OUTSIDE_OF_DEVICES = (
    "blkiotune/device/path bootloader bootloader_args description launchSecurity/dhCert "
    "launchSecurity/guestVisibleWorkarounds launchSecurity/hostData launchSecurity/idAuth launchSecurity/idBlock "
    "launchSecurity/session os/acpi/table os/boot/@dev os/cmdline os/dtb os/init os/initarg os/initdir os/initenv "
    "os/initrd os/kernel os/loader os/nvram os/root os/shim resource/partition seclabel/baselabel seclabel/imagelabel "
    "seclabel/label sysinfo/baseBoard/entry sysinfo/bios/entry sysinfo/chassis/entry sysinfo/entry sysinfo/entry/@file "
    "sysinfo/oemStrings/entry sysinfo/system/entry title"
)
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
# variables of libvirt's filters with an address of the guest
_ADDRESS_PARAMETERS = frozenset({"IP", "IPV6", "MAC"})
_COMMAND_LINE = "commandline"
# Patterns are compiled when a definition needs them, which few do.

# Paths and addresses, ports and sockets, identifiers, host devices; `-s` opens the debugger's port. The pattern only
# chooses warnings; `mentions` finds the users of a file.
_SUSPECT_ARGUMENT = (
    r"(?i)/|:\d|port=|hostfwd|socket(?!s=)|tcp:|udp:|unix:|ifname="
    r"|cid=|mac=|uuid=|guid=|serial=|ww[np]n=|[\da-f]{8}-[\da-f]{4}-|usb-host|hostbus=|hostaddr=|vfio|(?-i:^-s$)"
)


def shared_things(domain: Document) -> tuple[Notice, ...]:
    """Return a warning for each thing that original and clone both use, apart from disks and own paths."""
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
    """Return a warning for state of an emulated TPM, which is outside the definition (#tpm-device)."""
    backends = [child(tpm, "backend") for tpm in devices(domain, "tpm")]
    is_emulated = any(backend.get("@type") == "emulator" for backend in backends)
    return (Notice(CloneWarning.TPM_STATE, "TPM"),) if is_emulated else ()


def _character_ports(domain: Document) -> Iterator[str]:
    """Return ports, host devices and other programs' sockets behind character devices.

    See #tcp-client-server, #udp-network-console, #host-device-proxy and #unix-domain-socket-client-server.
    """
    # by place, since a serial port and its console are one device with two elements
    found: dict[str, str] = {}
    for kind, character in character_devices(domain):
        type_ = character.get("@type")
        for source in as_list(character.get("source")):
            if "@service" in source:
                found.setdefault(f"{source.get('@host', '')}:{source['@service']}", f"{kind} port")
            elif type_ == "dev" and "@path" in source:
                found.setdefault(f"'{source['@path']}'", f"{kind} on host device")
            elif type_ == "unix" and source.get("@mode") == "connect":
                found.setdefault(f"'{source.get('@path', '')}'", f"{kind} connection to socket")
    return (f"{what} {where}" for where, what in found.items())


def _host_devices(domain: Document) -> Iterator[str]:
    """Yield host devices of every kind (#host-device-assignment)."""
    for device in devices(domain, "hostdev"):
        kind = device.get("@type") or device.get("@mode") or "unknown"
        where = ":".join(_values(child(device, "source")))
        yield f"host device ({kind}{' ' + where if where else ''})"


def _values(element: dict[str, Any]) -> Iterator[str]:
    """Yield every value in an element, in order."""
    for key, value in element.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from _values(part)
            elif part is not None and key not in {"@type", "@startupPolicy", "@writeFiltering", "@guestReset"}:
                yield str(part)


def _memory(domain: Document) -> Iterator[str]:
    """Yield memory in a file (#memory-devices), shared memory (#shared-memory-device) and leases (#device-leases)."""
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
    """Yield writable host directories, and sockets of file servers (#filesystems)."""
    for filesystem in devices(domain, "filesystem"):
        source = child(filesystem, "source")
        if ("readonly" not in filesystem or "@socket" in source) and filesystem.get("@type") != "ram":
            where = next((str(source[key]) for key in _FILE_SYSTEM_SOURCES if key in source), "")
            yield f"writable file system '{where}'"


def _interfaces(domain: Document) -> Iterator[str]:
    """Yield interfaces whose other end only one guest can use (#network-interfaces)."""
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
        for parameter in as_list(child(interface, "filterref").get("parameter")):
            if parameter.get("@name") in _ADDRESS_PARAMETERS:
                yield f"network filter parameter {parameter['@name']}={parameter.get('@value', '')}"
        for forward in as_list(interface.get("portForward")):
            ports = [str(part.get("@start", "")) for part in as_list(forward.get("range"))]
            yield f"port forward {forward.get('@proto', '')} {', '.join(ports)}".rstrip()


def _endpoints(domain: Document) -> Iterator[str]:
    """Yield D-Bus addresses (#graphical-framebuffers), host input devices (#input-devices) and TPMs (#tpm-device)."""
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
        # an emulator gets a place of its own
        if where is not None and backend.get("@type") != "emulator":
            yield f"TPM at '{where}'"


def _files_and_labels(domain: Document) -> Iterator[str]:
    """Yield writable firmware (#bios-bootloader), fixed labels (#security-label), and external data files of disks."""
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
    """Return arguments, environment and properties for a hypervisor that probably only one domain can use.

    Source: https://libvirt.org/drvqemu.html#pass-through-of-arbitrary-qemu-commands and
    #overriding-properties-of-qemu-devices
    """
    found = []
    for key in domain:
        prefix, _, name = key.partition(":")
        if name == _COMMAND_LINE:
            hypervisor = "QEMU" if prefix == "qemu" else prefix
            arguments = as_list(child(domain, key).get(f"{prefix}:arg"))
            found += [(f"{hypervisor} argument", str(argument.get("@value", "")), "") for argument in arguments]
            variables = as_list(child(domain, key).get(f"{prefix}:env"))
            found += [(f"{hypervisor} environment variable", _setting(variable), "") for variable in variables]
    for device in as_list(child(domain, "qemu:override").get("qemu:device")):
        properties = as_list(child(device, "qemu:frontend").get("qemu:property"))
        of_device = f" of device '{device.get('@alias', '')}'"
        found += [("QEMU property", _setting(property_), of_device) for property_ in properties]
    return (f"{what} '{value}'{where}" for what, value, where in found if re.search(_SUSPECT_ARGUMENT, value))


def _setting(element: dict[str, Any]) -> str:
    return f"{element.get('@name', '')}={element.get('@value', '')}"


def _unknown_places(domain: Document) -> Iterator[str]:
    """Yield paths, ports and addresses in unknown elements and attributes, such as those of a later libvirt."""
    for kind, elements in child(domain, "devices").items():
        # the plan handles disks
        if kind not in {"disk", "emulator"}:
            known = _KNOWN_PLACES.get(kind, "").split()
            places = ((place, value) for place, value in _telling_values(elements, "") if place not in known)
            yield from (f"{kind}{place and ' ' + place} '{value}'" for place, value in places)
    known = _KNOWN_OUTSIDE_OF_DEVICES.split()
    for kind, element in domain.items():
        if kind != "devices" and not kind.endswith(f":{_COMMAND_LINE}"):
            for place, value in _telling_values(element, kind):
                if place not in known and not place.startswith("os/nvram/"):
                    yield f"{place.replace('/', ' ', 1)} '{value}'"


def _telling_values(value: Any, place: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Yield every path, port and address in a device with its place, such as `source/@path`."""
    if isinstance(value, dict):
        for key, part in value.items():
            # an `<address>` of a device is an address in the guest
            if place or key != "address":
                yield from _telling_values(part, place if key == "#text" else f"{place}/{key}".lstrip("/"))
    elif isinstance(value, list):
        for part in value:
            yield from _telling_values(part, place)
    elif isinstance(value, str) and (value.startswith("/") or place.rpartition("/")[2] in _TELLING_ATTRIBUTES):
        yield place, value


def same_identity(
    domain: Document, duplicated: Collection[int], *, has_new_title: bool, has_new_name: bool = False
) -> tuple[Notice, ...]:
    """Return a warning for each thing that identifies both the original and its clone with these duplicated disks.

    With a new host name, what the definition tells the guest of host name and instance ID is no such thing.
    """
    title = None if has_new_title else text(domain.get("title"))
    serials = [(table, serial) for table, serial in smbios_serials(domain) if not told_in(serial)]
    return (
        *([Notice(CloneWarning.SAME_TITLE, title)] if title else []),
        *(notice(CloneWarning.SAME_SERIALS, table, serial=serial) for table, serial in serials),
        *_disks(domain, duplicated),
        *told_from_outside(domain, has_new_name=has_new_name),
    )


def _disks(domain: Document, duplicated: Collection[int]) -> Iterator[Notice]:
    """Yield warnings of serial numbers and world wide names of duplicated disks; a shared disk is the same disk."""
    for index, disk in enumerate(devices(domain, "disk")):
        identifiers = {"serial number": text(disk.get("serial")), "WWN": text(disk.get("wwn"))}
        names = [f"{what} '{value}'" for what, value in identifiers.items() if value]
        if names and index in duplicated:
            target = child(disk, "target").get("@dev", str(index))
            yield notice(CloneWarning.SAME_DISK_SERIALS, target, identifiers=" and ".join(names))
