"""Rule: libvirt chooses what two domains cannot share, and files outside storage pools get the clone's name.

libvirt chooses ports, sockets, context IDs and interface targets at each start. The anchors in the docstrings are those
of https://libvirt.org/formatdomain.html.
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

# The other graphics devices draw on the host's own screen or nowhere.
_GRAPHICS_WITH_PORTS = frozenset({"vnc", "spice", "rdp"})
# libvirt's own sockets stand in the state directory, and in the runtime directory since 9.7; a session daemon's stand
# below the user's own directories.
_GENERATED_SOCKET = r"/libvirt/qemu/(channel/|run/channel/|lib/channel/|domain-\d+-)"
# The names that libvirt gives to the host's side of interfaces (VIR_NET_GENERATED_*_PREFIX).
_GENERATED_TARGET = r"(vnet|vif|macvtap|macvlan|veth)\d+"

CHARACTER_DEVICES = ("serial", "parallel", "console", "channel", "smartcard", "redirdev", "rng")


class Outcome(NamedTuple):
    """A changed definition, with notices for the user.

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

    A device that listens on a socket or not at all has no ports (#graphical-framebuffers).
    """
    for graphics in devices(domain, "graphics"):
        kind = graphics.get("@type")
        listeners = {listen.get("@type") for listen in as_list(graphics.get("listen"))}
        listens_on_ports = {"address", "network"} & listeners if graphics.get("listen") else "@socket" not in graphics
        if kind not in _GRAPHICS_WITH_PORTS or not listens_on_ports:
            continue
        was_automatic = graphics.get("@autoport") == "yes" and graphics.get("@websocket", "-1") == "-1"
        for port in ("@port", "@tlsPort"):
            graphics.pop(port, None)
        graphics["@autoport"] = "yes"
        if "@websocket" in graphics:
            # libvirt chooses the port
            graphics["@websocket"] = "-1"
        if not was_automatic:
            yield Notice(Change.AUTOMATIC, f"{str(kind).upper()} ports")


def _free_graphics_sockets(domain: Document) -> Iterator[Notice]:
    """Free the paths of sockets that graphics devices listen on; libvirt has a directory for each domain."""
    for graphics in devices(domain, "graphics"):
        named = [graphics.pop("@socket", None)]
        # without a listener of this type, the device would listen on ports
        if named[0] is not None and "listen" not in graphics:
            graphics["listen"] = [{"@type": "socket"}]
        named += [listen.pop("@socket", None) for listen in as_list(graphics.get("listen"))]
        if any(named):
            yield Notice(Change.AUTOMATIC, f"{str(graphics.get('@type')).upper()} socket")


def _free_channel_sockets(domain: Document) -> Iterator[Notice]:
    """Free the sockets of channels that libvirt named after the original, such as the guest agent's (#channel).

    libvirt leaves generated paths out of the definitions that it returns, unless it took them for a user's choice.
    """
    for channel in devices(domain, "channel"):
        source = child(channel, "source")
        is_server = channel.get("@type") == "unix" and source.get("@mode", "bind") == "bind"
        if is_server and re.search(_GENERATED_SOCKET, str(source.get("@path", ""))):
            channel.pop("source")
            yield Notice(Change.AUTOMATIC, f"socket of {child(channel, 'target').get('@name', 'channel')}")


def _free_vsock(domain: Document) -> Iterator[Notice]:
    """Free the vsock's context ID, which addresses one guest of the host (#vsock)."""
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
    """Free the names that libvirt gave to the host's side of interfaces (#overriding-the-target-element).

    An unmanaged device belongs to another program, whatever its name.
    """
    for interface in devices(domain, "interface"):
        target = child(interface, "target")
        name = str(target.get("@dev", ""))
        if re.fullmatch(_GENERATED_TARGET, name) and target.get("@managed") != "no":
            target.pop("@dev")
            if not target:
                interface.pop("target")
            yield Notice(Change.AUTOMATIC, f"interface target {name}")


def _free_virtual_ports(domain: Document) -> Iterator[Notice]:
    """Free the IDs of virtual ports (#direct-attachment-to-physical-interface and #bridge-to-lan).

    A switch takes two interfaces with one ID for the same. libvirt makes a missing ID, except for Midonet, where the ID
    names an existing port.
    """
    for interface in devices(domain, "interface"):
        port = child(interface, "virtualport")
        if port.get("@type") == "midonet":
            continue
        for kind in ("interface", "instance"):
            if child(port, "parameters").pop(f"@{kind}id", None) is not None:
                yield Notice(Change.NEW, f"{kind} ID of a virtual port")


def own_paths(domain: Document, original_name: str, clone_name: str) -> Outcome:
    """Give the clone its own path for everything that the guest or QEMU writes to or listens on.

    These are files, pipes, sockets and log files of character devices (#consoles-serial-parallel-channel-devices),
    audio files (#audio-devices), the file of a #pstore and the log of passt (#userspace-connection-using-passt). If the
    original's name is a word of the path, the clone's name replaces the last such word, since other directories may not
    exist. Otherwise both domains use one path, with a warning.
    """
    domain = copied(domain)
    # by path, since a serial port and its console are one device with two elements
    changes: dict[str, Notice] = {}
    warnings: dict[str, Notice] = {}
    for what, element, key in _places(domain):
        path = str(element[key])
        if path == "/dev/null":
            continue
        own = _renamed(path, original_name, clone_name)
        element[key] = own
        if own == path:
            warnings.setdefault(path, Notice(CloneWarning.SHARED, f"{what} '{path}'"))
        else:
            changes.setdefault(path, notice(Change.OWN_PATH, what, path=own))
    return Outcome(domain, tuple(changes.values()), tuple(warnings.values()))


def character_devices(domain: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each character device with its kind; an entropy source has its character device in the backend."""
    for kind in CHARACTER_DEVICES:
        for device in devices(domain, kind):
            yield kind, child(device, "backend") if kind == "rng" else device


def _places(domain: Document) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Return each of these paths: its description, its element and its key."""
    yield from _character_places(domain)
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


def _character_places(domain: Document) -> Iterator[tuple[str, dict[str, Any], str]]:
    for kind, device in character_devices(domain):
        type_, source, log = device.get("@type"), child(device, "source"), child(device, "log")
        if type_ in {"file", "pipe"} and "@path" in source:
            yield f"{kind} {type_}", source, "@path"
        # a socket that QEMU connects to belongs to another program, which may serve several clients
        if type_ == "unix" and source.get("@mode", "bind") == "bind" and "@path" in source:
            yield f"{kind} socket", source, "@path"
        if "@file" in log:
            yield f"{kind} log file", log, "@file"


def _renamed(path: str, original_name: str, clone_name: str) -> str:
    """Return the path with the clone's name instead of the original's in the last component with that word."""
    word = re.compile(rf"(?<![^._-]){re.escape(original_name)}(?![^._-])")
    components = path.split("/")
    for index in reversed(range(len(components))):
        components[index], count = word.subn(lambda _match: clone_name, components[index])
        if count:
            break
    return "/".join(components)
