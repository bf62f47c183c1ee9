"""Which machines carry credentials, and how the definition has them."""

from __future__ import annotations

import pytest

from virtomate.definition import codec
from virtomate.definition.rewrite.credentials import (
    Carriers,
    FirmwareEntry,
    carriers,
    oem_string,
    with_credentials,
    without_credentials,
)


def document(
    type_: str = "kvm", arch: str = "x86_64", machine: str = "pc-q35-7.2", os: str = "", sysinfo: str = ""
) -> codec.Document:
    """A domain of this machine."""
    text = (
        f"<domain type='{type_}'><name>a</name>{sysinfo}<os><type arch='{arch}' machine='{machine}'>hvm</type>{os}</os>"
        "</domain>"
    )
    return codec.parse_definition(text).domain


DESCRIBED = "<sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo>"


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (document(), Carriers(smbios=True, fw_cfg=True)),
        (document("qemu", "i686", "pc-i440fx-7.2"), Carriers(smbios=True, fw_cfg=True)),
        (document(machine="microvm"), Carriers(smbios=False, fw_cfg=True)),
        (document(os="<smbios mode='host'/>"), Carriers(smbios=False, fw_cfg=True)),
        (document(sysinfo=DESCRIBED), Carriers(smbios=False, fw_cfg=True)),
        (document(sysinfo=DESCRIBED, os="<smbios mode='sysinfo'/>"), Carriers(smbios=True, fw_cfg=True)),
        (document(arch="aarch64", machine="virt-7.2"), Carriers(smbios=False, fw_cfg=True)),
        (document(arch="aarch64", machine="virt-7.2", os="<loader>/x</loader>"), Carriers(smbios=True, fw_cfg=True)),
        (document(arch="s390x", machine="s390-ccw-virtio-7.2"), Carriers(smbios=False, fw_cfg=False)),
        (document("xen", machine="xenfv"), Carriers(smbios=False, fw_cfg=False)),
    ],
)
def test_carriers(domain: codec.Document, expected: Carriers) -> None:
    """Tables of the host, and tables that nobody uses yet, stay as they are."""
    assert carriers(domain) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"web", ":a=web"),
        ("grün, ja".encode(), ":a=grün, ja"),
        (b"two\nlines", ".binary:a=dHdvCmxpbmVz"),
        (b" blank", ".binary:a=IGJsYW5r"),
        (b"\xff", ".binary:a=/w=="),
    ],
)
def test_oem_strings(value: bytes, expected: str) -> None:
    """What an element would not hold as it is, is encoded."""
    assert oem_string("a", value) == f"io.systemd.credential{expected}"


def test_credentials_come_and_go() -> None:
    """What was put into a definition is taken out of it by name, and nothing else."""
    strings = [oem_string("a", b"1"), oem_string("b", b"\xff"), oem_string("a.b", b"2")]
    domain = with_credentials(document(), strings, [FirmwareEntry("c", "3", None), FirmwareEntry("d", None, "/d")])

    left = without_credentials(domain, ["a", "d"])

    assert domain["os"]["smbios"] == {"@mode": "sysinfo"}
    smbios, fw_cfg = left["sysinfo"]
    assert smbios["oemStrings"]["entry"] == strings[1:]
    assert fw_cfg["entry"] == [{"@name": "opt/io.systemd.credentials/c", "#text": "3"}]
    assert len(domain["sysinfo"][1]["entry"]) == 2
