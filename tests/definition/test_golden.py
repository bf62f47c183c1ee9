"""A definition with everything in it, and the clone that is made of it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from tests.definition.trees import canonical, values
from virtomate.definition import clone, codec, readers

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


def make_clone() -> str:
    """The clone's definition, by the changes that services.plan makes in its order."""
    definition = codec.parse_definition(ORIGINAL)
    addresses = clone.new_mac_addresses(
        definition.domain, readers.mac_addresses(definition.domain), random.Random(4711).randbytes
    )
    domain = clone.with_identity(definition.domain, clone.Identity("web & <1>", UUID, addresses))
    domain = clone.with_automatic_ports(domain)
    domain = clone.with_automatic_vsock(domain)
    domain = clone.with_sources(domain, SOURCES)
    domain = clone.with_nvram(domain, NVRAM, "raw")
    return codec.unparse_definition(replace(definition, domain=domain))


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
        f"{graphics}[1]/@port": "5907",
        f"{graphics}[2]/@port": "5930",
        f"{graphics}[2]/@tlsPort": "5931",
        "/domain/devices/vsock/cid/@address": "7",
    }
    assert added == {f"{disks}[3]/driver": "", f"{disks}[3]/driver/@type": "raw"}
    macs = {path: changed.pop(f"{interfaces}[{path}]/mac/@address") for path in (1, 2, 3)}
    assert changed == {
        "/domain/name": ("build & test", "web & <1>"),
        "/domain/uuid": (OLD_UUID, UUID),
        "/domain/genid": ("43dc0cf8-809b-4adb-9bea-a9abb5f3d90e", ""),
        "/domain/sysinfo[1]/system/entry[3]": (OLD_UUID, UUID),
        "/domain/os/nvram": ("/var/lib/libvirt/qemu/nvram/build & test_VARS.fd", NVRAM),
        f"{disks}[1]/source/@file": ("/srv/images/build & test.qcow2", SOURCES[0].path),
        f"{disks}[2]/source/@volume": ("data.raw", SOURCES[1].volume),
        f"{disks}[3]/source/@file": ("/srv/images/nodriver.img", SOURCES[2].path),
        f"{graphics}[1]/@autoport": ("no", "yes"),
        f"{graphics}[1]/@websocket": ("5707", "-1"),
        f"{graphics}[2]/@autoport": ("no", "yes"),
        "/domain/devices/vsock/cid/@auto": ("no", "yes"),
    }
    assert [(old, new[:8]) for old, new in macs.values()] == [
        ("52:54:00:AA:BB:01", "52:54:00"),
        ("00:16:3e:01:02:03", "00:16:3e"),
        ("52:54:00:aa:bb:02", "52:54:00"),
    ]
