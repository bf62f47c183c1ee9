"""What tells original and clone who they are, and is the same in both: everything is named."""

from __future__ import annotations

import pytest

from virtomate.definition import codec
from virtomate.definition.rewrite.still_shared import same_identity
from virtomate.output.messages import sentences

TITLE = "the title 'Web' is the same for original and clone"
ALIKE = " gives original and clone the same "


def told(content: str, *, has_new_title: bool = False) -> list[str]:
    """Return the warnings for a definition with this content, all of whose disks are duplicated but the third."""
    domain = codec.parse_definition(f"<domain xmlns:qemu='urn:q'>{content}</domain>").domain
    return sentences(same_identity(domain, {0, 1}, has_new_title=has_new_title))


def same_serial(table: str, serial: str) -> str:
    """The warning for an SMBIOS serial number."""
    return f"the SMBIOS serial number '{serial}' ({table}) is the same in original and clone"


def system_serial(value: str) -> str:
    """An SMBIOS serial number."""
    return f"<sysinfo type='smbios'><system><entry name='serial'>{value}</entry></system></sysinfo>"


def oem_string(value: str) -> str:
    """A string for the guest in its SMBIOS tables, beside another one."""
    return f"<sysinfo type='smbios'><oemStrings><entry>x</entry><entry>{value}</entry></oemStrings></sysinfo>"


def fw_cfg(name: str, more: str = "", value: str = "web") -> str:
    """An entry of the firmware configuration, beside another one."""
    other = "<entry name='opt/com.example/x'>y</entry>"
    return f"<sysinfo type='fwcfg'>{other}<entry name='{name}' {more}>{value}</entry></sysinfo>"


def kernel(words: str) -> str:
    """A kernel's arguments."""
    return f"<os><cmdline>quiet {words}</cmdline></os>"


def qemu(value: str) -> str:
    """An argument for QEMU."""
    return f"<qemu:commandline><qemu:arg value='-x'/><qemu:arg value='{value}'/></qemu:commandline>"


ALL_DISKS = (
    "<devices><disk><target dev='vda'/><serial> S 1</serial></disk>"
    "<disk><target dev='sda'/><wwn>5000c50015ea71ad</wwn><serial>S2</serial></disk>"
    "<disk type='block'><target dev='sdb'/><serial>S3</serial></disk></devices>"
)

SAID: list[tuple[str, ...]] = [
    ("<title>Web</title>", TITLE),
    (
        ALL_DISKS,
        "disk vda has the same serial number ' S 1' in original and clone",
        "disk sda has the same serial number 'S2' and WWN '5000c50015ea71ad' in original and clone",
    ),
    (system_serial("S-1"), same_serial("system", "S-1")),
    (
        (
            "<sysinfo type='smbios'><chassis><entry name='serial'>C</entry><entry name='asset'>A</entry></chassis>"
            "<baseBoard><entry name='serial'>B</entry></baseBoard></sysinfo>"
        ),
        same_serial("baseBoard", "B"),
        same_serial("chassis", "C"),
    ),
    (system_serial("ds=nocloud;h=web"), f"SMBIOS serial number 'ds=nocloud;h=web'{ALIKE}host name"),
    (
        system_serial("ds=nocloud-net;s=http://s/;i=1;h=w"),
        f"SMBIOS serial number 'ds=nocloud-net;s=http://s/;i=1;h=w'{ALIKE}instance ID and host name",
    ),
    (kernel("ds=nocloud;instance-id=1"), f"kernel argument 'ds=nocloud;instance-id=1'{ALIKE}instance ID"),
    (kernel("ds=nocloud;local-hostname=w"), f"kernel argument 'ds=nocloud;local-hostname=w'{ALIKE}host name"),
    (
        qemu("type=1,serial=ds=nocloud;h=web,uuid=1"),
        f"QEMU argument 'type=1,serial=ds=nocloud;h=web,uuid=1'{ALIKE}host name",
    ),
    (
        oem_string("io.systemd.credential:system.hostname=web"),
        f"SMBIOS OEM string 'io.systemd.credential:system.hostname=web'{ALIKE}host name",
    ),
    (
        oem_string("io.systemd.credential.binary:system.hostname=d2Vi"),
        f"SMBIOS OEM string 'io.systemd.credential.binary:system.hostname=d2Vi'{ALIKE}host name",
    ),
    (
        oem_string("io.systemd.credential:system.machine_id=1"),
        f"SMBIOS OEM string 'io.systemd.credential:system.machine_id=1'{ALIKE}machine ID",
    ),
    *(
        (text, f"firmware configuration 'opt/io.systemd.credentials/system.hostname'{ALIKE}host name")
        for text in (
            fw_cfg("opt/io.systemd.credentials/system.hostname"),
            fw_cfg("opt/io.systemd.credentials/system.hostname", "file='/srv/name'", ""),
        )
    ),
    (
        qemu("name=opt/io.systemd.credentials/system.hostname,string=web"),
        f"QEMU argument 'name=opt/io.systemd.credentials/system.hostname,string=web'{ALIKE}host name",
    ),
    (kernel("systemd.hostname=web"), f"kernel argument 'systemd.hostname=web'{ALIKE}host name"),
    (kernel("hostname=web ro"), f"kernel argument 'hostname=web'{ALIKE}host name"),
    (
        kernel("systemd.set_credential=system.hostname:web"),
        f"kernel argument 'systemd.set_credential=system.hostname:web'{ALIKE}host name",
    ),
    (kernel("systemd.machine_id=00ff"), f"kernel argument 'systemd.machine_id=00ff'{ALIKE}machine ID"),
    (kernel("ip=192.0.2.7::192.0.2.1:"), f"kernel argument 'ip=192.0.2.7::192.0.2.1:'{ALIKE}IP address"),
    (kernel("ip=[2001:db8::7]::::web"), f"kernel argument 'ip=[2001:db8::7]::::web'{ALIKE}IP address"),
]


@pytest.mark.parametrize(("content", "said"), [(content, [*said]) for content, *said in SAID])
def test_what_identifies_both(content: str, said: list[str]) -> None:
    """What two machines should not have in common is named, once."""
    assert told(content) == said


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<title/><devices><disk/><disk><target dev='vda'/><serial/></disk></devices><sysinfo type='smbios'/><os/>",
        "<sysinfo type='smbios'><system><entry name='serial'/><entry name='product'>P</entry></system></sysinfo>",
        "<devices><disk/><disk/><disk><target dev='vda'/><serial>S</serial></disk></devices>",
        kernel("ds=nocloud ds=nocloud;s=http://s/ ip=dhcp ip=:::::eth0:dhcp systemd.machine_id=firmware hostnames=1"),
        oem_string("io.systemd.credential:passwd.hashed-password.root=x"),
        oem_string("io.systemd.credential:system.hostnames=x"),
        fw_cfg("opt/io.systemd.credentials/passwd.hashed-password.root"),
        qemu("user,id=n,hostname=web"),
    ],
)
def test_what_identifies_nobody(content: str) -> None:
    """What says nothing about a machine is passed over."""
    assert told(content) == []


def test_title_that_was_chosen() -> None:
    """Nothing is said of the original's title where the clone gets another one, or none."""
    assert told("<title>Web</title>", has_new_title=True) == []
