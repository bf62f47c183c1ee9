"""What a definition tells the guest of its host name and instance ID becomes the clone's, wherever it stands."""

from __future__ import annotations

import base64

import pytest

from tests.definition.test_same_identity import fw_cfg, kernel, oem_string, qemu, system_serial
from virtomate.definition import codec
from virtomate.definition.rewrite.told import own_title, tells_name, told_from_outside, with_told_name
from virtomate.output.messages import sentences

UUID = "11111111-2222-4333-8444-555555555555"
OLD, NEW = (base64.b64encode(name).decode() for name in (b"old", b"web"))
CREDENTIAL = "io.systemd.credential"

RENEWED = [
    (system_serial("ds=nocloud;h=old;i=iid"), system_serial(f"ds=nocloud;h=web;i={UUID}")),
    (
        system_serial("ds=nocloud-net;s=http://x/;local-hostname=old;instance-id=a"),
        system_serial(f"ds=nocloud-net;s=http://x/;local-hostname=web;instance-id={UUID}"),
    ),
    (oem_string(f"{CREDENTIAL}:system.hostname=old"), oem_string(f"{CREDENTIAL}:system.hostname=web")),
    (
        oem_string(f"{CREDENTIAL}.binary:system.hostname={OLD}"),
        oem_string(f"{CREDENTIAL}.binary:system.hostname={NEW}"),
    ),
    (fw_cfg("opt/io.systemd.credentials/system.hostname"), fw_cfg("opt/io.systemd.credentials/system.hostname")),
    (
        fw_cfg("opt/io.systemd.credentials/system.hostname", "file='/etc/hostname'", ""),
        fw_cfg("opt/io.systemd.credentials/system.hostname"),
    ),
    (
        kernel("ds=nocloud;h=old  systemd.hostname=old ip=192.0.2.1::::old:eth0:off"),
        kernel("ds=nocloud;h=web  systemd.hostname=web ip=192.0.2.1::::old:eth0:off"),
    ),
    (kernel("systemd.set_credential=system.hostname:old"), kernel("systemd.set_credential=system.hostname:web")),
    (
        kernel(f"systemd.set_credential_binary=system.hostname:{OLD}"),
        kernel(f"systemd.set_credential_binary=system.hostname:{NEW}"),
    ),
    (
        qemu("type=1,serial=ds=nocloud;h=old;i=iid,product=h=old"),
        qemu(f"type=1,serial=ds=nocloud;h=web;i={UUID},product=h=old"),
    ),
    (
        qemu(f"type=11,value={CREDENTIAL}:system.hostname=old,value=x"),
        qemu(f"type=11,value={CREDENTIAL}:system.hostname=web,value=x"),
    ),
    (
        qemu("name=opt/io.systemd.credentials/system.hostname,file=/srv/a,,b"),
        qemu("name=opt/io.systemd.credentials/system.hostname,string=web"),
    ),
]
KEPT = [
    system_serial("LAB-1"),
    system_serial("ds=nocloud;s=http://x/"),
    oem_string(f"{CREDENTIAL}:system.machine_id=0123"),
    kernel("ip=192.0.2.1 quiet"),
    qemu("type=1,serial=h=old"),
]


def parsed(content: str) -> codec.Document:
    """Return a definition with this content."""
    return codec.parse_definition(f"<domain xmlns:qemu='urn:q'>{content}</domain>").domain


@pytest.mark.parametrize(("content", "expected"), RENEWED)
def test_what_tells_is_renewed(content: str, expected: str) -> None:
    """Only the values that tell change; there is a change in words, and no warning is left about them."""
    domain = parsed(content)
    before = codec.copied(domain)

    outcome = with_told_name(domain, "web", UUID)

    assert outcome.domain == parsed(expected)
    assert domain == before
    assert tells_name(domain)
    (change,) = sentences(outcome.changes)
    assert "host name" in change
    assert not [text for text in sentences(told_from_outside(domain, has_new_name=True)) if "host name" in text]
    assert any("host name" in text for text in sentences(told_from_outside(domain, has_new_name=False)))


@pytest.mark.parametrize("content", KEPT)
def test_anything_else_stays(content: str) -> None:
    """A definition that tells the guest neither name nor instance ID is not touched."""
    domain = parsed(content)

    outcome = with_told_name(domain, "web", UUID)

    assert (outcome.domain, outcome.changes, tells_name(domain)) == (domain, (), False)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("original", "clone"),
        ("The original, of two", "The clone, of two"),
        ("original-2", "clone"),
        ("unoriginal", "clone"),
        ("Web", "clone"),
    ],
)
def test_title(title: str, expected: str) -> None:
    """A title has the clone's name where it had the original's, and is that name where it had not."""
    assert own_title(title, "original", "clone") == expected
