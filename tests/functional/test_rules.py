"""What becomes of everything in a definition, through libvirt: define, clone, read back.

The rules, with the reason for each, are in the documentation's page on what changes in a clone.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.definition.trees import values
from tests.definition.written import DEFINITIONS
from tests.functional.support import clone, clone_path, definition, pool_on, refused
from tests.lab import Lab, Program, disk, domain, images, interface
from tests.lab.domains import OVMF_CODE, mac_address, nvram, spice, vnc
from virtomate.definition import codec

KEPT = " is shared with the original"
AT_EVERY_START = "chosen by libvirt at every start"
DEVICES = "/domain/devices"
PCI = "<address domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/>"
QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
INTERFACE_ID = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"
# Newer libvirt takes a vhost-user interface only with shared memory.
MEMORY_HOTPLUG = """
  <memoryBacking><access mode='shared'/></memoryBacking>
  <maxMemory slots='4' unit='MiB'>4096</maxMemory>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model>
    <numa><cell id='0' cpus='0' memory='192' unit='MiB'/></numa></cpu>"""


def define(lab: Lab, text: str) -> str:
    """Define a domain, and again as libvirt tells it: it sorts the controllers that it had added itself."""
    name = str(lab.define(text).name())
    lab.define(definition(lab, name))
    return name


def changed(lab: Lab) -> dict[str, tuple[str | None, str | None]]:
    """Return every value in which the clone differs, by its XPath, as it was and as it is; the record is left out."""
    before, after = (without_record(values(definition(lab, name))) for name in ("original", "clone"))
    paths = before.keys() | after.keys()
    return {path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)}


def without_record(facts: Mapping[str, str]) -> dict[str, str]:
    """Return what a definition says besides its metadata."""
    return {path: value for path, value in facts.items() if not path.startswith("/domain/metadata")}


def warned(document: Any) -> list[str]:
    """Return what original and clone both use, by the result's warnings; there must be no other warning."""
    assert all(warning.endswith(KEPT) for warning in document["warnings"])
    return [warning.removesuffix(KEPT) for warning in document["warnings"]]


def test_plain_domain_has_no_warning(lab: Lab, virtomate: Program) -> None:
    """A domain as tools make it shares nothing with its clone: only what must be new is, and there is no warning."""
    devices = vnc() + spice() + "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
    disks = [disk(lab.pool.qcow2("original.qcow2", 1 << 20)), disk(None, "raw", "sda", bus="sata", device="cdrom")]
    define(lab, domain("original", disks=disks, interfaces=[interface(mac_address(1))], devices=devices, agent=True))

    document = clone(virtomate)

    assert document["warnings"] == []
    assert document["changes"] == ["UUID", "MAC addresses"]
    assert changed(lab).keys() == {
        "/domain/name",
        "/domain/uuid",
        f"{DEVICES}/disk[1]/source/@file",
        f"{DEVICES}/interface/mac/@address",
    }


def test_what_is_new(lab: Lab, virtomate: Program) -> None:
    """Name, UUIDs, addresses and generation ID are the clone's own."""
    define(
        lab,
        domain(
            "original",
            disks=[disk(lab.pool.raw("original.raw", 1 << 20), "raw")],
            interfaces=[interface(mac_address(1)), interface(mac_address(2, "00:16:3e"))],
            smbios=True,
            extra=f"<genid>{uuid.uuid4()}</genid>",
        ),
    )

    document = clone(virtomate)

    differences = changed(lab)
    assert document["changes"] == ["UUID", "SMBIOS system UUID", "VM generation ID", "MAC addresses"]
    assert differences.pop("/domain/name") == ("original", "clone")
    assert differences.pop("/domain/uuid")[1] == document["uuid"]
    assert differences.pop("/domain/sysinfo/system/entry[2]")[1] == document["uuid"]
    assert differences.pop(f"{DEVICES}/disk/source/@file")[1] == document["disks"][0]["clone"]["path"]
    assert uuid.UUID(str(differences.pop("/domain/genid")[1]))
    macs = [differences.pop(f"{DEVICES}/interface[{position}]/mac/@address") for position in (1, 2)]
    assert [str(mac)[:8] for _, mac in macs] == ["52:54:00", "00:16:3e"]
    assert differences == {}


AUTOMATIC = """
    <vsock model='virtio'><cid auto='no' address='4711'/></vsock>
    <channel type='unix'>
      <source mode='bind' path='{libvirt}/channel/target/domain-7-original/kept-by-libvirt'/>
      <target type='virtio' name='org.example.agent'/>
    </channel>"""


def ovs_interface(number: int, parameters: str) -> str:
    """Describe an interface with a port of an Open vSwitch."""
    port = f"<virtualport type='openvswitch'><parameters {parameters}/></virtualport>"
    return interface(mac_address(number), type_="bridge", source="ovs0", extra=port)


def test_what_becomes_automatic(lab: Lab, virtomate: Program) -> None:
    """Ports, context ID, generated socket and switch ports are left to libvirt, which chooses other ones."""
    bg = (
        "<interface type='direct'><mac address='52:54:00:00:00:09'/><source dev='eth0' mode='vepa'/>"
        "<virtualport type='802.1Qbg'><parameters managerid='11' typeid='1193047' typeidversion='2' "
        f"instanceid='{INTERFACE_ID}'/></virtualport></interface>"
    )
    define(
        lab,
        domain(
            "original",
            interfaces=[ovs_interface(1, f"interfaceid='{INTERFACE_ID}'"), bg],
            devices=AUTOMATIC.format(libvirt="/var/lib/libvirt/qemu") + vnc(5931, websocket=5731) + spice(5932),
        ),
    )

    document = clone(virtomate)

    assert document["changes"] == [
        "UUID",
        "MAC addresses",
        f"VNC ports: {AT_EVERY_START}",
        f"SPICE ports: {AT_EVERY_START}",
        f"socket of org.example.agent: {AT_EVERY_START}",
        f"vsock context ID: {AT_EVERY_START}",
        "interface ID of a virtual port",
        "instance ID of a virtual port",
    ]
    assert document["warnings"] == []
    differences = changed(lab)
    graphics = f"{DEVICES}/graphics"
    assert differences[f"{graphics}[1]/@port"] == ("5931", "-1")
    assert differences[f"{graphics}[1]/@autoport"] == ("no", "yes")
    assert differences[f"{graphics}[1]/@websocket"] == ("5731", "-1")
    assert differences[f"{graphics}[2]/@port"] == ("5932", None)
    assert differences[f"{graphics}[2]/@autoport"] == ("no", "yes")
    assert differences[f"{DEVICES}/vsock/cid/@auto"] == ("no", "yes")
    assert differences[f"{DEVICES}/vsock/cid/@address"] == ("4711", None)
    assert differences[f"{DEVICES}/channel/source/@path"][1] is None
    for position, attribute in enumerate(("interfaceid", "instanceid"), 1):
        before, after = differences[f"{DEVICES}/interface[{position}]/virtualport/parameters/@{attribute}"]
        assert before == INTERFACE_ID != after
        assert uuid.UUID(str(after))


def test_fixed_ports_do_not_collide(lab: Lab, virtomate: Program) -> None:
    """Original and clone run at the same time although the original's definition fixes its ports."""
    define(lab, domain("original", devices=vnc(5931, websocket=5731)))
    clone(virtomate)

    for name in ("original", "clone"):
        lab.connection.lookupByName(name).create()

    ports = [
        re.findall(
            r"(?:port|websocket)='(\d+)'", str(lab.connection.lookupByName(name).XMLDesc()).split("<graphics")[1]
        )
        for name in ("original", "clone")
    ]
    assert ports[0][:2] == ["5931", "5731"]
    assert not {*ports[0]} & {*ports[1]}


@pytest.mark.parametrize("kind", ["vnc", "spice"])
def test_socket_of_a_display(lab: Lab, virtomate: Program, kind: str) -> None:
    """A display on a socket stays on a socket, whose path libvirt chooses; both run at the same time."""
    path = lab.make_directory("sockets") / "original.sock"
    listen = f"<listen type='socket' socket='{path}'/>"
    define(lab, domain("original", devices=f"<graphics type='{kind}'>{listen}</graphics>"))
    assert str(path) in definition(lab, "original")

    document = clone(virtomate)

    assert f"{kind.upper()} socket: {AT_EVERY_START}" in document["changes"]
    assert document["warnings"] == []
    text = definition(lab, "clone")
    assert str(path) not in text
    assert "<listen type='socket'/>" in text
    if kind == "vnc":
        for name in ("original", "clone"):
            lab.connection.lookupByName(name).create()
        live = str(lab.connection.lookupByName("clone").XMLDesc())
        assert "<listen type='socket' socket='" in live
        assert str(path) not in live


@pytest.mark.parametrize("type_", ["bridge", "ethernet"])
def test_interface_target_that_libvirt_generated(lab: Lab, virtomate: Program, type_: str) -> None:
    """A name like libvirt's own is not kept, whether libvirt forgets it or this program does."""
    source = "br0" if type_ == "bridge" else None
    define(
        lab,
        domain(
            "original",
            interfaces=[interface(mac_address(1), type_=type_, source=source, extra="<target dev='vnet7'/>")],
        ),
    )

    document = clone(virtomate)

    assert "vnet7" not in definition(lab, "clone")
    assert document["warnings"] == []


OWN_PATHS = """
    <serial type='file'><source path='{0}/NAME-1.log'/><log file='{0}/log.NAME'/><target port='1'/></serial>
    <serial type='pipe'><source path='{0}/NAME_pipe'/><target port='2'/></serial>
    <parallel type='file'><source path='{0}/NAME.parallel'/><target port='0'/></parallel>
    <channel type='unix'><source mode='bind' path='{0}/NAME/x.sock'/><target type='virtio' name='a.b'/></channel>
    <channel type='file'><source path='{0}/NAME.channel'/><target type='virtio' name='a.c'/></channel>
    <console type='file'><source path='{0}/NAME.console'/><target type='virtio' port='1'/></console>
    <redirdev bus='usb' type='unix'><source mode='bind' path='{0}/NAME.usb'/></redirdev>
    <smartcard mode='passthrough' type='unix'><source mode='bind' path='{0}/NAME.card'/></smartcard>
    <rng model='virtio'><backend model='egd' type='unix'><source mode='bind' path='{0}/NAME.egd'/></backend></rng>
    <audio id='1' type='file' path='{0}/NAME.wav'/>"""


@pytest.mark.parametrize("name", ["original", "my web+(1)"])
def test_own_paths(lab: Lab, virtomate: Program, name: str) -> None:
    """What a guest writes to or listens on gets the clone's name in its path, where the original's is in it."""
    directory = lab.make_directory("files")
    text = OWN_PATHS.format(directory)
    define(lab, domain(name, devices=text.replace("NAME", name)))
    paths = re.findall(rf"{directory}/[^']+", text)

    result = virtomate("domain-clone", name, "new", json=True)

    assert result.status == 0, str(result)
    (document,) = result.json
    assert document["warnings"] == []
    own = [change.partition(": ")[2] for change in document["changes"] if f"{directory}/" in change]
    assert sorted(own) == sorted(path.replace("NAME", "new") for path in paths)
    copy = definition(lab, "new")
    assert name not in copy.partition("<devices>")[2]
    for path in paths:
        assert path.replace("NAME", "new") in copy


def test_paths_without_the_name(lab: Lab, virtomate: Program) -> None:
    """Where the original's name is no word of the path, both use the same file or socket, and that is said."""
    directory = lab.make_directory("files")
    text = OWN_PATHS.format(directory).replace("NAME", "originals")
    define(lab, domain("original", devices=text))
    paths = re.findall(rf"{directory}/[^']+", text)

    document = clone(virtomate)

    assert sorted(warning.split("'")[1] for warning in warned(document)) == sorted(paths)
    assert document["changes"] == ["UUID"]
    assert changed(lab).keys() == {"/domain/name", "/domain/uuid"}


# devices, and the warnings for them
SHARED = [
    (
        "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/><target port='1'/></serial>",
        ["serial port 127.0.0.1:4555"],
    ),
    (
        (
            "<serial type='udp'><source mode='bind' host='127.0.0.1' service='4556'/>"
            "<source mode='connect' host='127.0.0.1' service='4557'/><target port='2'/></serial>"
        ),
        ["serial port 127.0.0.1:4556", "serial port 127.0.0.1:4557"],
    ),
    (
        "<serial type='dev'><source path='/dev/ttyS'/><target port='3'/></serial>",
        ["serial on host device '/dev/ttyS'"],
    ),
    (
        "<channel type='unix'><source mode='connect' path='/srv/out.sock'/><target type='virtio' name='c'/></channel>",
        ["channel connection to socket '/srv/out.sock'"],
    ),
    (
        f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{PCI}</source></hostdev>",
        ["host device (pci 0x0000:0x3b:0x00:0x0)"],
    ),
    (
        (
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>"
            "<address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>"
        ),
        ["host device (mdev c2177883-f1bb-47f0-914d-32a22e3a8804)"],
    ),
    (
        "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>",
        ["host device (usb 0x1234:0xbeef)"],
    ),
    (
        (
            "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/>"
            "<address bus='0' target='0' unit='0'/></source></hostdev>"
        ),
        ["host device (scsi scsi_host0:0:0:0)"],
    ),
    (
        (
            "<memory model='nvdimm'><source><path>/srv/nvdimm</path></source>"
            "<target><size unit='MiB'>512</size><node>0</node></target></memory>"
        ),
        ["nvdimm file '/srv/nvdimm'"],
    ),
    (
        "<shmem name='original-shared'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>",
        ["shared memory 'original-shared'"],
    ),
    (
        "<lease><lockspace>space</lockspace><key>key-1</key><target path='/srv/lease'/></lease>",
        ["lease 'key-1'"],
    ),
    (
        (
            "<filesystem type='mount'><source dir='/srv/original'/><target dir='a'/></filesystem>"
            "<filesystem type='mount'><source dir='/srv/ro'/><target dir='b'/><readonly/></filesystem>"
        ),
        ["writable file system '/srv/original'"],
    ),
    (
        interface(mac_address(11), type_="bridge", source="br0", extra="<target dev='original-tap'/>"),
        ["interface target 'original-tap'"],
    ),
    (
        (
            "<interface type='direct'><mac address='52:54:00:00:00:12'/><source dev='eth0' mode='passthrough'/>"
            "</interface>"
        ),
        ["host interface 'eth0', passed through"],
    ),
    (
        (
            "<interface type='vhostuser'><mac address='52:54:00:00:00:13'/>"
            "<source type='unix' path='/srv/original.sock' mode='client'/><model type='virtio'/></interface>"
        ),
        ["vhost-user socket of an interface (/srv/original.sock)"],
    ),
    (
        "<interface type='vdpa'><mac address='52:54:00:00:00:14'/><source dev='/dev/vhost-vdpa-0'/></interface>",
        ["vDPA device of an interface (/dev/vhost-vdpa-0)"],
    ),
    (
        (
            "<interface type='udp'><mac address='52:54:00:00:00:15'/><source address='127.0.0.1' port='11115'>"
            "<local address='127.0.0.1' port='11116'/></source></interface>"
        ),
        ["UDP port of an interface (11115)"],
    ),
    (
        (
            "<interface type='server'><mac address='52:54:00:00:00:16'/><source address='127.0.0.1' port='5558'/>"
            "</interface>"
        ),
        ["TCP port of an interface (5558)"],
    ),
    (
        (
            "<interface type='client'><mac address='52:54:00:00:00:17'/><source address='127.0.0.1' port='5559'/>"
            "</interface>"
        ),
        ["TCP connection of an interface (5559)"],
    ),
    (
        (
            "<interface type='hostdev'><mac address='52:54:00:00:00:18'/><source>"
            "<address type='pci' domain='0x0000' bus='0x3b' slot='0x00' function='0x1'/></source></interface>"
        ),
        ["host device of an interface"],
    ),
    (
        (
            "<interface type='bridge'><mac address='52:54:00:00:00:19'/><source bridge='br0'/>"
            f"<virtualport type='midonet'><parameters interfaceid='{INTERFACE_ID}'/></virtualport></interface>"
        ),
        ["Midonet port of an interface"],
    ),
    (
        (
            "<interface type='bridge'><mac address='52:54:00:00:00:1a'/><source bridge='br0'/>"
            "<filterref filter='clean-traffic'><parameter name='IP' value='192.0.2.1'/></filterref></interface>"
        ),
        ["network filter parameter IP=192.0.2.1"],
    ),
    ("<input type='evdev'><source dev='/dev/input/event7'/></input>", ["host input device '/dev/input/event7'"]),
    (
        "<input type='passthrough' bus='virtio'><source evdev='/dev/input/event8'/></input>",
        ["host input device '/dev/input/event8'"],
    ),
    (
        "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
        ["TPM at '/dev/tpm0'"],
    ),
    (
        (
            "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.50014055412e1a2b'/>"
            "</hostdev><hostdev mode='subsystem' type='scsi'>"
            "<source protocol='iscsi' name='iqn.2014-08.org.x:y/1'><host name='h' port='3260'/></source></hostdev>"
        ),
        [
            "host device (scsi_host vhost:naa.50014055412e1a2b)",
            "host device (scsi iscsi:iqn.2014-08.org.x:y/1:h:3260)",
        ],
    ),
    (
        (
            "<memory model='virtio-pmem' access='shared'><source><path>/srv/pmem</path></source>"
            "<target><size unit='MiB'>512</size></target></memory>"
            "<memory model='nvdimm'><source><path>/srv/ro</path></source>"
            "<target><size unit='MiB'>512</size><node>0</node><readonly/></target></memory>"
        ),
        ["virtio-pmem file '/srv/pmem'"],
    ),
    (
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source socket='/srv/fs.sock'/><target dir='c'/>"
            "</filesystem>"
        ),
        ["writable file system '/srv/fs.sock'"],
    ),
    (
        (
            "<redirdev bus='usb' type='tcp'><source mode='connect' host='127.0.0.1' service='4000'/>"
            "<protocol type='raw'/></redirdev>"
            "<rng model='virtio'><backend model='egd' type='udp'><source mode='bind' service='1234'/>"
            "<source mode='connect' host='127.0.0.1' service='1235'/></backend></rng>"
        ),
        ["redirdev port 127.0.0.1:4000", "rng port :1234", "rng port 127.0.0.1:1235"],
    ),
    ("<graphics type='dbus' address='unix:path=/run/d'/>", ["D-Bus address 'unix:path=/run/d'"]),
]

PASST = (
    "<interface type='user'><mac address='52:54:00:00:00:1b'/><backend type='passt' logFile='/srv/{0}.log'/>"
    "<portForward proto='tcp' address='127.0.0.1'><range start='2022' to='22'/></portForward></interface>"
)

# devices that not every libvirt knows, what is their own in the clone, and the warnings
NEWER = {
    "passt": (PASST, ["MAC addresses", "passt log file: /srv/clone.log"], ["port forward tcp 2022"]),
    "pstore": (
        "<pstore backend='acpi-erst'><path>/srv/{0}.pstore</path><size unit='KiB'>64</size></pstore>",
        ["pstore file: /srv/clone.pstore"],
        [],
    ),
    "state of a TPM": (
        (
            "<tpm model='tpm-crb'><backend type='emulator' version='2.0'><source type='dir' path='/srv/tpm'/></backend>"
            "</tpm>"
        ),
        [],
        ["TPM at '/srv/tpm'"],
    ),
    "data store": (
        (
            "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/srv/x.qcow2'><dataStore type='file'>"
            "<format type='raw'/><source file='/srv/x.raw'/></dataStore></source><target dev='vda' bus='virtio'/>"
            "<readonly/></disk>"
        ),
        [],
        ["data store of disk vda"],
    ),
    "RDP": ("<graphics type='rdp' port='3390' autoport='no'/>", [f"RDP ports: {AT_EVERY_START}"], []),
}


def test_what_both_use(lab: Lab, virtomate: Program) -> None:
    """Devices that two domains cannot share are kept as they are, each with a warning of its own and no others."""
    define(
        lab,
        domain(
            "original",
            devices="".join(devices for devices, _ in SHARED),
            extra=f"""{MEMORY_HOTPLUG}
  <seclabel type='static' model='dac' relabel='yes'><label>+0:+0</label></seclabel>
  <qemu:commandline {QEMU}>
    <qemu:arg value='-netdev'/><qemu:arg value='user,id=n0,hostfwd=tcp::2222-:22'/>
    <qemu:arg value='-global'/><qemu:arg value='ICH9-LPC.noreboot=off'/>
    <qemu:env name='QEMU_AUDIO_DRV' value='none'/><qemu:env name='PULSE_SERVER' value='/run/pulse'/>
  </qemu:commandline>
  <qemu:capabilities {QEMU}><qemu:add capability='blockdev'/></qemu:capabilities>
  <qemu:override {QEMU}><qemu:device alias='vsock0'><qemu:frontend>
    <qemu:property name='guest-cid' type='unsigned' value='4712'/><qemu:property name='x' type='bool' value='true'/>
  </qemu:frontend></qemu:device></qemu:override>
  <qemu:deprecation {QEMU} behavior='omit'/>""",
        ),
    )

    document = clone(virtomate)

    expected = [warning for _, warnings in SHARED for warning in warnings]
    expected += ["static security label '+0:+0'", "QEMU argument 'user,id=n0,hostfwd=tcp::2222-:22'"]
    expected += [
        "QEMU environment variable 'PULSE_SERVER=/run/pulse'",
        "QEMU property 'guest-cid=4712' of device 'vsock0'",
    ]
    assert sorted(warned(document)) == sorted(expected)
    assert document["changes"] == ["UUID", "MAC addresses"]
    assert {path for path in changed(lab) if not path.endswith("/mac/@address")} == {"/domain/name", "/domain/uuid"}


@pytest.mark.parametrize("name", NEWER)
def test_what_newer_libvirt_knows(lab: Lab, virtomate: Program, name: str) -> None:
    """The rules hold for what only a newer libvirt has, too."""
    devices, changes, warnings = NEWER[name]
    try:
        define(lab, domain("original", devices=devices.format("original")))
    except libvirt.libvirtError as error:
        pytest.skip(f"this libvirt does not take it: {str(error).splitlines()[0]}")

    document = clone(virtomate)

    assert document["changes"] == ["UUID", *changes]
    assert warned(document) == warnings
    text = definition(lab, "clone")
    assert all(change.partition(": ")[2] in text for change in changes if "/srv/" in change)


def test_writable_disks_left_untouched(lab: Lab, virtomate: Program) -> None:
    """A disk that is no file is kept, with a warning unless it is read-only."""
    block = "<disk type='block'><driver name='qemu' type='raw'/><source dev='/dev/{0}'/><target dev='{0}'/>{1}</disk>"
    network = (
        "<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'><host name='h'/></source>"
        "<target dev='vdc' bus='virtio'/></disk>"
    )
    nvme = (
        "<disk type='nvme'><driver name='qemu' type='raw'/><source type='pci' managed='yes' namespace='1'>"
        "<address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>"
        "<target dev='vdd' bus='virtio'/></disk>"
    )
    vhostuser = (
        "<disk type='vhostuser'><driver name='qemu' type='raw'/><source type='unix' path='/srv/disk.sock'/>"
        "<target dev='vde' bus='virtio'/></disk>"
    )
    disks = [block.format("vda", ""), block.format("vdb", "<readonly/>"), network, nvme, vhostuser]
    define(lab, domain("original", disks=disks, extra=MEMORY_HOTPLUG))

    document = clone(virtomate)

    assert [warning.split()[1] for warning in document["warnings"]] == ["vda", "vdc", "vdd", "vde"]
    assert all("both write to it" in warning for warning in document["warnings"])
    assert [entry["action"] for entry in document["disks"]] == ["shared"] * 5
    assert changed(lab).keys() == {"/domain/name", "/domain/uuid"}


def test_writable_loader(lab: Lab, virtomate: Program) -> None:
    """Firmware that the guest may write to is kept with a warning, read-only firmware without one."""
    loader = f"<loader readonly='no' type='pflash'>{OVMF_CODE}</loader>"
    define(lab, domain("original", firmware=loader, memory_mib=256))

    assert warned(clone(virtomate)) == [f"writable loader '{OVMF_CODE}'"]


def test_read_only_loader(lab: Lab, virtomate: Program) -> None:
    """Firmware that nobody can write to is no matter, and the NVRAM is the clone's own."""
    directory = lab.make_directory("nvram")
    define(lab, domain("original", firmware=nvram(directory / "original_VARS.fd"), memory_mib=256))

    document = clone(virtomate)

    assert document["warnings"] == []
    assert changed(lab)["/domain/os/nvram"][1] == str(directory / "clone_VARS.fd")


def test_nvram_that_is_no_file(lab: Lab, virtomate: Program) -> None:
    """An NVRAM on a server is kept with a warning."""
    source = "<source protocol='nbd' name='x'><host name='127.0.0.1' port='10809'/></source>"
    code = f"<loader readonly='yes' type='pflash'>{OVMF_CODE}</loader>"
    define(lab, domain("original", firmware=f"{code}<nvram type='network'>{source}</nvram>", memory_mib=256))

    document = clone(virtomate)

    (warning,) = document["warnings"]
    assert "NVRAM" in warning
    assert changed(lab).keys() == {"/domain/name", "/domain/uuid"}


def test_what_identifies_both(root_lab: Lab, virtomate: Program) -> None:
    """Whatever tells two machines the same about themselves is named, and so is the address that the clone loses."""
    lab = root_lab
    lab.make_network()
    network = lab.connection.networkLookupByName("lab")
    where = (libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1)
    now, later = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    lab.connection.networkDefineXML(network.XMLDesc())
    for number, state in ((1, now), (3, later), (9, now)):
        entry = f"<host mac='{mac_address(number)}' name='host-{number}' ip='192.168.77.{number + 1}'/>"
        network.update(*where, entry, state)
    medium = images.make_iso(lab.make_directory("media") / "installer.iso", "CIDATA")
    seed = images.make_iso(lab.pool.path / "seed.img", "config-2")
    drive = disk(medium, "raw", "sdb", bus="sata", device="cdrom", read_only=True)
    wwn = disk(
        lab.pool.raw("data.raw", 1 << 20), "raw", "sda", bus="scsi", serial="S 2", extra="<wwn>5000c50015ea71ad</wwn>"
    )
    credential = "io.systemd.credential:system.hostname=web"
    text = domain(
        "original",
        disks=[disk(seed, "raw", serial=" 1"), wwn, drive],
        interfaces=[
            interface(mac_address(1), type_="network", source="lab"),
            interface(mac_address(2), type_="network", source="missing"),
            interface(mac_address(3), type_="network", source="lab"),
        ],
        smbios=True,
        extra="<title>Web</title><sysinfo type='fwcfg'>"
        "<entry name='opt/io.systemd.credentials/system.hostname'>web</entry></sysinfo>",
    )
    define(lab, text.replace("</system>", f"</system><oemStrings><entry>{credential}</entry></oemStrings>"))

    try:
        document = clone(virtomate)
    finally:
        network.undefine()

    another = "the clone has another MAC address"
    name = "io.systemd.credentials/system.hostname"
    alike = "original and clone get the same host name and instance ID from it"
    assert document["warnings"] == [
        f"the DHCP entry of network 'lab' for {mac_address(1)} (192.168.77.2, host-1) is not carried over: {another}",
        f"the DHCP entry of network 'lab' for {mac_address(3)} (192.168.77.4, host-3) is not carried over: {another}",
        f"disk vda ({seed}) has the label 'config-2': {alike}",
        f"disk sdb ({medium}) has the label 'CIDATA' and is shared: {alike}, unless --seed gives the clone its own",
        "the title 'Web' is the same for original and clone",
        "the SMBIOS serial number 'LAB-1' (system) is the same in original and clone",
        "disk vda has the same serial number ' 1' in original and clone",
        "disk sda has the same serial number 'S 2' and WWN '5000c50015ea71ad' in original and clone",
        f"SMBIOS OEM string '{credential}' gives original and clone the same host name",
        f"firmware configuration 'opt/{name}' gives original and clone the same host name",
    ]


def test_state_of_the_tpm_is_left_behind(lab: Lab, virtomate: Program) -> None:
    """An emulated TPM stays, and the clone's is empty, which is said."""
    define(lab, domain("original", devices="<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"))

    document = clone(virtomate)

    (warning,) = document["warnings"]
    assert "empty" in warning
    assert "TPM" in warning
    assert changed(lab).keys() == {"/domain/name", "/domain/uuid"}


def test_external_tpm(lab: Lab, virtomate: Program) -> None:
    """A TPM that somebody else runs is kept with a warning."""
    source = "<source type='unix' mode='connect' path='/srv/original-tpm.sock'/>"
    define(lab, domain("original", devices=f"<tpm model='tpm-crb'><backend type='external'>{source}</backend></tpm>"))

    assert warned(clone(virtomate)) == ["TPM at '/srv/original-tpm.sock'"]
    assert changed(lab).keys() == {"/domain/name", "/domain/uuid"}


SECRET = """
<secret ephemeral='no' private='no'>
  <uuid>f52a81b2-424e-490c-823d-6bd4235bc572</uuid><usage type='volume'><volume>/lab/luks</volume></usage>
</secret>"""
ENCRYPTION = (
    "<encryption format='luks'><secret type='passphrase' uuid='f52a81b2-424e-490c-823d-6bd4235bc572'/></encryption>"
)


@pytest.fixture
def secret(lab: Lab) -> Iterator[None]:
    """A passphrase in libvirt's keeping."""
    handle = lab.connection.secretDefineXML(SECRET)
    handle.setValue(b"passphrase")
    yield
    handle.undefine()


def make_luks(path: Path, format_: str) -> Path:
    """Make an encrypted image."""
    options = {"raw": ["luks", "-o", "iter-time=10,key-secret=s"], "qcow2": ["qcow2", "-o", QCOW2_LUKS]}[format_]
    images.qemu_img("create", "-q", "--object", "secret,id=s,data=passphrase", "-f", *options, path, "4M")
    return path


QCOW2_LUKS = "encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s"


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("way", ["--mode=copy", "--mode=linked", "--mode=reflink", "--transfer=stream"])
@pytest.mark.usefixtures("secret")
def test_secret_stays_with_what_it_opens(lab: Lab, virtomate: Program, way: str, format_: str) -> None:
    """A clone of an encrypted volume starts: a copy is encrypted itself, an overlay names the volume below that is."""
    pool = pool_on(lab, "xfs" if way == "--mode=reflink" else "ext4")
    path = make_luks(pool.path / "original.img", format_)
    pool.refresh()
    define(lab, domain("original", disks=[disk(path, format_, extra=ENCRYPTION)]))

    document = clone(virtomate, way)

    (element,) = re.findall(r"<disk .*?</disk>", definition(lab, "clone"), re.DOTALL)
    below = re.findall(r"<backingStore.*</backingStore>", element, re.DOTALL)
    is_linked = way == "--mode=linked"
    assert element.count("<encryption") == 1
    assert [str(path) in text and "<encryption" in text for text in below] == ([True] if is_linked else [])
    assert document["disks"][0]["clone"]["path"] in element
    assert is_linked or images.file_digest(clone_path(document)) == images.file_digest(path)
    lab.connection.lookupByName("clone").create()


@pytest.mark.usefixtures("secret")
def test_clone_of_a_linked_clone_of_an_encrypted_volume(root_lab: Lab, virtomate: Program) -> None:
    """The secret stays known further below: such a clone starts, and none is made that would read what is encrypted."""
    pool = root_lab.pools["xfs"]
    path = make_luks(pool.path / "first.img", "raw")
    pool.refresh()
    define(root_lab, domain("first", disks=[disk(path, "raw", extra=ENCRYPTION)]))
    assert virtomate("domain-clone", "--mode", "linked", "first", "original").status == 0

    for mode in ("linked", "reflink"):
        assert virtomate("domain-clone", "--mode", mode, "original", mode).status == 0
        root_lab.connection.lookupByName(mode).create()
    before = root_lab.inventory()
    error = refused(root_lab, before, virtomate("domain-clone", "original", "clone", json=True))
    assert "rests on an encrypted volume" in error["message"]


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_written_definition_survives(lab: Lab, name: str) -> None:
    """What libvirt takes and tells is the same after it went through the codec, to the letter."""
    try:
        defined = define(lab, DEFINITIONS[name])
    except libvirt.libvirtError as error:
        pytest.skip(f"this libvirt does not take it: {str(error).splitlines()[0]}")
    told = definition(lab, defined)

    lab.define(codec.unparse_definition(codec.parse_definition(told)))

    assert definition(lab, defined) == told


def test_most_written_definitions_are_taken(lab: Lab) -> None:
    """The lab's libvirt takes at least forty of them, so that the test above has something to say."""
    taken = 0
    for text in DEFINITIONS.values():
        try:
            lab.define(text)
        except libvirt.libvirtError:
            continue
        taken += 1

    assert taken >= 40


@pytest.mark.stress
@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_written_definition_is_cloned_or_refused(lab: Lab, virtomate: Program, name: str) -> None:
    """Whatever libvirt takes is cloned, and differs in what is said; or its volumes are not there, which is said."""
    try:
        defined = define(lab, DEFINITIONS[name])
    except libvirt.libvirtError as error:
        pytest.skip(f"this libvirt does not take it: {str(error).splitlines()[0]}")
    before = lab.inventory()

    result = virtomate("domain-clone", defined, "clone", json=True)

    if result.status == 0:
        (document,) = result.json
        facts = [without_record(values(definition(lab, found))) for found in (defined, "clone")]
        differing = {path for path in facts[0].keys() | facts[1].keys() if facts[0].get(path) != facts[1].get(path)}
        differing -= {"/domain/name", "/domain/uuid", "/domain/os/nvram"}
        assert bool(differing) == (document["changes"] != ["UUID"])
    else:
        assert refused(lab, before, result)["type"] in {"IllegalStateError", "NotFoundError"}
