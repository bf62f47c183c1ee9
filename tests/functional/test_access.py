"""Who may read a clone's volumes: those who may read the original's, and nobody else, not even for a moment."""

import os
import stat
from pathlib import Path
from typing import Any

from tests.functional.runs import paused
from tests.functional.support import by_target, clone_path, cloned
from tests.lab import Lab, Program, disk, domain
from tests.lab.acl import ACCESS, DEFAULT, access_list, read_list
from tests.lab.images import MIB
from tests.lab.ordinary_user import OrdinaryUser

# User 4711 may read and write, the group may read.
LIST = access_list(6, (4711, 6), 4, 6)


def mode(path: Path) -> int:
    """Return a file's permission bits; those of a group are the mask, where the file has a list."""
    return stat.S_IMODE(path.stat().st_mode)


def test_access_control_lists(root_lab: Lab, virtomate: Program) -> None:
    """A new volume has its original's list before it has any content, and until then no more than the group's part."""
    pool = root_lab.pool
    os.setxattr(pool.path, DEFAULT, access_list(7, (815, 7), 7, 7, 7))
    try:
        listed, plain = pool.qcow2("original.qcow2", 4 * MIB), pool.raw("plain.raw", 4 * MIB)
        listed.chmod(0o640)
        os.setxattr(listed, ACCESS, LIST)
        os.removexattr(plain, ACCESS)
        plain.chmod(0o600)
        pool.refresh()
        root_lab.define(domain("original", disks=[disk(listed), disk(plain, "raw", "vdb")]))

        words = ("domain-clone", "--disk", "vdb=drop", "original", "one")
        run = virtomate.pausing("virStorageVolCreateXML").start(*words, json=True)
        with paused(run):
            # the mask that came with the directory's list has been cut to this, too
            assert mode(pool.path / "one.qcow2") == 0o640
        results = [
            run.wait(),
            virtomate("domain-clone", "--disk", "vda=linked", "--transfer", "stream", "original", "two", json=True),
            virtomate("domain-clone", "--transfer", "server", "original", "three", json=True),
        ]
        for result in results:
            document = cloned(result)
            assert (read_list(clone_path(document)), mode(clone_path(document))) == (LIST, 0o660)
            assert not any("list" in warning for warning in document["warnings"])
        for name in ("two-plain.raw", "three-plain.raw"):
            assert (read_list(pool.path / name), mode(pool.path / name)) == (b"", 0o600)
    finally:
        os.removexattr(pool.path, DEFAULT)


def test_list_that_cannot_be_given(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Who may not give a list makes a clone that is open to fewer, and is told so."""
    path = nobody.pool.qcow2("original.qcow2", 4 * MIB)
    path.chmod(0o640)
    os.setxattr(path, ACCESS, LIST)
    nobody.pool.refresh()
    root_lab.define(domain("original", disks=[disk(path)]))

    document = cloned(nobody("domain-clone", "original", "clone"))

    assert (read_list(clone_path(document)), mode(clone_path(document))) == (b"", 0o640)
    (warning,) = document["warnings"]
    assert f"the access control list of '{path}' is not carried over" in warning
    inventory = root_lab.inventory()
    error = nobody("domain-clone", "--fail-on", "any", "original", "other").json
    assert (error["type"], [notice["message"] for notice in error["notices"]]) == ("RefusedWarningError", [warning])
    assert root_lab.inventory() == inventory


def test_nothing_is_left_to_libvirt_that_others_could_read(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Libvirt makes images readable to everybody at first, so private ones are streamed, or there is a warning."""
    path = nobody.pool.qcow2("original.qcow2", 4 * MIB)
    root_lab.define(domain("original", disks=[disk(path)]))

    def plan(permissions: int, *words: str) -> tuple[str, list[str]]:
        path.chmod(permissions)
        nobody.pool.refresh()
        (document,) = nobody("domain-clone", "--dry-run", *words, "original", "clone").json
        disks: dict[str, Any] = by_target(document)
        return disks["vda"]["transfer"], document["warnings"]

    assert plan(0o640) == ("stream", [])
    transfer, (warning,) = plan(0o600, "--transfer", "server")
    assert transfer == "server"
    assert f"everybody who can enter '{nobody.pool.path}' can read it (the original has mode 0600)" in warning
