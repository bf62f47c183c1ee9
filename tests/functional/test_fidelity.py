"""A copied disk reads exactly as its original does, and what is no disk of the domain's own is left alone."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.functional.support import by_target, clone, clone_path, cloned, definition, image_info, pool_on, refused
from tests.lab import Lab, Pool, Program, disk, domain, images
from tests.lab.images import GIB, KIB, MIB
from tests.lab.programs import require_program, run

# What two files with the same data may differ in allocation: what their file systems need to find it.
BOOKKEEPING_BYTES = 128 * KIB


def target_names(count: int) -> list[str]:
    """Return names of virtio disks."""
    return [f"vd{chr(ord('a') + index)}" for index in range(count)]


def fragmented(path: Path, extents: int) -> Path:
    """Make a raw image of so many pieces of 4 KiB with holes of 4 KiB between them."""
    return images.make_raw(path, extents * 8 * KIB, extents=[(index * 8 * KIB, 4 * KIB) for index in range(extents)])


def preallocated(path: Path) -> Path:
    """Make a raw image whose blocks are all taken and mostly never written."""
    images.make_raw(path, 8 * MIB, data_bytes=MIB)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * MIB)
    return path


RAW_IMAGES: dict[str, Callable[[Path], Path]] = {
    "sparse": lambda path: images.make_raw(path, 64 * MIB),
    "full": lambda path: images.make_raw(path, 8 * MIB, data_bytes=8 * MIB),
    "preallocated": preallocated,
    "nothing but a hole": lambda path: images.make_raw(path, 16 * MIB, data_bytes=0),
    "empty": lambda path: images.make_raw(path, 0, data_bytes=0),
    "one byte": lambda path: images.make_raw(path, 1, extents=[(0, 1)]),
    "odd size": lambda path: images.make_raw(path, 5 * MIB + 511, extents=[(4097, 3), (5 * MIB + 400, 111)]),
    "odd number of sectors": lambda path: images.make_raw(path, 3 * MIB + 512, extents=[(3 * MIB, 512)]),
    "hole at the end": lambda path: images.make_raw(path, 32 * MIB + 1, extents=[(0, 100 * KIB)]),
    "hole at the beginning": lambda path: images.make_raw(path, 32 * MIB, extents=[(32 * MIB - 4097, 4097)]),
    "beyond 4 GiB": lambda path: images.make_raw(path, 6 * GIB, extents=[(0, 4096), (4 * GIB - 8, 16), (5 * GIB, 9)]),
}


def define_raw_images(lab: Lab, pool: Pool, *, without: str = "") -> dict[str, Path]:
    """Define a domain with all of these images but one as disks, and return them by target."""
    names = [name for name in RAW_IMAGES if name != without]
    paths = {
        target: RAW_IMAGES[name](pool.path / f"{name}.raw")
        for target, name in zip(target_names(len(names)), names, strict=True)
    }
    pool.refresh()
    lab.define(domain("original", disks=[disk(path, "raw", target) for target, path in paths.items()]))
    return paths


@pytest.mark.parametrize(
    ("file_system", "transfer"),
    [("ext4", "host"), ("xfs", "host"), ("btrfs", "host"), ("ext4", "stream"), ("ext4", "server")],
)
def test_raw_images_are_copied_with_their_holes(lab: Lab, virtomate: Program, file_system: str, transfer: str) -> None:
    """A raw copy has the size, the bytes and the holes of its original, whatever its size and shape."""
    # libvirt reads every byte of a hole, too, which takes as long as it does.
    without = "beyond 4 GiB" if transfer == "server" else ""
    paths = define_raw_images(lab, pool_on(lab, file_system), without=without)

    document = clone(virtomate, "--transfer", transfer)

    for target, path in paths.items():
        copy = clone_path(document, target)
        assert by_target(document)[target]["transfer"] == transfer
        assert copy.stat().st_size == path.stat().st_size, path.name
        assert images.file_digest(copy) == images.file_digest(path), path.name
        difference = images.allocated_bytes(copy) - images.allocated_bytes(path)
        assert abs(difference) <= BOOKKEEPING_BYTES, path.name


def test_overlays_on_raw_images(lab: Lab, virtomate: Program) -> None:
    """A linked clone of a raw image of whatever size begins with all that is in the image; the rest is zeros."""
    paths = define_raw_images(lab, lab.pool, without="beyond 4 GiB")

    document = clone(virtomate, "--mode", "linked")

    flat = lab.directory / "flat"
    for target, path in paths.items():
        images.qemu_img("convert", "-f", "qcow2", "-O", "raw", clone_path(document, target), flat)
        read, expected = flat.read_bytes(), path.read_bytes()
        assert read[: len(expected)] == expected, path.name
        assert not read[len(expected) :].strip(b"\0"), path.name


@pytest.mark.parametrize(
    ("format_", "words"), [("raw", "--mode linked"), ("qcow2", "--mode linked"), ("qcow2", "--transfer server")]
)
def test_capacity_of_an_odd_number_of_sectors(lab: Lab, virtomate: Program, format_: str, words: str) -> None:
    """The guest sees a disk of the same size, although libvirt asks qemu-img for whole KiB."""
    make = lab.pool.raw if format_ == "raw" else lab.pool.qcow2
    path = make("original.img", 4 * MIB + 512)
    lab.define(domain("original", disks=[disk(path, format_)]))

    document = clone(virtomate, *words.split())

    copy = clone_path(document)
    assert images.virtual_size(copy, by_target(document)["vda"]["clone"]["format"]) == 4 * MIB + 512


@pytest.mark.parametrize(("file_system", "transfer"), [("ext4", "host"), ("btrfs", "host"), ("xfs", "stream")])
def test_many_extents(lab: Lab, virtomate: Program, file_system: str, transfer: str) -> None:
    """An image of many small pieces is copied piece by piece, and the holes between them stay."""
    extents = 20_000 if file_system == "ext4" else 4_000
    check_fragmented_copy(lab, virtomate, pool_on(lab, file_system), extents, transfer)


@pytest.mark.stress
@pytest.mark.timeout(600)  # where freed blocks are discarded, removing the images takes longer than making them
@pytest.mark.parametrize("transfer", ["host", "stream"])
@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
def test_very_many_extents(lab: Lab, virtomate: Program, file_system: str, transfer: str) -> None:
    """An image of 100,000 pieces is copied like any other."""
    check_fragmented_copy(lab, virtomate, pool_on(lab, file_system), 100_000, transfer)


def check_fragmented_copy(lab: Lab, virtomate: Program, pool: Pool, extents: int, transfer: str) -> None:
    """Copy an image of so many pieces and compare."""
    path = fragmented(pool.path / "original.raw", extents)
    pool.refresh()
    lab.define(domain("original", disks=[disk(path, "raw")]))

    document = clone(virtomate, "--transfer", transfer)

    copy = clone_path(document)
    assert images.file_digest(copy) == images.file_digest(path)
    # Had the holes been filled, it would be twice as much. That is what XFS makes of it where libvirt's daemon writes a
    # stream: the daemon cuts the file off at every hole, and XFS takes space in advance behind the end of the file.
    if (transfer, pool.handle.name()) != ("stream", "xfs"):
        assert images.allocated_bytes(copy) < 1.25 * images.allocated_bytes(path)
    assert by_target(document)["vda"]["bytes_copied"] <= 1.25 * extents * 4 * KIB


QCOW2_IMAGES: dict[str, dict[str, Any]] = {
    "old": {"compat": "0.10"},
    "new": {"compat": "1.1"},
    "small clusters": {"cluster_bytes": 4 * KIB},
    "large clusters": {"cluster_bytes": 2 * MIB},
    "lazy": {"options": ["lazy_refcounts=on"]},
    "subclusters": {"options": ["extended_l2=on"], "cluster_bytes": 128 * KIB},
    "compressed": {"options": ["compression_type=zstd"]},
    "small refcounts": {"options": ["refcount_bits=1"]},
    "preallocated": {"options": ["preallocation=metadata"]},
    "odd capacity": {"capacity_bytes": 16 * MIB + 512},
    "snapshots": {"snapshots": ["first", "second"]},
    "old with snapshots": {"snapshots": ["first"], "compat": "0.10"},
    "bitmap": {},
}


def define_qcow2_images(lab: Lab, pool: Pool, names: Sequence[str]) -> dict[str, Path]:
    """Define a domain with these images as disks, and return them by target."""
    paths: dict[str, Path] = {}
    for target, name in zip(target_names(len(names)), names, strict=True):
        settings: dict[str, Any] = {"capacity_bytes": 16 * MIB, "seed": len(paths) + 1} | QCOW2_IMAGES[name]
        paths[target] = images.make_qcow2(pool.path / f"{name}.qcow2", **settings)
        if name == "bitmap":
            images.qemu_img("bitmap", "--add", paths[target], "since-monday")
    pool.refresh()
    lab.define(domain("original", disks=[disk(path, "qcow2", target) for target, path in paths.items()]))
    return paths


@pytest.mark.parametrize("transfer", ["host", "stream"])
def test_qcow2_is_copied_byte_for_byte(lab: Lab, virtomate: Program, transfer: str) -> None:
    """A qcow2 of whatever version and features is copied as it is, internal snapshots included."""
    paths = define_qcow2_images(lab, lab.pool, list(QCOW2_IMAGES))

    document = clone(virtomate, "--transfer", transfer)

    for target, path in paths.items():
        copy = clone_path(document, target)
        assert by_target(document)[target]["transfer"] == transfer
        assert images.file_digest(copy) == images.file_digest(path), path.name
        assert images.allocated_bytes(copy) - images.allocated_bytes(path) <= BOOKKEEPING_BYTES, path.name
    snapshots = image_info(clone_path(document, target_names(99)[list(QCOW2_IMAGES).index("snapshots")]))["snapshots"]
    assert [snapshot["name"] for snapshot in snapshots] == ["first", "second"]


def test_libvirt_makes_qcow2_of_the_same_kind(lab: Lab, virtomate: Program) -> None:
    """When libvirt writes the copy, it has its original's version, cluster size and features, and its content."""
    paths = define_qcow2_images(
        lab, lab.pool, ["old", "new", "small clusters", "large clusters", "lazy", "subclusters"]
    )

    document = clone(virtomate, "--transfer", "server")

    for target, path in paths.items():
        copy = clone_path(document, target)
        assert by_target(document)[target]["transfer"] == "server"
        assert qcow2_kind(copy) == qcow2_kind(path), path.name
        assert images.same_content(copy, "qcow2", path, "qcow2"), path.name
        assert images.allocated_bytes(copy) - images.allocated_bytes(path) <= 4 * MIB, path.name


def qcow2_kind(path: Path) -> list[Any]:
    """Return version, cluster size and features of an image."""
    info = image_info(path)
    data = info["format-specific"]["data"]
    wanted = ("compat", "lazy-refcounts", "extended-l2")
    return [info["cluster-size"], info["virtual-size"], *(data.get(name) for name in wanted)]


def test_libvirt_is_not_asked_to_convert_snapshots(lab: Lab, virtomate: Program) -> None:
    """A copy by libvirt would lose internal snapshots, so that is refused where it is asked for."""
    define_qcow2_images(lab, lab.pool, ["snapshots"])
    before = lab.inventory()

    result = virtomate("domain-clone", "--transfer", "server", "original", "clone", json=True)

    assert "snapshots" in refused(lab, before, result)["message"]


def test_snapshots_of_an_overlay_are_not_lost_in_silence(lab: Lab, virtomate: Program) -> None:
    """A flattened copy cannot keep the internal snapshots of an overlay, which its result or a refusal must say."""
    path = lab.pool.overlay("original.qcow2", lab.pool.qcow2("base.qcow2", 4 * MIB))
    images.qemu_img("snapshot", "-c", "precious", path)
    lab.define(domain("original", disks=[disk(path)]))

    result = virtomate("domain-clone", "original", "clone", json=True)

    if result.status == 0:
        assert any("snapshot" in warning for warning in result.json[0]["warnings"])
    else:
        assert "snapshot" in str(result.json)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_backing_chain_is_flattened(lab: Lab, virtomate: Program, compat: str) -> None:
    """A copy of an overlay holds everything itself: it reads the same when what lies below is gone."""
    pool = lab.pool
    base = pool.raw("base.raw", 16 * MIB, seed=1)
    middle = pool.overlay("middle.qcow2", base, "raw", pattern=3)
    path = pool.overlay("original.qcow2", middle, compat=compat)
    images.qemu_io(path, "qcow2", "write -P 4 8M 100k")
    lab.define(domain("original", disks=[disk(path)]))
    content = images.guest_digest(path, "qcow2")

    document = clone(virtomate)

    copy = clone_path(document)
    assert images.guest_digest(path, "qcow2") == content
    for below in (base, middle, path):
        below.unlink()
    assert "backing-filename" not in image_info(copy)
    assert image_info(copy)["format-specific"]["data"]["compat"] == compat
    assert images.guest_digest(copy, "qcow2") == content
    assert "backingStore" not in definition(lab, "clone")


def test_external_data_file_is_refused(lab: Lab, virtomate: Program) -> None:
    """A copy of a qcow2 that keeps its data in another file would share the data, so there is none."""
    data = lab.make_directory("data") / "data.raw"
    path = lab.pool.qcow2("original.qcow2", 4 * MIB, options=[f"data_file={data}"])
    lab.define(domain("original", disks=[disk(path)]))
    before = lab.inventory()

    for words in ([], ["--transfer", "server"], ["--mode", "reflink"]):
        error = refused(lab, before, virtomate("domain-clone", *words, "original", "clone", json=True))
        assert error["type"] == "UnsupportedError"
        assert str(path) in error["message"]
        assert "external" in error["message"]


def test_corrupt_image_is_refused(lab: Lab, virtomate: Program) -> None:
    """An image that QEMU has marked as corrupt is not multiplied."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    with path.open("r+b") as file:
        # The last byte of the incompatible features; bit 1 is the mark.
        file.seek(79)
        file.write(b"\2")
    lab.define(domain("original", disks=[disk(path)]))
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "original", "clone", json=True))

    assert error["type"] == "UnsupportedError"
    assert str(path) in error["message"]
    assert "corrupt" in error["message"]


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_mode_and_owner_are_kept(root_lab: Lab, virtomate: Program, transfer: str) -> None:
    """Whoever could read and write the original's files can do so with the clone's, and nobody else can."""
    raw, qcow2 = root_lab.pool.raw("original.raw", 4 * MIB), root_lab.pool.qcow2("original.qcow2", 4 * MIB)
    for path, mode in ((raw, 0o640), (qcow2, 0o604)):
        path.chmod(mode)
        os.chown(path, 12345, 54321)
    root_lab.pool.refresh()
    root_lab.define(domain("original", disks=[disk(raw, "raw"), disk(qcow2, "qcow2", "vdb")]))

    document = clone(virtomate, "--transfer", transfer)

    for target, original in (("vda", raw), ("vdb", qcow2)):
        status, expected = clone_path(document, target).stat(), original.stat()
        assert oct(status.st_mode) == oct(expected.st_mode)
        assert (status.st_uid, status.st_gid) == (12345, 54321)


@pytest.fixture
def disguised(lab: Lab) -> Path:
    """A raw disk on which a guest wrote the header of a qcow2 that names a file of the host."""
    secret = lab.make_directory("secrets") / "secret.raw"
    secret.write_bytes(b"what no guest may read ".ljust(MIB, b"\1"))
    path = images.make_overlay(lab.pool.path / "original.raw", secret, "raw")
    os.truncate(path, 8 * MIB)
    # From here on libvirt itself takes it for an overlay on the secret.
    lab.pool.refresh()
    assert str(secret) in lab.pool.handle.storageVolLookupByName(path.name).XMLDesc(0)
    lab.define(domain("original", disks=[disk(path, "raw")]))
    return path


@pytest.mark.parametrize("transfer", ["host", "stream", None])
def test_raw_content_is_never_interpreted(lab: Lab, virtomate: Program, disguised: Path, transfer: str | None) -> None:
    """A raw disk that looks like an overlay on another file is copied byte for byte, without that file."""
    document = clone(virtomate, *([] if transfer is None else ["--transfer", transfer]))

    copy = clone_path(document)
    assert images.file_digest(copy) == images.file_digest(disguised)
    assert by_target(document)["vda"]["clone"]["format"] == "raw"
    assert b"no guest may read" not in copy.read_bytes()
    assert "type='raw'" in definition(lab, "clone")
    assert "secret" not in definition(lab, "clone")


def test_disguised_raw_disk_is_reflinked_as_it_is(root_lab: Lab, virtomate: Program, disguised: Path) -> None:
    """The file system shares bytes and does not ask what they mean."""
    pool = root_lab.pools["xfs"]
    path = pool.copy(disguised, "other.raw")
    root_lab.define(domain("other", disks=[disk(path, "raw")]))

    document = cloned(virtomate("domain-clone", "--mode", "reflink", "other", "clone", json=True))

    assert clone_path(document).name == "clone.raw"
    assert by_target(document)["vda"]["clone"]["format"] == "raw"
    assert images.file_digest(clone_path(document)) == images.file_digest(disguised)


def test_disguised_raw_disk_is_not_given_to_libvirt(lab: Lab, virtomate: Program, disguised: Path) -> None:
    """A conversion by libvirt would follow what the guest wrote, so it is refused where it is asked for."""
    before = lab.inventory()

    result = virtomate("domain-clone", "--transfer", "server", "original", "clone", json=True)

    assert str(disguised) in refused(lab, before, result)["message"]


@pytest.mark.parametrize("name", [b"no\xfftext", b"\x1b[31mred"], ids=["no text", "no XML"])
def test_header_that_libvirt_cannot_tell_of(lab: Lab, virtomate: Program, disguised: Path, name: bytes) -> None:
    """A guest that writes a name into its raw disk that no document can hold keeps nobody from cloning and listing."""
    content = disguised.read_bytes()
    assert content.count(b"secret.raw") == 1
    disguised.write_bytes(content.replace(b"secret.raw", name.ljust(10, b"_")))
    lab.pool.refresh()

    document = clone(virtomate)
    linked = virtomate("domain-clone", "--mode", "linked", "original", "linked", json=True)

    assert images.file_digest(clone_path(document)) == images.file_digest(disguised)
    assert linked.status == 0, str(linked)
    listed = {entry["name"]: entry for entry in virtomate("volume-list", lab.pool.name, json=True).json}
    assert "\N{REPLACEMENT CHARACTER}" in listed["original.raw"]["backing_store"]["path"]


def test_overlay_on_disguised_raw_disk_takes_it_for_raw(virtomate: Program, disguised: Path) -> None:
    """A linked clone records the backing format, so that its guest reads the header and not the host's file."""
    document = clone(virtomate, "--mode", "linked")

    copy = clone_path(document)
    assert image_info(copy)["backing-filename-format"] == "raw"
    assert images.guest_digest(copy, "qcow2") == images.file_digest(disguised)


@pytest.mark.parametrize("mode", ["copy", "reflink"])
def test_copy_on_write_attribute_of_btrfs(root_lab: Lab, virtomate: Program, mode: str) -> None:
    """On Btrfs a clone's file is without copy-on-write exactly where its original is."""
    pool = root_lab.pools["btrfs"]
    paths = {"vda": pool.path / "nocow.raw", "vdb": pool.path / "cow.raw"}
    paths["vda"].touch()
    run(require_program("chattr", "e2fsprogs"), "+C", paths["vda"])
    with paths["vda"].open("r+b") as file:
        file.write(images.content(1, 2 * MIB))
    images.make_raw(paths["vdb"], 2 * MIB)
    pool.refresh()
    root_lab.define(domain("original", disks=[disk(path, "raw", target) for target, path in paths.items()]))

    document = clone(virtomate, "--mode", mode)

    for target, expected in (("vda", True), ("vdb", False)):
        copy = clone_path(document, target)
        assert images.file_digest(copy) == images.file_digest(paths[target])
        assert ("C" in file_attributes(copy)) == ("C" in file_attributes(paths[target])) == expected


def file_attributes(path: Path) -> str:
    """Return a file's attributes as lsattr shows them."""
    return run(require_program("lsattr", "e2fsprogs"), path).decode().split()[0]


def test_disks_of_several_pools(root_lab: Lab, virtomate: Program) -> None:
    """Each new volume goes to the pool of its original, also where the definition names pool and volume."""
    xfs, btrfs, other = root_lab.pools["xfs"], root_lab.pools["btrfs"], root_lab.make_pool("other & one")
    paths = [
        xfs.raw("original.img", 4 * MIB),
        btrfs.qcow2("original.qcow2", 4 * MIB, seed=2),
        other.qcow2("original.qcow2", 4 * MIB, seed=3),
        xfs.raw("original.img.raw", 4 * MIB, seed=4),
    ]
    disks = [
        disk(paths[0], "raw", "vda"),
        disk(("btrfs", "original.qcow2"), "qcow2", "vdb"),
        disk(("other & one", "original.qcow2"), "qcow2", "sda", bus="sata"),
        disk(("xfs", "original.img.raw"), "raw", "sdb", bus="scsi"),
    ]
    root_lab.define(domain("original", disks=disks))

    document = clone(virtomate)

    clones = [(entry["clone"]["pool"], entry["clone"]["volume"]) for entry in document["disks"]]
    expected = [
        ("xfs", "clone.img"),
        ("btrfs", "clone.qcow2"),
        ("other & one", "clone.qcow2"),
        ("xfs", "clone.img.raw"),
    ]
    assert sorted(clones) == sorted(expected)
    for entry in document["disks"]:
        assert images.file_digest(Path(entry["clone"]["path"])) == images.file_digest(Path(entry["source"]["path"]))
    text = definition(root_lab, "clone")
    assert "<source pool='other &amp; one' volume='clone.qcow2'/>" in text
    assert "<source pool='btrfs' volume='clone.qcow2'/>" in text
    assert f"<source file='{xfs.path}/clone.img'/>" in text


def test_two_disks_of_one_volume_stay_together(lab: Lab, virtomate: Program) -> None:
    """Disks that share a volume share one new volume, by whichever name the definition knows it."""
    path = lab.pool.raw("original.raw", 4 * MIB)
    disks = [
        disk(path, "raw", "vda", shareable=True),
        disk((lab.pool.name, path.name), "raw", "vdb", shareable=True),
    ]
    lab.define(domain("original", disks=disks))
    before = set(lab.pool.volumes())

    document = clone(virtomate)

    assert clone_path(document, "vda") == clone_path(document, "vdb")
    assert set(lab.pool.volumes()) - before == {"clone.raw"}
    assert images.file_digest(clone_path(document)) == images.file_digest(path)


def test_paths_are_normalised(lab: Lab, virtomate: Program) -> None:
    """However a definition spells a path, the volume is found, and the clone's is written plainly."""
    path = lab.pool.raw("original.raw", 4 * MIB)
    lab.define(domain("original", disks=[disk(f"{lab.pool.path}//./../{lab.pool.path.name}/original.raw", "raw")]))

    document = clone(virtomate)

    assert clone_path(document) == path.with_name("clone.raw")
    assert f"<source file='{path.with_name('clone.raw')}'/>" in definition(lab, "clone")
    assert images.file_digest(clone_path(document)) == images.file_digest(path)


LEFT_ALONE = """
    <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/lab-block'/>
      <target dev='vdb' bus='virtio'/></disk>
    <disk type='network' device='disk'><driver name='qemu' type='raw'/>
      <source protocol='nbd' name='lab'><host name='127.0.0.1' port='10809'/></source>
      <target dev='vdc' bus='virtio'/></disk>
    <disk type='network' device='disk'><driver name='qemu' type='raw'/>
      <source protocol='nbd' name='fixed'><host name='127.0.0.1' port='10809'/></source>
      <target dev='vdd' bus='virtio'/><readonly/></disk>"""


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_what_is_left_untouched(lab: Lab, virtomate: Program, mode: str) -> None:
    """Read-only, empty, block and network disks stay as they are, each with its reason; writable ones are warned of."""
    path = lab.pool.raw("original.raw", 4 * MIB)
    fixed = lab.pool.raw("fixed.raw", 4 * MIB)
    medium = lab.pool.raw("medium.iso", 4 * MIB)
    disks = [
        disk(path, "raw"),
        disk(fixed, "raw", "vde", read_only=True),
        disk(None, "raw", "sda", bus="sata", device="cdrom", read_only=True),
        disk(medium, "raw", "sdb", bus="sata", device="cdrom", read_only=True),
        # In no pool, which is no obstacle to what is not duplicated.
        disk("/nowhere/there.iso", "raw", "sdc", bus="sata", device="cdrom", read_only=True),
        disk(None, "raw", "fda", bus="fdc", device="floppy"),
    ]
    lab.define(domain("original", disks=disks, devices=LEFT_ALONE))
    volumes = set(lab.pool.volumes())

    document = clone(virtomate, "--mode", mode)

    untouched = {entry["target"]: entry for entry in document["disks"] if entry["action"] == "shared"}
    assert {target: entry["reason"] for target, entry in untouched.items()} == {
        "vdb": "block disk, not file-based",
        "vdc": "network disk, not file-based",
        "vdd": "read-only",
        "vde": "read-only",
        "sda": "empty drive",
        "sdb": "read-only",
        "sdc": "read-only",
        "fda": "empty drive",
    }
    assert by_target(document)["vda"]["action"] != "shared"
    assert all(entry["source"] == entry["clone"] for entry in untouched.values())
    shared = [warning for warning in document["warnings"] if "shared with the original" in warning]
    assert [warning.partition(" is")[0] for warning in shared] == [
        "disk vdb (/dev/lab-block)",
        "disk vdc (nbd://127.0.0.1:10809/lab)",
    ]
    assert len(set(lab.pool.volumes()) - volumes) == 1
    text = definition(lab, "clone")
    for kept in (str(fixed), str(medium), "/nowhere/there.iso", "/dev/lab-block", "name='lab'", "name='fixed'"):
        assert text.count(f"{kept}'" if kept.startswith("/") else kept) == 1


NAMES = [
    "with blank.qcow2",
    "a & b.qcow2",
    'it\'s "quoted".qcow2',
    "größe-日本.qcow2",
    "<b>[red]$(x);`y`%s{0}.qcow2",
    "-rf.qcow2",
    "  .qcow2",
]


@pytest.mark.parametrize("mode", ["copy", "linked"])
@pytest.mark.parametrize("names", ["path", "volume"])
def test_names_of_all_kinds(lab: Lab, virtomate: Program, mode: str, names: str) -> None:
    """Names are data: blanks, quotes, markup, shell characters and other alphabets stay what they are."""
    source, target = "ürsprung & 'a' \"b\" <c>", "klön & 'x' \"y\" <z> $HOME"
    paths = {}
    for position, name in enumerate([f"{source}.qcow2", *NAMES]):
        path = images.make_qcow2(lab.pool.path / name, MIB, seed=position + 1)
        paths[target_names(99)[position]] = path
    lab.pool.refresh()
    disks = [
        disk(path if names == "path" else (lab.pool.name, path.name), "qcow2", device) for device, path in paths.items()
    ]
    lab.define(domain(source, disks=disks))

    result = virtomate("domain-clone", "--mode", mode, source, target, json=True)

    assert result.status == 0, str(result)
    (document,) = result.json
    assert (document["name"], document["source"]["name"]) == (target, source)
    for device, path in paths.items():
        copy = clone_path(document, device)
        assert copy.name == (f"{target}.qcow2" if device == "vda" else f"{target}-{path.name}")
        assert images.same_content(copy, "qcow2", path, "qcow2"), path.name
    assert lab.connection.lookupByName(target).UUIDString() == document["uuid"]


ODD_NAMES = ["new\nline.raw", "tab\there.raw", "cr\rx.raw", "esc\x1b[31m.raw", "bell\x07.raw", "bad\udcff.raw"]


def test_odd_files_in_a_pool_are_no_obstacle(lab: Lab, virtomate: Program) -> None:
    """Files whose names XML or UTF-8 cannot hold lie beside the volumes and change nothing."""
    for name in ODD_NAMES:
        images.make_raw(lab.pool.path / name, MIB)
    path = lab.pool.raw("original.raw", MIB)
    lab.define(domain("original", disks=[disk(path, "raw")]))

    document = clone(virtomate)

    assert images.file_digest(clone_path(document)) == images.file_digest(path)
    assert {*ODD_NAMES, "original.raw", "clone.raw"} <= {found.name for found in lab.pool.path.iterdir()}
    listed = {entry["name"] for entry in virtomate("volume-list", lab.pool.name, json=True).json}
    assert {"original.raw", "clone.raw", "new\nline.raw", "tab\there.raw"} <= listed
    assert "\x1b" not in virtomate("volume-list", lab.pool.name).stdout


@pytest.mark.parametrize("name", ["new\nline.raw", "tab\there.raw"])
def test_volume_that_a_definition_cannot_name(lab: Lab, virtomate: Program, name: str) -> None:
    """Line breaks and tabs in names are not written by libvirt so that they can be read: the disk is not found."""
    images.make_raw(lab.pool.path / name, MIB)
    lab.pool.refresh()
    reference = name.replace("\n", "&#10;").replace("\t", "&#9;")
    lab.define(domain("original", disks=[disk((lab.pool.name, "VOLUME"), "raw")]).replace("VOLUME", reference))
    before = lab.inventory()

    result = virtomate("domain-clone", "original", "clone", json=True)

    error = refused(lab, before, result)
    assert error["type"] == "NotFoundError"
    assert "\n" not in error["message"]
    assert "\t" not in error["message"]
