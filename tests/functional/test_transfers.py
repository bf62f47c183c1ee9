"""The ways in which content gets into a new volume: which is taken, that it is told, and that each is exact."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.support import by_target, clone, clone_path, cloned, image_info, refused, unchanged
from tests.lab import Hypervisor, Lab, Program, disk, domain, images
from tests.lab.images import KIB, MIB
from tests.lab.inventory import Inventory, take_inventory
from tests.lab.ordinary_user import OrdinaryUser
from tests.lab.programs import require_program, run
from tests.lab.ssh import SshServer
from tests.lab.storage import Pool, make_pool
from virtomate.duplication.hostfs import is_cached

BOOKKEEPING_BYTES = 128 * KIB
IMAGES = Path("/var/lib/libvirt/images")


def transfers(document: Any) -> dict[str, str]:
    """Return the transfer of each disk by its target."""
    return {entry["target"]: entry["transfer"] for entry in document["disks"]}


def predicted(virtomate: Program, *words: str, uri: str | None = None) -> dict[str, str]:
    """Return the transfers that a plan names."""
    result = virtomate("domain-clone", "--dry-run", *words, "original", "clone", json=True, uri=uri)
    assert result.status == 0, str(result)
    (document,) = result.json
    assert document["status"] == "planned"
    return transfers(document)


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
@pytest.mark.parametrize("file_system", ["ext4", "btrfs"])
def test_each_transfer_is_exact(root_lab: Lab, virtomate: Program, file_system: str, transfer: str) -> None:
    """Whoever carries the content, it arrives whole and with its holes, and the result says who it was."""
    pool = root_lab.pools[file_system]
    raw = pool.raw("original.raw", 256 * MIB + 4096, extents=[(MIB, 5 * MIB), (200 * MIB, 70_000)], seed=1)
    qcow2 = pool.qcow2("original.qcow2", 64 * MIB, data_bytes=7 * MIB, seed=2)
    root_lab.define(domain("original", disks=[disk(raw, "raw"), disk(qcow2, "qcow2", "vdb")]))

    document = clone(virtomate, "--transfer", transfer)

    assert transfers(document) == {"vda": transfer, "vdb": transfer}
    assert images.file_digest(clone_path(document)) == images.file_digest(raw)
    assert images.allocated_bytes(clone_path(document)) <= images.allocated_bytes(raw) + BOOKKEEPING_BYTES
    copy = clone_path(document, "vdb")
    assert images.same_content(copy, "qcow2", qcow2, "qcow2")
    assert images.allocated_bytes(copy) <= images.allocated_bytes(qcow2) + MIB
    if transfer != "server":
        assert images.file_digest(copy) == images.file_digest(qcow2)
    assert image_info(copy)["format-specific"]["data"]["compat"] == "1.1"


def test_plan_names_the_transfer_and_changes_nothing(lab: Lab, virtomate: Program) -> None:
    """What `--dry-run` predicts is what then happens, and the prediction itself leaves everything as it was."""
    base = lab.pool.qcow2("base.qcow2", 4 * MIB)
    disks = [
        disk(lab.pool.raw("original.raw", 4 * MIB), "raw"),
        disk(lab.pool.qcow2("original.qcow2", 4 * MIB), "qcow2", "vdb"),
        disk(lab.pool.overlay("overlay.qcow2", base), "qcow2", "vdc"),
    ]
    lab.define(domain("original", disks=disks))
    before = lab.inventory()

    plan = predicted(virtomate)
    linked = predicted(virtomate, "--mode", "linked")
    human = virtomate("domain-clone", "--dry-run", "original", "clone")

    unchanged(lab, before)
    assert plan == {"vda": "host", "vdb": "host", "vdc": "server"}
    assert linked == dict.fromkeys(plan, "link")
    assert human.status == 0, str(human)
    assert human.stdout.startswith("Would clone original to clone")
    assert transfers(clone(virtomate)) == plan


IMPOSSIBLE = {
    "reflink by stream": ("raw", "reflink", "stream", "shares no data"),
    "reflink of qcow2 by server": ("qcow2", "reflink", "server", "raw volumes only"),
    "top image by server": ("overlay", "shallow", "server", "images below"),
    "chain by host": ("overlay", "copy", "host", "backing file"),
    "chain by stream": ("overlay", "copy", "stream", "backing file"),
    "other format by host": ("vdi", "copy", "host", "more than one file"),
    "other format by stream": ("vdi", "copy", "stream", "more than one file"),
}


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_transfer_of_a_linked_clone_is_a_usage_error(root_lab: Lab, virtomate: Program, transfer: str) -> None:
    """An overlay copies nothing, so that two options that contradict each other are refused before anything is made."""
    root_lab.define(domain("original", disks=[disk(root_lab.pool.raw("original.raw", 4 * MIB), "raw")]))
    before = root_lab.inventory()

    result = virtomate("domain-clone", "--mode", "linked", "--transfer", transfer, "original", "clone", json=True)

    assert (result.status, result.stdout) == (2, ""), str(result)
    assert f"--transfer {transfer} is not possible for a linked clone" in result.stderr
    unchanged(root_lab, before)


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_transfer_is_an_error(root_lab: Lab, virtomate: Program, case: str) -> None:
    """A transfer that cannot do what is asked is refused with the reason before anything is made."""
    kind, mode, transfer, reason = IMPOSSIBLE[case]
    pool = root_lab.pools["xfs"]
    if kind == "overlay":
        path = pool.overlay("original.img", pool.qcow2("base.qcow2", 4 * MIB))
    else:
        path = pool.raw("source.raw", 4 * MIB)
        images.qemu_img("convert", "-f", "raw", "-O", kind, path, pool.path / "original.img")
        path = pool.path / "original.img"
        pool.refresh()
    root_lab.define(domain("original", disks=[disk(path, "qcow2" if kind == "overlay" else kind)]))
    before = root_lab.inventory()

    result = virtomate("domain-clone", "--mode", mode, "--transfer", transfer, "original", "clone", json=True)

    error = refused(root_lab, before, result)
    assert error["type"] == "UnsupportedError"
    assert reason in error["message"]
    assert transfer in error["message"]


def test_other_formats_are_left_to_libvirt(lab: Lab, virtomate: Program) -> None:
    """An image that may be more than one file is copied by libvirt, which knows all of them."""
    raw = lab.pool.raw("source.raw", 4 * MIB)
    images.qemu_img("convert", "-f", "raw", "-O", "vdi", raw, lab.pool.path / "original.vdi")
    lab.pool.refresh()
    lab.define(domain("original", disks=[disk(lab.pool.path / "original.vdi", "vdi")]))

    document = clone(virtomate)

    assert transfers(document) == {"vda": "server"}
    assert by_target(document)["vda"]["clone"]["format"] == "vdi"
    assert images.guest_digest(clone_path(document), "vdi") == images.file_digest(raw)


def test_libvirt_reflinks_raw(root_lab: Lab, virtomate: Program) -> None:
    """Without file access a raw volume is still reflinked, by libvirt, and shares its data."""
    path = root_lab.pools["xfs"].raw("original.raw", 16 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))

    document = clone(virtomate, "--mode", "reflink", "--transfer", "server")

    assert transfers(document) == {"vda": "server"}
    assert images.file_digest(clone_path(document)) == images.file_digest(path)
    extents = run(require_program("filefrag", "e2fsprogs"), "-v", clone_path(document))
    assert b"shared" in extents


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_link_as_volume(lab: Lab, virtomate: Program, format_: str) -> None:
    """A symbolic link in a pool is a volume; its clone is a file of its own with what the link leads to."""
    make = images.make_raw if format_ == "raw" else images.make_qcow2
    elsewhere = make(lab.make_directory("elsewhere") / "data.img", 8 * MIB)
    link = lab.pool.path / "original.img"
    link.symlink_to(elsewhere)
    lab.pool.refresh()
    lab.define(domain("original", disks=[disk(link, format_)]))
    digest = images.file_digest(elsewhere)

    document = clone(virtomate)

    copy = clone_path(document)
    assert copy == lab.pool.path / "clone.img"
    assert copy.is_file()
    assert not copy.is_symlink()
    assert images.same_content(copy, format_, elsewhere, format_)
    assert link.readlink() == elsewhere
    assert images.file_digest(elsewhere) == digest


WAYS = ["--transfer host", "--transfer stream", "--transfer server", "--mode linked", ""]


@pytest.mark.parametrize("words", WAYS)
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("dangling", [True, False], ids=["dangling", "leading-somewhere"])
def test_link_in_the_way_is_not_followed(
    lab: Lab, virtomate: Program, words: str, format_: str, dangling: bool
) -> None:
    """A link that has the new volume's name is left alone, and nothing is written where it leads."""
    victim = lab.make_directory("elsewhere") / "victim"
    if not dangling:
        victim.write_bytes(b"somebody's")
    make = lab.pool.raw if format_ == "raw" else lab.pool.qcow2
    path = make(f"original.{format_}", 4 * MIB)
    (lab.pool.path / ("clone.qcow2" if "linked" in words else f"clone.{format_}")).symlink_to(victim)
    lab.pool.refresh()
    lab.define(domain("original", disks=[disk(path, format_)]))
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", *words.split(), "original", "clone", json=True))

    assert "clone." in error["message"]
    assert victim.exists() != dangling


@pytest.fixture
def far(root_lab: Lab) -> Iterator[Hypervisor]:
    """A host whose pool lies in another mount namespace, although its socket is here."""
    with root_lab.make_host("far") as host:
        yield host


@pytest.fixture
def far_pool(far: Hypervisor) -> Pool:
    """The pool of that host, with the path at which it is seen from here; the host itself calls it IMAGES."""
    make_pool(far, "images", IMAGES)
    return Pool(far, "images", far.on_host(IMAGES))


def define_far(far: Hypervisor, far_pool: Pool, **snapshots: Any) -> dict[str, Path]:
    """Define a domain with a raw and a qcow2 disk there, and return the disks by target."""
    paths = {
        "vda": far_pool.raw("original.raw", 64 * MIB, seed=3),
        "vdb": far_pool.qcow2("original.qcow2", 16 * MIB, seed=4, **snapshots),
    }
    disks = [disk(IMAGES / "original.raw", "raw"), disk(IMAGES / "original.qcow2", "qcow2", "vdb")]
    far.connection.defineXML(domain("original", disks=disks))
    return paths


def check_far_clone(far: Hypervisor, document: Any, paths: dict[str, Path]) -> None:
    """Compare the new volumes of that host with the original ones."""
    for target, format_ in (("vda", "raw"), ("vdb", "qcow2")):
        copy = far.on_host(clone_path(document, target))
        assert clone_path(document, target).parent == IMAGES
        assert images.same_content(copy, format_, paths[target], format_)
        assert images.allocated_bytes(copy) <= images.allocated_bytes(paths[target]) + MIB


def far_inventory(far: Hypervisor) -> Inventory:
    """Take down everything on that host."""
    return take_inventory(far.connection, far.state_directories)


def test_pool_in_another_mount_namespace(far: Hypervisor, far_pool: Pool, virtomate: Program) -> None:
    """A local socket proves nothing: where the daemon's files are not to be seen, they go through libvirt."""
    paths = define_far(far, far_pool)
    before = far_inventory(far)

    plan = predicted(virtomate, uri=far.uri)
    assert before.difference(far_inventory(far)) == ""
    document = clone(virtomate, uri=far.uri)

    assert transfers(document) == plan == {"vda": "stream", "vdb": "server"}
    check_far_clone(far, document, paths)


def test_host_transfer_cannot_be_forced_on_unseen_files(far: Hypervisor, far_pool: Pool, virtomate: Program) -> None:
    """Forced to open files that are not here, the clone fails with a sentence, and nothing was made there."""
    define_far(far, far_pool)
    before = far_inventory(far)

    result = virtomate("domain-clone", "--transfer", "host", "original", "clone", json=True, uri=far.uri)

    assert result.status == 1, str(result)
    assert result.json["type"] == "UnsupportedError"
    assert "cannot be seen" in result.json["message"]
    assert before.difference(far_inventory(far)) == ""


def test_shallow_copy_of_unseen_files(far: Hypervisor, far_pool: Pool, virtomate: Program) -> None:
    """The bytes of the top image go over the connection, since libvirt itself would copy the whole chain."""
    far_pool.qcow2("base.qcow2", 16 * MIB, seed=1)
    top = far_pool.path / "original.qcow2"
    images.make_overlay(top, Path("base.qcow2"), "qcow2", pattern=7)
    images.qemu_img("rebase", "-q", "-u", "-F", "qcow2", "-b", IMAGES / "base.qcow2", top)
    far_pool.refresh()
    far.connection.defineXML(domain("original", disks=[disk(IMAGES / "original.qcow2")]))

    made = clone(virtomate, "--mode", "shallow", uri=far.uri)

    assert (by_target(made)["vda"]["action"], by_target(made)["vda"]["transfer"]) == ("shallow-copied", "stream")
    assert images.file_digest(far.on_host(clone_path(made))) == images.file_digest(top)


def test_auto_finds_out_where_no_file_is_seen(far: Hypervisor, far_pool: Pool, virtomate: Program) -> None:
    """Libvirt is asked for a reflink; if its file system has none, the disk is copied, and nothing else is left."""
    paths = define_far(far, far_pool)

    document = clone(virtomate, "--mode", "auto", uri=far.uri)

    assert {target: entry["action"] for target, entry in by_target(document).items()} == dict.fromkeys(paths, "copied")
    assert transfers(document) == {"vda": "stream", "vdb": "server"}
    assert "libvirt cannot reflink" in by_target(document)["vda"]["reason"]
    check_far_clone(far, document, paths)
    assert far_pool.volumes() == ["clone.qcow2", "clone.raw", "original.qcow2", "original.raw"]


@pytest.mark.parametrize("transfer", ["host", "stream", "server", None])
def test_decoys_are_neither_read_nor_written(
    root_lab: Lab, far: Hypervisor, far_pool: Pool, virtomate: Program, transfer: str | None
) -> None:
    """Files that happen to have the same paths here are others: the clone has nothing of them, nor they of it."""
    paths = define_far(far, far_pool)
    here = root_lab.hypervisor.on_host(IMAGES)
    decoys = [here / name for name in ("original.raw", "original.qcow2", "clone.raw", "clone.qcow2")]
    for path in decoys:
        # As long as the original, and last used so long ago that reading it would be noted.
        images.make_raw(path, paths["vda" if path.suffix == ".raw" else "vdb"].stat().st_size, seed=77)
        os.utime(path, (1_000_000, 1_000_000))
    assert all((IMAGES / path.name).samefile(path) for path in decoys)
    before = [(path.stat().st_ino, path.stat().st_atime, path.stat().st_ctime_ns) for path in decoys]

    words = [] if transfer is None else ["--transfer", transfer]
    result = virtomate("domain-clone", *words, "original", "clone", json=True, uri=far.uri)

    after = [(path.stat().st_ino, path.stat().st_atime, path.stat().st_ctime_ns) for path in decoys]
    assert after == before
    if transfer == "host":
        assert result.status == 1, str(result)
    else:
        document = cloned(result)
        assert "host" not in transfers(document).values()
        check_far_clone(far, document, paths)


@pytest.mark.parametrize("transfer", ["stream", None])
def test_ordinary_user_of_libvirt(root_lab: Lab, nobody: OrdinaryUser, transfer: str | None) -> None:
    """Who may use libvirt but not open the files gets exact copies, too, with holes, modes and owners."""
    raw = nobody.pool.raw("original.raw", 64 * MIB + 512, extents=[(0, 3 * MIB), (40 * MIB, 5)])
    qcow2 = nobody.pool.qcow2("original.qcow2", 16 * MIB, seed=2, snapshots=["kept"])
    seed = images.make_iso(nobody.pool.path / "seed.iso", "config-2")
    for path in (raw, qcow2, seed):
        path.chmod(0o600)
    nobody.pool.refresh()
    drive = disk(seed, "raw", "sda", bus="sata", device="cdrom", read_only=True)
    root_lab.define(domain("original", disks=[disk(raw, "raw"), disk(qcow2, "qcow2", "vdb"), drive]))
    assert not any(nobody.can_read(path) for path in (raw, qcow2, seed))

    words = [] if transfer is None else ["--transfer", transfer]
    document = cloned(nobody("domain-clone", *words, "original", "clone"))

    assert transfers(document) == {"vda": "stream", "vdb": "stream", "sda": None}
    assert [warning.partition(":")[0] for warning in document["warnings"]] == [
        f"disk sda ({seed}) has the label 'config-2' and is shared"
    ]
    for target, path in (("vda", raw), ("vdb", qcow2)):
        copy = clone_path(document, target)
        assert images.file_digest(copy) == images.file_digest(path)
        assert images.allocated_bytes(copy) <= images.allocated_bytes(path) + BOOKKEEPING_BYTES
        assert (oct(copy.stat().st_mode), copy.stat().st_uid) == (oct(path.stat().st_mode), 0)
    (snapshot,) = image_info(clone_path(document, "vdb"))["snapshots"]
    assert snapshot["name"] == "kept"


def test_ordinary_user_of_libvirt_cannot_force_the_host_transfer(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Files that cannot be opened are not filled here; forced to, the clone fails and nothing was made."""
    path = nobody.pool.raw("original.raw", 4 * MIB)
    path.chmod(0o600)
    nobody.pool.refresh()
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    before = root_lab.inventory()

    error = refused(root_lab, before, nobody("domain-clone", "--transfer", "host", "original", "clone"))

    assert error["type"] == "UnsupportedError"


def test_readable_files_alone_are_no_access(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Where the originals can be read here but their copies could not be written, libvirt carries the content."""
    path = nobody.pool.raw("original.raw", 4 * MIB)
    path.chmod(0o644)
    assert nobody.can_read(path)
    nobody.pool.refresh()
    root_lab.define(domain("original", disks=[disk(path, "raw")]))

    document = cloned(nobody("domain-clone", "original", "clone"))

    assert transfers(document) == {"vda": "stream"}
    assert images.file_digest(clone_path(document)) == images.file_digest(path)


def test_remote_host_over_ssh(far: Hypervisor, far_pool: Pool, sshd: SshServer, virtomate: Program) -> None:
    """Over SSH a clone is made on the other host by libvirt there; what that would damage is streamed."""
    uri = sshd.uri(far)
    paths = define_far(far, far_pool)

    listing = virtomate("domain-list", json=True, uri=uri)
    plan = predicted(virtomate, uri=uri)
    document = clone(virtomate, uri=uri)

    assert listing.status == 0, str(listing)
    assert [entry["name"] for entry in listing.json] == ["original"]
    assert transfers(document) == plan == {"vda": "server", "vdb": "server"}
    check_far_clone(far, document, paths)
    assert far.connection.lookupByName("clone").UUIDString() == document["uuid"]


def test_snapshots_survive_a_remote_clone(far: Hypervisor, far_pool: Pool, sshd: SshServer, virtomate: Program) -> None:
    """A qcow2 with internal snapshots goes through the connection byte for byte, as libvirt would lose them."""
    paths = define_far(far, far_pool, snapshots=["kept"])

    document = clone(virtomate, uri=sshd.uri(far))

    assert transfers(document) == {"vda": "server", "vdb": "stream"}
    copy = far.on_host(clone_path(document, "vdb"))
    assert images.file_digest(copy) == images.file_digest(paths["vdb"])


def test_shared_file_system_serves_a_remote_host(root_lab: Lab, sshd: SshServer, virtomate: Program) -> None:
    """Where the other host's files are seen here after all, they are copied here."""
    path = root_lab.pool.raw("original.raw", 8 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))

    document = clone(virtomate, uri=sshd.uri(root_lab.hypervisor))

    assert transfers(document) == {"vda": "host"}
    assert images.file_digest(clone_path(document)) == images.file_digest(path)


def test_ssh_server_that_does_not_know_us(root_lab: Lab, sshd: SshServer, virtomate: Program) -> None:
    """A refused key is an error of one sentence, on any command, and not a question or a traceback."""
    uri = sshd.uri(root_lab.hypervisor)
    (sshd.directory / "user_key.pub").write_text("")

    result = virtomate("domain-list", json=True, uri=uri)

    assert result.status == 1, str(result)
    assert json.loads(result.stdout)["type"] == "libvirtError"
    assert "Permission denied" in result.json["message"]
    assert "Traceback" not in result.stderr


def test_copy_leaves_the_page_cache_alone(root_lab: Lab, virtomate: Program) -> None:
    """Neither the copy nor what was read for it fills the host's page cache; what was there before stays."""
    size = 192 * MIB
    path = root_lab.pool.raw("original.raw", size, data_bytes=size)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read(40 * MIB)

    copy = clone_path(clone(virtomate, "--transfer", "host"))

    cached = {name: cached_mib(name) for name in (path, copy)}
    assert all(cached[path][:32]), cached
    assert sum(cached[path]) < 96, cached
    assert sum(cached[copy]) < 64, cached
    # what several clones are made of is read from the disk once, and stays
    together = virtomate("domain-clone", "--transfer", "host", "--jobs", "1", "original", "a", "b", json=True)
    assert together.status == 0, str(together)
    assert sum(cached_mib(path)) > 160, cached_mib(path)


def cached_mib(path: Path) -> list[bool]:
    """Tell of each MiB of a file whether it is in the page cache, by its last page."""
    with path.open("rb") as file:
        return [is_cached(file.fileno(), offset - 1) for offset in range(MIB, path.stat().st_size + 1, MIB)]
