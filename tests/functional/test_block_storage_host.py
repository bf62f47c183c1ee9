"""Block devices on a host with a device mapper: logical volumes, thick and thin, over SSH and on the host itself."""

import hashlib
import signal

import pytest

from tests.functional.runs import paused
from tests.functional.support import by_target, cloned
from tests.lab import Program, Result, disk, domain
from tests.lab.images import MIB, marker_block
from tests.lab.storage_host import StorageHost

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

SIZE_MIB = 24
DIRECTORY = "/srv/clones"
POOLS = {"files": "clones", "devices": "vg"}
TARGETS = {"vda": "raw file", "vdb": "qcow2 file", "vdc": "thick", "vdd": "thin"}
# A kill at the claim, when the first volume is made and not recorded, when the first is recorded and the second is not,
# in the middle of the content, and when both are recorded. The first stream of a run only reads what a file is.
MOMENTS = (
    "virStreamSend",
    "virDomainDefineXMLFlags-3",
    "virDomainDefineXMLFlags",
    "virStorageVolCreateXML",
    "virStorageVolCreateXML-2",
)


def content(number: int) -> bytes:
    """Return the content of a disk: little data and much that is zero, with a marker for the guest."""
    block = hashlib.shake_128(bytes([number])).digest(64 * 1024)
    data = bytearray(SIZE_MIB * MIB)
    data[: 1 << 9] = marker_block(f"disk {number}")
    data[5 * MIB : 5 * MIB + len(block)] = block
    data[-512:] = block[:512]
    return bytes(data)


def downloaded(host: StorageHost, path: str) -> bytes:
    """Return what libvirt reads from a volume."""
    host.connection.listAllStoragePools()
    volume = host.connection.storageVolLookupByPath(path)
    stream = host.connection.newStream()
    volume.download(stream, 0, 0)
    parts = []
    while part := stream.recv(1 << 20):
        parts.append(part)
    stream.finish()
    return b"".join(parts)


def digest(data: bytes) -> str:
    """Return the SHA-256 of data."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def originals(storage_host: StorageHost) -> dict[str, str]:
    """A domain `original` with disks of four kinds; the path of each by its target."""
    host = storage_host
    # what was there before must not be seen in the clones
    stale = host.make_lv("stale", 160)
    host.run(f"tr '\\0' X </dev/zero | dd of={stale} bs=1M count=160 iflag=fullblock conv=fsync status=none")
    host.run(f"lvremove --yes {stale}")
    host.make_directory_pool("clones", DIRECTORY)
    paths = {
        "vda": f"{DIRECTORY}/original.raw",
        "vdb": f"{DIRECTORY}/original.qcow2",
        "vdc": host.make_lv("original-thick", SIZE_MIB),
        "vdd": host.make_thin("original-thin", SIZE_MIB),
    }
    host.run(f"truncate --size {SIZE_MIB}M {paths['vda']}")
    for number, target in enumerate(("vda", "vdc", "vdd")):
        # zeroes over what was there before, but neither in the file nor in the thin volume
        sparse = "" if target == "vdc" else "sparse,"
        options = f"bs=64k conv={sparse}notrunc,fsync iflag=fullblock status=none"
        host.run(f"dd of={paths[target]} {options}", stdin=content(number))
    host.run(f"qemu-img convert -f raw -O qcow2 {paths['vda']} {paths['vdb']}")
    host.make_pool("logical", "vg")
    host.connection.storagePoolLookupByName("clones").refresh()
    formats = {"vdb": "qcow2"}
    guest = host.send_guest()
    disks = [disk(path, formats.get(target, "raw"), target) for target, path in paths.items()]
    host.connection.defineXML(domain("original", disks=disks, guest=guest))
    return paths


def clone(host: StorageHost, virtomate: Program, where: str, *words: str) -> Result:
    """Clone `original` to `clone`, from here or on the host itself."""
    words = ("domain-clone", *words, "original", "clone")
    if where == "inside":
        return host.virtomate(*words, json=True)
    return virtomate(*words, json=True, uri=host.uri)


def run(host: StorageHost, virtomate: Program, where: str, *words: str) -> Result:
    """Run a command, from here or on the host itself."""
    return host.virtomate(*words) if where == "inside" else virtomate(*words, uri=host.uri)


def expected(target: str) -> bytes:
    """Return the content of the original's disk."""
    return content({"vda": 0, "vdb": 0, "vdc": 1, "vdd": 2}[target])


@pytest.mark.parametrize("where", ["inside", "remote"])
@pytest.mark.parametrize("kind", POOLS)
def test_each_kind_to_each(
    storage_host: StorageHost, virtomate: Program, originals: dict[str, str], kind: str, where: str
) -> None:
    """Every disk is copied exactly into files and into logical volumes, and deleted again; the originals stay."""
    host = storage_host
    before = {target: host.digest(path) for target, path in originals.items()}

    thin = host.connection.storagePoolLookupByName("vg").listVolumes().count("original-thin")
    if where == "remote" and not thin:
        # of a thin volume that libvirt does not list, nothing is read from afar
        seen = clone(host, virtomate, where, "--block", "copy", "--pool", POOLS[kind])
        assert "'/dev/vg/original-thin' is in no active storage pool, and cannot be read here" in seen.stdout
    targets = [target for target in TARGETS if thin or where == "inside" or target != "vdd"]
    words = () if "vdd" in targets else ("--disk", "vdd=drop")
    document = cloned(clone(host, virtomate, where, "--block", "copy", "--pool", POOLS[kind], *words))

    new = by_target(document)
    for target in targets:
        path = new[target]["clone"]["path"]
        if kind == "devices":
            assert digest(downloaded(host, path)) == digest(expected(target))
            assert host.run(f"lvs --noheadings -o origin,pool_lv {path}").strip() == ""
        else:
            form = new[target]["clone"]["format"]
            host.run(f"qemu-img convert -f {form} -O raw {path} /srv/raw")
            assert host.digest("/srv/raw") == digest(expected(target))
            assert int(host.run(f"stat -c %b {path}")) * 512 < MIB
    assert {target: host.digest(path) for target, path in originals.items()} == before
    # a file that is not seen bears no token, and a logical volume has its UUID
    consent = ["--yes-unproved"] if (kind, where) == ("files", "remote") else []
    deleted = run(host, virtomate, where, "domain-delete", "--yes", *consent, "clone")
    assert deleted.status == 0, str(deleted)
    left = host.run(f"ls {DIRECTORY} /dev/vg").split()
    assert not [name for name in left if name.startswith("clone")]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(storage_host: StorageHost, virtomate: Program, originals: dict[str, str], moment: str) -> None:
    """After a kill at any moment one command removes what is left, and asks at most for a volume of unknown UUID."""
    host = storage_host
    with (
        virtomate.pausing(moment).start(
            *(
                "domain-clone",
                "--block",
                "copy",
                "--pool",
                "vg",
                "--transfer",
                "stream",
                "--disk",
                "vdb=drop",
                "--disk",
                "vdd=drop",
            ),
            *("original", "clone"),
            uri=host.uri,
        ) as process,
        paused(process),
    ):
        process.signal(signal.SIGKILL)

    deleted = run(host, virtomate, "remote", "domain-delete", "--yes", "clone")
    if deleted.status == 2:
        deleted = run(host, virtomate, "remote", "domain-delete", "--yes-unproved", "clone")

    assert deleted.status == 0, str(deleted)
    assert [name for name in host.run("ls /dev/vg").split() if name.startswith("clone")] == []
    assert "clone" not in [found.name() for found in host.connection.listAllDomains()]
    assert host.digest(originals["vdc"]) == digest(expected("vdc"))


def test_interrupted(storage_host: StorageHost, virtomate: Program, originals: dict[str, str]) -> None:
    """Ctrl-C in the middle leaves nothing."""
    host = storage_host
    with virtomate.pausing("virStreamSend").start(
        *("domain-clone", "--block", "copy", "--pool", "vg", "--transfer", "stream"),
        *("--disk", "vdb=drop", "--disk", "vdd=drop", "original", "clone"),
        uri=host.uri,
    ) as process:
        with paused(process):
            process.signal(signal.SIGINT)
        result = process.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert [name for name in host.run("ls /dev/vg").split() if name.startswith("clone")] == []
    assert host.digest(originals["vdd"]) == digest(expected("vdd"))
