"""LUNs as originals on the storage host: in pools of type iscsi, scsi and mpath, and by their paths."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.functional.storage_host_disks import check_content, check_volume, make_reference, virtomate_at, write_content
from tests.functional.support import by_target, cloned
from tests.lab import Program, disk, domain
from tests.lab.images import MIB
from tests.lab.storage_host import LUN, StorageHost

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

SIZE_BYTES = 16 * MIB
NUMBER = 7
# The original, and whether the copies to a file and to a logical volume are made on the host itself.
KINDS = {
    "iscsi": (True, False),
    "direct": (False, True),
    "path": (False, True),
    "scsi": (True, False),
    "mpath": (False, True),
}


@pytest.fixture
def lun(storage_host: StorageHost) -> Iterator[str]:
    """The LUN, with content, in the active pool `lun`; `clones` and `vg` are there for clones."""
    storage_host.make_pool("iscsi", "lun")
    storage_host.run(f"blkdiscard --zeroout {LUN}")
    write_content(storage_host, LUN, NUMBER, SIZE_BYTES)
    make_reference(storage_host, NUMBER, SIZE_BYTES)
    storage_host.make_directory_pool("clones", "/srv/clones")
    storage_host.make_pool("logical", "vg")
    yield LUN
    # the session ends with the pool, so others of its devices go first
    for name in ("scsi", "mpath"):
        storage_host.run(f"virsh -q pool-destroy {name} 2>/dev/null || true")


@contextmanager
def original_disk(host: StorageHost, kind: str) -> Iterator[str]:
    """Yield the definition of the disk, whose pool exists for the time of the block."""
    if kind == "path":
        yield disk(LUN, "raw")
    elif kind in {"iscsi", "direct"}:
        mode = {"iscsi": "host", "direct": "direct"}[kind]
        yield disk(("lun", "unit:0:0:1"), "raw").replace("<source ", f"<source mode='{mode}' ")
    elif kind == "scsi":
        adapter = host.run("ls /sys/class/iscsi_host").split()[-1]
        host.connection.storagePoolCreateXML(
            f"<pool type='scsi'><name>scsi</name><source><adapter type='scsi_host' name='{adapter}'/></source>"
            "<target><path>/dev/disk/by-path</path></target></pool>"
        )
        yield disk(("scsi", "unit:0:0:1"), "raw")
    else:
        # as multipathd would, with one path
        table = f"0 {SIZE_BYTES // 512} multipath 0 0 1 1 round-robin 0 1 1 {LUN} 1000"
        host.run(f"dmsetup create several --table '{table}' && udevadm settle")
        try:
            pool = host.connection.storagePoolCreateXML(
                "<pool type='mpath'><name>mpath</name><target><path>/dev/mapper</path></target></pool>"
            )
            yield disk(("mpath", pool.listVolumes()[0]), "raw")
            pool.destroy()
        finally:
            host.run("dmsetup remove --retry several")


@pytest.mark.parametrize("kind", KINDS)
def test_lun(storage_host: StorageHost, virtomate: Program, lun: str, kind: str) -> None:
    """A LUN is copied exactly into a file and a logical volume, and is a base; the LUN stays as it was."""
    host = storage_host
    file_inside, device_inside = KINDS[kind]

    with original_disk(host, kind) as definition:
        host.connection.defineXML(domain("original", disks=[definition]))
        chosen = (
            ("file", "copy", "clones", file_inside),
            ("device", "copy", "vg", device_inside),
            ("linked", "linked", "clones", False),
        )
        documents = {}
        for name, mode, pool, inside in chosen:
            forced = ("--transfer", "stream") if mode == "copy" and not inside else ()
            words = ("domain-clone", "--block", mode, "--pool", pool, *forced, "original", name)
            documents[name] = cloned(virtomate_at(host, virtomate, *words, inside=inside, json=True))
        (verified,) = virtomate("domain-verify", "linked", json=True, uri=host.uri).json

        volumes = {name: by_target(document)["vda"] for name, document in documents.items()}
        for name, inside in (("file", file_inside), ("device", device_inside)):
            assert volumes[name]["transfer"] == ("host" if inside else "stream")
            check_volume(host, volumes[name]["clone"]["path"], NUMBER, SIZE_BYTES)
        assert int(host.run(f"stat -c %b {volumes['file']['clone']['path']}")) * 512 < MIB
        host.run(f"qemu-img convert -O raw {volumes['linked']['clone']['path']} /tmp/linked")
        check_content(host, "/tmp/linked", NUMBER, SIZE_BYTES)
        assert (verified["status"], verified["volumes"][0]["reason"]) == ("unverified", "device-base")
        for name in volumes:
            assert "mode=" not in host.run(f"virsh dumpxml {name} | grep '<source '")
        deleted = virtomate("domain-delete", "--yes", "--yes-unproved", *volumes, uri=host.uri)

    assert deleted.status == 0, str(deleted)
    assert host.run("ls /srv/clones") == ""
    check_content(host, lun, NUMBER, SIZE_BYTES)
