"""Directories that libvirt cannot write to, and file systems on which files cannot be given away."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.support import by_target, clone, cloned, refused
from tests.lab import Lab, Pool, Program, disk, domain, images, mounts, storage
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.far import Far
from tests.lab.hypervisor import Hypervisor

OWNER = 65534


def codes(document: Any) -> list[str]:
    """Return the codes of a clone's warnings."""
    return [item["code"] for item in document["notices"]]


@pytest.fixture
def templates(root_lab: Lab) -> Iterator[Pool]:
    """A pool over a directory that is mounted read-only, with the disk of the domain `original` in it."""
    writable = root_lab.make_pool("writable")
    path = writable.qcow2("original.qcow2", marker="template")
    store = images.make_raw(writable.path / "original_VARS.fd", OVMF_TEMPLATE.stat().st_size, data_bytes=4096)
    directory = root_lab.make_directory("templates")
    mounts.mount("--bind", writable.path, directory)
    mounts.mount("-o", "remount,bind,ro", directory)
    pool = root_lab.make_pool("templates", directory)
    firmware = nvram(directory / store.name)
    root_lab.define(domain("original", disks=[disk(directory / path.name)], firmware=firmware, memory_mib=256))
    yield pool
    mounts.unmount(directory)


@pytest.mark.parametrize("words", [("--mode", "copy"), ("--mode", "linked"), ("--dry-run", "--mode", "linked")])
def test_templates_take_no_clones(root_lab: Lab, templates: Pool, virtomate: Program, words: tuple[str, ...]) -> None:
    """A clone beside a template in a read-only directory is refused before anything is made; the hint names --pool."""
    before = root_lab.inventory()

    error = refused(root_lab, before, virtomate("domain-clone", *words, "original", "clone", json=True))

    assert error["message"] == (
        f"libvirt cannot write to '{templates.path}', where the new volume of disk vda would be"
    )
    assert error["hint"] == "Name a pool whose directory libvirt can write to: --pool POOL."


def test_template_gets_to_another_host(templates: Pool, virtomate: Program, far: Far) -> None:
    """Where nothing has to be made beside the template, its directory need not be writable."""
    words = ("--to", far.uri, "--map", f"pool:{templates.name}={far.pool.name}", "original", "clone")

    document = cloned(virtomate("domain-clone", *words, json=True))

    path = Path(by_target(document)["vda"]["clone"]["path"])
    assert images.file_digest(path) == images.file_digest(templates.path / "original.qcow2")


def test_no_image_on_the_way_is_made_there(root_lab: Lab, templates: Pool, virtomate: Program, far: Far) -> None:
    """An overlay has to become one image beside itself before it can leave, which is refused beforehand."""
    document = root_lab.connection.storagePoolLookupByName("writable").XMLDesc()
    writable = Path(document.partition("<path>")[2].partition("</path>")[0])
    images.make_overlay(writable / "top.qcow2", templates.path / "original.qcow2", "qcow2")
    templates.refresh()
    root_lab.define(domain("overlaid", disks=[disk(templates.path / "top.qcow2")]))
    before = root_lab.inventory()
    words = ("--to", far.uri, "--pool", far.pool.name, "overlaid", "clone")

    error = refused(root_lab, before, virtomate("domain-clone", *words, json=True))

    assert "where disk vda has to become one image before it is copied to another host" in error["message"]
    assert far.names() == []


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_clones_of_templates(root_lab: Lab, templates: Pool, virtomate: Program, mode: str) -> None:
    """With --pool, the clone's volume and its NVRAM are where libvirt can write, and the template stays as it is."""
    target = root_lab.make_pool("target")
    files = sorted((path.name, images.file_digest(path)) for path in templates.path.iterdir())

    document = clone(virtomate, "--mode", mode, "--pool", "target")

    path = Path(by_target(document)["vda"]["clone"]["path"])
    assert path.parent == target.path
    assert images.same_content(path, "qcow2", templates.path / "original.qcow2", "qcow2")
    assert Path(document["nvram"]["clone"]).parent == Path("/var/lib/libvirt/qemu/nvram")
    assert "nvram-elsewhere" in codes(document)
    assert sorted((path.name, images.file_digest(path)) for path in templates.path.iterdir()) == files
    assert virtomate("domain-delete", "-y", "clone").status == 0
    assert list(target.path.iterdir()) == []


@pytest.fixture
def stingy(root_lab: Lab) -> Iterator[Hypervisor]:
    """A host whose libvirt cannot give files away, as on NFS that squashes root."""
    with root_lab.make_host("stingy", without=("chown",)) as host:
        yield host


def define_there(host: Hypervisor, directory: Path, owner: int) -> Path:
    """Define the domain `original` on a host with a pool over a directory, and give the disk's file to a user."""
    pool = storage.make_pool(host, "images", directory)
    path = pool.qcow2("original.qcow2", marker="original")
    os.chown(path, owner, owner)
    pool.refresh()
    host.connection.defineXML(domain("original", disks=[disk(path)]))
    return path


@pytest.mark.parametrize(
    "words", [("--transfer", "host"), ("--transfer", "server"), ("--transfer", "stream"), ("--mode", "linked")]
)
def test_owner_that_libvirt_cannot_give(
    root_lab: Lab, stingy: Hypervisor, virtomate: Program, words: tuple[str, ...]
) -> None:
    """The new volume belongs to the owner of the directory instead, with a warning, and can be deleted."""
    directory = root_lab.make_directory("images")
    path = define_there(stingy, directory, OWNER)

    result = virtomate("domain-clone", *words, "original", "clone", json=True, uri=stingy.uri)

    document = cloned(result)
    made = Path(by_target(document)["vda"]["clone"]["path"])
    assert (made.stat().st_uid, path.stat().st_uid) == (0, OWNER)
    assert images.same_content(made, "qcow2", path, "qcow2")
    (found,) = (item for item in document["notices"] if item["code"] == "other-owner")
    assert found["subject"] == str(made)
    assert f"belongs to user 0 and group 0, not to user {OWNER} and group {OWNER}" in found["message"]
    assert virtomate("domain-delete", "-y", "clone", uri=stingy.uri).status == 0
    assert list(directory.iterdir()) == [path]


def test_nobody_can_own_the_volume(root_lab: Lab, stingy: Hypervisor, virtomate: Program) -> None:
    """Where libvirt can make the file for nobody at all, the error is the first one, and nothing is left."""
    directory = root_lab.make_directory("images")
    path = define_there(stingy, directory, OWNER - 1)
    os.chown(directory, OWNER - 2, OWNER - 2)
    stingy.connection.storagePoolLookupByName("images").refresh()

    result = virtomate("domain-clone", "original", "clone", json=True, uri=stingy.uri)

    assert result.status == 1, str(result)
    error = result.json[0]["error"]
    assert error["type"] == "libvirtError"
    assert error["message"].startswith("cannot create volume 'clone.qcow2' in pool 'images': ")
    assert error["hint"] == "Name a pool whose directory libvirt can write to: --pool POOL."
    assert "leftovers" not in error
    assert list(directory.iterdir()) == [path]
    assert [found.name() for found in stingy.connection.listAllDomains()] == ["original"]
