"""Clones on NFS that squashes root, and of templates in a read-only directory, on the storage host."""

from typing import Any

import pytest

from tests.functional.runs import error_of
from tests.functional.support import by_target, cloned
from tests.lab import Program, Result, disk, domain
from tests.lab.images import MIB, content
from tests.lab.storage_host import (
    NFS_DIRECTORY,
    QUOTA_FILE_SYSTEM,
    SQUASHED_EXPORT,
    SQUASHED_USER,
    TEMPLATES,
    TEMPLATES_WRITABLE,
    StorageHost,
    content_digest,
)

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

DATA = content(5, 4 * MIB)
LOCAL = "/srv/local"


def define(host: StorageHost, path: str, *, here: str | None = None, extra: str = "") -> None:
    """Define the domain `original` with a raw disk, which is written where the host sees it at another path, too."""
    host.run(f"truncate -s 8M {here or path}")
    host.write(here or path, DATA, MIB)
    host.connection.defineXML(domain("original", disks=[disk(path, "raw")], firmware=extra or None, memory_mib=256))


def seen(host: StorageHost, path: str) -> str:
    """Return what a guest would read from the data in the disk at a path, as root of the host sees the image."""
    convert = f"qemu-img convert -O raw {path} /tmp/seen.raw"
    return host.run(f"{convert} && dd if=/tmp/seen.raw bs=1M skip=1 count=4 status=none | sha256sum").split()[0]


def owner(host: StorageHost, path: str) -> str:
    """Return the owner of a file by number."""
    return host.run(f"stat -c %u {path}").strip()


def codes(document: Any) -> list[str]:
    """Return the codes of a clone's warnings."""
    return [item["code"] for item in document["notices"]]


def clone(host: StorageHost, program: Program | None, *words: str) -> Result:
    """Clone `original` to `clone`, on the host itself or over SSH."""
    argv = ("domain-clone", *words, "original", "clone")
    return host.virtomate(*argv, json=True) if program is None else program(*argv, json=True, uri=host.uri)


def delete(host: StorageHost, *others: str) -> None:
    """Delete `clone` and other clones; what was copied over SSH bears no token, so that nothing proves it a clone's."""
    result = host.virtomate("domain-delete", "--yes", "--yes-unproved", "clone", *others)
    assert result.status == 0, str(result)


@pytest.mark.parametrize("is_remote", [False, True], ids=["there", "ssh"])
@pytest.mark.parametrize("mode", ["copy", "linked"])
@pytest.mark.parametrize("kind", ["netfs", "netfs-qemu", "directory"])
def test_from_local_disk_to_nfs(
    storage_host: StorageHost, virtomate: Program, kind: str, mode: str, is_remote: bool
) -> None:
    """A clone of a disk that belongs to root goes to NFS that squashes root, and belongs to whom root is taken for."""
    storage_host.make_directory_pool("local", LOCAL)
    if kind == "directory":
        storage_host.make_directory_pool("nfs", NFS_DIRECTORY)
    else:
        storage_host.make_pool(kind, "nfs")
    define(storage_host, f"{LOCAL}/original.raw")

    result = clone(storage_host, virtomate if is_remote else None, "--mode", mode, "--pool", "nfs", "--trust-pool")

    document = cloned(result)
    path = by_target(document)["vda"]["clone"]["path"]
    user = storage_host.run("id -u libvirt-qemu").strip() if kind == "netfs-qemu" else str(SQUASHED_USER)
    assert owner(storage_host, path) == user
    assert "other-owner" in codes(document)
    assert seen(storage_host, path) == content_digest(DATA)
    delete(storage_host)
    assert storage_host.run(f"ls {path.rpartition('/')[0]}") == ""


@pytest.mark.parametrize("is_remote", [False, True], ids=["there", "ssh"])
@pytest.mark.parametrize("mode", ["copy", "linked"])
@pytest.mark.parametrize("pool", ["nfs", "local"])
def test_original_on_nfs(storage_host: StorageHost, virtomate: Program, pool: str, mode: str, is_remote: bool) -> None:
    """An original on NFS is copied there and elsewhere, and is a base for overlays there and elsewhere."""
    storage_host.make_directory_pool("local", LOCAL)
    storage_host.make_pool("netfs", "nfs")
    define(storage_host, "/srv/pool-nfs/original.raw")
    before = storage_host.digest(f"{SQUASHED_EXPORT}/original.raw")

    result = clone(storage_host, virtomate if is_remote else None, "--mode", mode, "--pool", pool, "--trust-pool")

    path = by_target(cloned(result))["vda"]["clone"]["path"]
    assert path.startswith("/srv/pool-nfs/" if pool == "nfs" else LOCAL)
    assert seen(storage_host, path) == content_digest(DATA)
    assert storage_host.digest(f"{SQUASHED_EXPORT}/original.raw") == before
    delete(storage_host)


@pytest.mark.parametrize(("is_remote", "cure"), [(False, "anonuid"), (True, "Check that libvirt can read")])
def test_file_that_root_may_not_read(storage_host: StorageHost, virtomate: Program, is_remote: bool, cure: str) -> None:
    """What root cannot read on the server is refused with the reason, and nothing is left."""
    storage_host.make_pool("netfs", "nfs")
    define(storage_host, "/srv/pool-nfs/original.raw")
    storage_host.run(f"chown 64055 {SQUASHED_EXPORT}/original.raw && chmod 600 {SQUASHED_EXPORT}/original.raw")

    result = clone(storage_host, virtomate if is_remote else None, "--trust-pool")

    assert result.status == 1, str(result)
    assert "Permission denied" in str(result)
    assert cure in str(result)
    assert storage_host.run(f"ls {SQUASHED_EXPORT}").split() == ["original.raw"]
    assert [found.name() for found in storage_host.connection.listAllDomains()] == ["original"]


@pytest.mark.parametrize("mode", ["copy", "linked"])
@pytest.mark.parametrize("kind", ["directory", "netfs-qemu"])
def test_templates(storage_host: StorageHost, virtomate: Program, kind: str, mode: str) -> None:
    """Clones of a template in a read-only directory have volumes where --pool says, on NFS as well, and NVRAM."""
    storage_host.make_directory_pool("templates", TEMPLATES)
    if kind == "directory":
        storage_host.make_directory_pool("target", LOCAL)
    else:
        storage_host.make_pool(kind, "target")
    loader = f"<loader readonly='yes' type='pflash'>{TEMPLATES}/code.fd</loader>"
    for name in ("code.fd", "original_VARS.fd"):
        storage_host.write(f"{TEMPLATES_WRITABLE}/{name}", content(6, 64 * 1024))
    nvram = f"{loader}<nvram>{TEMPLATES}/original_VARS.fd</nvram>"
    define(storage_host, f"{TEMPLATES}/original.raw", here=f"{TEMPLATES_WRITABLE}/original.raw", extra=nvram)

    beside = clone(storage_host, None, "--mode", mode)
    there = clone(storage_host, None, "--mode", mode, "--pool", "target", "--trust-pool")
    words = ("--mode", mode, "--pool", "target", "--trust-pool", "--nvram", "target/far_VARS.fd")
    far = virtomate("domain-clone", *words, "original", "far", json=True, uri=storage_host.uri)

    assert beside.json["message"].startswith(f"libvirt cannot write to '{TEMPLATES}'")
    for document in (cloned(there), cloned(far)):
        assert seen(storage_host, by_target(document)["vda"]["clone"]["path"]) == content_digest(DATA)
        assert storage_host.digest(document["nvram"]["clone"]) == content_digest(content(6, 64 * 1024))
    assert cloned(there)["nvram"]["clone"] == "/var/lib/libvirt/qemu/nvram/clone_VARS.fd"
    delete(storage_host, "far")
    assert storage_host.run(f"ls {TEMPLATES}").split() == ["code.fd", "original.raw", "original_VARS.fd"]


@pytest.mark.parametrize("limit", ["blocks", "inodes"])
@pytest.mark.parametrize("way", ["host", "stream", "server"])
def test_quota_of_the_squashed_user(storage_host: StorageHost, virtomate: Program, way: str, limit: str) -> None:
    """A quota of the user for whom root is taken ends the clone with the reason, and nothing is left."""
    storage_host.make_directory_pool("local", LOCAL)
    storage_host.make_pool("netfs", "nfs")
    define(storage_host, f"{LOCAL}/original.raw")
    # of the inodes one is the directory's
    blocks, inodes = (1024, 0) if limit == "blocks" else (0, 1)
    storage_host.run(f"setquota -u {SQUASHED_USER} 0 {blocks} 0 {inodes} {QUOTA_FILE_SYSTEM}")
    before = storage_host.mark()

    program = None if way == "host" else virtomate
    result = clone(storage_host, program, "--mode", "copy", "--pool", "nfs", "--trust-pool", "--transfer", way)

    assert result.status == 1, str(result)
    assert "quota" in error_of(result)["message"], str(result)
    assert storage_host.mark() == before
