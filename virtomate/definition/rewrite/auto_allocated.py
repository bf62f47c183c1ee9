"""Rule: libvirt chooses at each start what two domains cannot share: ports, sockets, context IDs, interface targets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from virtomate.definition.codec import copied
from virtomate.definition.readers import child, devices
from virtomate.definition.rewrite.outcome import Outcome
from virtomate.notices import Change, Notice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# Graphics devices that listen on ports; the others draw on the host's own screen or nowhere.
_GRAPHICS_WITH_PORTS = frozenset({"vnc", "spice", "rdp"})
_PORTS = ("@port", "@tlsPort")
_LIBVIRT_CHOOSES = "-1"

# Where libvirt puts the sockets that it names itself: the state directory, and the runtime directory since 9.7;
# a session daemon's are below the user's own directories.
_GENERATED_SOCKET = re.compile(r"/libvirt/qemu/(channel/|run/channel/|lib/channel/|domain-\d+-)")

# The names that libvirt gives to the host's side of interfaces (VIR_NET_GENERATED_*_PREFIX).
_GENERATED_TARGET = re.compile(r"(vnet|vif|macvtap|macvlan|veth)\d+")


def auto_allocated(domain: Document) -> Outcome:
    """Return the definition in which libvirt chooses all that can be chosen; the same for every clone."""
    domain = copied(domain)
    return Outcome(domain, tuple(change for free in _PARTS for change in free(domain)))


# Each of these edits the copy that `auto_allocated` has made, and yields its changes.


def _free_ports(domain: Document) -> Iterator[Notice]:
    """Free every port of every graphics device.

    Only one domain can listen on a fixed port. libvirt chooses the websocket's port where it is -1. A device that
    listens on a socket or not at all has no ports.

    Source: https://libvirt.org/formatdomain.html#graphical-framebuffers
    """
    for graphics in devices(domain, "graphics"):
        kind = graphics.get("@type")
        listeners = [child({"listen": listen}, "listen").get("@type") for listen in graphics.get("listen", [])]
        listens_on_ports = {"address", "network"} & set(listeners) if listeners else "@socket" not in graphics
        if kind not in _GRAPHICS_WITH_PORTS or not listens_on_ports:
            continue
        before = dict(graphics)
        for port in _PORTS:
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
        # without this a device that has no other listener would listen on ports
        if named[0] is not None and "listen" not in graphics:
            graphics["listen"] = [{"@type": "socket"}]
        named += [listen.pop("@socket", None) for listen in graphics.get("listen", []) if isinstance(listen, dict)]
        if any(named):
            yield Notice(Change.AUTOMATIC, f"{str(graphics.get('@type')).upper()} socket")


def _free_channel_sockets(domain: Document) -> Iterator[Notice]:
    """Free the sockets of channels that libvirt named, such as the guest agent's.

    Their paths contain the original's name or ID. libvirt leaves them out of the definitions it returns, unless it took
    them for somebody's choice.

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

    A device that libvirt does not manage belongs to somebody else, whatever its name.

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

    libvirt makes a missing ID, except for Midonet, where the ID names a port that somebody has set up.

    Source: https://libvirt.org/formatdomain.html#direct-attachment-to-physical-interface (802.1Qbg), and
    https://libvirt.org/formatdomain.html#bridge-to-lan (Open vSwitch, Midonet)
    """
    for interface in devices(domain, "interface"):
        port = child(interface, "virtualport")
        if port.get("@type") == "midonet":
            continue
        parameters = child(port, "parameters")
        if parameters.pop("@interfaceid", None) is not None:
            yield Notice(Change.NEW, "interface ID of a virtual port")
        if parameters.pop("@instanceid", None) is not None:
            yield Notice(Change.NEW, "instance ID of a virtual port")


_PARTS = (
    _free_ports,
    _free_graphics_sockets,
    _free_channel_sockets,
    _free_vsock,
    _free_interface_targets,
    _free_virtual_ports,
)
