"""Devices of a running domain, compared with those in its definition."""

import pytest

from virtomate.definition import codec
from virtomate.definition.active import plugged_devices, with_active_devices

DISK = "<disk type='file'><source file='/p/a'{index}/>{below}<target dev='{target}'/>{alias}</disk>"
INTERFACE = "<interface type='user'><mac address='{mac}'/>{alias}</interface>"
SERIAL = "<serial type='pty'><source path='/dev/pts/1'/><target port='0'/><alias name='serial0'/></serial>"
DIMM = "<memory model='dimm'><target><size>1</size></target>{alias}<address type='dimm' slot='{slot}'{base}/></memory>"
HOST = "<hostdev type='pci'><alias name='hostdev0'/><address type='pci' bus='0x{bus}' slot='0x01'/></hostdev>"

MOUSE = "<input type='mouse' bus='ps2'/>"


def domain(*devices: str, memory: int = 64) -> codec.Document:
    """Return a domain with devices."""
    text = f"<domain><memory>{memory}</memory><cpu mode='host-model'/><devices>{''.join(devices)}</devices></domain>"
    return codec.parse_definition(text).domain


def disk(target: str, *, active: bool = False) -> str:
    """Return a disk as it is defined, or as libvirt describes it while it runs."""
    if not active:
        return DISK.format(index="", below="", target=target, alias="")
    below = "<backingStore type='file'><source file='/p/b' index='2'/><backingStore/></backingStore>"
    return DISK.format(index=" index='1'", below=below, target=target, alias=f"<alias name='virtio-{target}'/>")


@pytest.mark.parametrize(
    ("defined", "active", "names"),
    [
        ([disk("vda")], [disk("vda", active=True)], []),
        ([disk("vda")], [disk("vda", active=True), disk("vdb", active=True)], ["disk vdb"]),
        (
            [INTERFACE.format(mac="52:54:00:00:00:01", alias="")],
            [
                INTERFACE.format(mac=mac, alias="<alias name='net0'/>")
                for mac in ("52:54:00:00:00:01", "52:54:00:00:00:02")
            ],
            ["interface 52:54:00:00:00:02"],
        ),
        (["<serial type='pty'><target port='0'/></serial>"], [SERIAL], []),
        (
            [DIMM.format(alias="", slot=0, base="")],
            [DIMM.format(alias="<alias name='dimm0'/>", slot=slot, base=" base='0x100'") for slot in (0, 1)],
            ["memory dimm0"],
        ),
        ([HOST.format(bus="04")], [HOST.format(bus="04"), HOST.format(bus="05")], ["hostdev hostdev0"]),
        (
            ["<input type='mouse' bus='ps2'/>"],
            ["<input type='mouse' bus='ps2'/>", "<input type='mouse' bus='ps2'/>"],
            ["device of type input"],
        ),
        ([disk("vda"), disk("vdb")], [disk("vda", active=True)], []),
    ],
    ids=["same", "disk", "interface", "path of a run", "memory", "host device", "nameless", "unplugged"],
)
def test_plugged_devices(defined: list[str], active: list[str], names: list[str]) -> None:
    """Only what was plugged in is named, however libvirt describes the rest while it runs."""
    assert list(plugged_devices(domain(*defined), domain(*active))) == names


def test_active_devices_in_a_definition() -> None:
    """The devices are those of the run, without the chains that libvirt found; the CPU is that of the definition."""
    active = domain(disk("vda", active=True), DIMM.format(alias="", slot=0, base=""), memory=128)
    active["cpu"] = {"@mode": "custom"}

    merged = with_active_devices(domain(disk("vda")), active)

    assert merged["cpu"] == {"@mode": "host-model"}
    assert merged["memory"] == "128"
    (found,) = merged["devices"]["disk"]
    assert "backingStore" not in found
    assert found["source"]["@file"] == "/p/a"
    assert len(merged["devices"]["memory"]) == 1


def test_size_stays_without_memory_modules() -> None:
    """What a balloon has taken from a running guest is not missing in the clone."""
    assert with_active_devices(domain(memory=64), domain(memory=32))["memory"] == "64"
