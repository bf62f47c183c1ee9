"""Who may write to a volume later, without a hypervisor: the files are real, and libvirt is a narrow fake."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.services.storage.fakes import LOCAL, REMOTE, FakeDomain, FakeLibvirt, FakePool, definition, failure
from tests.services.storage.images import write_qcow2
from virtomate.services.storage import read_pools
from virtomate.services.storage.references import Writer, find_writers

if TYPE_CHECKING:
    from pathlib import Path

OWN = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"


class Host:
    """A host with one pool and one volume, which no domain uses yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pool").mkdir()
        self.path = write_qcow2(root / "pool" / "disk.qcow2")
        self.libvirt = FakeLibvirt(pools=[FakePool("pool", root / "pool")])

    def define(self, text: str | Exception, uuid: str = OTHER, **others: object) -> None:
        """Define a domain."""
        self.libvirt.domains.append(FakeDomain("other", text, uuid=uuid, **others))  # type: ignore[arg-type]

    def writers(self) -> tuple[Writer, ...]:
        """Who may write to the volume."""
        volume = read_pools(self.libvirt.connection).find_path(str(self.path)).description
        return find_writers(self.libvirt.connection, [volume])[0][volume.path]

    def says(self) -> list[str]:
        """The same, as phrases."""
        return [writer.says for writer in self.writers()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host."""
    return Host(tmp_path)


def disk(source: str, inside: str = "", device: str = "disk") -> str:
    """A domain with one disk that has more than a source in it."""
    return (
        f"<domain><name>other</name><devices><disk type='file' device='{device}'><source {source}/>{inside}"
        "<target dev='vdc'/></disk></devices></domain>"
    )


def test_nobody_writes_to_a_volume_that_is_not_named(host: Host) -> None:
    """Domains with other volumes do not count, nor does one with the same name in another directory."""
    (host.root / "elsewhere").mkdir()
    host.define(definition(write_qcow2(host.root / "elsewhere" / "disk.qcow2"), host.root / "pool" / "gone.qcow2"))

    assert host.writers() == ()


def test_a_disk_writes(host: Host) -> None:
    """A definition with the volume as a disk is a writer, and tells which disk."""
    host.define(definition(host.path, "/somewhere/else"), uuid=OWN)

    assert host.writers() == (Writer("domain 'other'", OWN, True, ("vda",), False),)


@pytest.mark.parametrize("way", ["link", "hard link", "volume"])
def test_another_name_of_the_volume_writes(host: Host, way: str) -> None:
    """Under any name the volume is the same."""
    other = host.root / "other.qcow2"
    source = f"file='{other}'"
    if way == "link":
        other.symlink_to(host.path)
    elif way == "hard link":
        os.link(host.path, other)
    else:
        source = "pool='pool' volume='disk.qcow2'"
    host.define(disk(source))

    assert host.says() == ["domain 'other'"]


@pytest.mark.parametrize(
    ("inside", "device"),
    [("<readonly/>", "disk"), ("", "cdrom")],
)
def test_a_disk_that_is_only_read_does_not_write(host: Host, inside: str, device: str) -> None:
    """A read-only disk and a CD-ROM may be the volume."""
    host.define(disk(f"file='{host.path}'", inside, device))

    assert host.writers() == ()


def test_a_backing_chain_does_not_write(host: Host) -> None:
    """Whoever rests on the volume only reads it."""
    chain = f"<backingStore type='file'><source file='{host.path}'/></backingStore>"
    host.define(disk("file='/top'", chain), live=disk("file='/top'", chain))

    assert host.writers() == ()


def test_another_device_writes(host: Host) -> None:
    """What is no disk is taken for a writer."""
    host.define(definition("/elsewhere", extra=f"<filesystem type='file'><source file='{host.path}'/></filesystem>"))

    assert host.writers() == (Writer("domain 'other'", OTHER, True, (), True),)


def test_an_argument_writes(host: Host) -> None:
    """An argument for QEMU counts besides a disk with the same volume."""
    argument = f"<commandline><arg value='file={host.path},if=virtio'/></commandline>"
    host.define(definition(host.path, extra=argument))

    assert host.writers() == (Writer("domain 'other'", OTHER, True, ("vda",), True),)


def test_states_and_records_write(host: Host) -> None:
    """A managed-save image, a snapshot and a checkpoint name the volumes that a return to them writes to."""
    text = definition(host.path)
    snapshot = f"<domainsnapshot><disks><disk name='vda'><source file='{host.path}'/></disk></disks></domainsnapshot>"
    host.define(
        definition("/elsewhere"),
        uuid=OWN,
        live=text,
        saved=text,
        snapshots={"s": snapshot},
        checkpoints={"c": f"<domaincheckpoint>{text}</domaincheckpoint>"},
    )

    assert [(writer.says, writer.is_definition) for writer in host.writers()] == [
        ("domain 'other'", True),
        ("the managed-save image of domain 'other'", False),
        ("snapshot 's' of domain 'other'", False),
        ("checkpoint 'c' of domain 'other'", False),
    ]


@pytest.mark.parametrize(("uri", "expected"), [(LOCAL, []), (REMOTE, ["domain 'other'"])])
def test_a_file_of_the_name_may_be_the_volume_where_nothing_is_seen(host: Host, uri: str, expected: list[str]) -> None:
    """On another host, a directory outside of pools may be a link to the pool's."""
    other = host.root / "elsewhere" / "disk.qcow2"
    other.parent.mkdir()
    write_qcow2(other)
    host.define(definition(other))
    host.libvirt.uri = uri

    assert host.says() == expected


def test_unreadable_documents_are_told(host: Host) -> None:
    """What cannot be read is a warning."""
    host.define(definition("/elsewhere"), saved=failure())

    volume = read_pools(host.libvirt.connection).find_path(str(host.path)).description
    _, warnings = find_writers(host.libvirt.connection, [volume])

    assert [warning.code for warning in warnings] == ["unreadable-document"]
