"""What libvirt is left to choose when the clone starts, since two domains cannot share what the original has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from virtomate.definition.codec import copied
from virtomate.definition.readers import child, devices
from virtomate.definition.rewrite.outcome import Outcome

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

# Graphics devices that listen on ports; the others draw on the host's own screen or nowhere.
_GRAPHICS_WITH_PORTS = frozenset({"vnc", "spice", "rdp"})
_PORTS = ("@port", "@tlsPort")
_LIBVIRT_CHOOSES = "-1"

# Where libvirt puts the sockets that it names itself: the state directory, and the runtime directory since 9.7;
# a session daemon's are below the user's own directories.
_GENERATED_SOCKET = re.compile(r"/libvirt/qemu/(channel/|run/channel/|lib/channel/|domain-\d+-)")

# What libvirt calls the host's side of an interface when nobody else does (VIR_NET_GENERATED_*_PREFIX).
_GENERATED_TARGET = re.compile(r"(vnet|vif|macvtap|macvlan|veth)\d+")


def automatic_ports(domain: Document) -> Outcome:
    """Let libvirt choose every port of every graphics device.

    A port that the original's definition fixes can be listened on by one domain only; the websocket's is chosen where
    it is -1. A device that listens on a socket or on nothing has no ports.

    Source: https://libvirt.org/formatdomain.html#graphical-framebuffers
    """
    domain = copied(domain)
    changes = []
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
            changes.append(f"{str(kind).upper()} ports: chosen by libvirt at every start")
    return Outcome(domain, tuple(changes))


def automatic_graphics_sockets(domain: Document) -> Outcome:
    """Let libvirt choose the path of every socket that a graphics device listens on.

    Two domains cannot listen on one socket; without a path libvirt makes one below the domain's own directory.

    Source: https://libvirt.org/formatdomain.html#graphical-framebuffers
    """
    domain = copied(domain)
    changes = []
    for graphics in devices(domain, "graphics"):
        named = [graphics.pop("@socket", None)]
        # without this a device that has no other listener would listen on ports
        if named[0] is not None and "listen" not in graphics:
            graphics["listen"] = [{"@type": "socket"}]
        named += [listen.pop("@socket", None) for listen in graphics.get("listen", []) if isinstance(listen, dict)]
        if any(named):
            changes.append(f"{str(graphics.get('@type')).upper()} socket: chosen by libvirt at every start")
    return Outcome(domain, tuple(changes))


def automatic_channel_sockets(domain: Document) -> Outcome:
    """Let libvirt name the sockets of channels again that it named itself, such as the guest agent's.

    Their paths contain the original's name or ID. libvirt leaves them out of the definitions it returns, unless it took
    them for somebody's choice.

    Source: https://libvirt.org/formatdomain.html#channel
    """
    domain = copied(domain)
    changes = []
    for channel in devices(domain, "channel"):
        source = child(channel, "source")
        is_server = channel.get("@type") == "unix" and source.get("@mode", "bind") == "bind"
        if is_server and _GENERATED_SOCKET.search(str(source.get("@path", ""))):
            channel.pop("source")
            name = child(channel, "target").get("@name", "channel")
            changes.append(f"socket of {name}: chosen by libvirt at every start")
    return Outcome(domain, tuple(changes))


def automatic_vsock(domain: Document) -> Outcome:
    """Let libvirt choose the vsock's context ID: it addresses one guest of the host.

    Source: https://libvirt.org/formatdomain.html#vsock
    """
    domain = copied(domain)
    changes = []
    for vsock in devices(domain, "vsock"):
        cid = child(vsock, "cid")
        if not cid:
            continue
        if cid.get("@auto") != "yes":
            changes.append("vsock context ID: chosen by libvirt at every start")
        cid.pop("@address", None)
        cid["@auto"] = "yes"
    return Outcome(domain, tuple(changes))


def automatic_interface_targets(domain: Document) -> Outcome:
    """Let libvirt name the host's side of interfaces again that it named itself.

    A device that libvirt does not manage was made by somebody else, whatever it is called.

    Source: https://libvirt.org/formatdomain.html#overriding-the-target-element
    """
    domain = copied(domain)
    changes = []
    for interface in devices(domain, "interface"):
        target = child(interface, "target")
        name = str(target.get("@dev", ""))
        if _GENERATED_TARGET.fullmatch(name) and target.get("@managed") != "no":
            target.pop("@dev")
            if not target:
                interface.pop("target")
            changes.append(f"interface target {name}: chosen by libvirt at every start")
    return Outcome(domain, tuple(changes))


def automatic_virtual_ports(domain: Document) -> Outcome:
    """Let libvirt make new interface and instance IDs of virtual ports.

    A switch takes two interfaces with one ID for the same. libvirt makes a missing one itself, except for Midonet,
    where it names a port that somebody has set up.

    Source: https://libvirt.org/formatdomain.html#direct-attachment-to-physical-interface (802.1Qbg), and
    https://libvirt.org/formatdomain.html#bridge-to-lan (Open vSwitch, Midonet)
    """
    domain = copied(domain)
    changes = []
    for interface in devices(domain, "interface"):
        port = child(interface, "virtualport")
        parameters = child(port, "parameters")
        if port.get("@type") == "midonet":
            continue
        if parameters.pop("@interfaceid", None) is not None:
            changes.append("interface ID of a virtual port")
        if parameters.pop("@instanceid", None) is not None:
            changes.append("instance ID of a virtual port")
    return Outcome(domain, tuple(changes))
