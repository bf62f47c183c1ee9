"""domain-verify tells whether what clones rest on is what it was, and clones that are broken are not cloned."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.functional.runs import Refusal, check_refusal
from tests.functional.support import clone_path, cloned, definition
from tests.lab import Lab, Pool, Program, disk, domain, images
from tests.lab.images import MIB
from tests.lab.storage import make_pool
from virtomate.cancel import CancelToken
from virtomate.enums import Mode
from virtomate.hypervisor.session import open_session
from virtomate.progress import Progress
from virtomate.services.clone import clone_domains
from virtomate.services.clone_records import CloneRequest
from virtomate.services.clone_start import start_clone
from virtomate.services.transaction import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.ordinary_user import OrdinaryUser

EVERYTHING = ["size", "modified", "inode", "birth_time", "header"]


def define_linked(lab: Lab, virtomate: Program) -> Path:
    """Define a domain `original` with a linked clone `web`, and a linked clone `web-a` of that; the original's disk."""
    path = lab.pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(path)]))
    for original, name in (("original", "web"), ("web", "web-a")):
        cloned(virtomate("domain-clone", "--mode", "linked", original, name, json=True))
    return path


def verify(virtomate: Program, *names: str, status: int = 0, uri: str | None = None) -> dict[str, Any]:
    """Verify clones, and return what is told of each by its name."""
    result = virtomate("domain-verify", *names, json=True, uri=uri)
    assert (result.status, result.stderr) == (status, ""), str(result)
    return {item["name"]: item for item in result.json}


def write_through_qemu(path: Path, _lab: Lab) -> None:
    """Write to the image as its original would, were it started."""
    images.qemu_io(path, "qcow2", "write -P 7 0 64k")


def write_and_hide(path: Path, _lab: Lab) -> None:
    """Make a snapshot inside the image, keep its length, and set its times back."""
    status = path.stat()
    images.qemu_img("snapshot", "-c", "s", path)
    os.truncate(path, status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def put_copy_in_place(path: Path, _lab: Lab) -> None:
    """Replace the image by a copy of the same bytes and times."""
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").rename(path)


def put_copy_in_place_of_deleted(path: Path, _lab: Lab) -> None:
    """Delete the image, and bring it back from a copy: the file may get the same inode number."""
    kept = Path(shutil.copy2(path, path.with_suffix(".kept")))
    path.unlink()
    shutil.copy2(kept, path)
    kept.unlink()


def keep_under_another_name(path: Path, _lab: Lab) -> None:
    """Rename the image, and put a copy in its place."""
    path.rename(path.with_name("former.qcow2"))
    shutil.copy2(path.with_name("former.qcow2"), path)


def move(path: Path, lab: Lab) -> None:
    """Move the image to another storage pool."""
    shutil.move(path, lab.make_pool("elsewhere").path / "moved.qcow2")


def delete(path: Path, _lab: Lab) -> None:
    """Delete the image."""
    path.unlink()


def truncate(path: Path, _lab: Lab) -> None:
    """Cut off the end of the image."""
    os.truncate(path, 65536)


BREAKS: dict[str, tuple[Callable[[Path, Lab], None], str, str]] = {
    "write": (write_through_qemu, "base-written", "was written to: its modification time has changed"),
    "hidden": (write_and_hide, "base-written", "was written to: its qcow2 header has changed"),
    "copy": (put_copy_in_place, "base-replaced", "was replaced by another file"),
    "back": (put_copy_in_place_of_deleted, "base-replaced", "was replaced by another file"),
    "former": (keep_under_another_name, "base-replaced", "was replaced by another file; the former file is '"),
    "move": (move, "base-moved", "was moved to '"),
    "delete": (delete, "base-missing", "does not exist any more"),
    "truncate": (truncate, "base-truncated", "was truncated from "),
}


@pytest.mark.parametrize("case", BREAKS)
def test_broken_clones(lab: Lab, virtomate: Program, case: str) -> None:
    """Whatever happens to a base is named, for its clone and for the clones of that; neither can be cloned."""
    way, reason, message = BREAKS[case]
    path = define_linked(lab, virtomate)
    way(path, lab)

    found = verify(virtomate, status=1)

    assert list(found) == ["web", "web-a"]
    for item in found.values():
        (volume,) = item["volumes"]
        assert (item["status"], volume["status"], volume["reason"]) == ("broken", "broken", reason)
        assert volume["message"].startswith(f"'{path}' {message}")
        if case in {"former", "move"}:
            there = {"former": path.with_name("former.qcow2")}.get(case) or lab.directory / "pool-elsewhere/moved.qcow2"
            assert volume["found"] == str(there)
            assert f"'{there}'" in volume["message"]
        else:
            assert volume["found"] is None
    lines = virtomate("domain-verify", "web").stdout.splitlines()
    assert lines[0].split() == ["Name", "Status", "Reason"]
    assert lines[1].split(None, 2) == ["web", "broken", found["web"]["volumes"][0]["message"]]
    if case not in {"delete", "move", "truncate"}:
        refusal = Refusal(
            "IllegalStateError", ("'web-a' is a broken linked clone", str(path)), ("virtomate domain-verify web-a",)
        )
        for mode in ("copy", "linked"):
            check_refusal(lab, virtomate, ("domain-clone", "--mode", mode, "web-a", "new"), refusal)


def test_start_of_a_broken_clone(lab: Lab, virtomate: Program) -> None:
    """A clone whose base is written to before the clone is started is kept, and not started."""
    path = define_linked(lab, virtomate)
    with open_session(lab.uri) as session:
        run = Run(session, session, Progress(), CancelToken())
        (made,) = clone_domains(run, CloneRequest("original", ("new",), mode=Mode.LINKED))
        assert start_clone(session, made, CancelToken()).is_started
        lab.connection.lookupByName("new").destroy()
        write_through_qemu(path, lab)
        result = start_clone(session, made, CancelToken())

    assert not lab.connection.lookupByName("new").isActive()
    assert str(result.error) == (
        f"'new' is a broken linked clone: its base '{path}' was written to; the clone is complete, and is kept"
    )


def test_no_false_alarm(lab: Lab, virtomate: Program) -> None:
    """A base that nobody wrote to is intact: after starts, a change of owner and mode, a refresh, and a restart."""
    path = define_linked(lab, virtomate)
    clone = lab.connection.lookupByName("web-a")
    for _ in range(2):
        clone.create()
        assert verify(virtomate, "web-a")["web-a"]["status"] == "intact"
        clone.destroy()
    if lab.privileged:
        for owner in (65534, 0):
            os.chown(path, owner, owner)
    path.chmod(0o444)
    # a relabelling sets an attribute of the file
    os.setxattr(path, "user.label", b"some")
    lab.pool.refresh()
    lab.hypervisor.restart()

    found = verify(virtomate)

    assert {name: item["status"] for name, item in found.items()} == {"web": "intact", "web-a": "intact"}
    (volume,) = found["web-a"]["volumes"]
    assert volume == {
        "base": str(path.with_name("web.qcow2")),
        "checked": EVERYTHING,
        "found": None,
        "message": None,
        "path": str(path.with_name("web-a.qcow2")),
        "reason": None,
        "status": "intact",
        "unchecked": [],
    }
    assert virtomate("domain-verify").stdout.split() == ["Name", "Status", "Reason", "web", "intact", "web-a", "intact"]


def test_every_way_to_rest_on_an_image(lab: Lab, virtomate: Program) -> None:
    """Clones of a running original, shallow copies and clones that were reset are intact; a flattened one is alone."""
    path = define_linked(lab, virtomate)
    for words in (("--mode", "shallow", "web", "shallow"), ("--mode", "linked", "--live", "original", "live")):
        if "live" in words:
            lab.connection.lookupByName("original").create()
        assert virtomate("domain-clone", *words).status == 0
    lab.connection.lookupByName("original").destroy()
    assert virtomate("domain-reset", "web-a").status == 0
    assert {name: item["status"] for name, item in verify(virtomate).items()} == dict.fromkeys(
        ("live", "shallow", "web", "web-a"), "intact"
    )

    (kept,) = (node for node in virtomate("domain-list", "--tree", json=True).json if node["name"] == "original-moment")
    assert [image["domains"][0]["name"] for image in kept["dependents"]] == ["live"]

    assert virtomate("domain-flatten", "web-a").status == 0
    write_through_qemu(path, lab)
    assert {name: item["status"] for name, item in verify(virtomate, status=1).items()} == {
        "live": "intact",
        "shallow": "broken",
        "web": "broken",
    }
    assert verify(virtomate, "web-a")["web-a"]["status"] == "independent"


def test_clones_that_rest_on_nothing(lab: Lab, virtomate: Program) -> None:
    """A copy, and a clone that another tool made independent, are not listed unless named."""
    path = define_linked(lab, virtomate)
    cloned(virtomate("domain-clone", "original", "copy", json=True))
    images.qemu_img("rebase", "-b", "", path.with_name("web-a.qcow2"))
    images.qemu_io(path, "qcow2", "write -P 7 0 64k")

    assert {name: item["status"] for name, item in verify(virtomate, "copy", "web-a").items()} == {
        "copy": "independent",
        "web-a": "independent",
    }
    assert "copy" not in verify(virtomate, status=1)


def test_base_that_was_moved_on_purpose(lab: Lab, virtomate: Program) -> None:
    """A chain that leads to the moved file is intact; to a file that is not known to be the same, it is unverified."""
    path = define_linked(lab, virtomate)
    moved = path.rename(path.with_name("moved.qcow2"))
    overlay = path.with_name("web.qcow2")
    images.qemu_img("rebase", "-u", "-F", "qcow2", "-b", moved, overlay)
    assert verify(virtomate, "web")["web"]["volumes"][0]["base"] == str(moved)

    copy = Path(shutil.copyfile(moved, path.with_name("copy.qcow2")))
    images.qemu_img("rebase", "-u", "-F", "qcow2", "-b", copy, overlay)
    (volume,) = verify(virtomate, "web")["web"]["volumes"]
    assert (volume["status"], volume["reason"]) == ("unverified", "other-base")
    assert str(copy) in volume["message"]


def test_old_records(lab: Lab, virtomate: Program) -> None:
    """Records of earlier versions verify what they have, and say what they lack."""
    path = define_linked(lab, virtomate)
    for name in ("web", "web-a"):
        text = definition(lab, name)
        assert all(part in text for part in ("base-inode=", "base-born=", "base-header="))
        text = re.sub(r" base-(inode|born|header)=(['\"]).*?\2", "", text)
        text = re.sub(r"<virtomate:below .*?/>", "", text)
        lab.connection.defineXML(text)

    found = verify(virtomate)
    assert found["web"]["status"] == "intact"
    assert found["web"]["volumes"][0]["checked"] == ["size", "modified"]
    (volume,) = found["web-a"]["volumes"]
    assert (volume["status"], volume["reason"]) == ("unverified", "unrecorded-base")
    assert str(path) in volume["message"]

    write_through_qemu(path, lab)
    assert verify(virtomate, status=1)["web"]["volumes"][0]["reason"] == "base-written"


def test_refused_names(lab: Lab, virtomate: Program) -> None:
    """A domain that is no clone, that does not exist, or is named twice is refused before anything is said."""
    define_linked(lab, virtomate)
    check_refusal(
        lab,
        virtomate,
        ("domain-verify", "web", "original"),
        Refusal(
            "IllegalStateError",
            ("'original' is neither a clone that virtomate made nor frozen",),
            ("virtomate domain-list --tree",),
        ),
    )
    check_refusal(lab, virtomate, ("domain-verify", "wep"), Refusal("NotFoundError", ("'wep'",), ("'web'",)))
    assert virtomate("domain-verify", "web", "web").status == 2
    lab.connection.lookupByName("web").undefine()
    lab.connection.lookupByName("web-a").undefine()
    assert virtomate("domain-verify", json=True).json == []


@pytest.mark.parametrize("case", ["intact", *BREAKS])
def test_files_out_of_sight(root_lab: Lab, virtomate: Program, case: str) -> None:
    """Where the files are not seen, libvirt tells length and time, and the header is read through the connection."""
    with root_lab.make_host("far") as host:
        there = Path("/var/lib/libvirt/images")
        make_pool(host, "images", there)
        pool = Pool(host, "images", host.on_host(there))
        path = pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
        host.connection.defineXML(domain("original", disks=[disk(there / path.name)]))
        words = ("domain-clone", "--mode", "linked", "--trust-pool", "original", "web")
        cloned(virtomate(*words, json=True, uri=host.uri))
        if case == "move":
            path.rename(path.with_name("moved.qcow2"))
        elif case != "intact":
            BREAKS[case][0](path, root_lab)

        is_known = case in {"write", "hidden", "move", "delete", "truncate"}
        (volume,) = verify(virtomate, status=int(is_known), uri=host.uri)["web"]["volumes"]

    if is_known:
        assert (volume["status"], volume["reason"]) == ("broken", BREAKS[case][1])
        assert volume["found"] == (str(there / "moved.qcow2") if case == "move" else None)
    else:
        # a copy of the same bytes and times looks the same
        assert (volume["status"], volume["checked"]) == ("intact", ["size", "modified", "header"])


def test_pool_that_is_not_active(root_lab: Lab, virtomate: Program) -> None:
    """What cannot be looked at is neither intact nor broken."""
    with root_lab.make_host("far") as host:
        there = Path("/var/lib/libvirt/images")
        make_pool(host, "images", there)
        path = Pool(host, "images", host.on_host(there)).qcow2("original.qcow2", 8 * MIB)
        host.connection.defineXML(domain("original", disks=[disk(there / path.name)]))
        words = ("domain-clone", "--mode", "linked", "--trust-pool", "original", "web")
        cloned(virtomate(*words, json=True, uri=host.uri))
        host.connection.storagePoolLookupByName("images").destroy()

        (volume,) = verify(virtomate, uri=host.uri)["web"]["volumes"]

    assert (volume["status"], volume["reason"]) == ("unverified", "unseen-base")
    assert volume["message"].endswith("storage pool 'images' is not active")


def test_member_of_the_group(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Who sees the files and cannot open them reads their headers through libvirt."""
    path = nobody.pool.qcow2("original.qcow2", 8 * MIB)
    root_lab.define(domain("original", disks=[disk(path)]))
    clone = cloned(nobody("domain-clone", "--mode", "linked", "original", "web"))
    for file in (path, clone_path(clone)):
        file.chmod(0o600)

    def verified(status: int) -> Any:
        result = nobody("domain-verify")
        assert result.status == status, str(result)
        return result.json[0]["volumes"][0]

    assert (verified(0)["status"], verified(0)["unchecked"]) == ("intact", [])
    write_and_hide(path, root_lab)
    assert verified(1)["reason"] == "base-written"


def test_clones_of_a_frozen_original(lab: Lab, virtomate: Program) -> None:
    """A freeze changes the mode of the base alone; the original may run, and a write to the base is found."""
    path = lab.pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(path)]))
    for name in ("one", "two"):
        assert virtomate("domain-clone", "--mode", "linked", "--freeze", "original", name).status == 0
    lab.connection.lookupByName("original").create()
    found = verify(virtomate)
    assert {name: item["status"] for name, item in found.items()} == dict.fromkeys(("one", "original", "two"), "intact")
    assert found["one"]["volumes"][0] | {"path": ""} == found["two"]["volumes"][0] | {"path": ""}
    assert (found["one"]["volumes"][0]["base"], found["one"]["volumes"][0]["checked"]) == (str(path), EVERYTHING)

    lab.connection.lookupByName("original").destroy()
    path.chmod(0o644)
    write_through_qemu(path, lab)
    assert {item["status"] for item in verify(virtomate, status=1).values()} == {"broken"}
