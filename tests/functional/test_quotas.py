"""Quotas of directories and of users, on a host whose kernel has them: XFS and ext4 on logical volumes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.functional.runs import error_of
from tests.lab import domain
from tests.lab.images import MIB
from tests.lab.storage_host import StorageHost

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

PROJECT = 42
QUOTA = 32 * MIB


@contextmanager
def mounted(host: StorageHost, kind: str) -> Iterator[str]:
    """Make a file system with quotas of projects on a logical volume, and return a directory with such a quota."""
    top = f"/srv/export/{kind}"
    device = host.make_lv(kind, 400)
    host.run(f"mkdir {top}")
    if kind == "xfs":
        host.run(f"mkfs.xfs -q {device} && mount -o pquota {device} {top} && mkdir {top}/limited")
        host.run(f"xfs_quota -x -c 'project -s -p {top}/limited {PROJECT}' {top}")
        host.run(f"xfs_quota -x -c 'limit -p bhard={QUOTA} {PROJECT}' {top}")
    else:
        host.run(f"mkfs.ext4 -q -m 0 -O quota,project -E quotatype=prjquota {device}")
        host.run(f"mount -o prjquota {device} {top} && mkdir {top}/limited && chattr -p {PROJECT} +P {top}/limited")
        host.run(f"setquota -P {PROJECT} 0 {QUOTA // 1024} 0 0 {top}")
    try:
        yield f"{top}/limited"
    finally:
        host.run(f"virsh pool-destroy limited || true; umount {top}")


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_project_quota(storage_host: StorageHost, kind: str) -> None:
    """The plan counts the quota; the writer names it although XFS says that no space is left, and all is undone.

    On ext4, root may exceed any quota.
    """
    host = storage_host
    host.make_directory_pool("plenty", "/srv/export/plenty")
    host.write("/srv/export/plenty/original.raw", bytes(range(256)) * (48 * MIB // 256))
    host.connection.storagePoolLookupByName("plenty").refresh()
    disk = (
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        "<source file='/srv/export/plenty/original.raw'/><target dev='vda' bus='virtio'/></disk>"
    )
    host.connection.defineXML(domain("original", disks=[disk]))
    words = ("domain-clone", "--pool", "limited", "original", "web")
    with mounted(host, kind) as directory:
        host.make_directory_pool("limited", directory)
        # a volume proves that the directory is the one that libvirt knows
        host.run(f"truncate -s 1M {directory}/a.raw")
        host.connection.storagePoolLookupByName("limited").refresh()
        before = host.run(f"ls -A {directory}; virsh list --all --name")

        planned = host.virtomate(*words, json=True)
        ways = ("host", "stream") if kind == "xfs" else ()
        results = [host.virtomate(*words, "--no-space-check", "--transfer", way, json=True) for way in ways]
        after = host.run(f"ls -A {directory}; virsh list --all --name")

    assert error_of(planned)["message"].startswith("a quota for storage pool 'limited' has 3"), str(planned)
    assert error_of(planned)["message"].endswith("MiB free; 48.0 MiB are needed")
    for result in results:
        assert (result.status, error_of(result)["type"]) == (1, "NoSpaceError"), str(result)
        assert f"the quota of '{directory}' is used up" in error_of(result)["message"], str(result)
        assert error_of(result)["hint"].startswith("Raise the quota"), str(result)
    assert after == before
