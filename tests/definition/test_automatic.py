"""What libvirt is left to choose: each rule by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from tests.definition.trees import canonical
from virtomate.definition import codec
from virtomate.definition.rewrite import auto_allocated as automatic
from virtomate.definition.rewrite.outcome import Outcome

Rule = Callable[[codec.Document], Outcome]

RULES: list[Rule] = [
    automatic.automatic_ports,
    automatic.automatic_graphics_sockets,
    automatic.automatic_channel_sockets,
    automatic.automatic_vsock,
    automatic.automatic_interface_targets,
    automatic.automatic_virtual_ports,
]
AT_EVERY_START = "chosen by libvirt at every start"
AGENT = "<target type='virtio' name='org.qemu.guest_agent.0'/>"
OVS = "<virtualport type='openvswitch'>"


def parse(devices: str) -> codec.Document:
    """A definition with these devices."""
    return codec.parse_definition(f"<domain><devices>{devices}</devices></domain>").domain


# the rule, the devices before and after it, and what it says
ROWS: list[tuple[str, Rule, str, str, tuple[str, ...]]] = [
    *(
        (
            f"{kind} ports",
            automatic.automatic_ports,
            f"<graphics type='{kind}' port='5901' tlsPort='5902' autoport='no' passwd='x'/>",
            f"<graphics type='{kind}' autoport='yes' passwd='x'/>",
            (f"{kind.upper()} ports: {AT_EVERY_START}",),
        )
        for kind in ("vnc", "spice", "rdp")
    ),
    (
        "a TLS port alone",
        automatic.automatic_ports,
        "<graphics type='spice' tlsPort='5902'/>",
        "<graphics type='spice' autoport='yes'/>",
        (f"SPICE ports: {AT_EVERY_START}",),
    ),
    (
        "automatic ports",
        automatic.automatic_ports,
        "<graphics type='vnc' port='-1' autoport='yes' websocket='-1'><listen type='address' address='::'/></graphics>",
        "<graphics type='vnc' autoport='yes' websocket='-1'><listen type='address' address='::'/></graphics>",
        (),
    ),
    (
        "a port of the websocket",
        automatic.automatic_ports,
        "<graphics type='vnc' port='-1' autoport='yes' websocket='5700'/>",
        "<graphics type='vnc' autoport='yes' websocket='-1'/>",
        (f"VNC ports: {AT_EVERY_START}",),
    ),
    (
        "ports of every graphics device",
        automatic.automatic_ports,
        "<graphics type='vnc' port='1'/><graphics type='spice' autoport='yes'/><graphics type='vnc' port='2'/>",
        (
            "<graphics type='vnc' autoport='yes'/><graphics type='spice' autoport='yes'/>"
            "<graphics type='vnc' autoport='yes'/>"
        ),
        (f"VNC ports: {AT_EVERY_START}",) * 2,
    ),
    (
        "one of several listeners has ports",
        automatic.automatic_ports,
        "<graphics type='vnc' port='1'><listen type='socket'/><listen type='network' network='n'/></graphics>",
        "<graphics type='vnc' autoport='yes'><listen type='socket'/><listen type='network' network='n'/></graphics>",
        (f"VNC ports: {AT_EVERY_START}",),
    ),
    *(
        (f"no ports: {text}", automatic.automatic_ports, text, text, ())
        for text in (
            "<graphics type='sdl' display=':0'/>",
            "<graphics type='egl-headless'/>",
            "<graphics type='dbus' p2p='yes'/>",
            "<graphics type='vnc'><listen type='socket' socket='/s'/></graphics>",
            "<graphics type='vnc' socket='/s'/>",
            "<graphics type='spice'><listen type='none'/></graphics>",
            "<disk/>",
        )
    ),
    (
        "a socket of a display, in both places",
        automatic.automatic_graphics_sockets,
        "<graphics type='vnc' socket='/run/web.sock'><listen type='socket' socket='/run/web.sock'/></graphics>",
        "<graphics type='vnc'><listen type='socket'/></graphics>",
        (f"VNC socket: {AT_EVERY_START}",),
    ),
    (
        "a socket of a display, without a listener",
        automatic.automatic_graphics_sockets,
        "<graphics type='vnc' socket='/run/web.sock'/>",
        "<graphics type='vnc'><listen type='socket'/></graphics>",
        (f"VNC socket: {AT_EVERY_START}",),
    ),
    (
        "sockets of several displays",
        automatic.automatic_graphics_sockets,
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
            automatic.automatic_channel_sockets,
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
        (f"a channel as it is: {text}", automatic.automatic_channel_sockets, text, text, ())
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
        automatic.automatic_vsock,
        "<vsock model='virtio'><cid auto='no' address='3'/></vsock>",
        "<vsock model='virtio'><cid auto='yes'/></vsock>",
        (f"vsock context ID: {AT_EVERY_START}",),
    ),
    (
        "vsock context ID without a choice",
        automatic.automatic_vsock,
        "<vsock><cid address='3'/></vsock>",
        "<vsock><cid auto='yes'/></vsock>",
        (f"vsock context ID: {AT_EVERY_START}",),
    ),
    (
        "automatic vsock context ID",
        automatic.automatic_vsock,
        "<vsock model='virtio'><cid auto='yes' address='3'/></vsock>",
        "<vsock model='virtio'><cid auto='yes'/></vsock>",
        (),
    ),
    ("vsock without context ID", automatic.automatic_vsock, "<vsock/>", "<vsock/>", ()),
    *(
        (
            f"interface target {name}",
            automatic.automatic_interface_targets,
            f"<interface type='bridge'><target dev='{name}'/></interface>",
            "<interface type='bridge'/>",
            (f"interface target {name}: {AT_EVERY_START}",),
        )
        for name in ("vnet0", "vnet17", "macvtap3", "macvlan3", "vif2", "veth1")
    ),
    (
        "an interface target with more in it",
        automatic.automatic_interface_targets,
        "<interface><target dev='vnet0' managed='yes'/></interface><interface><target dev='mine'/></interface>",
        "<interface><target managed='yes'/></interface><interface><target dev='mine'/></interface>",
        (f"interface target vnet0: {AT_EVERY_START}",),
    ),
    *(
        (f"an interface target as it is: {name}", automatic.automatic_interface_targets, text, text, ())
        for name in ("dev='web-tap'", "dev='vnet'", "dev='vnet0a'", "dev='xvnet0'", "dev='vnet0' managed='no'")
        for text in [f"<interface><target {name}/></interface>"]
    ),
    (
        "IDs of virtual ports",
        automatic.automatic_virtual_ports,
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
        (f"a virtual port as it is: {text}", automatic.automatic_virtual_ports, text, text, ())
        for text in (
            "<interface><virtualport type='midonet'><parameters interfaceid='i'/></virtualport></interface>",
            "<interface><virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport></interface>",
            f"<interface>{OVS}<parameters profileid='p'/></virtualport></interface>",
            "<interface><virtualport type='openvswitch'/></interface>",
            "<interface/>",
        )
    ),
]


@pytest.mark.parametrize(
    ("rule", "before", "after", "changes"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_rule(rule: Rule, before: str, after: str, changes: tuple[str, ...]) -> None:
    """A rule does what it says, names it, leaves everything else as it was, and its input untouched."""
    domain = parse(before)
    untouched = copy.deepcopy(domain)

    outcome = rule(domain)

    assert canonical(codec.unparse(outcome.domain, "domain")) == canonical(
        f"<domain><devices>{after}</devices></domain>"
    )
    assert (outcome.changes, outcome.warnings) == (changes, ())
    assert domain == untouched


@pytest.mark.parametrize("rule", RULES)
def test_once_is_enough(rule: Rule) -> None:
    """A clone's clone is as automatic as the clone: a rule finds nothing more in what it made."""
    everything = parse("".join(row[2] for row in ROWS))

    once = rule(everything)
    twice = rule(once.domain)

    assert twice.domain == once.domain
    assert twice.changes == ()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "domain", [{}, {"devices": None}, parse(""), parse("<graphics/><channel/><vsock/><interface/>")]
)
def test_devices_without_anything(rule: Rule, domain: codec.Document) -> None:
    """Absent and empty devices are no trouble."""
    assert rule(domain) == Outcome(domain)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_in_common_with_the_original(rule: Rule) -> None:
    """Whoever changes what a rule made does not change what it was made of."""
    domain = parse("<tpm><x/></tpm>")

    rule(domain).domain["devices"]["tpm"].clear()

    assert domain["devices"]["tpm"] == [{"x": None}]
