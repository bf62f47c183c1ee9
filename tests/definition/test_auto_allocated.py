"""What libvirt chooses at each start."""

from __future__ import annotations

import copy

import pytest

from tests.definition.trees import canonical
from virtomate.definition import codec
from virtomate.definition.rewrite.unshared import Outcome, auto_allocated
from virtomate.output.messages import sentences

AT_EVERY_START = "chosen by libvirt at every start"
AGENT = "<target type='virtio' name='org.qemu.guest_agent.0'/>"
OVS = "<virtualport type='openvswitch'>"


def parse(devices: str) -> codec.Document:
    """A definition with these devices."""
    return codec.parse_definition(f"<domain><devices>{devices}</devices></domain>").domain


# the case, the devices before and after, and the changes that are named
ROWS: list[tuple[str, str, str, tuple[str, ...]]] = [
    *(
        (
            f"{kind} ports",
            f"<graphics type='{kind}' port='5901' tlsPort='5902' autoport='no' passwd='x'/>",
            f"<graphics type='{kind}' autoport='yes' passwd='x'/>",
            (f"{kind.upper()} ports: {AT_EVERY_START}",),
        )
        for kind in ("vnc", "spice", "rdp")
    ),
    (
        "a TLS port alone",
        "<graphics type='spice' tlsPort='5902'/>",
        "<graphics type='spice' autoport='yes'/>",
        (f"SPICE ports: {AT_EVERY_START}",),
    ),
    (
        "automatic ports",
        "<graphics type='vnc' port='-1' autoport='yes' websocket='-1'><listen type='address' address='::'/></graphics>",
        "<graphics type='vnc' autoport='yes' websocket='-1'><listen type='address' address='::'/></graphics>",
        (),
    ),
    (
        "a port of the websocket",
        "<graphics type='vnc' port='-1' autoport='yes' websocket='5700'/>",
        "<graphics type='vnc' autoport='yes' websocket='-1'/>",
        (f"VNC ports: {AT_EVERY_START}",),
    ),
    (
        "ports of every graphics device",
        "<graphics type='vnc' port='1'/><graphics type='spice' autoport='yes'/><graphics type='vnc' port='2'/>",
        (
            "<graphics type='vnc' autoport='yes'/><graphics type='spice' autoport='yes'/>"
            "<graphics type='vnc' autoport='yes'/>"
        ),
        (f"VNC ports: {AT_EVERY_START}",) * 2,
    ),
    (
        "one of several listeners has ports",
        "<graphics type='vnc' port='1'><listen type='socket'/><listen type='network' network='n'/></graphics>",
        "<graphics type='vnc' autoport='yes'><listen type='socket'/><listen type='network' network='n'/></graphics>",
        (f"VNC ports: {AT_EVERY_START}",),
    ),
    *(
        (f"no ports: {text}", text, text, ())
        for text in (
            "<graphics type='sdl' display=':0'/>",
            "<graphics type='egl-headless'/>",
            "<graphics type='dbus' p2p='yes'/>",
            "<graphics type='vnc'><listen type='socket'/></graphics>",
            "<graphics type='spice'><listen type='none'/></graphics>",
            "<disk/>",
        )
    ),
    (
        "a socket of a display, in both places",
        "<graphics type='vnc' socket='/run/web.sock'><listen type='socket' socket='/run/web.sock'/></graphics>",
        "<graphics type='vnc'><listen type='socket'/></graphics>",
        (f"VNC socket: {AT_EVERY_START}",),
    ),
    (
        "a socket of a display, without a listener",
        "<graphics type='vnc' socket='/run/web.sock'/>",
        "<graphics type='vnc'><listen type='socket'/></graphics>",
        (f"VNC socket: {AT_EVERY_START}",),
    ),
    (
        "sockets of several displays",
        (
            "<graphics type='vnc'><listen type='socket' socket='/a'/></graphics>"
            "<graphics type='spice'><listen type='socket' socket='/b'/></graphics>"
            "<graphics type='rdp'><listen type='socket'/></graphics>"
        ),
        (
            "<graphics type='vnc'><listen type='socket'/></graphics>"
            "<graphics type='spice'><listen type='socket'/></graphics>"
            "<graphics type='rdp'><listen type='socket'/></graphics>"
        ),
        (f"VNC socket: {AT_EVERY_START}", f"SPICE socket: {AT_EVERY_START}"),
    ),
    *(
        (
            f"a channel's socket in {directory}",
            f"<channel type='unix'><source mode='bind' path='{directory}/org.qemu.guest_agent.0'/>{AGENT}</channel>",
            f"<channel type='unix'>{AGENT}</channel>",
            (f"socket of org.qemu.guest_agent.0: {AT_EVERY_START}",),
        )
        for directory in (
            "/var/lib/libvirt/qemu/channel/target/domain-3-web",
            "/var/lib/libvirt/qemu/domain-3-web",
            "/run/libvirt/qemu/channel/3-web",
            "/home/u/.config/libvirt/qemu/channel/target/domain-3-web",
            "/run/user/1000/libvirt/qemu/run/channel/3-web",
        )
    ),
    *(
        (f"a channel as it is: {text}", text, text, ())
        for text in (
            f"<channel type='unix'>{AGENT}</channel>",
            f"<channel type='unix'><source mode='bind'/>{AGENT}</channel>",
            f"<channel type='unix'><source mode='bind' path='/run/web/agent.sock'/>{AGENT}</channel>",
            f"<channel type='unix'><source mode='connect' path='/run/libvirt/qemu/channel/3-web/x'/>{AGENT}</channel>",
            "<channel type='spicevmc'><target type='virtio'/></channel>",
            "<serial type='unix'><source path='/run/libvirt/qemu/channel/x'/></serial>",
        )
    ),
    (
        "vsock context ID",
        "<vsock model='virtio'><cid auto='no' address='3'/></vsock>",
        "<vsock model='virtio'><cid auto='yes'/></vsock>",
        (f"vsock context ID: {AT_EVERY_START}",),
    ),
    (
        "vsock context ID without a choice",
        "<vsock><cid address='3'/></vsock>",
        "<vsock><cid auto='yes'/></vsock>",
        (f"vsock context ID: {AT_EVERY_START}",),
    ),
    (
        "automatic vsock context ID",
        "<vsock model='virtio'><cid auto='yes' address='3'/></vsock>",
        "<vsock model='virtio'><cid auto='yes'/></vsock>",
        (),
    ),
    ("vsock without context ID", "<vsock/>", "<vsock/>", ()),
    *(
        (
            f"interface target {name}",
            f"<interface type='bridge'><target dev='{name}'/></interface>",
            "<interface type='bridge'/>",
            (f"interface target {name}: {AT_EVERY_START}",),
        )
        for name in ("vnet0", "vnet17", "macvtap3", "macvlan3", "vif2", "veth1")
    ),
    (
        "an interface target with more in it",
        "<interface><target dev='vnet0' managed='yes'/></interface><interface><target dev='mine'/></interface>",
        "<interface><target managed='yes'/></interface><interface><target dev='mine'/></interface>",
        (f"interface target vnet0: {AT_EVERY_START}",),
    ),
    *(
        (f"an interface target as it is: {name}", text, text, ())
        for name in ("dev='web-tap'", "dev='vnet'", "dev='vnet0a'", "dev='xvnet0'", "dev='vnet0' managed='no'")
        for text in [f"<interface><target {name}/></interface>"]
    ),
    (
        "IDs of virtual ports",
        (
            f"<interface>{OVS}<parameters interfaceid='i' profileid='p'/></virtualport></interface>"
            "<interface><virtualport type='802.1Qbg'><parameters typeid='1' instanceid='j'/></virtualport></interface>"
        ),
        (
            f"<interface>{OVS}<parameters profileid='p'/></virtualport></interface>"
            "<interface><virtualport type='802.1Qbg'><parameters typeid='1'/></virtualport></interface>"
        ),
        ("interface ID of a virtual port", "instance ID of a virtual port"),
    ),
    *(
        (f"a virtual port as it is: {text}", text, text, ())
        for text in (
            "<interface><virtualport type='midonet'><parameters interfaceid='i'/></virtualport></interface>",
            "<interface><virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport></interface>",
            f"<interface>{OVS}<parameters profileid='p'/></virtualport></interface>",
            "<interface><virtualport type='openvswitch'/></interface>",
            "<interface/>",
        )
    ),
]


@pytest.mark.parametrize(("before", "after", "changes"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_rule(before: str, after: str, changes: tuple[str, ...]) -> None:
    """The rule changes these devices, names its changes, keeps everything else, and leaves its input alone."""
    domain = parse(before)
    untouched = copy.deepcopy(domain)

    outcome = auto_allocated(domain)

    assert canonical(codec.unparse(outcome.domain, "domain")) == canonical(
        f"<domain><devices>{after}</devices></domain>"
    )
    assert (tuple(sentences(outcome.changes)), outcome.warnings) == (changes, ())
    assert domain == untouched


def test_once_is_enough() -> None:
    """A clone's clone is as automatic as the clone: the rule finds nothing more to change."""
    everything = parse("".join(row[2] for row in ROWS))

    once = auto_allocated(everything)
    twice = auto_allocated(once.domain)

    assert twice.domain == once.domain
    assert twice.changes == ()


@pytest.mark.parametrize(
    "domain", [{}, {"devices": None}, parse(""), parse("<graphics/><channel/><vsock/><interface/>")]
)
def test_devices_without_anything(domain: codec.Document) -> None:
    """Absent and empty devices are no trouble."""
    assert auto_allocated(domain) == Outcome(domain)


def test_nothing_in_common_with_the_original() -> None:
    """A change of the outcome does not change the original."""
    domain = parse("<tpm><x/></tpm>")

    auto_allocated(domain).domain["devices"]["tpm"].clear()

    assert domain["devices"]["tpm"] == [{"x": None}]
