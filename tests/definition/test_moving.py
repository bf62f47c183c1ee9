"""What a definition takes from its host, and what it has instead on another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from virtomate.definition import codec, moving
from virtomate.definition.capabilities import read_domain_capabilities, read_host_capabilities
from virtomate.definition.moving import Moved, Need
from virtomate.enums import MapKind
from virtomate.output.messages import sentences

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

UUID = "11111111-2222-4333-8444-555555555555"
TEXT = f"""
<domain type='kvm'><name>src</name><memory unit='GiB'>2</memory>
<os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type><loader readonly='yes' type='pflash'>/fw/CODE.fd</loader>
<nvram template='/fw/VARS.fd'>/nvram/src.fd</nvram><kernel>/boot/linux</kernel></os>
<cpu mode='custom' match='exact'><model fallback='forbid'>Skylake</model><topology sockets='1' cores='2' threads='1'/>
<feature policy='require' name='avx'/></cpu>
<devices><emulator>/opt/qemu</emulator>
<disk type='file' device='cdrom'><source file='/iso/a.iso'/><target dev='sda'/><readonly/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='p/i'><auth username='u'>
<secret type='ceph' usage='images'/></auth></source><target dev='vdb'/></disk>
<disk type='file' device='disk'><source file='/p/x'><encryption format='luks'><secret type='passphrase' uuid='{UUID}'/>
</encryption></source><target dev='vdc'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default' portgroup='a'/></interface>
<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/></interface>
<interface type='direct'><mac address='52:54:00:00:00:03'/><source dev='eth0' mode='bridge'/></interface>
<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x03' slot='0x00' function='0x1'/></source>
</hostdev>
<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0x5678'/></source></hostdev>
<tpm model='tpm-crb'><backend type='emulator'><encryption secret='{UUID}'/></backend></tpm>
</devices></domain>"""


def parsed() -> Document:
    """The definition."""
    return codec.parse_definition(TEXT).domain


def test_needs() -> None:
    """Everything of the host is found, with what uses it."""
    assert set(moving.needs(parsed())) == {
        Need(MapKind.NETWORK, "default", "interface 52:54:00:00:00:01"),
        Need(MapKind.BRIDGE, "br0", "interface 52:54:00:00:00:02"),
        Need(MapKind.BRIDGE, "eth0", "interface 52:54:00:00:00:03"),
        Need(MapKind.SECRET, "ceph/images", "disk vdb"),
        Need(MapKind.SECRET, UUID, "disk vdc"),
        Need(MapKind.SECRET, UUID, "TPM"),
        Need(MapKind.FILE, "/fw/CODE.fd", "firmware"),
        Need(MapKind.FILE, "/fw/VARS.fd", "template of the NVRAM"),
        Need(MapKind.FILE, "/boot/linux", "kernel"),
        Need(MapKind.HOSTDEV, "pci_0000_03_00_1", "host device"),
        Need(MapKind.HOSTDEV, "usb_0x1234_0x5678", "host device"),
    }
    assert moving.machine_of(parsed()) == moving.Machine("kvm", "x86_64", "pc-q35-9.2", "/opt/qemu")
    assert moving.memory_bytes(parsed()) == 2 << 30


def test_everything_moves() -> None:
    """Each thing has its other name, with a change that tells both; all else stays."""
    names = {
        (MapKind.VIRT, "kvm"): "qemu",
        (MapKind.MACHINE, "pc-q35-9.2"): "pc-q35-7.2",
        (MapKind.CPU, "Skylake"): "qemu64",
        (MapKind.NETWORK, "default"): "lab",
        (MapKind.BRIDGE, "br0"): "br1",
        (MapKind.BRIDGE, "eth0"): "eth1",
        (MapKind.SECRET, "ceph/images"): UUID.replace("1", "2"),
        (MapKind.SECRET, UUID): UUID.replace("1", "3"),
        (MapKind.FILE, "/fw/CODE.fd"): "/usr/CODE.fd",
        (MapKind.FILE, "/fw/VARS.fd"): "/usr/VARS.fd",
        (MapKind.FILE, "/boot/linux"): "/usr/linux",
        (MapKind.FILE, "/iso/a.iso"): "/usr/a.iso",
        (MapKind.HOSTDEV, "usb_0x1234_0x5678"): "none",
    }

    outcome = moving.moved(parsed(), Moved(names, "/usr/bin/qemu"))

    text = codec.unparse(outcome.domain, "domain")
    for (kind, old), new in names.items():
        if kind is not MapKind.HOSTDEV and kind is not MapKind.VIRT:
            assert new in text
            assert f'"{old}"' not in text
            assert f">{old}<" not in text
    assert "<emulator>/usr/bin/qemu</emulator>" in text
    assert "avx" not in text
    assert "topology" in text
    assert "0x5678" not in text
    assert 'portgroup="a"' in text
    told = list(sentences(outcome.changes))
    assert "emulator: '/usr/bin/qemu' instead of '/opt/qemu', which the other host does not have" in told
    assert "interface 52:54:00:00:00:01: 'lab' instead of network 'default'" in told
    assert len(told) == len(names) + 2  # the emulator, and one secret in two places


@pytest.mark.parametrize(
    ("name", "expected"),
    [("default", None), ("host-passthrough", "host-passthrough"), ("qemu64", "custom")],
)
def test_another_cpu(name: str, expected: str | None) -> None:
    """A word can stand for a mode, and for the CPU that libvirt gives."""
    domain = moving.moved(parsed(), Moved({(MapKind.CPU, "Skylake"): name})).domain

    assert domain["cpu"].get("@mode") == expected


def test_nothing_moves_without_a_name() -> None:
    """A definition for a host that has everything stays as it is."""
    outcome = moving.moved(parsed(), Moved({}))

    assert (outcome.domain, outcome.changes) == (parsed(), ())


def test_capabilities() -> None:
    """The architectures, types and machine types of a host, and what an emulator can do."""
    host = read_host_capabilities(
        f"<capabilities><host><uuid>{UUID}</uuid></host><guest><os_type>hvm</os_type><arch name='x86_64'>"
        "<machine maxCpus='255'>pc-q35-9.2</machine><machine canonical='pc-q35-9.2'>q35</machine>"
        "<domain type='qemu'/><domain type='kvm'><machine>special</machine></domain></arch></guest></capabilities>"
    )
    emulator = read_domain_capabilities(
        "<domainCapabilities><path>/usr/bin/qemu</path><os supported='yes'><loader supported='yes'>"
        "<value>/fw/CODE.fd</value></loader></os><cpu><mode name='host-passthrough' supported='no'/>"
        "<mode name='custom' supported='yes'/></cpu><devices><tpm supported='yes'><enum name='backendModel'>"
        "<value>passthrough</value><value>emulator</value></enum></tpm></devices></domainCapabilities>"
    )

    assert host.uuid == UUID
    assert host.virt_types == {"x86_64": {"qemu", "kvm"}}
    assert host.machines == {"x86_64": {"pc-q35-9.2", "q35", "special"}}
    assert emulator.emulator == "/usr/bin/qemu"
    assert emulator.loaders == frozenset({"/fw/CODE.fd"})
    assert emulator.cpu_modes == frozenset({"custom"})
    assert emulator.tpm_backends == frozenset({"passthrough", "emulator"})
    assert read_domain_capabilities("<domainCapabilities/>").tpm_backends is None
