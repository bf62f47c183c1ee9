"""Block devices as originals and as targets: what is copied, what a guest sees, and whose a logical volume is."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.duplication.test_pace import context, duplication
from tests.duplication.volumes import RAW
from tests.functional.runs import Question, paused, start_clone
from tests.functional.support import by_target, clone, clone_path, cloned, definition, refused, unchanged
from tests.functional.test_proofs import forge
from tests.functional.test_rules import make_luks
from tests.lab import Lab, Program, disk, domain, images, mounts
from tests.lab.images import KIB, MIB
from tests.lab.lvm import VolumeGroup, volume_group
from tests.lab.programs import require_program, run
from tests.lab.ssh import SshServer
from tests.lab.storage import backend, loop_device
from virtomate.cancel import CancelToken
from virtomate.definition.provenance import Artifact, Fingerprint
from virtomate.duplication.pace import UNLIMITED
from virtomate.duplication.transfers import host, host_devices
from virtomate.enums import ArtifactKind, ArtifactState

EXTENT_BYTES = 4 * MIB
# not a multiple of the extents
CAPACITY = 5 * MIB + 1536
DATA = ((0, 4096), (3 * MIB, 70_000), (CAPACITY - 512, 512))
GROUP_BYTES = 64 * MIB


@pytest.fixture(scope="module")
def module_group(session_lab: Lab) -> Iterator[VolumeGroup]:
    """A volume group of the lab."""
    if os.geteuid() != 0:
        pytest.skip("needs root: block devices")
    with volume_group(session_lab.hypervisor, session_lab.directory / "host-lvm", GROUP_BYTES) as group:
        mark = session_lab.mark()
        fill(group.make("original", CAPACITY), session_lab.pool.raw("content.raw", CAPACITY, extents=DATA))
        session_lab.return_to(mark)
        yield group


@pytest.fixture
def group(module_group: VolumeGroup, root_lab: Lab) -> Iterator[VolumeGroup]:
    """The volume group, for one test, with the volume `original`, to which no test writes."""
    del root_lab
    yield module_group
    module_group.clear(but="original")


def content(path: Path) -> bytes:
    """Return everything on a device, or in a raw file."""
    with path.open("rb") as file:
        return file.read()


def fill(device: Path, source: Path) -> None:
    """Write the content of a file to a device, and zeroes behind it."""
    with device.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.write(source.read_bytes().ljust(size, b"\0"))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def file_system(device: Path, directory: Path) -> Iterator[None]:
    """Have a file system on a device mounted for the time of the block."""
    run(require_program("mkfs.ext4", "e2fsprogs"), "-q", "-F", device)
    directory.mkdir()
    mounts.mount(device, directory)
    try:
        yield
    finally:
        run(require_program("umount", "mount"), directory)


def delete(virtomate: Program, *words: str) -> None:
    """Delete clones, which must succeed without a question."""
    result = virtomate("domain-delete", "--yes", *words)
    assert result.status == 0, str(result)


def in_group(lab: Lab, group: VolumeGroup, name: str = "original") -> bytes:
    """Define the original with one logical volume, which may be a new one, and return what is on the volume."""
    device = group.path / name
    if name != "original":
        group.make(name, CAPACITY)
    lab.define(domain("original", disks=[disk(device, "raw")]))
    return content(device)


def define_named(lab: Lab, group: VolumeGroup, kind: str) -> None:
    """Define the original with one logical volume, which is named as a disk of a type: block, file or volume."""
    named = disk((group.name, "original") if kind == "volume" else group.path / "original", "raw")
    if kind == "file":
        named = named.replace("disk type='block'", "disk type='file'").replace("source dev=", "source file=")
    lab.define(domain("original", disks=[named]))


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
@pytest.mark.parametrize("target", ["devices", "files"])
def test_copies_are_exact(root_lab: Lab, group: VolumeGroup, virtomate: Program, target: str, transfer: str) -> None:
    """From devices and files to both, every copy reads as its original and as zeroes behind; a file has its holes."""
    raw = root_lab.pool.raw("original.raw", CAPACITY, extents=DATA)
    volume = group.path / "original"
    disks = [disk(volume, "raw"), disk(raw, "raw", "vdb")]
    originals = {"vda": content(volume), "vdb": content(raw)}
    if transfer == "server":
        # to a file, libvirt would lose the snapshot
        snapshots = ["inside"] if target == "devices" else []
        base = images.make_qcow2(root_lab.pool.path / "base.qcow2", CAPACITY, extents=DATA, snapshots=snapshots)
        disks += [disk(base, "qcow2", "vdc"), disk(root_lab.pool.overlay("overlay.qcow2", base), "qcow2", "vdd")]
        images.qemu_img("convert", "-O", "raw", base, root_lab.directory / "content")
        originals |= dict.fromkeys(("vdc", "vdd"), content(root_lab.directory / "content"))
    root_lab.define(domain("original", disks=disks))
    if target == "devices":
        group.fill_with_rubbish()
    pool = group.name if target == "devices" else root_lab.pool.name

    # qcow2 images go to a device by libvirt alone
    document = clone(virtomate, "--block", "copy", "--pool", pool, "--transfer", transfer)

    new = by_target(document)
    for name, expected in originals.items():
        assert new[name]["action"] == "copied"
        path = Path(new[name]["clone"]["path"])
        if target == "devices":
            found = content(path)
            assert path.parent == group.path
            assert new[name]["clone"]["format"] == "raw"
            assert len(found) == new[name]["capacity"] == -(-len(expected) // EXTENT_BYTES) * EXTENT_BYTES
            assert found == expected.ljust(len(found), b"\0")
        elif name in {"vda", "vdb"}:
            assert content(path) == expected
            assert images.allocated_bytes(path) < MIB
            assert path.stat().st_mode & 0o777 == (0o600 if name == "vda" else raw.stat().st_mode & 0o777)
    text = definition(root_lab, "clone")
    assert f"<source {'dev' if target == 'devices' else 'file'}='{clone_path(document)}'" in text
    assert (content(volume), content(raw)) == (originals["vda"], originals["vdb"])
    delete(virtomate, "clone")
    assert group.volumes() == ["original"]
    assert not clone_path(document).exists()


@pytest.mark.parametrize("kind", ["block", "file", "volume"])
def test_shared_unless_asked(root_lab: Lab, group: VolumeGroup, virtomate: Program, kind: str) -> None:
    """A block device is left untouched, however it is named, and a warning names it and the options that copy it."""
    define_named(root_lab, group, kind)

    document = clone(virtomate)

    (warning,) = document["warnings"]
    location = f"{group.name}/original" if kind == "volume" else group.path / "original"
    assert warning.startswith(f"disk vda ({location}) is shared with the original")
    assert warning.endswith("both write to it, unless --block copy or --disk vda=copy duplicates it")
    assert by_target(document)["vda"]["action"] == "shared"
    assert group.volumes() == ["original"]
    copied = cloned(virtomate("domain-clone", "--block", "copy", "original", "other", json=True))
    assert (by_target(copied)["vda"]["action"], copied["warnings"]) == ("copied", [])


def test_named_by_its_pool(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """A volume that the definition names by pool and name is named so in the clone; a UUID will do, too."""
    root_lab.define(domain("original", disks=[disk((group.name, "original"), "raw")]))

    same = clone(virtomate, "--disk", "vda=copy")
    other = cloned(
        virtomate("domain-clone", "--disk", f"vda=copy,pool={root_lab.pool.name}", "original", "other", json=True)
    )

    assert same["warnings"] == other["warnings"] == []
    by_id = f"/dev/disk/by-id/dm-uuid-LVM-{'v' * 32}{group.uuids()['original'].replace('-', '')}"
    root_lab.define(domain("by-id", disks=[disk(Path(by_id), "raw")]))
    (plan,) = virtomate("domain-clone", "--dry-run", "--block", "copy", "by-id", "x", json=True).json

    assert by_target(plan)["vda"]["source"]["volume"] == "original"
    assert f"<source pool='{group.name}' volume='clone'/>" in definition(root_lab, "clone")
    assert f"<source pool='{root_lab.pool.name}' volume='other.raw'/>" in definition(root_lab, "other")
    delete(virtomate, "clone", "other")


def test_linked_over_a_device(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """An overlay in a file rests on a logical volume, and everybody sees that; the base is not deleted below it."""
    expected = in_group(root_lab, group)
    cloned(virtomate("domain-clone", "--block", "copy", "original", "base", json=True))
    before = root_lab.inventory()
    error = refused(root_lab, before, virtomate("domain-clone", "--disk", "vda=linked", "base", "clone", json=True))
    assert "the overlay is a file" in error["message"]

    linked = cloned(
        virtomate("domain-clone", "--block", "linked", "--pool", root_lab.pool.name, "base", "clone", json=True)
    )

    (warning,) = linked["warnings"]
    assert warning.startswith("do not start 'base' any more")
    overlay = clone_path(linked)
    assert (overlay.name, overlay.parent) == ("clone.qcow2", root_lab.pool.path)
    assert f"<source file='{overlay}'" in definition(root_lab, "clone")
    images.qemu_img("convert", "-O", "raw", overlay, root_lab.directory / "content")
    assert content(root_lab.directory / "content") == expected
    (verified,) = virtomate("domain-verify", "clone", json=True).json
    assert (verified["status"], verified["volumes"][0]["reason"]) == ("unverified", "device-base")
    assert verified["volumes"][0]["checked"] == ["size", "key"]
    assert "└─ clone" in virtomate("domain-list", "--tree").stdout
    kept = virtomate("domain-delete", "--yes", "base")
    assert kept.status == 1
    assert "rests on it" in kept.stderr
    group.handle.storageVolLookupByName("base").delete()
    group.make("base", CAPACITY)
    (broken,) = virtomate("domain-verify", "clone", json=True).json
    assert (broken["status"], broken["volumes"][0]["reason"]) == ("broken", "base-replaced")
    delete(virtomate, "clone")


def test_nothing_is_below_a_raw_device(root_lab: Lab, group: VolumeGroup, sshd: SshServer, virtomate: Program) -> None:
    """Over SSH no device can be read, and that is worth a warning only where a device may be more than raw."""
    uri = sshd.uri(root_lab.hypervisor)
    root_lab.define(domain("original", disks=[disk(group.path / "original", "raw")]))
    words = ("--block", "linked", "--pool", root_lab.pool.name, "original", "clone")
    cloned(virtomate("domain-clone", *words, json=True))

    tree = virtomate("domain-list", "--tree", uri=uri)
    deleted = virtomate("domain-delete", "--yes", "--yes-unproved", "clone", uri=uri)
    root_lab.define(domain("other", disks=[disk(group.path / "original", "qcow2")]))
    warned = virtomate("domain-list", "--tree", uri=uri)

    assert "└─ clone" in tree.stdout
    assert (tree.stderr, deleted.status) == ("", 0), str(deleted)
    assert "cannot read" not in deleted.stderr
    assert f"cannot read '{group.path / 'original'}' (it is a block device)" in warned.stderr


def test_device_outside_pools(root_lab: Lab, group: VolumeGroup, virtomate: Program, tmp_path: Path) -> None:
    """A device in no pool, also behind a link, is copied here, to a logical volume or a file, or gets an overlay."""
    image = images.make_raw(tmp_path / "image", CAPACITY, extents=DATA)
    link = Path("/dev") / f"lab-link-{os.getpid()}"
    with loop_device(image) as device:
        link.symlink_to(device)
        try:
            root_lab.define(domain("original", disks=[disk(link, "raw")]))
            before = root_lab.inventory()
            lost = refused(root_lab, before, virtomate("domain-clone", "--block", "copy", "original", "x", json=True))
            stream = virtomate(
                *("domain-clone", "--block", "copy", "--pool", group.name, "--transfer", "stream", "original", "x"),
                json=True,
            )
            assert "it is in no storage pool" in refused(root_lab, before, stream)["message"]
            to_device = clone_path(clone(virtomate, "--block", "copy", "--pool", group.name))
            to_file = clone_path(
                cloned(virtomate("domain-clone", "--block", "copy", "--pool", "ext4", "original", "file", json=True))
            )
            linked = clone_path(
                cloned(virtomate("domain-clone", "--block", "linked", "--pool", "ext4", "original", "l", json=True))
            )

            assert "the device is in no storage pool" in lost["message"]
            expected = content(device)
            assert content(to_device).rstrip(b"\0") == expected.rstrip(b"\0")
            assert content(to_file) == expected
            assert f"backing file: {link}" in images.qemu_img("info", linked).decode()
            delete(virtomate, "clone", "file", "l")
        finally:
            link.unlink()


@pytest.mark.parametrize("module", [host, host_devices], ids=["file", "device"])
def test_content_that_a_device_lost(
    root_lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: ModuleType
) -> None:
    """A device that could not write a part in the middle fails the copy, although later parts could be written."""
    directory, step = root_lab.make_directory("small"), 64 * KIB
    source = images.make_raw(tmp_path / "source", 4 * MIB, extents=((0, 4 * MIB),))
    mounts.mount("-t", "tmpfs", "-o", f"size={MIB}", "tmpfs", directory)
    try:
        image = directory / "image"
        # the first part, which is written last, has its room
        image.write_bytes(b"x" * 2 * step)
        os.truncate(image, 4 * MIB)
        way = duplication()._replace(source=RAW, is_read_again=False)
        with loop_device(image) as device, source.open("rb") as readable, device.open("r+b", buffering=0) as writable:
            monkeypatch.setattr(host_devices, "_PART_BYTES", step)
            monkeypatch.setattr(host, "_CHUNK_BYTES", step)
            monkeypatch.setattr(os, "ftruncate", lambda *_: None)

            def copy() -> None:
                at_work = context(UNLIMITED, CancelToken())
                if module is host:
                    host._copy(readable.fileno(), writable.fileno(), way, at_work)
                else:
                    host_devices._Copy(readable.fileno(), writable.fileno(), way, RAW, at_work).run(4 * MIB)
                os.fdatasync(writable.fileno())

            with pytest.raises(OSError, match="Input/output error"):
                copy()
    finally:
        mounts.unmount(directory)
        directory.rmdir()


def test_partitions_are_originals_only(root_lab: Lab, sshd: SshServer, virtomate: Program, tmp_path: Path) -> None:
    """A partition of a pool of type disk can be copied into a file or be a base, and no new partition is made."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(40 * MIB)
    parted = require_program("parted", "parted")
    with loop_device(image, partitions=True) as device:
        run(parted, "--script", device, "mklabel", "gpt", "mkpart", "primary", "1MiB", "9MiB")
        name = f"{device.name}p1"
        fill(Path("/dev") / name, root_lab.pool.raw("content.raw", 8 * MIB, extents=DATA[:2]))
        source = f"<source><device path='{device}'/><format type='gpt'/></source>"
        with backend("disk"):
            root_lab.connection.storagePoolCreateXML(
                f"<pool type='disk'><name>parts</name>{source}<target><path>/dev</path></target></pool>"
            )
        root_lab.define(domain("original", disks=[disk(("parts", name), "raw")]))
        before = root_lab.inventory()

        error = refused(root_lab, before, virtomate("domain-clone", "--block", "copy", "original", "x", json=True))
        document = clone(virtomate, "--block", "copy", "--pool", root_lab.pool.name)
        words = ("--block", "linked", "--pool", root_lab.pool.name, "original", "linked")
        cloned(virtomate("domain-clone", *words, json=True))
        # over SSH no device is seen, and libvirt tells of it
        (verified,) = virtomate("domain-verify", "linked", json=True, uri=sshd.uri(root_lab.hypervisor)).json

        assert verified["volumes"][0]["reason"] == "device-base", verified
        assert "libvirt chooses the names of partitions" in error["message"]
        assert content(clone_path(document)) == content(Path("/dev") / name)
        assert clone_path(document).name == f"clone-{name}.raw"
        root_lab.connection.storagePoolLookupByName("parts").destroy()


REFUSED: tuple[tuple[tuple[str, ...], *tuple[str, ...]], ...] = (
    (("--disk", "vda=reflink"), "shares no blocks"),
    (("--mode", "linked", "--pool", "{group}", "--disk", "vda=share"), "an overlay is a file"),
    (("--mode", "reflink", "--pool", "{group}"), "shares no blocks"),
    (("--disk", "vda=copy,name=pvmove1"), "LVM keeps names with 'pvmove' for itself"),
    (("--disk", "vda=copy,name=original"), "there is already a volume"),
    (("--disk", "vda=copy,size=4M"), "less than"),
    (("--disk", "vda=copy,size=10G"), "are needed", "Make room in the volume group, or"),
    (("--block", "copy", "--snapshot", "then"), "snapshot"),
    (("--pool", "{group}", "empty"), "is empty, and a logical volume cannot be", "pool={group},size=SIZE"),
    (("--pool", "{group}", "encrypted"), '"Name a pool of type dir, fs, netfs or vstorage."'),
)
SECRET = "<secret type='passphrase' uuid='5e3c4f70-6d3a-4a5b-9c8e-0f1a2b3c4d5e'/>"
ENCRYPTION = f"<encryption format='luks'>{SECRET}</encryption>"


def test_refused(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """What cannot be is refused with the reason, and with what can be, before anything is made."""
    disks = [disk(group.path / "original", "raw"), disk(root_lab.pool.raw("file.raw", MIB), "raw", "vdb")]
    root_lab.define(domain("original", disks=disks))
    empty = root_lab.pool.path / "empty.raw"
    empty.touch()
    root_lab.define(domain("empty", disks=[disk(empty, "raw")]))
    encrypted = make_luks(root_lab.pool.path / "encrypted.qcow2", "qcow2")
    root_lab.define(domain("encrypted", disks=[disk(encrypted, extra=ENCRYPTION)]))
    root_lab.pool.handle.refresh()
    before, volumes = root_lab.inventory(), group.volumes()

    for words, *reasons in REFUSED:
        named = () if words[-1] in {"empty", "encrypted"} else ("original",)
        result = virtomate(
            "domain-clone", *(word.format(group=group.name) for word in words), *named, "clone", json=True
        )

        assert result.status in {1, 2}, f"{words}: {result}"
        for reason in reasons:
            assert reason.format(group=group.name) in result.stdout + result.stderr, f"{words}: {result}"
    unchanged(root_lab, before)
    assert group.volumes() == volumes


def test_encrypted_device(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """An encrypted device is copied byte for byte; libvirt does not tell the size that an overlay would need."""
    expected = in_group(root_lab, group)
    encrypted = disk(group.path / "original", "raw", extra=ENCRYPTION)
    root_lab.connection.lookupByName("original").undefine()
    root_lab.define(domain("original", disks=[encrypted]))
    before = root_lab.inventory()

    words = ("domain-clone", "--block", "linked", "--pool", root_lab.pool.name, "original", "clone")
    error = refused(root_lab, before, virtomate(*words, json=True))
    document = cloned(virtomate("domain-clone", "--block", "copy", "original", "clone", json=True))

    assert error["type"] == "UnsupportedError"
    assert "it is encrypted" in error["message"]
    assert "--disk vda=copy" in error["hint"]
    assert content(clone_path(document))[: len(expected)] == expected
    assert SECRET in definition(root_lab, "clone")
    delete(virtomate, "clone")


def test_used_devices_are_refused(root_lab: Lab, group: VolumeGroup, virtomate: Program, tmp_path: Path) -> None:
    """A device that is mounted, or that a running domain writes to under another name, is not copied."""
    in_group(root_lab, group, "used")
    words = ("domain-clone", "--block", "copy", "original", "clone")
    device = group.path / "used"
    with file_system(device, tmp_path / "mounted"):
        before = root_lab.inventory()
        mounted = refused(root_lab, before, virtomate(*words, json=True))
    other = root_lab.define(domain("other", disks=[disk(device.resolve(), "raw")]))
    other.create()
    before = root_lab.inventory()
    written = refused(root_lab, before, virtomate(*words, json=True))
    other.destroy()

    assert "is mounted or otherwise in use" in mounted["message"]
    assert "is open for writing by domain 'other'" in written["message"]


def test_mounted_clone_stays_whole(root_lab: Lab, group: VolumeGroup, virtomate: Program, tmp_path: Path) -> None:
    """LVM removes no volume that is mounted, so no other volume of the clone is removed before."""
    devices = [group.make(name, EXTENT_BYTES) for name in ("one", "two")]
    disks = [disk(device, "raw", f"vd{'ab'[number]}") for number, device in enumerate(devices)]
    root_lab.define(domain("original", disks=disks))
    clone(virtomate, "--block", "copy")

    with file_system(group.path / "clone-one", tmp_path / "mounted"):
        before = root_lab.inventory()
        result = virtomate("domain-delete", "--yes", "clone", json=True)
        unchanged(root_lab, before)

    assert result.status == 1, str(result)
    assert f"volume '{group.path}/clone-one' is mounted or otherwise in use on this host" in result.stdout
    assert group.volumes() == ["clone-one", "clone-two", "one", "original", "two"]
    delete(virtomate, "clone")
    assert group.volumes() == ["one", "original", "two"]


def test_changed_device(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """What is written to the device of an original meanwhile, by whomever, is noticed, and the clone is undone."""
    in_group(root_lab, group, "written")
    before, volumes = root_lab.inventory(), group.volumes()
    with virtomate.pausing("virStorageVolCreateXML").start(
        "domain-clone", "--block", "copy", "original", "clone", json=True
    ) as process:
        with paused(process), (group.path / "written").open("r+b") as device:
            device.write(b"changed")
        error = refused(root_lab, before, process.wait())

    assert "was written to while it was being cloned" in error["message"]
    assert group.volumes() == volumes


@pytest.mark.parametrize(
    ("number", "transfer", "moment"),
    [
        (signal.SIGINT, "host", "sync-1"),
        (signal.SIGINT, "stream", "virStreamSend"),
        (signal.SIGKILL, "host", "sync-1"),
        (signal.SIGKILL, "stream", "virStreamSend"),
        (signal.SIGKILL, "stream", "virStreamFinish"),
    ],
    ids=str,
)
def test_ended_in_the_middle(
    root_lab: Lab, group: VolumeGroup, virtomate: Program, number: signal.Signals, transfer: str, moment: str
) -> None:
    """A signal undoes everything; after a kill the record alone says whose the logical volume is, and deletion asks."""
    in_group(root_lab, group)
    before, volumes = root_lab.inventory(), group.volumes()
    words = ("--transfer", transfer, "--disk", "vda=copy,size=40M", "original", "clone")
    watched = start_clone(virtomate, *words, moment=moment)

    with paused(watched.run):
        assert group.volumes() == ["clone", "original"]
        watched.run.signal(number)
    result = watched.run.wait()

    assert result.status == -number, str(result)
    if number is signal.SIGKILL:
        careful = virtomate("domain-delete", "--yes", "clone")
        assert careful.status == 2, str(careful)
        assert f"nothing proves that these were made for the clones: volume '{group.path / 'clone'}'" in careful.stderr
        delete(virtomate, "--yes-unproved", "clone")
    assert group.volumes() == volumes
    unchanged(root_lab, before)


def test_killed_before_the_volume_is_known(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """A volume whose UUID was not written down is not proved, and a deletion asks."""
    in_group(root_lab, group)
    with (
        virtomate.pausing("virStorageVolCreateXML").start(
            "domain-clone", "--block", "copy", "original", "clone"
        ) as process,
        paused(process),
    ):
        process.signal(signal.SIGKILL)

    careful = virtomate("domain-delete", "--yes", "clone")
    assert "clone" in group.volumes()
    bold = virtomate("domain-delete", "--yes-unproved", "clone")

    assert careful.status == 2, str(careful)
    assert f"nothing proves that these were made for the clones: volume '{group.path / 'clone'}'" in careful.stderr
    assert bold.status == 0, str(bold)
    assert group.volumes() == ["original"]


def test_volume_that_was_made_anew_is_left(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """A logical volume of the same name is somebody else's: the path proves nothing, and the UUID is another."""
    in_group(root_lab, group)
    clone(virtomate, "--block", "copy")
    group.handle.storageVolLookupByName("clone").delete()
    group.make("clone", CAPACITY)
    mine = group.uuids()["clone"]

    result = virtomate("domain-delete", "--yes", "clone")

    assert result.status == 3, str(result)
    assert "is another file than the one that was made" in result.stderr
    assert group.uuids()["clone"] == mine


def test_record_alone_deletes_no_logical_volume(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """Everybody who defines domains can write the UUID of any logical volume into a record: that is a question."""
    victim = group.make("victim", EXTENT_BYTES)
    key = group.uuids()["victim"]
    made = Artifact(
        ArtifactKind.VOLUME, ArtifactState.MADE, group.name, "victim", str(victim), Fingerprint("0", key=key)
    )
    forge(root_lab, made, finished=True)

    question = Question(virtomate, "--yes", "forged")
    status, after = question.answer("n\n")
    replaced = virtomate("domain-delete", "--yes", "forged")

    assert f"not proved: volume '{victim}'" in question.text
    assert "it is no disk of the domain" in question.text
    assert (status, "Nothing was deleted." in after) == (1, True)
    assert replaced.status == 2, str(replaced)
    assert group.uuids()["victim"] == key


def test_open_volume_is_removed_later(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """A volume that something has open for a moment is removed then; one that stays open is kept, with its clone."""
    in_group(root_lab, group)
    clone(virtomate, "--block", "copy")
    # libvirt tries twice
    group.refuse_removals(100)
    kept = virtomate("domain-delete", "--yes", "clone", json=True)
    left = group.removals_refused()

    group.refuse_removals(3)
    delete(virtomate, "clone")

    assert kept.status == 1, str(kept)
    assert "in use" in kept.stdout
    assert left == 94
    assert group.volumes() == ["original"]


def test_inactive_volume_is_not_gone(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """A volume that is not active is not listed by libvirt: the record stays until the volume can be looked at."""
    in_group(root_lab, group)
    clone(virtomate, "--block", "copy")
    with group.inactive("clone"):
        before = root_lab.inventory()
        kept = refused(root_lab, before, virtomate("domain-delete", "--yes", "clone", json=True))
    group.handle.storageVolLookupByName("clone").delete()
    delete(virtomate, "clone")
    # of an unfinished clone, a deletion that was killed has removed the volume
    made = Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, group.name, "gone", f"{group.path}/gone")
    forge(root_lab, made._replace(fingerprint=Fingerprint("0", key="gone")), finished=False)
    with group.inactive("original"):
        delete(virtomate, "forged")

    assert "may be one of the volumes in its volume group that are not active" in kept["message"]
    assert f"lvchange --activate y {group.path}/clone" in kept["hint"]


def test_pool_that_is_stopped_meanwhile(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """The clone is kept, and the error says how to go on; so does that about a copy of its definition."""
    in_group(root_lab, group)
    clone(virtomate, "--block", "copy")
    with virtomate.pausing("virDomainDefineXMLFlags").start("domain-delete", "--yes", "clone") as process:
        with paused(process):
            group.handle.destroy()
        stopped = process.wait()
    group.handle.create()
    twin = re.sub("<uuid>.*</uuid>", "", definition(root_lab, "clone"), count=1)
    root_lab.define(twin.replace("<name>clone</name>", "<name>twin</name>", 1))
    used = virtomate("domain-delete", "--yes", "clone")
    root_lab.connection.lookupByName("twin").undefine()
    delete(virtomate, "clone")

    assert stopped.status == 1, str(stopped)
    assert f"pool-start {group.name}. Then run the command again." in stopped.stderr
    assert used.status == 1, str(used)
    assert "If 'twin' is not needed, remove the definition: virsh" in used.stderr
    assert group.volumes() == ["original"]


def test_clones_boot(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """A guest finds the content of a file on a logical volume, and that of a logical volume below an overlay."""
    file = root_lab.pool.qcow2("file.qcow2", CAPACITY, marker="from a file")
    volume = group.make("original-2", CAPACITY)
    fill(volume, root_lab.pool.raw("content.raw", CAPACITY, marker="from a device"))
    disks = [disk(file), disk(volume, "raw", "vdb")]
    root_lab.define(domain("original", disks=disks, guest=root_lab.guest))

    clone(virtomate, "--disk", f"vda=copy,pool={group.name}", "--disk", f"vdb=linked,pool={root_lab.pool.name}")

    report = root_lab.boot("clone")
    assert {name: found.marker for name, found in report.disks.items()} == {
        "vda": "from a file",
        "vdb": "from a device",
    }
    delete(virtomate, "clone")


def test_names_on_devices(root_lab: Lab, group: VolumeGroup, virtomate: Program) -> None:
    """A logical volume has a name that LVM allows, without the suffix of an image."""
    root_lab.define(domain("my app", disks=[disk(root_lab.pool.raw("my app.v1.raw", MIB), "raw")]))

    document = cloned(virtomate("domain-clone", "--pool", group.name, "my app", "web shop", json=True))

    assert clone_path(document) == group.path / "web_shop.v1"
    delete(virtomate, "web shop")
