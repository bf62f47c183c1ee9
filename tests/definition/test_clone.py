"""The changes that make a clone's definition, each by itself."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable
from functools import partial

import pytest

from tests.definition.trees import canonical
from virtomate.definition import clone, codec
from virtomate.definition.clone import Identity, NewSource
from virtomate.errors import UnsupportedError

IDENTITY = Identity("new", "uuid-2", {0: "52:54:00:00:00:01", 2: "52:54:00:00:00:02"})
SOURCES = {0: NewSource("/p/new.qcow2", "p", "new.qcow2", "qcow2"), 2: NewSource("/p/n2", "p2", "n2", "raw")}

Change = Callable[[codec.Document], codec.Document]
IDENTIFY: Change = partial(clone.with_identity, identity=IDENTITY)
SOURCE: Change = partial(clone.with_sources, sources=SOURCES)
RAW_NVRAM: Change = partial(clone.with_nvram, path="/n/new", format_="raw")
QCOW2_NVRAM: Change = partial(clone.with_nvram, path="/n/new", format_="qcow2")


def in_devices(content: str) -> str:
    """A definition with these devices."""
    return f"<devices>{content}</devices>"


NAMED = "<name>new</name><uuid>uuid-2</uuid>"
ROWS: list[tuple[str, Change, str, str]] = [
    ("name and UUID", IDENTIFY, "<name>old</name><uuid>uuid-1</uuid><title>old</title>", f"{NAMED}<title>old</title>"),
    ("no UUID before", IDENTIFY, "<name>old</name>", NAMED),
    ("generation ID", IDENTIFY, "<genid>1</genid>", f"{NAMED}<genid/>"),
    ("empty generation ID", IDENTIFY, "<genid/>", f"{NAMED}<genid/>"),
    (
        "SMBIOS UUID",
        IDENTIFY,
        (
            "<sysinfo type='smbios'><bios><entry name='vendor'>LENOVO</entry></bios><system>"
            "<entry name='serial'>1</entry><entry name='uuid'>uuid-1</entry></system></sysinfo>"
        ),
        (
            f"{NAMED}<sysinfo type='smbios'><bios><entry name='vendor'>LENOVO</entry></bios><system>"
            "<entry name='serial'>1</entry><entry name='uuid'>uuid-2</entry></system></sysinfo>"
        ),
    ),
    (
        "no SMBIOS UUID is made up",
        IDENTIFY,
        (
            "<sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo>"
            "<sysinfo type='fwcfg'><entry name='opt/uuid'>uuid-1</entry></sysinfo>"
        ),
        (
            f"{NAMED}<sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo>"
            "<sysinfo type='fwcfg'><entry name='opt/uuid'>uuid-1</entry></sysinfo>"
        ),
    ),
    (
        "MAC addresses by position",
        IDENTIFY,
        in_devices(
            "<interface><mac address='52:54:00:aa:aa:01' type='static'/></interface><interface/>"
            "<interface><mac address='52:54:00:aa:aa:02'/></interface>"
        ),
        NAMED
        + in_devices(
            "<interface><mac address='52:54:00:00:00:01' type='static'/></interface><interface/>"
            "<interface><mac address='52:54:00:00:00:02'/></interface>"
        ),
    ),
    *(
        (
            f"{kind} ports",
            clone.with_automatic_ports,
            in_devices(f"<graphics type='{kind}' port='5901' tlsPort='5902' autoport='no' passwd='x'/>"),
            in_devices(f"<graphics type='{kind}' autoport='yes' passwd='x'/>"),
        )
        for kind in ("vnc", "spice", "rdp")
    ),
    (
        "automatic ports",
        clone.with_automatic_ports,
        in_devices("<graphics type='vnc' port='-1' autoport='yes'><listen type='address' address='::'/></graphics>"),
        in_devices("<graphics type='vnc' autoport='yes'><listen type='address' address='::'/></graphics>"),
    ),
    (
        "a port of the websocket",
        clone.with_automatic_ports,
        in_devices("<graphics type='vnc' port='5901' websocket='5700'/>"),
        in_devices("<graphics type='vnc' autoport='yes' websocket='-1'/>"),
    ),
    (
        "ports of every graphics device",
        clone.with_automatic_ports,
        in_devices("<graphics type='vnc' port='1'/><graphics type='spice' port='2'/>"),
        in_devices("<graphics type='vnc' autoport='yes'/><graphics type='spice' autoport='yes'/>"),
    ),
    (
        "graphics without ports",
        clone.with_automatic_ports,
        in_devices(
            "<graphics type='sdl' display=':0'/><graphics type='egl-headless'/><graphics type='dbus' p2p='yes'/>"
        ),
        in_devices(
            "<graphics type='sdl' display=':0'/><graphics type='egl-headless'/><graphics type='dbus' p2p='yes'/>"
        ),
    ),
    (
        "vsock context ID",
        clone.with_automatic_vsock,
        in_devices("<vsock model='virtio'><cid auto='no' address='3'/></vsock>"),
        in_devices("<vsock model='virtio'><cid auto='yes'/></vsock>"),
    ),
    (
        "automatic vsock context ID",
        clone.with_automatic_vsock,
        in_devices("<vsock model='virtio'><cid auto='yes' address='3'/></vsock>"),
        in_devices("<vsock model='virtio'><cid auto='yes'/></vsock>"),
    ),
    ("no vsock", clone.with_automatic_vsock, in_devices("<disk/>"), in_devices("<disk/>")),
    (
        "volumes by position",
        SOURCE,
        in_devices(
            "<disk type='file'><driver name='qemu' type='raw' cache='none'/>"
            "<source file='/p/a' startupPolicy='optional'/>"
            "<backingStore type='file'><format type='raw'/><source file='/p/b'/></backingStore>"
            "<target dev='vda'/></disk>"
            "<disk type='file'><source file='/p/c'/><backingStore/><target dev='vdb'/></disk>"
            "<disk type='volume'><driver type='qcow2'/><source pool='p' volume='v' mode='host'/>"
            "<target dev='vdc'/></disk>"
        ),
        in_devices(
            "<disk type='file'><driver name='qemu' type='qcow2' cache='none'/>"
            "<source file='/p/new.qcow2' startupPolicy='optional'/><target dev='vda'/></disk>"
            "<disk type='file'><source file='/p/c'/><backingStore/><target dev='vdb'/></disk>"
            "<disk type='volume'><driver type='raw'/><source pool='p2' volume='n2' mode='host'/>"
            "<target dev='vdc'/></disk>"
        ),
    ),
    (
        "an empty backing store",
        SOURCE,
        in_devices("<disk type='file'><driver type='qcow2'/><source file='/p/a'/><backingStore/></disk>"),
        in_devices("<disk type='file'><driver type='qcow2'/><source file='/p/new.qcow2'/></disk>"),
    ),
    (
        "a disk without driver",
        SOURCE,
        in_devices("<disk type='file'><source file='/p/a'/></disk>"),
        in_devices("<disk type='file'><source file='/p/new.qcow2'/><driver type='qcow2'/></disk>"),
    ),
    (
        "a disk with an empty driver and without type",
        SOURCE,
        in_devices("<disk><driver/><source file='/p/a'/></disk>"),
        in_devices("<disk><driver type='qcow2'/><source file='/p/new.qcow2'/></disk>"),
    ),
    (
        "what a source holds besides",
        SOURCE,
        in_devices(
            "<disk type='file'><source file='/p/a'><encryption format='luks'/><seclabel model='dac'/></source></disk>"
        ),
        in_devices(
            "<disk type='file'><source file='/p/new.qcow2'><encryption format='luks'/><seclabel model='dac'/></source>"
            "<driver type='qcow2'/></disk>"
        ),
    ),
    ("NVRAM as text", RAW_NVRAM, "<os><nvram>/n/old</nvram></os>", "<os><nvram>/n/new</nvram></os>"),
    (
        "NVRAM with attributes",
        QCOW2_NVRAM,
        "<os><nvram template='/t' format='qcow2'>/n/old</nvram></os>",
        "<os><nvram template='/t' format='qcow2'>/n/new</nvram></os>",
    ),
    (
        "NVRAM with a source",
        RAW_NVRAM,
        "<os><nvram type='file' template='/t'><source file='/n/old'><seclabel model='dac'/></source></nvram></os>",
        "<os><nvram type='file' template='/t'><source file='/n/new'><seclabel model='dac'/></source></nvram></os>",
    ),
    (
        "NVRAM that libvirt chose",
        RAW_NVRAM,
        "<os firmware='efi'><type>hvm</type></os>",
        "<os firmware='efi'><type>hvm</type><nvram>/n/new</nvram></os>",
    ),
    (
        "NVRAM in qcow2 that libvirt chose",
        QCOW2_NVRAM,
        "<os firmware='efi'><type>hvm</type></os>",
        "<os firmware='efi'><type>hvm</type><nvram format='qcow2'>/n/new</nvram></os>",
    ),
    (
        "NVRAM without a path",
        RAW_NVRAM,
        "<os><nvram template='/t'/></os>",
        "<os><nvram template='/t'>/n/new</nvram></os>",
    ),
    ("empty NVRAM", RAW_NVRAM, "<os><nvram/></os>", "<os><nvram>/n/new</nvram></os>"),
]


@pytest.mark.parametrize(("change", "before", "after"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_change(change: Change, before: str, after: str) -> None:
    """A change does what it says, leaves everything else as it was, and its input untouched."""
    domain = codec.parse_definition(f"<domain>{before}</domain>").domain
    untouched = copy.deepcopy(domain)

    changed = change(domain)

    assert canonical(codec.unparse(changed, "domain")) == canonical(f"<domain>{after}</domain>")
    assert domain == untouched


@pytest.mark.parametrize("change", {row[0]: row[1] for row in ROWS}.values(), ids=[row[0] for row in ROWS])
def test_nothing_in_common_with_the_original(change: Change) -> None:
    """Whoever changes a clone's definition does not change the original's."""
    domain = codec.parse_definition(
        "<domain><os><type>hvm</type></os><devices><disk/><tpm><x/></tpm></devices></domain>"
    ).domain

    changed = change(domain)
    changed["devices"]["tpm"].clear()
    changed["os"]["type"] = "changed"

    assert domain["devices"]["tpm"] == [{"x": None}]
    assert domain["os"]["type"] == "hvm"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<name>a</name>", ("UUID",)),
        ("<genid/>", ("UUID", "VM generation ID")),
        (
            "<sysinfo><system><entry name='uuid'>1</entry></system></sysinfo>",
            ("UUID", "SMBIOS system UUID"),
        ),
        ("<sysinfo><system><entry name='serial'>1</entry></system></sysinfo>", ("UUID",)),
        (in_devices("<interface><mac address='52:54:00:00:00:01'/></interface>"), ("UUID", "MAC addresses")),
        (in_devices("<interface/>"), ("UUID",)),
        (
            in_devices("<graphics type='vnc' port='1'/><graphics type='spice' autoport='no'/><graphics type='sdl'/>"),
            ("UUID", "VNC ports: chosen by libvirt at every start", "SPICE ports: chosen by libvirt at every start"),
        ),
        (in_devices("<graphics type='vnc' autoport='yes'/>"), ("UUID",)),
        (
            in_devices("<vsock><cid auto='no' address='3'/></vsock>"),
            ("UUID", "vsock context ID: chosen by libvirt at every start"),
        ),
        (in_devices("<vsock><cid auto='yes'/></vsock>"), ("UUID",)),
    ],
)
def test_changes_are_described(content: str, expected: tuple[str, ...]) -> None:
    """What is renewed is named, and what stays as it was is not."""
    assert clone.describe_changes(codec.parse_definition(f"<domain>{content}</domain>").domain) == expected


def test_fixed_websocket_port_is_described() -> None:
    """A websocket's port is renewed although the other ports were automatic before, so that is named, too."""
    content = in_devices("<graphics type='vnc' autoport='yes' websocket='5700'/>")

    described = clone.describe_changes(codec.parse_definition(f"<domain>{content}</domain>").domain)

    assert any("VNC" in change for change in described)


def _interfaces(*addresses: str) -> codec.Document:
    text = "".join(
        f"<interface><mac address='{address}'/></interface>" if address else "<interface/>" for address in addresses
    )
    return codec.parse_definition(f"<domain>{in_devices(text)}</domain>").domain


def test_new_mac_addresses_keep_the_manufacturer() -> None:
    """A new address has the original's first three octets, and is written in lower case."""
    domain = _interfaces("52:54:00:AA:BB:CC", "", "00:16:3E:01:02:03")

    addresses = clone.new_mac_addresses(domain, (), os.urandom)

    assert addresses.keys() == {0, 2}
    assert addresses[0].startswith("52:54:00:")
    assert addresses[2].startswith("00:16:3e:")
    assert all(len(address.split(":")) == 6 and address == address.lower() for address in addresses.values())


def _chance(*numbers: int) -> Callable[[int], bytes]:
    """Gives the octets it was told, instead of random ones."""
    stream = io.BytesIO(bytes(numbers))
    return stream.read


def test_new_mac_addresses_avoid_those_in_use() -> None:
    """An address that some domain has, or that this clone just got, is not given again."""
    domain = _interfaces("52:54:00:aa:bb:cc", "52:54:00:aa:bb:dd")
    chance = _chance(1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3)

    addresses = clone.new_mac_addresses(domain, {"52:54:00:01:01:01"}, chance)

    assert addresses == {0: "52:54:00:02:02:02", 1: "52:54:00:03:03:03"}


def test_no_mac_address_left() -> None:
    """Where the whole range is in use there is an error and no endless search."""
    chance = _chance(*[1] * 300_000)

    with pytest.raises(UnsupportedError, match="52:54:00"):
        clone.new_mac_addresses(_interfaces("52:54:00:aa:bb:cc"), {"52:54:00:01:01:01"}, chance)
