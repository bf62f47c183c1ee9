"""A definition with everything in it, and the clone that is made of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from tests.definition.trees import canonical, values
from virtomate.definition import codec, readers
from virtomate.definition import rewrite as clone
from virtomate.output.messages import sentences

if TYPE_CHECKING:
    from virtomate.definition.rewrite.unshared import Outcome

GOLDEN = Path(__file__).parent / "golden"
ORIGINAL = (GOLDEN / "original.xml").read_text(encoding="utf-8")
CLONE = (GOLDEN / "clone.xml").read_text(encoding="utf-8")

UUID = "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe"
OLD_UUID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
SOURCES = {
    0: clone.NewSource("/srv/images/web & <1>.qcow2", "images", "web & <1>.qcow2", "qcow2"),
    1: clone.NewSource("/srv/images/web & <1>-data.raw", "images", "web & <1>-data.raw", "raw"),
    2: clone.NewSource("/srv/images/web & <1>-nodriver.img", "images", "web & <1>-nodriver.img", "raw"),
}
NVRAM = "/var/lib/libvirt/qemu/nvram/web & <1>_VARS.fd"


def make_outcome() -> Outcome:
    """What becomes of the original by all rules together."""
    domain = codec.parse_definition(ORIGINAL).domain
    addresses = clone.new_mac_addresses(
        domain, readers.mac_addresses(domain).__contains__, random.Random(4711).randbytes
    )
    identity = clone.Identity("web & <1>", UUID, addresses)
    return clone.clone_domain_definition(clone.auto_allocated(domain), identity, SOURCES, clone.NewNvram(NVRAM, "raw"))


def make_clone() -> str:
    """The clone's definition."""
    return codec.unparse_definition(codec.parse_definition(ORIGINAL)._replace(domain=make_outcome().domain))


def test_clone_is_as_expected() -> None:
    """The clone of a definition with every kind of device is the one that was looked at and kept."""
    assert canonical(make_clone()) == canonical(CLONE)


def test_metadata_are_the_same_text() -> None:
    """The clone's metadata are the original's, byte for byte."""
    metadata = codec.parse_definition(ORIGINAL).metadata

    assert metadata is not None
    assert metadata in ORIGINAL
    assert metadata in CLONE
    assert metadata in make_clone()


def test_nothing_else_changes() -> None:
    """These values differ between the original and its clone, and no others."""
    before, after = values(ORIGINAL), values(make_clone())
    disks, interfaces, graphics = "/domain/devices/disk", "/domain/devices/interface", "/domain/devices/graphics"

    removed = {path: value for path, value in before.items() if path not in after}
    added = {path: value for path, value in after.items() if path not in before}
    changed = {path: (value, after[path]) for path, value in before.items() if after.get(path, value) != value}

    assert removed == {
        f"{disks}[1]/backingStore": "",
        f"{disks}[1]/backingStore/@type": "file",
        f"{disks}[1]/backingStore/@index": "3",
        f"{disks}[1]/backingStore/format": "",
        f"{disks}[1]/backingStore/format/@type": "raw",
        f"{disks}[1]/backingStore/source": "",
        f"{disks}[1]/backingStore/source/@file": "/srv/images/base.img",
        f"{disks}[1]/backingStore/backingStore": "",
        f"{disks}[3]/backingStore": "",
        f"{interfaces}[4]/target": "",
        f"{interfaces}[4]/target/@dev": "macvtap3",
        f"{interfaces}[5]/virtualport/parameters/@interfaceid": "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f",
        "/domain/devices/channel[2]/source": "",
        "/domain/devices/channel[2]/source/@mode": "bind",
        "/domain/devices/channel[2]/source/@path": (
            "/var/lib/libvirt/qemu/channel/target/domain-4-build/org.example.agent"
        ),
        f"{graphics}[1]/@port": "5907",
        f"{graphics}[2]/@port": "5930",
        f"{graphics}[2]/@tlsPort": "5931",
        f"{graphics}[3]/@port": "3390",
        f"{graphics}[4]/@socket": "/run/vnc.sock",
        f"{graphics}[4]/listen/@socket": "/run/vnc.sock",
        "/domain/devices/vsock/cid/@address": "7",
    }
    assert added == {f"{disks}[3]/driver": "", f"{disks}[3]/driver/@type": "raw"}
    macs = [changed.pop(f"{interfaces}[{position}]/mac/@address") for position in range(1, 11)]
    own = {
        "/domain/os/nvram": "/var/lib/libvirt/qemu/nvram/{}_VARS.fd",
        f"{disks}[1]/source/@file": "/srv/images/{}.qcow2",
        "/domain/devices/serial[3]/source/@path": "/var/log/{}-2.log",
        "/domain/devices/parallel/source/@path": "/run/{}/parallel",
        "/domain/devices/channel[3]/source/@path": "/run/{}.sock",
        "/domain/devices/audio[2]/@path": "/var/log/{}.wav",
        "/domain/devices/pstore/path": "/var/lib/libvirt/qemu/nvram/{}_PSTORE.raw",
        f"{interfaces}[10]/backend/@logFile": "/var/log/{}-passt.log",
    }
    assert changed == {
        "/domain/name": ("build & test", "web & <1>"),
        "/domain/uuid": (OLD_UUID, UUID),
        "/domain/genid": ("43dc0cf8-809b-4adb-9bea-a9abb5f3d90e", ""),
        "/domain/sysinfo[1]/system/entry[3]": (OLD_UUID, UUID),
        f"{disks}[2]/source/@volume": ("data.raw", SOURCES[1].volume),
        f"{disks}[3]/source/@file": ("/srv/images/nodriver.img", SOURCES[2].path),
        f"{graphics}[1]/@autoport": ("no", "yes"),
        f"{graphics}[1]/@websocket": ("5707", "-1"),
        f"{graphics}[2]/@autoport": ("no", "yes"),
        f"{graphics}[3]/@autoport": ("no", "yes"),
        "/domain/devices/vsock/cid/@auto": ("no", "yes"),
        **{path: (text.format("build & test"), text.format("web & <1>")) for path, text in own.items()},
    }
    assert [(old[:8].lower(), new[:8]) for old, new in macs] == [
        ("00:16:3e", "00:16:3e") if position == 1 else ("52:54:00", "52:54:00") for position in range(10)
    ]
    assert len({new for _, new in macs} - {old.lower() for old, _ in macs}) == len(macs)


def test_changes_name_everything_that_was_renewed() -> None:
    """Whoever reads the changes knows what else than name, disks and NVRAM is different."""
    always = "chosen by libvirt at every start"
    assert sentences(make_outcome().changes) == [
        "UUID",
        "SMBIOS system UUID",
        "VM generation ID",
        "MAC addresses",
        f"VNC ports: {always}",
        f"SPICE ports: {always}",
        f"RDP ports: {always}",
        f"VNC socket: {always}",
        f"socket of org.example.agent: {always}",
        f"vsock context ID: {always}",
        f"interface target macvtap3: {always}",
        "interface ID of a virtual port",
        "serial file: /var/log/web & <1>-2.log",
        "parallel pipe: /run/web & <1>/parallel",
        "channel socket: /run/web & <1>.sock",
        "audio file: /var/log/web & <1>.wav",
        "pstore file: /var/lib/libvirt/qemu/nvram/web & <1>_PSTORE.raw",
        "passt log file: /var/log/web & <1>-passt.log",
    ]


def test_warnings_name_everything_that_is_shared() -> None:
    """Whoever reads the warnings knows what original and clone cannot both have."""
    kept = " is shared with the original"
    warnings = sentences(make_outcome().warnings)

    assert [warning.removesuffix(kept) for warning in warnings if warning.endswith(kept)] == [
        "serial log file '/var/log/all-2.log'",
        "serial port 127.0.0.1:2445",
        "serial on host device '/dev/ttyS0'",
        "channel connection to socket '/run/server.sock'",
        "host device (pci 0x0000:0x3b:0x00:0x0)",
        "host device (usb 0x1234:0xbeef)",
        "host device (mdev c2177883-f1bb-47f0-914d-32a22e3a8804)",
        "host device (scsi scsi_host0:0:0:0)",
        "nvdimm file '/srv/nvdimm'",
        "shared memory 'shmem0'",
        "lease 'key-1'",
        "writable file system '/srv/share'",
        "network filter parameter IP=192.0.2.1",
        "host interface 'eth0', passed through",
        "interface target 'uplink-1'",
        "vhost-user socket of an interface (/run/vhost-1.sock)",
        "UDP port of an interface (11115)",
        "TCP port of an interface (5558)",
        "vDPA device of an interface (/dev/vhost-vdpa-0)",
        "port forward tcp 2022",
        "D-Bus address 'unix:path=/run/dbus-1'",
        "host input device '/dev/input/event5'",
        "static security label 'system_u:system_r:svirt_t:s0:c1,c2'",
        "QEMU argument 'user,id=n0,hostfwd=tcp::2222-:22'",
        "future source/@path '/srv/future'",
    ]
    assert [warning for warning in warnings if not warning.endswith(kept)] == [
        "the title '  Build & test, with blanks  ' is the same for original and clone",
        "the SMBIOS serial number 'S-1' (system) is the same in original and clone",
        "the SMBIOS serial number 'B-1' (baseBoard) is the same in original and clone",
        "disk vda has the same serial number ' S 1' in original and clone",
        "TPM state is not carried over: the clone starts with an empty TPM",
    ]
