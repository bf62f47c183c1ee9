"""Flattening: a linked clone becomes independent, its guest reads the same, and the chain is whole at any moment."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import Refusal, check_refusal, error_of, paused, wait_for
from tests.functional.support import clone, clone_path, definition, image_info, refused
from tests.lab import Lab, Program, Result, disk, domain, images
from tests.lab.images import MIB
from tests.lab.program import Background

# Enough that qemu-img is caught in the middle, mostly; no test depends on it.
BIG_BYTES = 96 * MIB


def make_clone(lab: Lab, virtomate: Program, *words: str) -> Path:
    """Make a linked clone `clone` of `original` with data of its own, and return its overlay."""
    base = lab.pool.qcow2("original.qcow2", data_bytes=8 * MIB)
    lab.define(domain("original", disks=[disk(base)]))
    overlay = clone_path(clone(virtomate, "--mode", "linked", *words))
    images.qemu_io(overlay, "qcow2", "write -P 7 5M 192k", "write -z 9M 1M")
    return overlay


def make_plain(overlay: Path, base: Path, format_: str) -> None:
    """Make an overlay anew, without subclusters, into which a QEMU of any version can pull."""
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", format_, overlay)
    images.qemu_io(overlay, "qcow2", "write -P 7 5M 200k")


def flattened(result: Result) -> Any:
    """Return the one domain of a run that must have succeeded."""
    assert result.status == 0, str(result)
    (found,) = result.json
    assert found["status"] in {"flattened", "unchanged"}, str(result)
    assert "error" not in found
    return found


def has_base(path: Path) -> bool:
    """Tell whether an image rests on another."""
    return "backing-filename" in image_info(path)


def mode_of(virtomate: Program, name: str) -> Any:
    """Return the mode of a clone as `domain-list` tells it."""
    (found,) = (item for item in virtomate("domain-list", json=True).json if item["name"] == name)
    return found["clone"]["mode"]


def without_record(lab: Lab, name: str) -> str:
    """Return a domain's definition without the record of its cloning."""
    text = definition(lab, name)
    before, _, rest = text.partition("<virtomate:clone")
    return before + rest.partition("</virtomate:clone>")[2]


def require_sound(path: Path) -> None:
    """Make sure that an image is sound; clusters that a killed qemu-img has lost cost space and nothing else."""
    statuses = []

    def is_checked() -> bool:
        check = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=False, capture_output=True)
        statuses.append(check.returncode)
        # a qemu-img that has just been killed holds its locks for a moment
        return b"lock" not in check.stderr

    wait_for(is_checked, f"{path} can be opened")
    assert statuses[-1] in {0, 3}


@contextmanager
def running_domain(lab: Lab, name: str) -> Iterator[Any]:
    """Let a domain run for the time of the block."""
    found = lab.connection.lookupByName(name)
    found.create()
    try:
        yield found
    finally:
        found.destroy()


def test_linked_clone_becomes_independent(lab: Lab, virtomate: Program) -> None:
    """The guest reads the same, only the record in the definition changes, and the base is not needed any more."""
    overlay = make_clone(lab, virtomate)
    content, before = images.guest_digest(overlay, "qcow2"), without_record(lab, "clone")
    inode = overlay.stat().st_ino

    found = flattened(virtomate("domain-flatten", "clone", json=True))

    (flat,) = found.pop("disks")
    base = lab.pool.path / "original.qcow2"
    allocation = flat.pop("allocation")
    assert flat == {"target": "vda", "way": "in-place", "path": str(overlay), "base": str(base)}
    assert allocation == images.allocated_bytes(overlay)
    assert not has_base(overlay)
    assert overlay.stat().st_ino == inode
    assert without_record(lab, "clone") == before
    assert mode_of(virtomate, "clone") == "copy"
    record = definition(lab, "clone").partition("<virtomate:clone")[2].partition("</virtomate:clone>")[0]
    assert (str(overlay) in record, str(base) in record) == (True, False)
    images.qemu_io(base, "qcow2", "write -P 9 0 64M")
    assert images.guest_digest(overlay, "qcow2") == content
    require_sound(overlay)


def test_flattened_clone_is_deleted_as_its_own(lab: Lab, virtomate: Program) -> None:
    """The token of the clone stays on the image, and its original's volume is left alone."""
    before = lab.inventory()
    overlay = make_clone(lab, virtomate)
    flattened(virtomate("domain-flatten", "clone", json=True))

    result = virtomate("domain-delete", "--yes", "clone")

    assert result.status == 0, str(result)
    assert not overlay.exists()
    assert (lab.pool.path / "original.qcow2").exists()
    lab.connection.lookupByName("original").undefine()
    (lab.pool.path / "original.qcow2").unlink()
    lab.pool.refresh()
    assert before.difference(lab.inventory()) == ""


def test_what_people_read(lab: Lab, virtomate: Program) -> None:
    """A line for the domain and a line for each disk; a second run says that nothing is to be done."""
    overlay = make_clone(lab, virtomate)

    first, second = virtomate("domain-flatten", "clone"), virtomate("domain-flatten", "clone")

    assert (first.status, second.status) == (0, 0)
    head, line = first.stdout.splitlines()
    assert head.startswith("Flattened clone in ")
    assert line.startswith(f"  vda  {overlay}, ")
    assert line.endswith(f", in place (was on {lab.pool.path / 'original.qcow2'})")
    assert second.stdout == "clone rests on no other image\n"


def test_deep_chain_with_relative_names(lab: Lab, virtomate: Program) -> None:
    """All images below are copied from, also a raw one, under names that are relative to their directory."""
    directory = lab.pool.path
    lab.pool.raw("deep base.raw", data_bytes=8 * MIB)
    for above, below, format_ in (("middle.qcow2", "deep base.raw", "raw"), ("top.qcow2", "middle.qcow2", "qcow2")):
        images.qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", format_, directory / above)
        images.qemu_io(directory / above, "qcow2", f"write -P {len(above)} {len(above)}M 64k")
    lab.pool.refresh()
    top = directory / "top.qcow2"
    content = images.guest_digest(top, "qcow2")
    lab.define(domain("deep", disks=[disk(top)]))

    found = flattened(virtomate("domain-flatten", "deep", json=True))

    assert found["disks"][0]["base"] == str(directory / "middle.qcow2")
    assert not has_base(top)
    assert has_base(directory / "middle.qcow2")
    assert images.guest_digest(top, "qcow2") == content


def test_single_disks(lab: Lab, virtomate: Program) -> None:
    """A clone with another overlay left stays a linked one; the last disk makes it a copy."""
    paths = {target: lab.pool.qcow2(f"original-{target}.qcow2") for target in ("vda", "vdb", "vdc")}
    lab.define(domain("original", disks=[disk(path, target=target) for target, path in paths.items()]))
    document = clone(virtomate, "--mode", "linked")
    overlays = {target: clone_path(document, target) for target in paths}

    found = flattened(virtomate("domain-flatten", "--disk", "vdb", "--disk", "vda", "clone", json=True))

    assert [item["target"] for item in found["disks"]] == ["vda", "vdb"]
    assert {target: has_base(path) for target, path in overlays.items()} == {"vda": False, "vdb": False, "vdc": True}
    assert mode_of(virtomate, "clone") == "linked"
    flattened(virtomate("domain-flatten", "--disk", "vdc", "clone", json=True))
    assert mode_of(virtomate, "clone") == "copy"


def test_running_domain(lab: Lab, virtomate: Program) -> None:
    """The hypervisor of a running domain pulls the chain, and the next start has no base either."""
    overlay = make_clone(lab, virtomate)
    make_plain(overlay, lab.pool.path / "original.qcow2", "qcow2")
    content = images.guest_digest(overlay, "qcow2")
    with running_domain(lab, "clone") as running:
        found = flattened(virtomate("domain-flatten", "clone", json=True))

        assert found["disks"][0]["way"] == "pull"
        assert running.blockJobInfo("vda") == {}
        assert not has_base(overlay)
        assert "original.qcow2" not in running.XMLDesc(0)
        assert mode_of(virtomate, "clone") == "copy"
    assert mode_of(virtomate, "clone") == "copy"
    assert images.guest_digest(overlay, "qcow2") == content


def test_old_qemu_does_not_pull_into_subclusters(lab: Lab, virtomate: Program) -> None:
    """A QEMU that would end, and the guest with it, is not asked to pull into an image with subclusters."""
    overlay = make_clone(lab, virtomate)
    is_old = lab.connection.getVersion() < 8_002_000
    has_subclusters = image_info(overlay)["format-specific"]["data"].get("extended-l2", False)
    with running_domain(lab, "clone") as running:
        result = virtomate("domain-flatten", "clone", json=True)

        assert running.isActive()
        assert result.status == (1 if is_old and has_subclusters else 0), str(result)
        assert has_base(overlay) == (is_old and has_subclusters)
        assert result.status == 0 or "subclusters" in result.json["message"]


def test_dependents_come_first(lab: Lab, virtomate: Program) -> None:
    """A clone on which another rests is refused, unless that one is flattened in the same command, and before."""
    overlay = make_clone(lab, virtomate)
    result = virtomate("domain-clone", "--mode", "linked", "clone", "second", json=True)
    upper = clone_path(result.json[0])
    content = images.guest_digest(upper, "qcow2")
    message = (f"disk vda of 'clone' ('{overlay}') cannot be flattened", f"'{upper}' of domain 'second' rests on it")
    refusal = Refusal("IllegalStateError", message, ("in the same command",))

    check_refusal(lab, virtomate, ("domain-flatten", "clone"), refusal)
    both = virtomate("domain-flatten", "clone", "second", json=True)

    assert both.status == 0, str(both)
    assert [(item["name"], item["status"]) for item in both.json] == [("clone", "flattened"), ("second", "flattened")]
    assert [has_base(path) for path in (overlay, upper)] == [False, False]
    assert images.guest_digest(upper, "qcow2") == content


def test_internal_snapshots_are_not_lost_silently(lab: Lab, virtomate: Program) -> None:
    """Snapshots inside of the overlay are a reason to refuse; as asked, they are deleted, also unlisted ones."""
    overlay = make_clone(lab, virtomate)
    images.qemu_img("snapshot", "-c", "unlisted", overlay)
    found = lab.connection.lookupByName("clone")
    found.snapshotCreateXML("<domainsnapshot><name>listed</name></domainsnapshot>")
    content = images.guest_digest(overlay, "qcow2")
    refusal = Refusal("IllegalStateError", ("disk vda of 'clone'", "internal snapshots"), ("--discard-snapshots",))

    check_refusal(lab, virtomate, ("domain-flatten", "clone"), refusal)
    flattened(virtomate("domain-flatten", "--discard-snapshots", "clone", json=True))

    assert "snapshots" not in image_info(overlay)
    assert found.snapshotNum() == 0
    assert images.guest_digest(overlay, "qcow2") == content


def test_external_snapshots_are_refused(lab: Lab, virtomate: Program) -> None:
    """The overlay of an external snapshot rests on what the snapshot has frozen; the error names the snapshot."""
    make_clone(lab, virtomate)
    found = lab.connection.lookupByName("clone")
    with running_domain(lab, "clone"):
        found.snapshotCreateXML(
            "<domainsnapshot><name>frozen</name></domainsnapshot>", libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        )
    lab.pool.refresh()
    refusal = Refusal("IllegalStateError", ("disk vda of 'clone'", "'frozen'"), ("virsh snapshot-delete clone frozen",))

    check_refusal(lab, virtomate, ("domain-flatten", "clone"), refusal)


def test_saved_domain_is_refused(lab: Lab, virtomate: Program) -> None:
    """A saved guest knows the chains of its disks."""
    make_clone(lab, virtomate)
    found = lab.connection.lookupByName("clone")
    found.create()
    found.managedSave()
    refusal = Refusal("IllegalStateError", ("'clone'", "managed-save image"), ("virsh start clone",))

    check_refusal(lab, virtomate, ("domain-flatten", "clone"), refusal)


def test_open_image_is_refused(lab: Lab, virtomate: Program) -> None:
    """An image that another program has open is left alone."""
    overlay = make_clone(lab, virtomate)
    command = ["qemu-io", "-f", "qcow2", str(overlay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.read(1)
        result = virtomate("domain-flatten", "clone", json=True)
        other.stdin.close()

    assert result.status == 1
    assert str(overlay) in error_of(result)["message"]
    assert has_base(overlay)
    assert mode_of(virtomate, "clone") == "linked"


def test_written_base_is_refused(lab: Lab, virtomate: Program) -> None:
    """While somebody writes to the base, what the clone reads changes."""
    make_clone(lab, virtomate)
    before = lab.inventory()
    with running_domain(lab, "original"):
        result = virtomate("domain-flatten", "clone", json=True)

    assert "original.qcow2" in refused(lab, before, result)["message"]


def test_broken_clone_is_refused(lab: Lab, virtomate: Program) -> None:
    """A flattened image would not tell that its base was written to; with --unsafe, a warning tells so."""
    base, other = (lab.pool.qcow2(f"{name}.qcow2", data_bytes=MIB) for name in ("original", "other"))
    lab.define(domain("original", disks=[disk(base), disk(other, target="vdb")]))
    clone(virtomate, "--mode", "linked")
    images.qemu_io(base, "qcow2", "write -P 9 5M 192k")
    refusal = Refusal(
        "IllegalStateError",
        ("'clone' is a broken linked clone", f"'{base}' was written to"),
        ("virtomate domain-verify clone", "--unsafe"),
    )
    check_refusal(lab, virtomate, ("domain-flatten", "clone"), refusal)

    # the base of the other disk is intact
    (found,) = flattened(virtomate("domain-flatten", "--disk", "vdb", "clone", json=True))["disks"]
    assert found["target"] == "vdb"
    check_refusal(lab, virtomate, ("domain-flatten", "--disk", "vda", "clone"), refusal)

    forced = flattened(virtomate("domain-flatten", "--unsafe", "clone", json=True))
    assert [item["code"] for item in forced["notices"]] == ["base-written"]
    assert forced["warnings"][0].startswith(f"'{base}' was written to")
    assert mode_of(virtomate, "clone") == "copy"


def test_clone_with_a_moved_base_is_refused(lab: Lab, virtomate: Program) -> None:
    """The hint names the command that gives the clone its base again, with the new place if that is known."""
    make_clone(lab, virtomate)
    base = lab.pool.path / "original.qcow2"
    moved = base.rename(base.with_name("moved base.qcow2"))
    lab.pool.refresh()
    broken = Refusal(
        "IllegalStateError",
        ("'clone' is a broken linked clone", f"'{base}' was moved"),
        (f"virtomate domain-rebase --base '{moved}' clone",),
    )
    check_refusal(lab, virtomate, ("domain-flatten", "clone"), broken)
    gone = Refusal("NotFoundError", (str(base), "no such file"), ("virtomate domain-rebase --base PATH clone",))
    check_refusal(lab, virtomate, ("domain-flatten", "--unsafe", "clone"), gone)

    assert virtomate("domain-rebase", "--base", str(moved), "clone").status == 0
    assert flattened(virtomate("domain-flatten", "clone", json=True))["warnings"] == []


@pytest.mark.parametrize(
    ("words", "status", "parts"),
    [
        (("clone", "clone"), 2, ("'clone'", "twice")),
        (("--disk", "vdz", "clone"), 2, ("'clone'", "'vdz'", "vda")),
        (("clone", "missing"), 1, ("'missing'",)),
    ],
    ids=["twice", "no-such-disk", "no-such-domain"],
)
def test_bad_arguments(
    lab: Lab, virtomate: Program, words: tuple[str, ...], status: int, parts: tuple[str, ...]
) -> None:
    """A sentence names the value, and nothing is changed."""
    make_clone(lab, virtomate)
    before = lab.inventory()

    result = virtomate("domain-flatten", *words)

    assert result.status == status, str(result)
    assert [part for part in parts if part not in result.stderr] == []
    assert before.difference(lab.inventory()) == ""


def test_unfinished_clone_is_refused(lab: Lab, virtomate: Program) -> None:
    """What a killed run has left is deleted, and not flattened."""
    make_clone(lab, virtomate)
    run = virtomate.pausing("virDomainDefineXMLFlags").start("domain-clone", "original", "half")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    refusal = Refusal("IllegalStateError", ("'half'", "unfinished clone"), ("virtomate domain-delete half",))

    check_refusal(lab, virtomate, ("domain-flatten", "half"), refusal)


def test_template_is_refused(lab: Lab, virtomate: Program) -> None:
    """Nobody writes to the volumes of a template."""
    make_clone(lab, virtomate)
    assert virtomate("domain-template", "clone").status == 0
    refusal = Refusal("IllegalStateError", ("'clone'", "template"), ("virtomate domain-template --undo clone",))

    check_refusal(lab, virtomate, ("domain-flatten", "clone"), refusal)


def test_too_little_space(root_lab: Lab, virtomate: Program) -> None:
    """The space for what the image lacks is checked before anything is written."""
    base = root_lab.pool.qcow2("original.qcow2", data_bytes=48 * MIB)
    pool = root_lab.make_small_pool("small", size_bytes=32 * MIB)
    overlay = pool.overlay("overlay.qcow2", base)
    root_lab.define(domain("full", disks=[disk(overlay)]))
    refusal = Refusal("NoSpaceError", ("'small'", "to flatten 'full'"), ("--no-space-check",))

    check_refusal(root_lab, virtomate, ("domain-flatten", "full"), refusal)
    result = virtomate("domain-flatten", "--no-space-check", "full", json=True)

    assert result.json[0]["error"]["type"] == "NoSpaceError", str(result)
    assert has_base(overlay)
    require_sound(overlay)


def test_base_that_nobody_uses_any_more_is_named(lab: Lab, virtomate: Program) -> None:
    """The last domain that rested on the former volume of a frozen original names the command that deletes it."""
    base = lab.pool.qcow2("original.qcow2", data_bytes=MIB)
    lab.define(domain("original", disks=[disk(base)]))
    clone(virtomate, "--mode", "linked", "--freeze")

    first = flattened(virtomate("domain-flatten", "original", json=True))
    last = flattened(virtomate("domain-flatten", "clone", json=True))

    assert first["kept"] == []
    (kept,) = last["kept"]
    assert f"image '{base}'" in kept
    assert f"vol-delete --pool {lab.pool.name} {base.name}" in kept
    assert [notice["code"] for notice in last["notices"]] == ["kept-base"]
    assert base.exists()


def make_big_clone(lab: Lab, virtomate: Program) -> Path:
    """Make a linked clone of an original with much data, and return its overlay."""
    base = lab.pool.raw("original.raw", BIG_BYTES, data_bytes=BIG_BYTES)
    lab.define(domain("original", disks=[disk(base, "raw")]))
    overlay = clone_path(clone(virtomate, "--mode", "linked"))
    images.qemu_io(overlay, "qcow2", "write -P 7 5M 192k", "write -P 8 20M 4k")
    return overlay


def begin_flatten(virtomate: Program, *, is_running: bool) -> Background:
    """Start to flatten `clone`, to stand still when some has been written, or when the block pull has begun."""
    moment = "virDomainBlockPull" if is_running else "vda"
    return virtomate.pausing(moment).start("domain-flatten", "clone", json=True)


@pytest.mark.parametrize("is_running", [False, True], ids=["off", "running"])
def test_kill_leaves_a_whole_chain(lab: Lab, virtomate: Program, *, is_running: bool) -> None:
    """Whenever the run is killed, the guest reads the same, and the same command completes the work."""
    overlay = make_big_clone(lab, virtomate)
    content = images.guest_digest(overlay, "qcow2")
    found = lab.connection.lookupByName("clone")
    if is_running:
        make_plain(overlay, lab.pool.path / "original.raw", "raw")
        content = images.guest_digest(overlay, "qcow2")
        found.create()
    for _ in range(3):
        run = begin_flatten(virtomate, is_running=is_running)
        with paused(run):
            run.signal(signal.SIGKILL)
        run.wait()
        if is_running:
            # a running QEMU has tables in memory that nobody else reads
            found.blockJobSetSpeed("vda", 0)
            break
        require_sound(overlay)
        assert images.guest_digest(overlay, "qcow2") == content
        if not has_base(overlay):
            break

    flattened(virtomate("domain-flatten", "clone", json=True))

    assert not has_base(overlay)
    assert mode_of(virtomate, "clone") == "copy"
    if is_running:
        found.destroy()
    assert images.guest_digest(overlay, "qcow2") == content


@pytest.mark.parametrize("is_running", [False, True], ids=["off", "running"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_leaves_a_whole_chain(lab: Lab, virtomate: Program, number: signal.Signals, *, is_running: bool) -> None:
    """A signal ends the work at once; the domain can be used as before, and the same command completes the work."""
    overlay = make_big_clone(lab, virtomate)
    content = images.guest_digest(overlay, "qcow2")
    found = lab.connection.lookupByName("clone")
    if is_running:
        make_plain(overlay, lab.pool.path / "original.raw", "raw")
        content = images.guest_digest(overlay, "qcow2")
        found.create()
    run = begin_flatten(virtomate, is_running=is_running)
    with paused(run):
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    (document,) = result.json
    assert document["status"] == "interrupted"
    assert document["error"]["type"] == "Interrupted"
    if is_running:
        assert found.blockJobInfo("vda") == {}
    else:
        assert images.guest_digest(overlay, "qcow2") == content
    flattened(virtomate("domain-flatten", "clone", json=True))
    assert not has_base(overlay)
    if is_running:
        found.destroy()
    assert images.guest_digest(overlay, "qcow2") == content


@pytest.fixture
def without_qemu_img(lab: Lab, virtomate: Program) -> Iterator[Program]:
    """The program where there is no qemu-img, so that libvirt copies."""
    program = Program(lab.uri, virtomate.directory, {"PATH": str(virtomate.directory / "nothing")})
    yield program
    program.end()


def test_copy_takes_the_place_of_the_overlay(lab: Lab, virtomate: Program, without_qemu_img: Program) -> None:
    """Where qemu-img cannot work on the files, only the source of the disk changes, and the overlay goes."""
    overlay = make_clone(lab, virtomate)
    content, before = images.guest_digest(overlay, "qcow2"), without_record(lab, "clone")

    found = flattened(without_qemu_img("domain-flatten", "clone", json=True))

    (flat,) = found["disks"]
    copy = lab.pool.path / "clone-flat.qcow2"
    assert (flat["way"], flat["path"], found["kept"], found["warnings"]) == ("copy", str(copy), [], [])
    assert images.guest_digest(copy, "qcow2") == content
    assert not has_base(copy)
    assert not overlay.exists()
    assert without_record(lab, "clone") == before.replace(str(overlay), str(copy))
    assert mode_of(virtomate, "clone") == "copy"
    assert {found.name() for found in lab.connection.listAllDomains()} == {"original", "clone"}
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    assert not copy.exists()


def test_copy_on_a_host_whose_files_are_not_seen(root_lab: Lab, virtomate: Program) -> None:
    """Nothing crosses the network, and the overlay goes by the token in its header."""
    with root_lab.make_host("far") as far:
        directory = "/var/lib/libvirt/images"
        xml = f"<pool type='dir'><name>images</name><target><path>{directory}</path></target></pool>"
        far.connection.storagePoolDefineXML(xml).create()
        images.make_qcow2(far.on_host(f"{directory}/original.qcow2"), 64 * MIB)
        far.connection.storagePoolLookupByName("images").refresh()
        far.connection.defineXML(domain("original", disks=[disk(f"{directory}/original.qcow2")]))
        clone(virtomate, "--mode", "linked", uri=far.uri)
        content = images.guest_digest(far.on_host(f"{directory}/original.qcow2"), "qcow2")

        found = flattened(virtomate("domain-flatten", "clone", json=True, uri=far.uri))

        assert [item["way"] for item in found["disks"]] == ["copy"]
        assert found["kept"] == []
        copy = far.on_host(f"{directory}/clone-flat.qcow2")
        assert not has_base(copy)
        assert images.guest_digest(copy, "qcow2") == content
        assert not far.on_host(f"{directory}/clone.qcow2").exists()
        (listing,) = (item for item in virtomate("domain-list", json=True, uri=far.uri).json if item["clone"])
        assert (listing["name"], listing["clone"]["mode"]) == ("clone", "copy")


def test_overlay_that_cloning_did_not_make_is_kept(lab: Lab, without_qemu_img: Program) -> None:
    """Of a domain that is no clone, the overlay stays, and the result names it."""
    base = lab.pool.qcow2("base.qcow2")
    overlay = lab.pool.overlay("overlay.qcow2", base, pattern=9)
    content = images.guest_digest(overlay, "qcow2")
    lab.define(domain("plain", disks=[disk((lab.pool.name, "overlay.qcow2"))]))

    found = flattened(without_qemu_img("domain-flatten", "plain", json=True))

    (kept,) = found["kept"]
    assert kept.startswith(f"volume '{overlay}' (")
    assert overlay.exists()
    assert "volume='overlay-flat.qcow2'" in definition(lab, "plain")
    assert images.guest_digest(lab.pool.path / "overlay-flat.qcow2", "qcow2") == content


@pytest.mark.parametrize(
    "moment",
    [
        *("virDomainRename", "virStorageVolCreateXMLFrom", "virDomainUpdateDeviceFlags", "virDomainSetMetadata"),
        "virStorageVolDelete",
    ],
)
def test_kill_of_a_copy(lab: Lab, virtomate: Program, without_qemu_img: Program, moment: str) -> None:
    """Whenever a copy is killed, the domain has one whole image, and the same command completes the work."""
    overlay = make_clone(lab, virtomate)
    content, copy = images.guest_digest(overlay, "qcow2"), lab.pool.path / "clone-flat.qcow2"
    run = without_qemu_img.pausing(moment).start("domain-flatten", "clone")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    current = copy if str(copy) in definition(lab, "clone") else overlay
    assert images.guest_digest(current, "qcow2") == content
    if moment == "virStorageVolCreateXMLFrom":
        # half a copy of libvirt's proves nothing
        error = error_of(without_qemu_img("domain-flatten", "clone", json=True))
        claim = f"virtomate-flatten-{lab.connection.lookupByName('clone').UUIDString()}"
        assert f"domain-delete --yes-unproved {claim}" in error["hint"]
        assert virtomate("domain-delete", "--yes-unproved", claim).status == 0

    flattened(without_qemu_img("domain-flatten", "clone", json=True))

    assert images.guest_digest(copy, "qcow2") == content
    assert str(copy) in definition(lab, "clone")
    assert mode_of(virtomate, "clone") == "copy"
    assert {found.name() for found in lab.connection.listAllDomains()} == {"original", "clone"}
    assert [name for name in lab.pool.volumes() if "clone" in name] == [copy.name]


@pytest.mark.parametrize("moment", ["virDomainUpdateDeviceFlags", "virStorageVolDelete"])
def test_copy_of_a_domain_that_was_undefined_is_kept(
    lab: Lab, virtomate: Program, without_qemu_img: Program, moment: str
) -> None:
    """After a kill the copy may be the only content; no command deletes it, and the domain can be brought back."""
    overlay = make_clone(lab, virtomate)
    content, copy = images.guest_digest(overlay, "qcow2"), lab.pool.path / "clone-flat.qcow2"
    run = without_qemu_img.pausing(moment).start("domain-flatten", "clone")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    found = lab.connection.lookupByName("clone")
    document, claim = found.XMLDesc(), f"virtomate-flatten-{found.UUIDString()}"
    found.undefine()
    hint = (f"virsh undefine {claim}", "virtomate domain-flatten clone", f"virsh vol-delete --pool {lab.pool.name}")
    refusal = Refusal("IllegalStateError", (str(copy), "'clone'", "may be all that there is"), hint)

    check_refusal(lab, virtomate, ("domain-delete", "--yes", "--yes-unproved", claim), refusal)

    assert images.guest_digest(copy, "qcow2") == content
    other = lab.pool.qcow2("other.qcow2")
    lab.define(document.replace(str(copy), str(other)))
    assert str(copy) in error_of(without_qemu_img("domain-flatten", "clone", json=True))["message"]
    assert copy.exists()
    lab.define(document)
    flattened(without_qemu_img("domain-flatten", "clone", json=True))
    assert images.guest_digest(copy, "qcow2") == content
    assert {found.name() for found in lab.connection.listAllDomains()} == {"original", "clone"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_undoes_a_copy(lab: Lab, virtomate: Program, without_qemu_img: Program, number: signal.Signals) -> None:
    """A signal in the middle of a copy leaves everything as it was."""
    make_clone(lab, virtomate)
    before = lab.inventory()
    run = without_qemu_img.pausing("virStorageVolCreateXMLFrom").start("domain-flatten", "clone", json=True)
    with paused(run):
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    assert result.json[0]["status"] == "interrupted"
    assert "leftovers" not in result.json[0]["error"]
    assert before.difference(lab.inventory()) == ""


def test_second_run_waits_for_no_copy(lab: Lab, virtomate: Program, without_qemu_img: Program) -> None:
    """While one run makes a copy, another one is refused."""
    make_clone(lab, virtomate)
    run = without_qemu_img.pausing("virDomainRename").start("domain-flatten", "clone")
    with paused(run):
        second = virtomate("domain-flatten", "clone", json=True)
    first = run.wait()

    assert (first.status, second.status) == (0, 1), (str(first), str(second))
    assert "being flattened by another virtomate" in error_of(second)["message"]


@pytest.mark.stress
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("way", ["in-place", "pull", "copy"])
def test_ends_at_every_moment(
    lab: Lab, virtomate: Program, without_qemu_img: Program, way: str, number: signal.Signals
) -> None:
    """Whenever a run ends, the clone reads the same, its original has the same content, and a second run completes."""
    original = lab.pool.raw("original.raw", BIG_BYTES, data_bytes=BIG_BYTES)
    lab.define(domain("original", disks=[disk(original, "raw")]))
    base = images.file_digest(original)
    program = without_qemu_img if way == "copy" else virtomate
    seconds = 0.0
    for moment in range(32):
        overlay = clone_path(clone(virtomate, "--mode", "linked"))
        if way == "pull":
            make_plain(overlay, original, "raw")
        else:
            images.qemu_io(overlay, "qcow2", "write -P 7 5M 192k", "write -P 8 20M 4k")
        content = images.guest_digest(overlay, "qcow2")
        found = lab.connection.lookupByName("clone")
        if way == "pull":
            found.create()
        run = program.start("domain-flatten", "clone", json=True)
        if moment > 1:
            time.sleep(seconds * (moment - 2) / 29)
            run.signal(number)
        seconds = max(seconds, run.wait().seconds)
        if way != "pull":
            require_sound_if_there(overlay)
            assert images.guest_digest(image_of(lab), "qcow2") == content
        second = program("domain-flatten", "clone", json=True)
        if second.status and "--yes-unproved" in error_of(second).get("hint", ""):
            claim = f"virtomate-flatten-{found.UUIDString()}"
            assert virtomate("domain-delete", "--yes-unproved", claim).status == 0
            second = program("domain-flatten", "clone", json=True)
        flattened(second)
        assert mode_of(virtomate, "clone") == "copy"
        if way == "pull":
            found.destroy()
        assert not has_base(image_of(lab))
        assert images.guest_digest(image_of(lab), "qcow2") == content
        assert virtomate("domain-delete", "--yes", "clone").status == 0
        assert lab.pool.volumes() == ["original.raw"]
    assert images.file_digest(original) == base


def image_of(lab: Lab) -> Path:
    """Return the image of the disk of `clone`."""
    return Path(definition(lab, "clone").partition("<source file='")[2].partition("'")[0])


def require_sound_if_there(path: Path) -> None:
    """Make sure that an image is sound, unless a copy has taken its place."""
    if path.exists():
        require_sound(path)


def test_image_that_libvirt_remembers_in_another_format(lab: Lab, virtomate: Program) -> None:
    """An overlay that was made over a raw volume is no image without a base, although libvirt has not looked again."""
    base = lab.pool.qcow2("base.qcow2", data_bytes=MIB)
    document = "<volume><name>late.qcow2</name><capacity>65536</capacity><target><format type='raw'/></target></volume>"
    lab.pool.handle.createXML(document, 0)
    overlay = lab.pool.path / "late.qcow2"
    make_plain(overlay, base, "qcow2")
    lab.define(domain("late", disks=[disk(overlay)]))
    before = images.guest_digest(overlay, "qcow2")

    assert flattened(virtomate("domain-flatten", "late", json=True))["status"] == "flattened"

    assert not has_base(overlay)
    assert images.guest_digest(overlay, "qcow2") == before
