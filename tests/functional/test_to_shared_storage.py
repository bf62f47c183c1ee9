"""Clones on another host that sees the storage of the original: what proves that, and what rests on it then."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.functional.runs import paused, reaching
from tests.functional.support import by_target, cloned, image_info
from tests.lab import Hypervisor, Inventory, Lab, Program, disk, domain, images, interface, mounts
from tests.lab.images import MIB, file_digest
from tests.lab.storage import make_mounted_directory, make_pool, remove_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.far import Far
    from tests.lab.program import Result
    from tests.lab.ssh import SshServer

POOL = "nas"
ELSEWHERE = Path("/mnt")


class Shared:
    """A directory that both hosts have as a storage pool, the other host by another path if that is asked for."""

    def __init__(self, lab: Lab, far: Far, *, link: bool = False, name: str = POOL) -> None:
        self.lab = lab
        self.far = far
        self.here = lab.make_pool(POOL, lab.pools["xfs"].path / POOL)
        directory = self.here.path
        if link:
            directory = far.host.directory / "link"
            directory.unlink(missing_ok=True)
            directory.symlink_to(self.here.path)
        self.there = make_pool(far.host, name, directory)

    def inventories(self) -> tuple[Inventory, Inventory]:
        """Return everything on both hosts, as they find it now."""
        self.here.refresh()
        self.there.refresh()
        return self.lab.inventory(), self.far.inventory()


@pytest.fixture
def shared(root_lab: Lab, far: Far) -> Shared:
    """The directory, by the same path on both hosts."""
    (root_lab.pools["xfs"].path / POOL).mkdir(exist_ok=True)
    return Shared(root_lab, far)


@pytest.fixture
def linked(root_lab: Lab, far: Far) -> Shared:
    """The directory, by another path on the other host."""
    (root_lab.pools["xfs"].path / POOL).mkdir(exist_ok=True)
    return Shared(root_lab, far, link=True)


@pytest.fixture
def mapped(root_lab: Lab, far: Far) -> Shared:
    """The same as a pool of another name."""
    (root_lab.pools["xfs"].path / POOL).mkdir(exist_ok=True)
    return Shared(root_lab, far, link=True, name="other")


def send(virtomate: Program, uri: str, *words: str | Path, json: bool = True, home: str | None = None) -> Result:
    """Clone the domain `original` to `clone` on the other host."""
    return virtomate("domain-clone", "--to", uri, *words, "original", "clone", json=json, uri=home)


def nothing_happened(place: Shared, before: tuple[Inventory, Inventory]) -> None:
    """See that both hosts are as they were."""
    after = place.inventories()
    assert [one.difference(other) for one, other in zip(before, after, strict=True)] == ["", ""]


@pytest.mark.parametrize("place", ["shared", "linked", "mapped"])
def test_linked(request: pytest.FixtureRequest, virtomate: Program, far: Far, place: str) -> None:
    """The overlay rests on the volume that both see; both hosts know that, and the base cannot be deleted there."""
    shared: Shared = request.getfixturevalue(place)
    lab = shared.lab
    base = shared.here.qcow2("origin.qcow2", 16 * MIB, data_bytes=MIB)
    lab.define(domain("origin", disks=[disk(base)], interfaces=[interface()]))
    cloned(virtomate("domain-clone", "--mode", "linked", "origin", "original", json=True))
    before = shared.inventories()
    words = ("--mode", "linked", *(("--map", f"pool:{POOL}=other") if place == "mapped" else ()))

    planned = send(virtomate, far.uri, *words, "--dry-run")
    assert planned.json[0]["disks"][0]["action"] == "linked"
    said = send(virtomate, far.uri, *words, "--dry-run", json=False)
    nothing_happened(shared, before)
    document = cloned(send(virtomate, far.uri, *words))

    found = by_target(document)["vda"]
    path, there = shared.there.path / "clone.qcow2", shared.there.path / "original.qcow2"
    assert f"  link as {path}, on {there}\n" in said.stdout
    assert f"disk vda rests on '{there}', and libvirt" in said.stderr
    assert f' base="{there}"' in far.definition("clone")
    assert (found["action"], found["clone"]["path"]) == ("linked", str(path))
    warnings = "; ".join(document["warnings"])
    assert f"libvirt on host '{os.uname().nodename}' does not know the clone" in warnings
    assert "do not start 'original' any more" in warnings
    assert image_info(path)["full-backing-filename"] == str(there)
    assert images.qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", path, base)
    far.host.connection.lookupByName("clone").create()
    far.host.connection.lookupByName("clone").destroy()
    verified = virtomate("domain-verify", "clone", json=True, uri=far.uri)
    assert verified.status == 0, str(verified)
    tree = virtomate("domain-list", "--tree", uri=far.uri)
    assert "original.qcow2" in tree.stdout
    # libvirt on the host of the original has looked at the finished overlay
    known = lab.connection.storagePoolLookupByName(POOL).storageVolLookupByName("clone.qcow2").XMLDesc()
    assert f"<path>{shared.here.path / 'original.qcow2'}</path>" in known

    refused = virtomate("domain-delete", "--yes", "original", json=True)
    assert (refused.status, "clone.qcow2" in refused.json["message"]) == (1, True), str(refused)
    assert "or the volume unless a domain on another host uses the volume" in refused.json["hint"]
    assert virtomate("domain-delete", "--yes", "clone", uri=far.uri).status == 0
    assert virtomate("domain-delete", "--yes", "original").status == 0
    assert [path.name for path in shared.here.path.iterdir()] == ["origin.qcow2"]


def test_reset_of_a_base_is_refused(shared: Shared, virtomate: Program, far: Far) -> None:
    """A linked clone on which a clone of the other host rests cannot be reset."""
    base = shared.here.qcow2("origin.qcow2", 4 * MIB, data_bytes=MIB)
    shared.lab.define(domain("origin", disks=[disk(base)]))
    cloned(virtomate("domain-clone", "--mode", "linked", "origin", "original", json=True))
    cloned(send(virtomate, far.uri, "--mode", "linked"))
    before = shared.inventories()

    refused = virtomate("domain-reset", "original", json=True)

    assert (refused.status, "clone.qcow2" in refused.json["message"]) == (1, True), str(refused)
    nothing_happened(shared, before)


@pytest.mark.parametrize(
    ("mode", "action"), [("reflink", "reflinked"), ("auto", "reflinked"), ("shallow", "shallow-copied")]
)
def test_of_an_overlay(shared: Shared, virtomate: Program, far: Far, mode: str, action: str) -> None:
    """The copy of the top image rests on the base that both hosts see."""
    base = shared.here.qcow2("base.qcow2", 16 * MIB, data_bytes=MIB)
    top = shared.here.overlay("original.qcow2", base)
    shared.lab.define(domain("original", disks=[disk(top)]))

    document = cloned(send(virtomate, far.uri, "--mode", mode))

    found = by_target(document)["vda"]
    expected = "copied" if mode == "auto" else action
    assert found["action"] == expected, found
    path = shared.there.path / "clone.qcow2"
    assert images.qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", path, top)
    assert ("full-backing-filename" in image_info(path)) is (mode != "auto")


@contextmanager
def mounted(host: Hypervisor, directory: Path, path: Path) -> Iterator[None]:
    """Have a host see a directory at another path, and a pool there, for the block; nobody else sees the mount."""
    host.run("mount", "--bind", directory, path)
    try:
        make_pool(host, POOL, path)
        yield
    finally:
        remove_pool(host.connection.storagePoolLookupByName(POOL))
        host.run("umount", path)


@pytest.fixture
def hidden(root_lab: Lab, far: Far) -> Iterator[Path]:
    """The directory of pools on both hosts, at a path that leads to other files here."""
    directory = root_lab.pools["xfs"].path / POOL
    directory.mkdir(exist_ok=True)
    with mounted(root_lab.hypervisor, directory, ELSEWHERE), mounted(far.host, directory, ELSEWHERE):
        yield directory


@pytest.mark.parametrize("mode", ["copy", "auto"])
def test_copied_where_the_files_are(
    root_lab: Lab, hidden: Path, virtomate: Program, far: Far, sshd: SshServer, mode: str
) -> None:
    """Of files that are not seen here, the other host makes copies itself, and shares blocks of raw volumes."""
    raw = images.make_raw(hidden / "original.raw", 64 * MIB, extents=[(MIB, 2 * MIB)])
    image = images.make_qcow2(hidden / "data.qcow2", 16 * MIB, data_bytes=2 * MIB)
    sources = {"vda": "original.raw", "vdb": "data.qcow2", "vdc": "data.qcow2"}
    disks = [disk(ELSEWHERE / name, name.rpartition(".")[2], target) for target, name in sources.items()]
    root_lab.define(domain("original", disks=disks))

    # over SSH, since a stream to a libvirt on this machine is faster than its own copies of raw volumes
    document = cloned(send(virtomate, sshd.uri(far.host), "--mode", mode))

    found = by_target(document)
    actions = {"vda": "copied" if mode == "copy" else "reflinked", "vdb": "copied", "vdc": "copied"}
    assert {target: item["action"] for target, item in found.items()} == actions
    assert {target: item["transfer"] for target, item in found.items()} == dict.fromkeys(found, "server")
    assert found["vdb"]["clone"] == found["vdc"]["clone"]
    assert file_digest(hidden / "clone.raw") == file_digest(raw)
    assert images.qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", image, hidden / "clone-data.qcow2")
    assert (hidden / "clone.raw").stat().st_blocks * 512 <= 4 * MIB
    assert virtomate("domain-delete", "--yes", "--yes-unproved", "clone", uri=far.uri).status == 0
    assert sorted(path.name for path in hidden.iterdir()) == ["data.qcow2", "original.raw"]


def test_server_alone(shared: Shared, virtomate: Program, far: Far) -> None:
    """With --transfer server, the other libvirt copies, also what is faster by other ways; else that is refused."""
    raw = shared.here.raw("original.raw", 16 * MIB, data_bytes=MIB)
    top = shared.here.overlay("top.qcow2", shared.here.qcow2("base.qcow2", 16 * MIB, data_bytes=2 * MIB))
    shared.lab.define(domain("original", disks=[disk(raw, "raw"), disk(top, target="vdb")]))
    alone = shared.lab.pool.raw("alone.raw", MIB)
    shared.lab.define(domain("alone", disks=[disk(alone, "raw")]))
    before = shared.inventories()

    refused = virtomate("domain-clone", "--to", far.uri, "--transfer", "server", "alone", "clone", json=True)
    nothing_happened(shared, before)
    found = by_target(cloned(send(virtomate, far.uri, "--transfer", "server")))

    assert refused.status == 1, str(refused)
    assert refused.json["message"].startswith("--transfer server is not possible on host"), str(refused)
    assert f"has the file '{alone}'" in refused.json["message"]
    # linked clones of a copy are no other way to what was asked for
    assert refused.json["hint"].endswith("Otherwise use --transfer stream."), str(refused)
    assert {target: item["transfer"] for target, item in found.items()} == {"vda": "server", "vdb": "server"}
    assert file_digest(shared.there.path / "clone.raw") == file_digest(raw)
    flat = shared.there.path / "clone-top.qcow2"
    assert images.qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", top, flat)
    assert "backing-filename" not in image_info(flat)


def test_writer_there(root_lab: Lab, hidden: Path, virtomate: Program, far: Far) -> None:
    """A domain of the other host that writes to the volume is found by that host's definitions."""
    images.make_qcow2(hidden / "original.qcow2", 4 * MIB)
    root_lab.define(domain("original", disks=[disk(ELSEWHERE / "original.qcow2")]))
    far.host.connection.createXML(domain("writer", disks=[disk(ELSEWHERE / "original.qcow2")]))

    result = send(virtomate, far.uri, "--mode", "linked")

    far.host.connection.lookupByName("writer").destroy()
    assert (result.status, "'writer'" in result.json["message"]) == (1, True), str(result)
    assert [path.name for path in hidden.iterdir()] == ["original.qcow2"]


@pytest.mark.parametrize("moment", ["virDomainDefineXMLFlags", "virStorageVolCreateXML"])
def test_original_that_starts_meanwhile(root_lab: Lab, hidden: Path, virtomate: Program, far: Far, moment: str) -> None:
    """No overlay is left on the other host where the original, whose files are not seen, has been started here."""
    base = images.make_qcow2(hidden / "original.qcow2", 4 * MIB, data_bytes=MIB)
    original = root_lab.define(domain("original", disks=[disk(ELSEWHERE / "original.qcow2")]))
    digest = file_digest(base)

    run = virtomate.pausing(moment).start(
        "domain-clone", "--to", far.uri, "--mode", "linked", "original", "clone", json=True
    )
    with paused(run):
        original.create()
    result = run.wait()

    assert original.isActive()
    original.destroy()
    assert result.status == 1, str(result)
    error = result.json[0]["error"]
    assert error["message"] == "domain 'original' was started while it was being cloned"
    assert error["hint"] == "Shut it down, and keep it down while it is being cloned."
    assert [path.name for path in hidden.iterdir()] == ["original.qcow2"]
    assert (far.names(), file_digest(base)) == ([], digest)


def test_original_cannot_start_meanwhile(shared: Shared, virtomate: Program, far: Far) -> None:
    """Where virtomate sees the file, the original cannot be started until the clone on the other host is complete."""
    base = shared.here.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    original = shared.lab.define(domain("original", disks=[disk(base)]))

    run = virtomate.pausing("virStorageVolCreateXML").start(
        "domain-clone", "--to", far.uri, "--mode", "linked", "original", "clone", json=True
    )
    with paused(run), pytest.raises(libvirt.libvirtError, match="lock"):
        original.create()

    document = cloned(run.wait())
    assert "do not start 'original' any more" in "; ".join(document["warnings"])
    assert image_info(shared.there.path / "clone.qcow2")["full-backing-filename"] == str(base)


class Twins:
    """Two file systems that were made of one image, as on hosts that were: files with the same times and content."""

    def __init__(self, lab: Lab, far: Far) -> None:
        directory = make_mounted_directory(lab.directory / "twin", "ext4", 64 << 20)
        self.volume = images.make_qcow2(directory / "original.qcow2", 8 * MIB, data_bytes=MIB)
        image = directory.with_name("twin.img")
        mounts.unmount(directory)
        (copy := lab.directory / "twin-there.img").write_bytes(image.read_bytes())
        mounts.mount_image(image, directory)
        mounts.mount_image(copy, lab.directory / "twin-there")
        self.here = lab.make_pool(POOL, directory)
        self.there = make_pool(far.host, POOL, lab.directory / "twin-there")

    def unmount(self) -> None:
        """Take the file systems away."""
        for pool, image in ((self.here, "twin.img"), (self.there, "twin-there.img")):
            remove_pool(pool.handle)
            mounts.unmount(pool.path)
            pool.path.rmdir()
            pool.path.with_name(image).unlink()


@pytest.fixture
def twins(root_lab: Lab, far: Far) -> Iterator[Twins]:
    """Such file systems, as the storage pools of one name on two hosts."""
    twins = Twins(root_lab, far)
    yield twins
    twins.unmount()


def test_equal_files_prove_nothing(root_lab: Lab, twins: Twins, virtomate: Program, far: Far, sshd: SshServer) -> None:
    """The new volume is not seen by the host of the original: no overlay is made, and a copy goes through virtomate."""
    root_lab.define(domain("original", disks=[disk(twins.volume)]))
    before = root_lab.inventory(), far.inventory()

    refused = send(virtomate, far.uri, "--mode", "linked")
    by_server = send(virtomate, far.uri, "--transfer", "server")

    assert by_server.status == 1, str(by_server)
    assert by_server.json[0]["error"]["hint"].startswith("Leave out --transfer server. If both hosts mount"), str(
        by_server
    )
    assert refused.status == 1, str(refused)
    assert "nothing shows that the hosts share" in refused.json[0]["error"]["message"]
    assert twins.there.volumes() == ["original.qcow2"]
    assert before[0].difference(root_lab.inventory()) == ""
    assert before[1].difference(far.inventory()) == ""

    found = by_target(cloned(send(virtomate, sshd.uri(far.host))))["vda"]
    assert (found["transfer"], file_digest(twins.there.path / "clone.qcow2")) == ("stream", file_digest(twins.volume))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_while_it_is_proved(shared: Shared, virtomate: Program, far: Far, number: int) -> None:
    """The file that proves it is the clone's own volume, which a signal undoes and domain-delete removes."""
    base = shared.here.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    shared.lab.define(domain("original", disks=[disk(base)]))
    before = shared.inventories()

    run = virtomate.pausing("virStoragePoolRefresh").start(
        "domain-clone", "--to", far.uri, "--mode", "linked", "original", "clone", json=True
    )
    with paused(run):
        assert (shared.there.path / "clone.qcow2").stat().st_size == 0
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    if number == signal.SIGKILL:
        assert virtomate("domain-delete", "--yes", "clone", uri=far.uri).status == 0
    nothing_happened(shared, before)


def test_what_is_refused(shared: Shared, virtomate: Program, far: Far) -> None:
    """A volume elsewhere would prove nothing, and a domain of the original's host may have the new file's name."""
    base = shared.here.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    shared.lab.define(domain("original", disks=[disk(base)]))
    shared.lab.define(domain("waiting", disks=[disk(shared.here.path / "clone.qcow2")]))
    lone = shared.lab.pool.qcow2("lone.qcow2", MIB)
    before = shared.inventories()

    elsewhere = send(virtomate, far.uri, "--mode", "linked", "--pool", far.pool.name)
    taken = send(virtomate, far.uri, "--mode", "linked")
    shared.lab.connection.lookupByName("original").create()
    live = send(virtomate, far.uri, "--live", "--mode", "linked")
    shared.lab.connection.lookupByName("original").destroy()
    disks = [disk(base), disk(lone, target="vdb")]
    shared.lab.define(domain("two", disks=disks))
    words = ("--disk", "vda=linked", "--disk", "vdb=linked", "two", "pair")
    second = virtomate("domain-clone", "--to", far.uri, *words, json=True)
    shared.lab.connection.lookupByName("two").undefine()

    assert second.json["message"].startswith("--disk vdb=linked is not possible on host"), str(second)
    assert "use --disk vdb=copy;" in second.json["hint"]
    assert "only a new volume beside" in elsewhere.json["message"], str(elsewhere)
    assert f"--pool {POOL}" in elsewhere.json["hint"]
    assert "domain 'waiting' names" in taken.json["message"], str(taken)
    assert "the disks of a running original, or of a snapshot, are copied through virtomate" in live.json["message"], (
        str(live)
    )
    assert live.json["hint"] == "Use --freeze, or --mode copy."
    nothing_happened(shared, before)


def test_chain_that_is_not_there(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """An image that names the image below by a path which only one of the hosts has is whole on that host alone."""
    directory = root_lab.pools["xfs"].path / POOL
    directory.mkdir()
    images.make_qcow2(directory / "base.qcow2", 4 * MIB, data_bytes=MIB)
    with mounted(root_lab.hypervisor, directory, ELSEWHERE), mounted(far.host, directory, Path("/media")):
        words = ("create", "-f", "qcow2", "-F", "qcow2", "-b", ELSEWHERE / "base.qcow2", ELSEWHERE / "original.qcow2")
        root_lab.hypervisor.run("qemu-img", *words)
        root_lab.define(domain("original", disks=[disk(ELSEWHERE / "original.qcow2")]))

        result = send(virtomate, far.uri, "--mode", "linked")

        assert (result.status, result.json["type"]) == (1, "UnsupportedError"), str(result)
        missing = f"nothing shows that a storage pool there has the file '{ELSEWHERE / 'base.qcow2'}'"
        assert missing in result.json["message"]
        assert sorted(path.name for path in directory.iterdir()) == ["base.qcow2", "original.qcow2"]


def test_several_at_once(linked: Shared, virtomate: Program, far: Far) -> None:
    """Clones that are made side by side are proved one by one."""
    base = linked.here.qcow2("original:1.qcow2", 4 * MIB, data_bytes=MIB)
    linked.lab.define(domain("original", disks=[disk(base)]))

    result = virtomate(
        "domain-clone", "--to", far.uri, "--mode", "linked", "--count", "4", "original", "clone", json=True
    )

    assert result.status == 0, str(result)
    names = {image_info(Path(item["disks"][0]["clone"]["path"]))["backing-filename"] for item in result.json}
    assert (len(result.json), names) == (4, {"./original:1.qcow2"})
    for item in result.json:
        path = item["disks"][0]["clone"]["path"]
        assert images.qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", path, f"file:{base}")


@pytest.mark.parametrize("user", ["original", "base of the original", "other", "original in no pool"])
def test_former_clone_that_is_used_here(shared: Shared, virtomate: Program, far: Far, user: str) -> None:
    """What the host of the original uses is not deleted on the other host, which knows nothing of that."""
    image = shared.here.qcow2("origin.qcow2", 4 * MIB, data_bytes=MIB)
    far.host.connection.defineXML(domain("origin", disks=[disk(image)]))
    former = cloned(virtomate("domain-clone", "origin", "clone", json=True, uri=far.uri))
    path = by_target(former)["vda"]["clone"]["path"]
    own = Path(path)
    if not user.startswith("original"):
        own = shared.lab.pool.overlay("own.qcow2", own) if user.startswith("base") else image
    shared.lab.define(domain("original", disks=[disk(own)]))
    if user == "other":
        shared.lab.define(domain("other", disks=[disk(path)]))
    before = shared.inventories()
    options = ["--if-exists", "replace"]
    if user.endswith("no pool"):
        shared.here.handle.destroy()
        options += ["--outside-pools", "--pool", POOL]

    results = [send(virtomate, far.uri, *options, *words) for words in (("--dry-run",), ())]

    if user.endswith("no pool"):
        shared.here.handle.create()
    for result in results:
        assert result.status == 1, str(result)
        assert f"the clone 'clone' cannot be replaced: host '{os.uname().nodename}' sees" in result.json["message"]
        assert f"domain '{'other' if user == 'other' else 'original'}'" in result.json["message"]
        nothing_happened(shared, before)


def test_base_is_not_said_to_be_free(shared: Shared, virtomate: Program, far: Far) -> None:
    """The host of the original uses the base, so nobody is told how to delete the base on the other host."""
    base = shared.here.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    shared.lab.define(domain("original", disks=[disk(base)]))
    cloned(send(virtomate, far.uri, "--mode", "linked"))

    replaced = cloned(send(virtomate, far.uri, "--mode", "linked", "--if-exists", "replace"))["replaced"]
    deleted = virtomate("domain-delete", "--yes", "clone", uri=far.uri)
    cloned(send(virtomate, far.uri, "--mode", "linked"))
    flattened = virtomate("domain-flatten", "clone", uri=far.uri)

    assert replaced["kept"] == []
    assert (deleted.status, flattened.status) == (0, 0), f"{deleted}{flattened}"
    assert "vol-delete" not in f"{deleted.stdout}{deleted.stderr}{flattened.stdout}{flattened.stderr}"


@pytest.mark.parametrize("side", ["here", "there"])
def test_pool_that_is_gone_meanwhile(shared: Shared, virtomate: Program, far: Far, side: str) -> None:
    """Nothing is left, and the command of the hint reaches the host whose pool is gone."""
    base = shared.here.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    shared.lab.define(domain("original", disks=[disk(base)]))

    run = virtomate.pausing("virDomainDefineXMLFlags").start(
        "domain-clone", "--to", far.uri, "--mode", "linked", "original", "clone"
    )
    with paused(run):
        remove_pool((shared.here if side == "here" else shared.there).handle)
    result = run.wait()

    uri = shared.lab.uri if side == "here" else far.uri
    assert (result.status, f"virtomate -c '{uri}' pool-list shows" in result.stderr) == (1, True), str(result)
    assert ([path.name for path in shared.here.path.iterdir()], far.names()) == (["original.qcow2"], [])


@pytest.mark.parametrize("moment", ["virDomainDefineXMLFlags", "vda"])
def test_pool_of_the_original_that_is_gone(
    root_lab: Lab, hidden: Path, virtomate: Program, far: Far, moment: str
) -> None:
    """Before the stream, and before a last look at a file that is not seen here: the hint reaches the right host."""
    images.make_raw(hidden / "original.raw", 12 * MIB, extents=[(0, 12 * MIB)])
    root_lab.define(domain("original", disks=[disk(ELSEWHERE / "original.raw", "raw")]))
    before = far.inventory()

    words = ("--to", far.uri, "--pool", far.pool.name, "--transfer", "stream", "original", "clone")
    run = virtomate.pausing(moment).start("domain-clone", *words)
    with paused(run):
        remove_pool(root_lab.connection.storagePoolLookupByName(POOL))
    result = run.wait()
    make_pool(root_lab.hypervisor, POOL, ELSEWHERE)

    assert (result.status, f"there is no storage pool '{POOL}' on" in result.stderr) == (1, True), str(result)
    assert f"Hint: {reaching(root_lab.uri, 'virtomate pool-list')} shows" in result.stderr
    assert before.difference(far.inventory()) == ""


NETFS = """
<pool type='netfs'><name>templates</name><source><host name='{}'/><dir path='/templates'/></source>
<target><path>{}</path></target></pool>"""


@pytest.fixture
def server(request: pytest.FixtureRequest, root_lab: Lab, far: Far) -> Iterator[Path]:
    """A file system that both hosts have mounted as if from the server of a name, at different paths."""
    directory = root_lab.make_directory("templates")
    there = root_lab.make_directory("templates-there")
    mounts.mount("--types", "tmpfs", f"{request.param}:/templates", directory)
    mounts.mount("--bind", directory, there)
    images.make_qcow2(directory / "template.qcow2", 4 * MIB, data_bytes=MIB)
    connections = {directory: root_lab.connection, there: far.host.connection}
    for path, connection in connections.items():
        connection.storagePoolDefineXML(NETFS.format(request.param, path)).create()
    yield directory
    for path, connection in connections.items():
        remove_pool(connection.storagePoolLookupByName("templates"))
        mounts.unmount(path)


@pytest.mark.parametrize("server", ["nas.example.org", "localhost"], indirect=True)
def test_templates_on_a_server(
    root_lab: Lab, server: Path, virtomate: Program, far: Far, request: pytest.FixtureRequest
) -> None:
    """Pools of one server prove it without a new volume there, unless every host has the server's name for itself."""
    is_own_name = "localhost" in request.node.name
    root_lab.define(domain("original", disks=[disk(server / "template.qcow2")]))

    result = send(virtomate, far.uri, "--mode", "linked", "--pool", far.pool.name)

    if is_own_name:
        assert (result.status, "only a new volume beside" in result.json["message"]) == (1, True), str(result)
        return
    path = Path(by_target(cloned(result))["vda"]["clone"]["path"])
    there = server.with_name("templates-there") / "template.qcow2"
    assert (path.parent, image_info(path)["full-backing-filename"]) == (far.directory, str(there))
    assert [path.name for path in server.iterdir()] == ["template.qcow2"]
    assert virtomate("domain-verify", "clone", uri=far.uri).status == 0
