"""A host on which libvirt has no room for another definition: nothing is lost, and the error says where room is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import error_of, paused, reaching, unchanged
from tests.functional.support import cloned, definition
from tests.lab import Lab, Program, disk, domain
from tests.lab.images import MIB

DIRECTORY = "/etc/libvirt/qemu"
FILLER = f"{DIRECTORY}/filler"


class Room:
    """The room for definitions on the lab's host: a file system of its own, of 64 KiB."""

    def __init__(self, lab: Lab) -> None:
        self._host = lab.hypervisor

    def use_up(self) -> None:
        """Leave none."""
        self._host.run("sh", "-c", f"! dd if=/dev/zero of={FILLER} bs=4k 2>/dev/null")

    def give_back(self) -> None:
        """Have some again."""
        self._host.run("rm", "-f", FILLER)


@pytest.fixture
def room(root_lab: Lab) -> Iterator[Room]:
    """Little room, in which there is the domain `original` already."""
    root_lab.hypervisor.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", DIRECTORY)
    try:
        disks = [disk(root_lab.pool.raw("original.raw", MIB), "raw")]
        root_lab.define(domain("original", disks=disks, description="x" * 6000))
        yield Room(root_lab)
    finally:
        root_lab.hypervisor.run("umount", "--lazy", DIRECTORY)


def check(result: Any, status: int) -> dict[str, Any]:
    """Return the error of a run, which must say where there is no room."""
    assert result.status == status, str(result)
    error = error_of(result)
    assert error["type"] == "NoSpaceError"
    assert error["message"].startswith("libvirt has no room for the definition of 'clone'")
    assert f"Make room in '{DIRECTORY}' on libvirt's host" in error["hint"]
    assert "linked" not in error["hint"]
    return error


def test_clone_without_room(root_lab: Lab, virtomate: Program, room: Room) -> None:
    """Whether it is the claim that does not fit, its other name or the definition: all is undone."""
    before = root_lab.inventory()
    words = ("domain-clone", "original", "clone")

    room.use_up()
    result = virtomate(*words, json=True)
    room.give_back()
    check(result, 1)
    unchanged(before, root_lab)

    identity = ("--uuid", "11111111-2222-4333-8444-555555555555")
    for moment, more in (("virDomainDefineXMLFlags", identity), ("vda", ())):
        run = virtomate.pausing(moment).start(*words, *more, json=True)
        with paused(run):
            room.use_up()
        result = run.wait()
        room.give_back()
        check(result, 1)
        unchanged(before, root_lab)
    cloned(virtomate(*words, json=True))


def test_deletion_without_room(root_lab: Lab, virtomate: Program, room: Room) -> None:
    """A clone whose definition cannot be replaced stays as it is; the placeholder holds one that is not taken back."""
    path = Path(cloned(virtomate("domain-clone", "original", "clone", json=True))["disks"][0]["clone"]["path"])
    before, text = root_lab.inventory(), definition(root_lab, "clone")

    room.use_up()
    check_deletion(virtomate("domain-delete", "--yes", "clone", json=True), 1)
    room.give_back()
    unchanged(before, root_lab)

    # nothing can be removed, and meanwhile there is no room to take that back
    root_lab.hypervisor.run("chattr", "+i", path)
    try:
        run = virtomate.pausing("virDomainDefineXMLFlags").start("domain-delete", "--yes", "clone", json=True)
        with paused(run):
            room.use_up()
        result = run.wait()
    finally:
        root_lab.hypervisor.run("chattr", "-i", path)
        room.give_back()
    error = check_deletion(result, 3)
    assert any(str(path) in leftover for leftover in error["leftovers"])
    assert any("'clone', an unfinished clone by now, which holds its definition" in it for it in error["leftovers"])
    assert reaching(root_lab.uri, "virtomate domain-delete clone") in error["hint"]
    # without a terminal nobody is asked; what libvirt has room for by now is the whole clone
    assert virtomate("domain-delete", "clone").status == 2
    assert definition(root_lab, "clone") == text
    assert virtomate("domain-delete", "--yes", "clone", json=True).status == 0
    assert not path.exists()


def check_deletion(result: Any, status: int) -> dict[str, Any]:
    """Likewise, of a deletion."""
    assert result.status == status, str(result)
    (deletion,) = result.json
    error: dict[str, Any] = deletion["error"]
    assert error["message"].startswith("libvirt has no room for the definition of 'clone'")
    assert f"Make room in '{DIRECTORY}' on libvirt's host" in error["hint"]
    return error
