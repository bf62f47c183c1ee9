"""Linked clones on another host, of an original that moves onto overlays on its own host and is used further."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.functional.runs import paused, reaching, wait_for
from tests.functional.support import by_target, cloned, definition, image_info
from tests.functional.test_to_shared_storage import POOL, Shared, Twins, nothing_happened, send
from tests.lab import disk, domain, interface, running
from tests.lab.images import MIB, file_digest
from tests.lab.mounts import make_file_system
from tests.lab.storage import remove_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Lab, Program
    from tests.lab.far import Far

FREEZE = ("--mode", "linked", "--freeze")


@pytest.fixture(params=["same-path", "other-path"])
def shared(root_lab: Lab, far: Far, request: pytest.FixtureRequest) -> Shared:
    """A directory that is a storage pool of both hosts."""
    (root_lab.pools["xfs"].path / POOL).mkdir(exist_ok=True)
    return Shared(root_lab, far, link=request.param == "other-path")


@pytest.mark.parametrize("state", ["off", "running"])
def test_original_goes_on(shared: Shared, virtomate: Program, far: Far, state: str) -> None:
    """The original moves onto an overlay, the clones there rest on its former volume, and each goes its own way."""
    lab, base = shared.lab, shared.here.qcow2("original.qcow2", 16 * MIB, data_bytes=MIB)
    original = lab.define(domain("original", disks=[disk(base)], interfaces=[interface()]))
    words = FREEZE if state == "off" else (*FREEZE, "--live", "--quiesce", "off")
    if state == "running":
        original.create()
    before, digest = shared.inventories(), file_digest(base)

    planned = send(virtomate, far.uri, *words, "--dry-run")
    nothing_happened(shared, before)
    document = cloned(send(virtomate, far.uri, *words))
    again = virtomate("domain-clone", "--to", far.uri, *words, "original", "second", json=True)

    assert planned.status == 0, str(planned)
    path = shared.there.path / "clone.qcow2"
    assert by_target(document)["vda"]["clone"]["path"] == str(path)
    assert [(item["target"], item["new"]) for item in document["frozen"]] == [("vda", True)]
    assert cloned(again)["frozen"][0]["new"] is False
    overlay = shared.here.path / "original-overlay.qcow2"
    assert f"<source file='{overlay}'" in definition(lab, "original")
    assert f"'{shared.here.path / 'original.qcow2'}'" not in definition(lab, "original").partition("<backingStore")[0]
    assert not base.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    if state == "off":
        original.create()
    assert file_digest(base) == digest
    for name in ("clone", "second"):
        there = far.host.connection.lookupByName(name)
        there.create()
        there.destroy()
    original.destroy()
    backing = image_info(path)["full-backing-filename"]
    assert Path(backing).samefile(base)
    assert virtomate("domain-verify", "clone", "second", uri=far.uri).status == 0
    assert virtomate("domain-delete", "--yes", "clone", "second", uri=far.uri).status == 0
    assert sorted(found.name for found in shared.here.path.iterdir()) == ["original-overlay.qcow2", "original.qcow2"]


def test_clone_and_overlay_have_two_names(shared: Shared, virtomate: Program, far: Far) -> None:
    """The overlay of the original is in the directory of the clone, and its name is told to be taken."""
    lab, base = shared.lab, shared.here.qcow2("original.qcow2", 16 * MIB)
    lab.define(domain("original", disks=[disk(base)]))
    before = shared.inventories()
    named = ("--disk", "vda=linked,name=original-overlay.qcow2")

    refused = send(virtomate, far.uri, *FREEZE, *named, "--dry-run")
    planned = virtomate("domain-clone", "--to", far.uri, *FREEZE, "--dry-run", "original", "other", json=True)

    path = shared.there.path / "original-overlay.qcow2"
    assert (refused.status, refused.json["message"]) == (1, f"two new volumes would be '{path}'"), str(refused)
    assert planned.status == 0, str(planned)
    nothing_happened(shared, before)


def test_guest_is_frozen_for_the_moment(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """The agent of the original's guest is asked on the host of the original, and the guest goes on there."""
    (root_lab.pools["xfs"].path / POOL).mkdir(exist_ok=True)
    shared = Shared(root_lab, far)
    data = shared.here.path / "original.raw"
    make_file_system("ext4", data, 32 * MIB)
    disks = [disk(root_lab.pool.qcow2("system.qcow2", 64 * MIB)), disk(data, "raw", "vdb")]
    shared.here.refresh()
    root_lab.define(
        domain("original", disks=disks, guest=root_lab.guest, agent=True, cmdline="lab.mount", memory_mib=256)
    )
    words = (*FREEZE, "--live", "--quiesce", "require", "--disk", "vda=drop")
    with running(root_lab.connection, "original") as guest:
        guest.wait_for_agent()

        document = cloned(send(virtomate, far.uri, *words))

        written = guest.domain.blockStats("vdb")[3]
        wait_for(lambda: guest.domain.blockStats("vdb")[3] > written, "the guest writes")
    assert document["consistency"] == "filesystem"
    assert document["frozen_seconds"] > 0
    backing = image_info(Path(by_target(document)["vdb"]["clone"]["path"]))["full-backing-filename"]
    assert (Path(backing), document["host"]) == (data, os.uname().nodename)


@pytest.fixture
def twins(root_lab: Lab, far: Far) -> Iterator[Twins]:
    """File systems that were made of one image, as the storage pools of one name on two hosts."""
    twins = Twins(root_lab, far)
    yield twins
    twins.unmount()


def test_freeze_is_taken_back(root_lab: Lab, twins: Twins, virtomate: Program, far: Far) -> None:
    """If the hosts turn out to share nothing, the original is as it was before."""
    # libvirt leaves an empty element where it takes the last metadata away
    note = "<lab:note xmlns:lab='urn:lab'>kept</lab:note>"
    root_lab.define(domain("original", disks=[disk(twins.volume)], metadata=note))
    before = root_lab.inventory(), far.inventory()

    result = send(virtomate, far.uri, *FREEZE)

    assert result.status == 1, str(result)
    assert "nothing shows that the hosts share" in result.json[0]["error"]["message"]
    assert before[0].difference(root_lab.inventory()) == ""
    assert before[1].difference(far.inventory()) == ""


def test_pool_there_is_gone_meanwhile(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """If the other host has lost its pool when the original is frozen, the hint reaches that host."""
    (root_lab.pools["xfs"].path / POOL).mkdir(exist_ok=True)
    shared = Shared(root_lab, far)
    root_lab.define(domain("original", disks=[disk(shared.here.qcow2("original.qcow2", MIB))]))

    run = virtomate.pausing("virDomainDefineXMLFlags").start(
        "domain-clone", "--to", far.uri, *FREEZE, "original", "clone"
    )
    with paused(run):
        remove_pool(far.host.connection.storagePoolLookupByName(POOL))
    result = run.wait()

    assert result.status == 1, str(result)
    assert f"Hint: {reaching(far.uri, 'virtomate pool-list')} shows" in result.stderr, str(result)
    assert [path.name for path in shared.here.path.iterdir()] == ["original.qcow2"]


def test_images_on_the_way_are_refused(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """A disk that has to become one image here first is not of the moment of the freeze."""
    (root_lab.pools["xfs"].path / POOL).mkdir(exist_ok=True)
    shared = Shared(root_lab, far)
    base = root_lab.pool.qcow2("base.qcow2", 4 * MIB)
    disks = [
        disk(shared.here.qcow2("original.qcow2", 4 * MIB)),
        disk(root_lab.pool.overlay("top.qcow2", base), target="vdb"),
    ]
    root_lab.define(domain("original", disks=disks))
    before = shared.inventories()

    result = send(virtomate, far.uri, *FREEZE, "--disk", "vdb=copy")

    assert (result.status, "top.qcow2' of domain 'original' has to be copied" in result.json["message"]) == (1, True)
    nothing_happened(shared, before)
