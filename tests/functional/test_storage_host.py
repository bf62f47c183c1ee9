"""The storage host has what the tests that use it take for granted."""

from pathlib import Path

import libvirt
import pytest

from tests.lab import Program
from tests.lab.images import MIB, content
from tests.lab.storage_host import (
    NFS_DIRECTORY,
    QUOTA_FILE_SYSTEM,
    SQUASHED_EXPORT,
    SQUASHED_USER,
    TEMPLATES,
    TEMPLATES_WRITABLE,
    StorageHost,
    content_digest,
)

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]


def test_program_here_and_there(storage_host: StorageHost, virtomate: Program) -> None:
    """The program under test lists the pools of the host, over SSH and on the host itself."""
    storage_host.make_pool("logical", "vg")

    here = virtomate("pool-list", json=True, uri=storage_host.uri)
    there = storage_host.virtomate("pool-list", json=True)

    assert (here.status, there.status) == (0, 0), f"{here}\n{there}"
    assert here.json == there.json
    assert [pool["name"] for pool in there.json] == ["vg"]


def test_logical_volumes(storage_host: StorageHost, tmp_path: Path) -> None:
    """A thick and a thin volume hold what is written to them, and libvirt sees the thick one in its pool."""
    data = content(1, 4 * MIB)
    thick, thin = storage_host.make_lv("thick", 64), storage_host.make_thin("thin", 512)
    for path in (thick, thin):
        storage_host.write(path, data, 4 * MIB)

    pool = storage_host.make_pool("logical", "vg")

    assert (storage_host.size_of(thick), storage_host.size_of(thin)) == (64 * MIB, 512 * MIB)
    for path in (thick, thin):
        beginning = storage_host.run(f"dd if={path} bs=1M skip=4 count=4 status=none | sha256sum").split()[0]
        assert beginning == content_digest(data)
    assert storage_host.digest(thin, 4 * MIB) == content_digest(bytes(4 * MIB))
    assert "thick" in pool.listVolumes()
    fetched = storage_host.fetch(thick, tmp_path / "thick").read_bytes()
    assert (len(fetched), fetched[4 * MIB : 8 * MIB] == data) == (64 * MIB, True)


def test_root_is_squashed(storage_host: StorageHost) -> None:
    """What root makes over NFS belongs to nobody, and root may not give it away."""
    storage_host.run(f"touch {NFS_DIRECTORY}/made")

    assert storage_host.run(f"stat -c %u {SQUASHED_EXPORT}/made").strip() == str(SQUASHED_USER)
    with pytest.raises(RuntimeError, match="Operation not permitted"):
        storage_host.run(f"chown root {NFS_DIRECTORY}/made")


def test_quota(storage_host: StorageHost) -> None:
    """The quota of the user to whom root is squashed holds over NFS."""
    storage_host.run(f"setquota -u {SQUASHED_USER} 0 2048 0 0 {QUOTA_FILE_SYSTEM}")

    with pytest.raises(RuntimeError, match="Disk quota exceeded"):
        storage_host.run(f"dd if=/dev/zero of={NFS_DIRECTORY}/big bs=1M count=4 conv=fsync")


def test_read_only_templates(storage_host: StorageHost) -> None:
    """The directory with templates shows what is in it and takes nothing."""
    storage_host.run(f"touch {TEMPLATES_WRITABLE}/template")

    assert storage_host.run(f"ls {TEMPLATES}").split() == ["template"]
    with pytest.raises(RuntimeError, match="Read-only file system"):
        storage_host.run(f"touch {TEMPLATES}/other")


@pytest.mark.parametrize("kind", ["netfs", "netfs-qemu", "netfs-open", "disk", "iscsi"])
def test_pools(storage_host: StorageHost, kind: str) -> None:
    """Each kind of pool starts, and holds a volume: the LUN, or one that libvirt makes."""
    pool = storage_host.make_pool(kind, "made")

    # libvirt makes a file as its owner, who must be let in.
    user = {"netfs": "nobody", "netfs-qemu": "libvirt-qemu"}.get(kind, "root")
    number, group = storage_host.run(f"id -u {user}; id -g {user}").split()
    owner = f"<owner>{number}</owner><group>{group}</group>"
    target = f"<target><permissions><mode>0600</mode>{owner}</permissions></target>"
    # A volume of a disk pool is a partition, and its name is the kernel's.
    name = "vdc1" if kind == "disk" else "made1"
    if kind != "iscsi":
        pool.createXML(f"<volume><name>{name}</name><capacity unit='MiB'>16</capacity>{target}</volume>")
    (volume,) = pool.listAllVolumes()

    assert volume.info()[1] >= 16 * MIB
    assert storage_host.size_of(volume.path()) >= 16 * MIB


def test_return(storage_host: StorageHost) -> None:
    """The host returns to a mark: domains, pools, logical volumes and files that were made since are gone."""
    mark = storage_host.mark()
    path = storage_host.make_lv("made", 4)
    storage_host.make_pool("logical", "vg")
    storage_host.make_directory_pool("templates", TEMPLATES_WRITABLE)
    storage_host.run(f"mkdir '{NFS_DIRECTORY}/a b' && touch '{NFS_DIRECTORY}/a b/c'")
    disk = f"<disk type='block'><source dev='{path}'/><target dev='vda'/></disk>"
    kind = "<os><type arch='x86_64' machine='q35'>hvm</type></os>"
    storage_host.connection.defineXML(
        f"<domain type='qemu'><name>made</name><memory>65536</memory>{kind}<devices>{disk}</devices></domain>"
    )

    storage_host.return_to(mark)

    assert storage_host.mark() == mark
    with pytest.raises(libvirt.libvirtError):
        storage_host.connection.lookupByName("made")
