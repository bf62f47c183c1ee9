"""Rule: libvirt chooses what two domains cannot share, and files outside storage pools get the clone's name.

libvirt chooses ports, sockets, context IDs and interface targets at each start.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import as_list, child, devices
from virtomate.notices import Change, CloneWarning, Notice, notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# Graphics devices that listen on ports; the others draw on the host's own screen or nowhere.
_GRAPHICS_WITH_PORTS = frozenset({"vnc", "spice", "rdp"})
_LIBVIRT_CHOOSES = "-1"

# Where libvirt puts the sockets that it names itself: the state directory, and the runtime directory since 9.7;
# a session daemon's are below the user's own directories.
_GENERATED_SOCKET = re.compile(r"/libvirt/qemu/(channel/|run/channel/|lib/channel/|domain-\d+-)")

# The names that libvirt gives to the host's side of interfaces (VIR_NET_GENERATED_*_PREFIX).
_GENERATED_TARGET = re.compile(r"(vnet|vif|macvtap|macvlan|veth)\d+")

# Character devices: https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices
CHARACTER_DEVICES = ("serial", "parallel", "console", "channel", "smartcard", "redirdev", "rng")
_CHARACTER_FILES = frozenset({"file", "pipe"})
_NOWHERE = "/dev/null"


class Outcome(NamedTuple):
    """A changed definition, and what the user should know about it.

    Attributes:
        changes: What was renewed or is now chosen by libvirt.
        warnings: What original and clone still share, or what was not carried over.
    """

    domain: Document
    changes: tuple[Notice, ...] = ()
    warnings: tuple[Notice, ...] = ()


def auto_allocated(domain: Document) -> Outcome:
    """Return the definition in which libvirt chooses all that can be chosen; the same for every clone."""
    domain = copied(domain)
    # each of these edits the copy, and yields its changes
    changes = (
        *_free_ports(domain),
        *_free_graphics_sockets(domain),
        *_free_channel_sockets(domain),
        *_free_vsock(domain),
        *_free_interface_targets(domain),
        *_free_virtual_ports(domain),
    )
    return Outcome(domain, changes)


def _free_ports(domain: Document) -> Iterator[Notice]:
    """Free every port of every graphics device, since only one domain can listen on a fixed port.

    libvirt chooses the websocket's port where it is -1. A device that listens on a socket or not at all has no ports.

    Source: https://libvirt.org/formatdomain.html#graphical-framebuffers
    """
    for graphics in devices(domain, "graphics"):
        kind = graphics.get("@type")
        listeners = {listen.get("@type") for listen in as_list(graphics.get("listen"))}
        listens_on_ports = {"address", "network"} & listeners if graphics.get("listen") else "@socket" not in graphics
        if kind not in _GRAPHICS_WITH_PORTS or not listens_on_ports:
            continue
        before = dict(graphics)
        for port in ("@port", "@tlsPort"):
            graphics.pop(port, None)
        graphics["@autoport"] = "yes"
        if "@websocket" in graphics:
            graphics["@websocket"] = _LIBVIRT_CHOOSES
        was_automatic = before.get("@autoport") == "yes" and before.get("@websocket", "-1") == _LIBVIRT_CHOOSES
        if not was_automatic:
            yield Notice(Change.AUTOMATIC, f"{str(kind).upper()} ports")


def _free_graphics_sockets(domain: Document) -> Iterator[Notice]:
    """Free the path of every socket that a graphics device listens on; libvirt has a directory for each domain.

    Source: https://libvirt.org/formatdomain.html#graphical-framebuffers
    """
    for graphics in devices(domain, "graphics"):
        named = [graphics.pop("@socket", None)]
        # without a listener of this type, the device would listen on ports
        if named[0] is not None and "listen" not in graphics:
            graphics["listen"] = [{"@type": "socket"}]
        named += [listen.pop("@socket", None) for listen in as_list(graphics.get("listen"))]
        if any(named):
            yield Notice(Change.AUTOMATIC, f"{str(graphics.get('@type')).upper()} socket")


def _free_channel_sockets(domain: Document) -> Iterator[Notice]:
    """Free the sockets of channels that libvirt named, such as the guest agent's.

    Their paths contain the original's name or ID. libvirt leaves generated paths out of the definitions that it
    returns, unless it took them for a user's choice.

    Source: https://libvirt.org/formatdomain.html#channel
    """
    for channel in devices(domain, "channel"):
        source = child(channel, "source")
        is_server = channel.get("@type") == "unix" and source.get("@mode", "bind") == "bind"
        if is_server and _GENERATED_SOCKET.search(str(source.get("@path", ""))):
            channel.pop("source")
            yield Notice(Change.AUTOMATIC, f"socket of {child(channel, 'target').get('@name', 'channel')}")


def _free_vsock(domain: Document) -> Iterator[Notice]:
    """Free the vsock's context ID, which addresses one guest of the host.

    Source: https://libvirt.org/formatdomain.html#vsock
    """
    for vsock in devices(domain, "vsock"):
        cid = child(vsock, "cid")
        if not cid:
            continue
        was_automatic = cid.get("@auto") == "yes"
        cid.pop("@address", None)
        cid["@auto"] = "yes"
        if not was_automatic:
            yield Notice(Change.AUTOMATIC, "vsock context ID")


def _free_interface_targets(domain: Document) -> Iterator[Notice]:
    """Free the names that libvirt gave to the host's side of interfaces.

    An unmanaged device belongs to another program, whatever its name.

    Source: https://libvirt.org/formatdomain.html#overriding-the-target-element
    """
    for interface in devices(domain, "interface"):
        target = child(interface, "target")
        name = str(target.get("@dev", ""))
        if _GENERATED_TARGET.fullmatch(name) and target.get("@managed") != "no":
            target.pop("@dev")
            if not target:
                interface.pop("target")
            yield Notice(Change.AUTOMATIC, f"interface target {name}")


def _free_virtual_ports(domain: Document) -> Iterator[Notice]:
    """Free the interface and instance IDs of virtual ports: a switch takes two interfaces with one ID for the same.

    libvirt makes a missing ID, except for Midonet, where the ID names an existing port.

    Source: https://libvirt.org/formatdomain.html#direct-attachment-to-physical-interface (802.1Qbg), and
    https://libvirt.org/formatdomain.html#bridge-to-lan (Open vSwitch, Midonet)
    """
    for interface in devices(domain, "interface"):
        port = child(interface, "virtualport")
        if port.get("@type") == "midonet":
            continue
        for kind in ("interface", "instance"):
            if child(port, "parameters").pop(f"@{kind}id", None) is not None:
                yield Notice(Change.NEW, f"{kind} ID of a virtual port")


def own_paths(domain: Document, source: str, clone: str) -> Outcome:
    """Give the clone its own path for everything that the guest or QEMU writes to or listens on.

    These are files, pipes, sockets and log files of character devices, audio files, the pstore's file and passt's log.
    If the original's name is a word of the path, the clone's name replaces it in the last component with the name,
    since other directories may not exist. Otherwise both domains use one path, with a warning.

    Args:
        domain: The definition.
        source: Name of the original.
        clone: Name of the clone.

    Source: https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices,
    https://libvirt.org/formatdomain.html#audio-devices, https://libvirt.org/formatdomain.html#pstore and
    https://libvirt.org/formatdomain.html#userspace-connection-using-passt
    """
    domain = copied(domain)
    # by path, since a serial port and its console are one device with two elements
    changes: dict[str, Notice] = {}
    warnings: dict[str, Notice] = {}
    for what, element, key in _places(domain):
        path = str(element[key])
        if path == _NOWHERE:
            continue
        own = _renamed(path, source, clone)
        element[key] = own
        if own == path:
            warnings.setdefault(path, Notice(CloneWarning.SHARED, f"{what} '{path}'"))
        else:
            changes.setdefault(path, notice(Change.OWN_PATH, what, path=own))
    return Outcome(domain, tuple(changes.values()), tuple(warnings.values()))


def _places(domain: Document) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Return each of these paths: its description, its element and its key."""
    for kind in CHARACTER_DEVICES:
        for device in devices(domain, kind):
            # an entropy source has its character device in the backend
            yield from _character_places(kind, child(device, "backend") if kind == "rng" else device)
    for audio in devices(domain, "audio"):
        if audio.get("@type") == "file" and "@path" in audio:
            yield "audio file", audio, "@path"
    for pstore in devices(domain, "pstore"):
        if isinstance(pstore.get("path"), str):
            yield "pstore file", pstore, "path"
    for interface in devices(domain, "interface"):
        backend = child(interface, "backend")
        if "@logFile" in backend:
            yield "passt log file", backend, "@logFile"


def _character_places(kind: str, device: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    type_, source, log = device.get("@type"), child(device, "source"), child(device, "log")
    if type_ in _CHARACTER_FILES and "@path" in source:
        yield f"{kind} {type_}", source, "@path"
    # a socket that QEMU connects to belongs to another program, which may serve several clients
    if type_ == "unix" and source.get("@mode", "bind") == "bind" and "@path" in source:
        yield f"{kind} socket", source, "@path"
    if "@file" in log:
        yield f"{kind} log file", log, "@file"


def _renamed(path: str, source: str, clone: str) -> str:
    """Return the path with the clone's name instead of the original's in the last component with that word."""
    word = re.compile(rf"(?<![^._-]){re.escape(source)}(?![^._-])")
    components = path.split("/")
    for index in reversed(range(len(components))):
        components[index], count = word.subn(lambda _match: clone, components[index])
        if count:
            break
    return "/".join(components)
