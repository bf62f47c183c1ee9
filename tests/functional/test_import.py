"""volume-import makes a volume of a local file, or leaves nothing behind."""

from __future__ import annotations

import gzip
import os
import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import libvirt
import pytest

from tests.functional.runs import BIG_BYTES, Refusal, Watched, check_refusal, paused, reaching, unchanged, wait_for
from tests.functional.support import image_info
from tests.lab import images
from tests.lab.domains import disk, domain
from tests.lab.images import MIB, allocated_bytes, file_digest
from virtomate.cancel import CancelToken
from virtomate.definition.provenance import DomainReference
from virtomate.duplication.transfers.base import Place
from virtomate.enums import ArtifactKind, Mode
from virtomate.hypervisor.session import open_session
from virtomate.progress import Progress
from virtomate.rollback import Rollback
from virtomate.services import volume_import
from virtomate.services.transaction import Run
from virtomate.services.transaction.claim import Claim, new_journal
from virtomate.services.transaction.fill import create_volumes
from virtomate.services.transaction.jobs import Bytes, VolumeJob

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab import Lab, Program, Result
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.session import Session


def imported(result: Result) -> dict[str, Any]:
    """What a run that must have succeeded says of the volume."""
    assert result.status == 0, str(result)
    document: dict[str, Any] = result.json
    return document


def big_file(directory: Path) -> Path:
    """A file that takes a while to send."""
    return images.make_raw(directory / "big.raw", BIG_BYTES + 64 * MIB, data_bytes=BIG_BYTES)


def start_import(virtomate: Program, *words: str | Path) -> Watched:
    """Start an import of a big file that stands still in the middle of it."""
    return Watched(virtomate.pausing("big.raw").start("--progress", "json", "volume-import", *words, json=True))


@pytest.mark.parametrize("hole_first", [False, True])
def test_raw_stays_raw_and_sparse(lab: Lab, virtomate: Program, tmp_path: Path, hole_first: bool) -> None:
    """The volume has the file's content and its holes, at the beginning and at the end, and a length that is odd."""
    extents = [(8 * MIB if hole_first else 0, MIB), (16 * MIB, 3 * MIB)]
    file = images.make_raw(tmp_path / "disk.img", 32 * MIB + 513, extents=extents)

    document = imported(virtomate("volume-import", file, lab.pool.name, json=True))

    path = lab.pool.path / "disk.img"
    assert file_digest(path) == file_digest(file)
    assert allocated_bytes(path) == 4 * MIB
    assert document.keys() == {"pool", "volume", "bytes_copied", "warnings", "notices", "seconds"}
    assert (document["pool"], document["bytes_copied"], document["warnings"]) == (lab.pool.name, 4 * MIB, [])
    (listed,) = virtomate("volume-list", lab.pool.name, json=True).json
    assert document["volume"] == listed
    assert listed["target"] == {"path": str(path), "format_type": "raw"}


def test_qcow2_is_kept_as_it_is(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A qcow2 keeps its version, features and snapshots, whatever its name says, and libvirt knows what it is."""
    options = ["lazy_refcounts=on", "extended_l2=on"]
    file = images.make_qcow2(tmp_path / "x.img", 64 * MIB, cluster_bytes=128 * 1024, options=options, snapshots=["one"])

    document = imported(virtomate("volume-import", file, lab.pool.name, "new name.img", json=True))

    path = lab.pool.path / "new name.img"
    assert path.read_bytes() == file.read_bytes()
    assert image_info(path)["snapshots"][0]["name"] == "one"
    volume = document["volume"]
    assert (volume["name"], volume["target"]["format_type"]) == ("new name.img", "qcow2")
    assert (volume["capacity"], volume["physical"]) == (64 * MIB, file.stat().st_size)
    lab.define(domain("uses", disks=[disk(path)]))
    assert virtomate("domain-clone", "uses", "clone").status == 0


@pytest.mark.parametrize("size", [0, 1, 511])
def test_small_files(lab: Lab, virtomate: Program, tmp_path: Path, size: int) -> None:
    """A file of no or few bytes is a raw volume of as many."""
    file = tmp_path / "small"
    file.write_bytes(b"QFI\xfb"[::-1].ljust(size, b"x")[:size])

    document = imported(virtomate("volume-import", file, lab.pool.name, json=True))

    assert (lab.pool.path / "small").read_bytes() == file.read_bytes()
    # libvirt does not tell that something is 0 bytes long
    assert document["volume"]["physical"] == (size or None)
    assert document["volume"]["target"]["format_type"] == "raw"


def test_summary_and_warnings(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """People see what became of it; a name that promises another format is warned of."""
    file = tmp_path / "page.qcow2"
    file.write_bytes(b"<html>" * 1000)

    result = virtomate("volume-import", file, lab.pool.name)

    assert result.status == 0, str(result)
    head, *rows = result.stdout.splitlines()
    assert head.startswith(f"Imported {file} in ")
    assert [row.split(maxsplit=1) for row in rows] == [
        ["volume", f"page.qcow2 in {lab.pool.name}"],
        ["path", str(lab.pool.path / "page.qcow2")],
        ["format", "raw"],
        ["capacity", "5.9 KiB"],
        ["copied", "5.9 KiB"],
    ]
    assert result.stderr == "Warning: 'page.qcow2' is called qcow2, but its content is raw\n"


def test_progress_of_an_import(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """With --progress json a front end can follow the import by the volume's name."""
    result = virtomate("--progress", "json", "volume-import", big_file(tmp_path), lab.pool.name, "web.raw")

    assert result.status == 0, str(result)
    events = result.progress
    assert [event["event"] for event in events] == ["started", *["progress"] * (len(events) - 2), "finished"]
    assert {(event["volume"], event["total"]) for event in events} == {("web.raw", BIG_BYTES)}
    done = [event["bytes"] for event in events]
    assert done == sorted(done)
    assert len(set(done)) > 4


def test_what_has_the_name_is_not_touched(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A volume, a file that libvirt does not know, and a link that leads nowhere are refused and stay as they are."""
    file = images.make_raw(tmp_path / "new", MIB)
    known = lab.pool.raw("known", MIB, seed=2)
    unknown = images.make_raw(lab.pool.path / "unknown", MIB, seed=3)
    link = lab.pool.path / "link"
    link.symlink_to(tmp_path / "nowhere")
    before = {path: file_digest(path) for path in (known, unknown)}

    results = [
        virtomate("volume-import", file, lab.pool.name, name, json=True) for name in ("known", "unknown", "link")
    ]

    assert [(result.status, result.json["type"]) for result in results[:2]] == [(1, "Conflict")] * 2, results
    assert results[2].status == 1, str(results[2])
    assert before == {path: file_digest(path) for path in before}
    assert link.readlink() == tmp_path / "nowhere"
    assert sorted(path.name for path in lab.pool.path.iterdir()) == ["known", "link", "unknown"]
    assert not (tmp_path / "nowhere").exists()


def test_a_name_that_is_free_again(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A volume whose file was deleted without libvirt is not in the way."""
    file = images.make_raw(tmp_path / "new", MIB)
    lab.pool.raw("old", MIB).unlink()

    imported(virtomate("volume-import", file, lab.pool.name, "old", json=True))

    assert file_digest(lab.pool.path / "old") == file_digest(file)


@pytest.mark.parametrize(
    ("name", "part"),
    [("", "''"), (".", "'.'"), ("..", "'..'"), ("a/b", "'a/b'"), ("a\nb", r"'a\nb'"), ("x" * 256, "too long")],
)
def test_names_that_no_volume_can_have(lab: Lab, virtomate: Program, tmp_path: Path, name: str, part: str) -> None:
    """Such a name is a usage error before anything is looked at, and says what was expected."""
    before = lab.inventory()

    result = virtomate("volume-import", tmp_path / "missing", lab.pool.name, name, json=True)

    assert (result.status, result.stdout) == (2, ""), str(result)
    assert part in result.stderr
    assert "1 to 255 bytes" in result.stderr
    unchanged(before, lab)


def test_files_that_cannot_be_read(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A directory, a pipe, a socket, a device and what is not there are one sentence that names them, and status 1."""
    os.mkfifo(tmp_path / "pipe")
    before = lab.inventory()
    with ExitStack() as stack:
        stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(tmp_path / "socket"))
        for path, type_, part in [
            (tmp_path, "UnreadableFileError", "is a directory"),
            (tmp_path / "pipe", "UnreadableFileError", "is a pipe"),
            (tmp_path / "socket", "UnreadableFileError", "is a socket"),
            ("/dev/null", "UnreadableFileError", "is a character device"),
            (tmp_path / "missing", "NotFoundError", "there is no file"),
            ("", "NotFoundError", "there is no file ''"),
            (tmp_path / "pipe" / "below", "UnreadableFileError", "Not a directory"),
            ("/proc/self/mem", "UnreadableFileError", "cannot be read"),
        ]:
            result = virtomate("volume-import", str(path), lab.pool.name, "new", json=True)
            assert (result.status, result.json["type"], result.stderr) == (1, type_, ""), str(result)
            assert part in result.json["message"]
            assert f"'{path}'" in result.json["message"]
    unchanged(before, lab)


def test_images_that_need_other_files(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """An image whose data are elsewhere as well, or missing, is refused, with the way to get a whole one."""
    base = images.make_qcow2(tmp_path / "base.qcow2", MIB)
    overlay = images.make_overlay(tmp_path / "overlay.qcow2", base, "qcow2")
    data_file = images.make_qcow2(tmp_path / "x.qcow2", MIB, options=[f"data_file={tmp_path}/data"])
    qed = tmp_path / "x.qed"
    images.qemu_img("create", "-f", "qed", "-b", base, "-F", "qcow2", qed)
    flat = tmp_path / "flat.vmdk"
    images.qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", flat, "1M")
    cut = tmp_path / "cut.qcow2"
    cut.write_bytes(base.read_bytes()[:60])

    convert, again = "qemu-img convert", "whole file again"
    for path, part, hint in [
        (overlay, "rests on a backing file", convert),
        (data_file, "external file", convert),
        (qed, "rests on a backing file", convert),
        (flat, "only describes a disk", convert),
        (cut, "ends in the middle of its header", again),
    ]:
        words = ("volume-import", path, lab.pool.name)
        check_refusal(lab, virtomate, words, Refusal("UnsupportedError", (f"'{path}'", part), (hint,)))


def test_compressed_files(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """What is compressed is refused with what unpacks it; its content tells, and not its name."""
    content = images.make_raw(tmp_path / "disk.img", MIB, data_bytes=MIB)
    hidden = tmp_path / "my disk.qcow2"
    hidden.write_bytes(gzip.compress(content.read_bytes()))
    honest = content.rename(tmp_path / "disk.img.xz")

    refusal = Refusal("UnsupportedError", (f"'{hidden}' is compressed (gzip)",), (f"gzip -dc < '{hidden}' > '",))
    check_refusal(lab, virtomate, ("volume-import", hidden, lab.pool.name), refusal)
    imported(virtomate("volume-import", honest, lab.pool.name, json=True))


def test_a_file_that_a_guest_writes_to(lab: Lab, virtomate: Program) -> None:
    """The disk of a running guest is not imported in the middle of things."""
    path = lab.make_directory("disks") / "disk.raw"
    images.make_raw(path, MIB)
    lab.define(domain("runs", disks=[disk(path, "raw")])).create()

    refusal = Refusal("IllegalStateError", (f"'{path}'", "running guest"), ("Shut the guest down",))
    check_refusal(lab, virtomate, ("volume-import", path, lab.pool.name), refusal)


def test_pools_that_take_no_files(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A pool that is missing or inactive is a sentence with a hint."""
    file = images.make_raw(tmp_path / "new", MIB)
    lab.make_pool("off").handle.destroy()

    for pool, refusal in [
        ("nothing", Refusal("NotFoundError", ("'nothing'",), ("pool-list",))),
        ("off", Refusal("IllegalStateError", ("'off'",), ("virsh pool-start off",))),
    ]:
        check_refusal(lab, virtomate, ("volume-import", file, pool), refusal)


def test_pools_whose_volumes_are_no_files(virtomate: Program, tmp_path: Path) -> None:
    """Nothing is asked of a pool of another kind; libvirt's test driver has one."""
    file = images.make_raw(tmp_path / "new", MIB)
    node = tmp_path / "node.xml"
    node.write_text(
        "<node><pool type='logical'><name>vg</name><source><name>vg</name></source>"
        "<target><path>/dev/vg</path></target></pool></node>"
    )

    result = virtomate("volume-import", file, "vg", json=True, uri=f"test://{node}")

    assert (result.status, result.json["type"]) == (1, "UnsupportedError"), str(result)
    assert "'vg' is of type logical" in result.json["message"]


def test_too_little_space(root_lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """It is refused before a byte is sent; unchecked, the full disk ends it and the volume is removed."""
    pool = root_lab.make_small_pool("small")
    file = images.make_raw(tmp_path / "file", 128 * MIB, data_bytes=128 * MIB)

    refusal = Refusal("NoSpaceError", ("'small' has ", "128.0 MiB are needed"), ("--no-space-check",))
    check_refusal(root_lab, virtomate, ("volume-import", file, "small"), refusal)
    if root_lab.connection.getLibVersion() // 1000 == 11_003:
        pytest.skip("the daemon of libvirt 11.3 frees something twice when it cannot write a stream, and dies or hangs")
    before = root_lab.inventory()
    result = virtomate("volume-import", "--no-space-check", file, pool.name, json=True)

    assert result.status == 1, str(result)
    assert (result.json["type"], result.json["hint"]) == ("NoSpaceError", "Make room in the pool.")
    assert "No space left" in result.json["message"]
    unchanged(before, root_lab)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_interrupted_import_leaves_nothing(
    lab: Lab, virtomate: Program, tmp_path: Path, number: signal.Signals
) -> None:
    """A signal in the middle ends the import, and the half volume is removed."""
    before = lab.inventory()

    watched = start_import(virtomate, big_file(tmp_path), lab.pool.name)
    with paused(watched.run):
        # the daemon may not have written yet what it was sent
        wait_for(lambda: allocated_bytes(lab.pool.path / "big.raw") > 0, "libvirt writes what it was sent")
        assert allocated_bytes(lab.pool.path / "big.raw") < BIG_BYTES
        watched.run.signal(number)
    result = watched.run.wait()

    assert result.status == -number, str(result)
    assert result.json["type"] == "Interrupted"
    unchanged(before, lab)


def test_a_file_that_grows_meanwhile(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A torn copy is never handed out."""
    file = big_file(tmp_path)
    before = lab.inventory()

    watched = start_import(virtomate, file, lab.pool.name)
    with paused(watched.run), file.open("ab") as writer:
        writer.write(b"more")
    result = watched.run.wait()

    assert (result.status, result.json["type"]) == (1, "SourceChangedError"), str(result)
    unchanged(before, lab)


def test_only_the_own_volume_is_removed(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """What somebody puts in the place of the half volume is left alone, and named."""
    watched = start_import(virtomate, big_file(tmp_path), lab.pool.name)
    path = lab.pool.path / "big.raw"
    with paused(watched.run):
        path.unlink()
        path.write_bytes(b"somebody else's")
        watched.run.signal(signal.SIGINT)
    result = watched.run.wait()

    assert result.status == 3, str(result)
    leftover, claim = result.json["leftovers"]
    assert str(path) in leftover
    assert path.read_bytes() == b"somebody else's"
    name = unfinished_import(virtomate)
    assert f"domain '{name}', an unfinished import" in claim
    assert f"virtomate domain-delete {name}" in result.json["hint"].replace(f" -c '{lab.uri}'", "")
    assert virtomate("domain-delete", name).status == 3
    assert path.read_bytes() == b"somebody else's"
    assert lab.connection.listAllDomains() == []


def test_daemon_that_dies_in_the_middle(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """The connection breaks: the half volume is removed if the daemon is back, else it is named."""
    before = lab.inventory()

    watched = start_import(virtomate, big_file(tmp_path), lab.pool.name)
    with paused(watched.run):
        lab.hypervisor.kill()
        lab.hypervisor.start()
    result = watched.run.wait()
    assert (result.status, result.json["type"]) == (1, "libvirtError"), str(result)
    unchanged(before, lab)

    watched = start_import(virtomate, tmp_path / "big.raw", lab.pool.name)
    with paused(watched.run):
        lab.hypervisor.kill()
    result = watched.run.wait()
    lab.hypervisor.start()
    path = lab.pool.path / "big.raw"
    assert result.status == 3, str(result)
    assert [str(path) in leftover for leftover in result.json["leftovers"]] == [True, False]
    wait_for(path.exists, "the half volume is still there")
    assert virtomate("domain-delete", unfinished_import(virtomate)).status == 0
    unchanged(before, lab)


def unfinished_import(virtomate: Program) -> str:
    """Return the name of the only domain, which must be the claim of an import."""
    (listed,) = virtomate("domain-list", json=True).json
    assert listed["name"].startswith("virtomate-import-")
    assert (listed["state"], listed["clone"]["status"]) == ("shut-off", "unfinished")
    return str(listed["name"])


def test_killed_import_is_cleared_up_by_one_command(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """What SIGKILL leaves is listed as unfinished, cannot be started, and is removed by domain-delete."""
    before = lab.inventory()
    file = big_file(tmp_path)
    watched = start_import(virtomate, file, lab.pool.name)
    with paused(watched.run):
        running = unfinished_import(virtomate)
        refused = virtomate("domain-delete", running, json=True)
        watched.run.signal(signal.SIGKILL)
        watched.run.process.wait()

    name = unfinished_import(virtomate)
    assert (refused.status, refused.json["type"], name) == (1, "IllegalStateError", running), refused
    assert f"{file} (copy), unfinished" in virtomate("domain-list").stdout
    with pytest.raises(libvirt.libvirtError):
        lab.connection.lookupByName(name).create()
    taken = virtomate("volume-import", file, lab.pool.name, json=True)
    assert (taken.status, taken.json["type"]) == (1, "Conflict"), taken
    assert taken.json["message"].endswith(f"in storage pool '{lab.pool.name}', of an unfinished import")
    assert f"{reaching(lab.uri, f'virtomate domain-delete {name}')} removes the volume" in taken.json["hint"]
    assert (lab.pool.path / "big.raw").exists()
    (deleted,) = virtomate("domain-delete", name, json=True).json
    assert deleted["removed"] == [f"volume '{lab.pool.path / 'big.raw'}'"]
    unchanged(before, lab)


@pytest.mark.parametrize("moment", ["virDomainDefineXMLFlags", "virStorageVolCreateXML"])
def test_import_killed_before_its_first_byte(lab: Lab, virtomate: Program, tmp_path: Path, moment: str) -> None:
    """A claim without a volume, or with an empty one, goes away in the same way."""
    before = lab.inventory()
    run = virtomate.pausing(moment).start("volume-import", images.make_raw(tmp_path / "x", MIB), lab.pool.name)
    with paused(run):
        run.signal(signal.SIGKILL)
        run.process.wait()

    assert virtomate("domain-delete", unfinished_import(virtomate)).status == 0
    unchanged(before, lab)


def test_files_whose_paths_no_definition_can_hold(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Line breaks, control characters and bytes that are not text may be in the path of a file."""
    for number, name in enumerate(("a\nb", "a\x01b", "a\udcffb")):
        file = images.make_raw(tmp_path / name, MIB)
        imported(virtomate("volume-import", file, lab.pool.name, f"{number}.raw", json=True))

    running = virtomate.pausing("virDomainDefineXMLFlags").start("volume-import", file, lab.pool.name, "next.raw")
    with paused(running):
        (claim,) = virtomate("domain-list", json=True).json
    assert running.wait().status == 0
    assert claim["clone"]["source"]["name"] == str(file).replace("\udcff", "\N{REPLACEMENT CHARACTER}")


def test_import_where_libvirt_has_no_domains(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """The storage driver knows no domains: an import works without a claim, and is undone like any other."""
    uri = lab.uri.replace("qemu", "storage", 1)
    before = lab.inventory()
    watched = Watched(
        virtomate.pausing("big.raw").start(
            "--progress", "json", "volume-import", big_file(tmp_path), lab.pool.name, json=True, uri=uri
        )
    )
    with paused(watched.run):
        watched.run.signal(signal.SIGINT)
    assert watched.run.wait().status == -signal.SIGINT
    unchanged(before, lab)

    words = ("volume-import", images.make_raw(tmp_path / "disk.raw", MIB), lab.pool.name)
    imported(virtomate(*words, json=True, uri=uri))
    taken = virtomate(*words, json=True, uri=uri)
    assert (taken.status, taken.json["type"], taken.json["hint"].split()[:3]) == (
        1,
        "Conflict",
        ["Give", "another", "name"],
    )


def test_import_where_libvirt_takes_no_definition(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an emulator for it libvirt takes no definition: an import works without a claim."""

    def without_emulator(session: Session, name: str, journal: Provenance, _like: object) -> Claim:
        return Claim(session, name, journal, {"@type": "hvf", "os": {"type": "hvm"}})

    monkeypatch.setattr(volume_import, "Claim", without_emulator)
    file = images.make_raw(tmp_path / "disk.raw", MIB, data_bytes=MIB)
    with open_session(lab.uri) as session:
        run = Run(session, session, Progress(), CancelToken())
        volume_import.import_volume(run, volume_import.ImportRequest(str(file), lab.pool.name))

    assert file_digest(lab.pool.path / "disk.raw") == file_digest(file)
    assert not lab.connection.listAllDomains()


def test_bytes_become_a_volume(lab: Lab) -> None:
    """What is in memory is made a volume by the same mechanism as a file, and undone like it."""
    pool = lab.pool.handle
    place = Place(pool.name(), pool.UUIDString(), str(lab.pool.path), "seed.img")
    before = lab.inventory()
    with open_session(lab.uri) as session:
        run = Run(session, session, Progress(), CancelToken())
        job = VolumeJob("seed", ArtifactKind.VOLUME, place, Bytes(b"seed" * 1000))
        journal = new_journal(str(uuid4()), DomainReference("seed", str(uuid4())), Mode.COPY, (job.planned(),))
        claim = Claim(session, "claim", journal, {"@type": "qemu", "os": {"type": "hvm"}})
        claim.take()
        undo = Rollback()
        undo.push("claim", claim.release)
        (volume,) = create_volumes(run, (job,), claim, undo)

        assert volume.fill(session.connection, run.cancel).written_bytes == 4000
        assert (lab.pool.path / "seed.img").read_bytes() == b"seed" * 1000
        assert undo.run() == ()
    unchanged(before, lab)
