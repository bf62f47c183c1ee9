"""Block devices as originals and as targets of clones on another host."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.functional.runs import paused
from tests.functional.support import by_target, cloned
from tests.functional.test_block import CAPACITY, DATA, EXTENT_BYTES, content, define_named, fill
from tests.functional.test_to_host import nothing_happened, send
from tests.lab import disk, domain, images
from tests.lab.images import MIB
from tests.lab.lvm import VolumeGroup, volume_group
from tests.lab.storage import loop_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Hypervisor, Lab, Program
    from tests.lab.far import Far
    from tests.lab.ssh import SshServer

GROUP_BYTES = 48 * MIB


@pytest.fixture(scope="module")
def module_groups(session_lab: Lab, far_host: Hypervisor) -> Iterator[tuple[VolumeGroup, VolumeGroup]]:
    """A volume group of each host."""
    with (
        volume_group(session_lab.hypervisor, session_lab.directory / "host-lvm-here", GROUP_BYTES) as here,
        volume_group(
            far_host, session_lab.directory / "host-lvm-there", GROUP_BYTES, name=f"far{os.getpid()}"
        ) as there,
    ):
        mark = session_lab.mark()
        fill(here.make("original", CAPACITY), session_lab.pool.raw("content.raw", CAPACITY, extents=DATA))
        session_lab.return_to(mark)
        yield here, there


@pytest.fixture
def here(module_groups: tuple[VolumeGroup, VolumeGroup], root_lab: Lab) -> VolumeGroup:
    """The volume group of the original's host, with the volume `original`, to which no test writes."""
    del root_lab
    return module_groups[0]


@pytest.fixture
def there(module_groups: tuple[VolumeGroup, VolumeGroup], far: Far) -> Iterator[VolumeGroup]:
    """The volume group of the other host, whose extents are not empty."""
    group = module_groups[1]
    # the pools of the other host go away with each test
    if group.name not in far.host.connection.listStoragePools():
        group.define()
    group.fill_with_rubbish()
    yield group
    group.clear(but="")


def copy_of(document: Any, target: str = "vda") -> Path:
    """Return the path of a clone's new volume."""
    return Path(by_target(document)[target]["clone"]["path"])


def as_device(data: bytes) -> bytes:
    """Return what a device holds that is as large as the extents for this."""
    return data.ljust(-(-len(data) // EXTENT_BYTES) * EXTENT_BYTES, b"\0")


@pytest.mark.parametrize("transfer", ["host", "stream", "far"])
def test_copies_are_exact(
    root_lab: Lab,
    here: VolumeGroup,
    there: VolumeGroup,
    virtomate: Program,
    far: Far,
    request: pytest.FixtureRequest,
    transfer: str,
) -> None:
    """From devices and files to both, every copy reads as its original and as zeroes behind; a file has its holes."""
    raw = root_lab.pool.raw("original.raw", CAPACITY, extents=DATA)
    device = here.path / "original"
    expected = {"vda": content(device), "vdb": content(raw)}
    root_lab.define(domain("original", disks=[disk(device, "raw"), disk(raw, "raw", "vdb")]))
    before = root_lab.inventory()
    sshd: SshServer | None = request.getfixturevalue("sshd") if transfer == "far" else None
    uri = far.uri if sshd is None else sshd.uri(far.host)
    words = ("--to", uri, "--block", "copy", *(() if transfer == "far" else ("--transfer", transfer)))

    files = virtomate("domain-clone", *words, "--pool", far.pool.name, "original", "files", json=True)
    devices = virtomate("domain-clone", *words, "--pool", there.name, "original", "devices", json=True)

    for document in (cloned(files), cloned(devices)):
        used = {item["transfer"] for item in document["disks"]}
        assert used == {"stream" if transfer == "far" else transfer}
    for target, data in expected.items():
        path = copy_of(files.json[0], target)
        assert (path.parent, content(path) == data) == (far.directory, True)
        assert images.allocated_bytes(path) < MIB
        path = copy_of(devices.json[0], target)
        assert (path.parent, content(path) == as_device(data)) == (there.path, True)
    assert f"<source dev='{copy_of(devices.json[0])}'" in far.definition("devices")
    assert f"<source file='{copy_of(files.json[0])}'" in far.definition("files")
    assert before.difference(root_lab.inventory()) == ""
    assert content(device) == expected["vda"]
    assert virtomate("domain-delete", "--yes", "files", "devices", uri=far.uri).status == 0
    assert (there.volumes(), list(far.directory.iterdir())) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_while_a_device_is_written(
    root_lab: Lab, here: VolumeGroup, there: VolumeGroup, virtomate: Program, far: Far, number: int
) -> None:
    """A signal undoes the logical volume on the other host; after a kill, domain-delete there removes it."""
    root_lab.define(domain("original", disks=[disk(here.path / "original", "raw")]))
    before = (root_lab.inventory(), far.inventory())
    words = ("--block", "copy", "--map", f"pool:{here.name}={there.name}", "--transfer", "stream")

    run = virtomate.pausing("virStorageVolUpload").start(
        "domain-clone", "--to", far.uri, *words, "original", "clone", json=True
    )
    with paused(run):
        assert there.volumes() == ["clone"]
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    if number == signal.SIGKILL:
        assert virtomate("domain-delete", "--yes-unproved", "clone", uri=far.uri).status == 0
    assert there.volumes() == []
    nothing_happened(root_lab, far, before)


@pytest.mark.parametrize("kind", ["volume", "file", "block"])
def test_nobody_shares_a_device(root_lab: Lab, here: VolumeGroup, virtomate: Program, far: Far, kind: str) -> None:
    """A device that is not to be copied is refused, however the definition names it, with the option that copies it."""
    define_named(root_lab, here, kind)
    before = (root_lab.inventory(), far.inventory())

    shared = send(virtomate, far, "--pool", far.pool.name)
    others = [send(virtomate, far, "--pool", far.pool.name, "--disk", f"vda={how}") for how in ("linked", "reflink")]

    assert (shared.status, "--disk vda=copy" in shared.json["hint"]) == (1, True), str(shared)
    for refused in others:
        assert refused.status == 1, str(refused)
        assert "is a block device of the original's host" in refused.json["message"]
        assert refused.json["hint"] == "Use --disk vda=copy."
    nothing_happened(root_lab, far, before)
    assert content(copy_of(cloned(send(virtomate, far, "--pool", far.pool.name, "--disk", "vda=copy")))) == content(
        here.path / "original"
    )


@pytest.mark.parametrize("kind", ["volume", "file", "block"])
def test_mode_of_files_says_nothing_of_a_device(
    root_lab: Lab, here: VolumeGroup, virtomate: Program, far: Far, kind: str
) -> None:
    """With --mode reflink, a device is copied if that is asked for, as on one host, and however it is named."""
    define_named(root_lab, here, kind)
    words = ("--mode", "reflink", "--block", "copy")

    near = virtomate("domain-clone", *words, "--pool", root_lab.pool.name, "original", "near", json=True)
    there = send(virtomate, far, *words, "--pool", far.pool.name)

    for document in (cloned(near), cloned(there)):
        assert (by_target(document)["vda"]["action"], document["warnings"]) == ("copied", [])
        assert content(copy_of(document)) == content(here.path / "original")


def test_what_is_no_raw_content(root_lab: Lab, there: VolumeGroup, virtomate: Program, far: Far) -> None:
    """No stream makes raw content of a qcow2; an empty disk needs a size."""
    image, empty = root_lab.pool.qcow2("original.qcow2", 4 * MIB), root_lab.pool.raw("empty.raw", 0)
    root_lab.define(domain("original", disks=[disk(image), disk(empty, "raw", "vdb")]))
    before = (root_lab.inventory(), far.inventory())

    wrong = send(virtomate, far, "--pool", there.name)
    nothing = send(virtomate, far, "--pool", there.name, "--disk", "vda=drop")

    assert (wrong.status, "a block device holds raw content, and it is qcow2" in wrong.json["message"]) == (1, True)
    assert (nothing.status, "size=SIZE" in nothing.json["hint"]) == (1, True), str(nothing)
    nothing_happened(root_lab, far, before)
    words = ("--pool", there.name, "--disk", "vda=drop", "--disk", "vdb=copy,size=4M")
    assert content(copy_of(cloned(send(virtomate, far, *words)), "vdb")) == bytes(4 * MIB)


def test_running_original(root_lab: Lab, there: VolumeGroup, virtomate: Program, far: Far) -> None:
    """Of a raw disk that is in use, the image of one moment goes into a logical volume there."""
    raw = root_lab.pool.raw("original.raw", CAPACITY, extents=DATA)
    root_lab.define(domain("original", disks=[disk(raw, "raw")])).create()
    before = root_lab.inventory()

    document = cloned(send(virtomate, far, "--live", "--pool", there.name))

    assert content(copy_of(document)) == as_device(content(raw))
    assert before.difference(root_lab.inventory()) == ""


def test_device_in_no_pool(root_lab: Lab, virtomate: Program, far: Far, sshd: SshServer) -> None:
    """Such a device can be read only here, so nothing gets to a remote host, which is said beforehand."""
    source = images.make_raw(root_lab.directory / "device", 4 * MIB, extents=[(MIB, 4096)])
    with loop_device(source) as device:
        root_lab.define(domain("original", disks=[disk(device, "raw")]))
        before = (root_lab.inventory(), far.inventory())
        words = ("--disk", "vda=copy", "original", "clone")

        placeless = virtomate("domain-clone", "--to", far.uri, *words, json=True)
        remote = virtomate("domain-clone", "--to", sshd.uri(far.host), "--pool", far.pool.name, *words, json=True)

        assert (placeless.status, "--pool POOL" in placeless.json["hint"]) == (1, True), str(placeless)
        assert "is in no active storage pool, and cannot be copied to another host" in remote.json["message"]
        nothing_happened(root_lab, far, before)
        near = cloned(virtomate("domain-clone", "--to", far.uri, "--pool", far.pool.name, *words, json=True))
        assert content(copy_of(near)) == source.read_bytes()
        root_lab.connection.lookupByName("original").undefine()
    source.unlink()
