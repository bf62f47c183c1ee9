"""What readers see in a definition."""

from __future__ import annotations

import json
import shlex

import pytest

from virtomate.definition import codec, file_readers, readers
from virtomate.definition.file_readers import BackingStore, NvramDefinition
from virtomate.definition.readers import InterfaceDefinition


def parse(content: str) -> codec.Document:
    """A domain's content."""
    return codec.parse_definition(f"<domain>{content}</domain>").domain


DEFAULTS = {
    "position": 0,
    "target": "vda",
    "type": "file",
    "path": None,
    "pool": None,
    "volume": None,
    "address": None,
    "format": None,
    "is_readonly": False,
    "is_shareable": False,
    "is_sliced": False,
    "is_passed_through": False,
    "below": (),
}
TARGET = "<target dev='vda' bus='virtio'/>"
DISKS = [
    (f"<disk type='file'><source file='/a'/>{TARGET}</disk>", {"path": "/a"}, False, "/a"),
    (f"<disk><source file='/a b'/>{TARGET}</disk>", {"path": "/a b"}, False, "/a b"),
    (
        f"<disk device='disk'><driver name='qemu' type='qcow2'/><source file='/a'/>{TARGET}<readonly/></disk>",
        {"path": "/a", "format": "qcow2", "is_readonly": True},
        False,
        "/a",
    ),
    (
        f"<disk type='file'><driver name='qemu'/><source file='/a'/>{TARGET}<shareable/><transient/></disk>",
        {"path": "/a", "is_shareable": True},
        False,
        "/a",
    ),
    (
        (
            f"<disk type='file'><source file='/a'><slices><slice type='storage' offset='1' size='2'/></slices></source>"
            f"{TARGET}</disk>"
        ),
        {"path": "/a", "is_sliced": True},
        False,
        "/a",
    ),
    (
        f"<disk type='file'><source file='/a'/><backingStore/>{TARGET}</disk>",
        {"path": "/a", "below": (BackingStore(),)},
        False,
        "/a",
    ),
    (
        f"<disk><source file='/a'/><backingStore type='file'><source file='/b'/></backingStore>{TARGET}</disk>",
        {"path": "/a", "below": (BackingStore("file", "/b"),)},
        False,
        "/a",
    ),
    (
        (
            f"<disk><source file='/a'/>{TARGET}<backingStore type='volume'><format type='raw'/>"
            "<source pool='p' volume='v'><encryption format='luks'/></source>"
            "<backingStore type='block'><source dev='/dev/b'/><backingStore/></backingStore></backingStore></disk>"
        ),
        {
            "path": "/a",
            "below": (
                BackingStore("volume", pool="p", volume="v", format="raw", is_encrypted=True),
                BackingStore("block", "/dev/b"),
                BackingStore(),
            ),
        },
        False,
        "/a",
    ),
    (
        f"<disk type='volume'><source pool='p' volume='v'/>{TARGET}</disk>",
        {"type": "volume", "pool": "p", "volume": "v"},
        False,
        "p/v",
    ),
    (
        f"<disk type='file' device='cdrom'><source file='/a.iso'/>{TARGET}</disk>",
        {"path": "/a.iso", "is_readonly": True},
        False,
        "/a.iso",
    ),
    (
        f"<disk type='file' device='cdrom'>{TARGET}</disk>",
        {"is_readonly": True},
        True,
        "a file source",
    ),
    (f"<disk type='file' device='floppy'><source/>{TARGET}</disk>", {}, True, "a file source"),
    (
        f"<disk type='volume' device='floppy'>{TARGET}</disk>",
        {"type": "volume"},
        True,
        "a volume source",
    ),
    (
        f"<disk type='block' device='lun'><source dev='/dev/sda'/>{TARGET}</disk>",
        {"type": "block", "path": "/dev/sda", "is_passed_through": True},
        False,
        "/dev/sda",
    ),
    (
        f"<disk type='block' device='floppy'>{TARGET}</disk>",
        {"type": "block"},
        True,
        "a block source",
    ),
    (
        f"<disk type='network'><source protocol='nbd'/>{TARGET}</disk>",
        {"type": "network", "address": "nbd:///"},
        False,
        "nbd:///",
    ),
    *(
        (
            f"<disk type='{kind}'><source {source}</source>{TARGET}</disk>",
            {"type": kind, "address": address},
            False,
            address,
        )
        for kind, source, address in (
            ("network", "protocol='rbd' name='p/i'>", "rbd:///p/i"),
            ("network", "protocol='nbd' name='e'><host name='h.example' port='10809'/>", "nbd://h.example:10809/e"),
            ("network", "protocol='rbd' name='p/i'><host name='a'/><host name='::1' port='1'/>", "rbd://a,[::1]:1/p/i"),
            ("network", "protocol='nbd' name='e'><host transport='unix' socket='/s'/>", "nbd+unix:///e?socket=/s"),
            ("network", "protocol='https' name='/d/a' query='x=1'><host name='h'/>", "https://h/d/a?x=1"),
            (
                "nvme",
                "type='pci' namespace='2'><address domain='0x0000' bus='0x3b' slot='0x00' function='0x1'/>",
                "nvme://0000:3b:00.1/2",
            ),
            ("vhostuser", "type='unix' path='/s'>", "/s"),
            ("vhostvdpa", "dev='/dev/vhost-vdpa-0'>", "/dev/vhost-vdpa-0"),
            ("dir", "dir='/d'>", "/d"),
        )
    ),
]


@pytest.mark.parametrize(("text", "expected", "is_empty", "location"), DISKS)
def test_disk(text: str, expected: dict[str, object], is_empty: bool, location: str) -> None:
    """Every kind of disk is read as what it is."""
    (disk,) = file_readers.disks(parse(f"<devices>{text}</devices>"))

    assert disk._asdict() == DEFAULTS | expected
    assert disk.is_empty is is_empty
    assert disk.location == location


def test_disks_keep_their_positions() -> None:
    """The index is the position among all disks, also beside an empty element."""
    disks = file_readers.disks(
        parse("<devices><disk><target dev='vda'/></disk><tpm/><disk/><disk><target dev='a'/></disk></devices>")
    )

    assert [(disk.position, disk.target) for disk in disks] == [(0, "vda"), (1, "disk 1"), (2, "a")]


@pytest.mark.parametrize(
    "content", ["", "<devices/>", "<devices>\n</devices>", "<devices><emulator>/q</emulator></devices>"]
)
def test_no_devices(content: str) -> None:
    """A definition without devices has none of any kind."""
    domain = parse(content)

    assert file_readers.disks(domain) == ()
    assert readers.mac_addresses(domain) == ()
    assert readers.devices(domain, "graphics") == []


def test_open_for_writing() -> None:
    """A domain may write to what is neither read-only nor empty, whatever it is."""
    domain = parse(
        "<devices><disk><source file='/a'/><target dev='a'/></disk>"
        "<disk><source file='/b'/><target dev='b'/><readonly/></disk>"
        "<disk device='cdrom'><source file='/c'/><target dev='c'/></disk>"
        "<disk device='floppy'><target dev='d'/></disk>"
        "<disk type='volume'><source pool='p' volume='v'/><target dev='e'/></disk></devices>"
    )

    assert [disk.target for disk in file_readers.open_for_writing(domain)] == ["a", "e"]


def test_name_and_uuid() -> None:
    """Name and UUID are the domain's own, empty where there are none."""
    domain = parse("<name>  a </name><uuid>1</uuid>")

    assert (readers.name(domain), readers.uuid(domain)) == ("  a ", "1")
    assert (readers.name({}), readers.uuid({})) == ("", "")


def test_mac_addresses() -> None:
    """MAC addresses are compared in lower case; an interface without one has none."""
    domain = parse(
        "<devices><interface><mac address='52:54:00:AA:bb:01'/></interface><interface/>"
        "<interface><mac address='52:54:00:aa:bb:02'/></interface></devices>"
    )

    assert readers.mac_addresses(domain) == ("52:54:00:aa:bb:01", "52:54:00:aa:bb:02")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", None),
        ("<os/>", None),
        ("<os><loader>/l</loader></os>", None),
        ("<os><nvram>/n</nvram></os>", NvramDefinition("/n", "file", "raw")),
        ("<os><nvram>\n  /n\n</nvram></os>", NvramDefinition("/n", "file", "raw")),
        ("<os><nvram template='/t'>/n</nvram></os>", NvramDefinition("/n", "file", "raw", "/t")),
        ("<os><nvram template='/t' format='qcow2'>/n</nvram></os>", NvramDefinition("/n", "file", "qcow2", "/t")),
        ("<os><nvram/></os>", NvramDefinition(None, "file", "raw")),
        ("<os><nvram template='/t'/></os>", NvramDefinition(None, "file", "raw", "/t")),
        ("<os><nvram type='file'><source file='/n'/></nvram></os>", NvramDefinition("/n", "file", "raw")),
        (
            "<os><nvram type='file' format='qcow2' template='/t'><source file='/n'/></nvram></os>",
            NvramDefinition("/n", "file", "qcow2", "/t"),
        ),
        ("<os><nvram type='block'><source dev='/dev/n'/></nvram></os>", NvramDefinition(None, "block", "raw")),
        (
            "<os><nvram type='network'><source protocol='iscsi' name='i'/></nvram></os>",
            NvramDefinition(None, "network", "raw"),
        ),
    ],
)
def test_nvram(content: str, expected: NvramDefinition | None) -> None:
    """The NVRAM is found in each of its spellings."""
    assert file_readers.nvram(parse(content)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", False),
        ("<os><type>hvm</type></os>", False),
        ("<os firmware='efi'><type>hvm</type></os>", True),
        ("<os firmware='efi'><loader secure='yes'/></os>", True),
        ("<os firmware='efi'><loader stateless='yes'/></os>", False),
        ("<os firmware='efi'><loader stateless='no'/></os>", True),
        ("<os firmware='bios'/>", False),
        ("<os><loader readonly='yes' type='pflash'>/c</loader></os>", True),
        ("<os><loader readonly='yes' type='pflash' stateless='yes'>/c</loader></os>", False),
        ("<os><loader readonly='no' type='pflash'>/c</loader></os>", False),
        ("<os><loader readonly='yes' type='rom'>/c</loader></os>", False),
        ("<os><loader>/c</loader></os>", False),
    ],
)
def test_has_selected_nvram(content: str, expected: bool) -> None:
    """Libvirt chooses an NVRAM for autoselected EFI and for a read-only pflash loader, unless it is stateless."""
    assert file_readers.has_selected_nvram(parse(content)) is expected


def _command_line(*nodes: object) -> str:
    words = ["LC_ALL=C", "/usr/bin/qemu-system-x86_64", "-name", "guest=it's,debug-threads=on"]
    for node in nodes:
        words += ["-blockdev", node if isinstance(node, str) else json.dumps(node)]
    return shlex.join(words)


CODE = {"driver": "file", "filename": "/code.fd", "node-name": "libvirt-pflash0-storage", "read-only": True}
VARS = {"driver": "file", "filename": "/var/lib/it's ä_VARS.fd", "node-name": "libvirt-pflash1-storage"}
FORMAT = {"node-name": "libvirt-pflash1-format", "driver": "raw", "file": "libvirt-pflash1-storage"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (_command_line(CODE, VARS, FORMAT), "/var/lib/it's ä_VARS.fd"),
        (_command_line(CODE), None),
        (_command_line(CODE, FORMAT), None),
        (_command_line("{no json", "{}", "[1]", VARS), "/var/lib/it's ä_VARS.fd"),
        (_command_line({"driver": "nbd", "node-name": "libvirt-pflash1-storage"}), None),
        ("", None),
    ],
)
def test_nvram_path_of_command_line(line: str, expected: str | None) -> None:
    """The file behind the second flash device is the NVRAM, however its name is quoted."""
    assert file_readers.nvram_path_of_command_line(line) == expected


@pytest.mark.parametrize(
    ("content", "dropped"),
    [
        (
            (
                "<name>a</name><uuid>u</uuid><memory>1</memory><vcpu>2</vcpu><os firmware='efi'><type>hvm</type>"
                "<firmware><feature enabled='yes' name='secure-boot'/></firmware><loader secure='yes'/>"
                "<nvram template='/t'/></os><features><acpi/><smm state='on'/></features>"
                "<devices><emulator>/q</emulator></devices>"
            ),
            "",
        ),
        (
            "<name>a</name><memory>1</memory><os firmware='efi'><type>hvm</type></os><features><acpi/></features>",
            (
                "<metadata/><iothreads>1</iothreads><sysinfo type='smbios'/><cpu/><launchSecurity type='sev'/>"
                "<qemu:commandline><qemu:arg value='x'/></qemu:commandline>"
            ),
        ),
    ],
)
def test_firmware_only(content: str, dropped: str) -> None:
    """Of a definition is left what decides about the firmware, and no device."""
    whole = codec.parse_definition(f"<domain type='kvm' xmlns:qemu='q'>{content}{dropped}</domain>")
    domain = whole.domain
    wanted = codec.parse_definition(f"<domain type='kvm'>{content}</domain>").domain

    assert file_readers.firmware_only(domain) == wanted


def test_firmware_only_leaves_out_what_needs_more() -> None:
    """SMBIOS of the definition, a console for the BIOS, and devices are not there."""
    text = (
        "<domain><os><type>hvm</type><smbios mode='sysinfo'/><bios useserial='yes'/><boot dev='hd'/></os>"
        "<features><acpi/><hyperv/></features><devices><disk/><hostdev/></devices></domain>"
    )

    assert file_readers.firmware_only(codec.parse_definition(text).domain) == {
        "os": {"type": "hvm"},
        "features": {"acpi": None},
    }


def test_networks_of_interfaces() -> None:
    """Networks of libvirt's are named once each, and interfaces that are in none are passed over."""
    sources = ("network='lab'", "network='lab' portgroup='a'", "bridge='br0'", "network='b b'")
    interfaces = [f"<interface type='network'><source {source}/></interface>" for source in sources]
    domain = parse(f"<devices>{''.join(interfaces)}<interface type='user'/></devices>")

    assert readers.network_names(domain) == ("lab", "b b")


def test_interfaces_of_an_active_domain() -> None:
    """An interface is called by its name on the host, else by libvirt's name for the device."""
    parts = (
        "<mac address='52:54:00:AB:00:01'/><target dev='vnet0'/><alias name='net0'/>",
        "<mac address='52:54:00:00:00:02'/><alias name='net1'/>",
        "",
    )
    domain = parse(f"<devices>{''.join(f'<interface>{part}</interface>' for part in parts)}</devices>")

    assert readers.interfaces(domain) == (
        InterfaceDefinition("vnet0", "52:54:00:ab:00:01"),
        InterfaceDefinition("net1", "52:54:00:00:00:02"),
        InterfaceDefinition("net2", None),
    )
