"""What makes a volume a base, without a hypervisor: the files are real, and libvirt is a narrow fake."""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from tests.services.storage.fakes import FakeDomain, FakeLibvirt, FakePool, definition, failure
from tests.services.storage.images import write_qcow2
from virtomate.errors import IllegalStateError, UnsupportedError, VirtomateError
from virtomate.hypervisor.domains import find_domain
from virtomate.services.linked import (
    WriteBits,
    refuse_written,
    remove_write_bits,
    restore_write_bits,
    why_write_bits_stay,
)
from virtomate.services.storage import read_pools

if TYPE_CHECKING:
    from pathlib import Path

    from virtomate.definition.volume import VolumeDescription
    from virtomate.notices import Notice

# offsets of fields of a qcow2 header
ENCRYPTION, SNAPSHOTS = 32, 60


class Host:
    """A host with a domain of one disk."""

    def __init__(self, root: Path) -> None:
        (root / "pool").mkdir()
        self.path = write_qcow2(root / "pool" / "disk.qcow2")
        self.path.chmod(0o640)
        self.domain = FakeDomain("original", definition(self.path))
        self.libvirt = FakeLibvirt(domains=[self.domain], pools=[FakePool("pool", root / "pool")])

    @property
    def volume(self) -> VolumeDescription:
        """The disk's volume."""
        return read_pools(self.libvirt.connection).find_path(str(self.path)).description

    def check(self) -> tuple[Notice, ...]:
        """Check whether the volume can become a base."""
        connection = self.libvirt.connection
        return refuse_written(connection, find_domain(connection, "original"), {"vda": self.volume})

    def refusal(self) -> VirtomateError:
        """The error of that check."""
        with pytest.raises(VirtomateError) as caught:
            self.check()
        return caught.value

    def set_field(self, offset: int) -> None:
        """Set a field of the image's header to 1."""
        with self.path.open("r+b") as image:
            image.seek(offset)
            image.write(struct.pack(">I", 1))

    @property
    def mode(self) -> int:
        """The permission bits of the file."""
        return stat.S_IMODE(self.path.stat().st_mode)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host."""
    return Host(tmp_path)


def test_a_volume_that_only_its_domain_names_can_be_a_base(host: Host) -> None:
    """Whether the domain runs or not."""
    assert host.check() == ()
    host.domain.live = definition(host.path)
    assert host.check() == ()


def test_a_saved_state_refuses(host: Host) -> None:
    """To restore it opens the volume for writing; the image is named once for the domain, and as a writer."""
    host.domain.saved = definition(host.path)

    error = host.refusal()

    assert isinstance(error, IllegalStateError)
    assert "domain 'original' has a managed-save image" in error.message
    assert "managedsave-remove original" in (error.hint or "")


def test_checkpoints_refuse(host: Host) -> None:
    """A backup since a checkpoint would miss what was written before the overlay."""
    host.domain.checkpoints = {"c1": "<domaincheckpoint/>"}

    assert "domain 'original' has 1 checkpoint" in host.refusal().message


def test_internal_snapshots_refuse(host: Host) -> None:
    """Whether libvirt knows them or not."""
    host.set_field(SNAPSHOTS)

    assert f"disk vda ('{host.path}') has 1 snapshot inside" in host.refusal().message


def test_encryption_refuses(host: Host) -> None:
    """An overlay would hold in the clear what the guest writes from now on."""
    host.set_field(ENCRYPTION)

    error = host.refusal()

    assert isinstance(error, UnsupportedError)
    assert f"disk vda ('{host.path}') is encrypted" in error.message


def test_others_refuse(host: Host) -> None:
    """All documents that may write to the volume are named, and of the domain itself other devices."""
    for number in range(3):
        host.libvirt.domains.append(FakeDomain(f"other-{number}", definition(host.path)))
    host.domain.definition = definition(host.path, host.path)
    host.domain.snapshots = {"s1": definition(host.path)}

    assert host.refusal().message == (
        f"disk vda ('{host.path}') may be written to by others: disk vdb of domain 'original', domain 'other-0', "
        "domain 'other-1' and 2 more use it"
    )


def test_unreadable_documents_are_warnings(host: Host) -> None:
    """A saved state of another domain that cannot be read does not refuse, and is told."""
    host.libvirt.domains.append(FakeDomain("other", definition("/elsewhere"), saved=failure()))

    assert [warning.code for warning in host.check()] == ["unreadable-document"]


def test_write_bits_go_and_come_back(host: Host) -> None:
    """All three write bits go; exactly those come back that were there."""
    host.path.chmod(0o664)

    assert why_write_bits_stay(host.volume) is None
    assert remove_write_bits(host.volume) == WriteBits(str(host.path), 0o664)
    assert host.mode == 0o444
    assert remove_write_bits(host.volume) == WriteBits(str(host.path), 0o444)
    assert restore_write_bits(host.volume, 0o664) == WriteBits(str(host.path), 0o444)
    assert host.mode == 0o664


@pytest.mark.parametrize("change", ["replaced", "linked", "missing"])
def test_another_file_keeps_its_bits(host: Host, change: str, tmp_path: Path) -> None:
    """Only the file that libvirt tells of is changed, and no link is followed."""
    volume = host.volume
    host.path.rename(other := tmp_path / "other")
    if change == "replaced":
        write_qcow2(host.path)
    elif change == "linked":
        host.path.symlink_to(other)

    outcome = remove_write_bits(volume)

    assert outcome == WriteBits(str(host.path), None, "its file cannot be seen here")
    assert why_write_bits_stay(volume) == outcome.obstacle
    assert stat.S_IMODE(other.stat().st_mode) == 0o640


def test_a_file_of_another_user_keeps_its_bits(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the owner and root may change the bits."""
    volume = host.volume

    def refuse(_descriptor: int, _mode: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    assert why_write_bits_stay(volume) == "its file belongs to another user"
    assert remove_write_bits(volume) == WriteBits(str(host.path), None, "its file belongs to another user")
    assert host.mode == 0o640
