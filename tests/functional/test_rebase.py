"""Rebasing: a linked clone rests on another base with the same content, which is checked before."""

import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import Refusal, check_refusal, error_of, paused
from tests.functional.support import clone, clone_path, cloned, definition, image_info
from tests.functional.test_flatten import make_clone, without_record
from tests.lab import Lab, Program, Result, disk, domain, images
from tests.lab.images import MIB


def rebased(result: Result) -> Any:
    """Return what became of a disk in a run that must have succeeded."""
    assert result.status == 0, str(result)
    return result.json


def verified(virtomate: Program, *names: str) -> list[str]:
    """Return what `domain-verify` says of clones."""
    return [item["status"] for item in virtomate("domain-verify", *names, json=True).json]


def move(lab: Lab, path: Path, name: str) -> Path:
    """Move a volume to another name in its pool, and return its new path."""
    moved = path.rename(path.with_name(name))
    lab.pool.refresh()
    return moved


def test_base_that_was_moved(lab: Lab, virtomate: Program) -> None:
    """The record knows a base that was moved, and the clone is as it was, with another base."""
    overlay = make_clone(lab, virtomate)
    content, before = images.guest_digest(overlay, "qcow2"), without_record(lab, "clone")
    base = lab.pool.path / "original.qcow2"
    moved = move(lab, base, "moved base.qcow2")
    assert verified(virtomate, "clone") == ["broken"]

    found = rebased(virtomate("domain-rebase", "--base", f"{lab.pool.name}/{moved.name}", "clone", json=True))

    del found["seconds"], found["uuid"]
    assert found == {
        "name": "clone",
        "target": "vda",
        "path": str(overlay),
        "former_base": str(base),
        "base": str(moved),
        "format": "qcow2",
        "check": "record",
        "warnings": [],
        "notices": [],
    }
    info = image_info(overlay)
    assert (info["backing-filename"], info["backing-filename-format"]) == (str(moved), "qcow2")
    assert images.guest_digest(overlay, "qcow2") == content
    assert without_record(lab, "clone") == before
    assert verified(virtomate, "clone") == ["intact"]
    lab.connection.lookupByName("clone").create()
    lab.connection.lookupByName("clone").destroy()


def test_copy_in_another_format(lab: Lab, virtomate: Program) -> None:
    """The content of a copy is compared with that of the former base, and its format written down."""
    base = lab.pool.raw("original.raw", data_bytes=4 * MIB)
    lab.define(domain("original", disks=[disk(base, "raw")]))
    overlay = clone_path(clone(virtomate, "--mode", "linked"))
    copy = lab.pool.path / "copy.qcow2"
    images.qemu_img("convert", "-f", "raw", "-O", "qcow2", base, copy)
    lab.pool.refresh()
    content = images.guest_digest(overlay, "qcow2")
    refusal = Refusal("UnsupportedError", (str(copy), "another content"), ("--base-format",))

    check_refusal(lab, virtomate, ("domain-rebase", "--base", copy, "clone"), refusal)
    found = rebased(virtomate("domain-rebase", "--base-format", "qcow2", "--base", copy, "clone", json=True))

    assert (found["check"], found["format"]) == ("content", "qcow2")
    base.unlink()
    assert images.guest_digest(overlay, "qcow2") == content
    assert verified(virtomate, "clone") == ["intact"]


def test_other_content_is_refused(lab: Lab, virtomate: Program) -> None:
    """Another content is refused, whether the former base is there or not; --unsafe takes it."""
    overlay = make_clone(lab, virtomate)
    other = lab.pool.qcow2("other.qcow2", seed=2)
    words = ("domain-rebase", "--base", other, "clone")

    check_refusal(
        lab, virtomate, words, Refusal("UnsupportedError", (str(other), "another content"), ("read as qcow2",))
    )
    move(lab, lab.pool.path / "original.qcow2", "moved.qcow2")
    check_refusal(lab, virtomate, words, Refusal("UnsupportedError", (str(other), "nothing tells"), ("--unsafe",)))
    found = rebased(virtomate("domain-rebase", "--unsafe", "--base", other, "clone", json=True))

    assert found["check"] == "skipped"
    assert image_info(overlay)["backing-filename"] == str(other)


def test_base_of_another_domain(lab: Lab, virtomate: Program) -> None:
    """A domain that writes to the new base when it is started is named, and the record knows that."""
    mark = 'frozen="yes"'
    base = lab.pool.qcow2("original.qcow2")
    lab.define(domain("original", disks=[disk(base)]))
    assert virtomate("domain-clone", "--mode", "linked", "--freeze", "original", "clone").status == 0
    assert mark in definition(lab, "clone")
    copy = Path(shutil.copy2(base, base.with_name("copy.qcow2")))
    copy.chmod(0o600)
    lab.pool.refresh()
    lab.define(domain("other", disks=[disk(copy)]))

    found = rebased(virtomate("domain-rebase", "--base", copy, "clone", json=True))

    assert [item["code"] for item in found["notices"]] == ["linked-original"]
    assert found["warnings"][0].startswith("do not start 'other' any more")
    assert mark not in definition(lab, "clone")


def test_relative_name_stays_relative(lab: Lab, virtomate: Program) -> None:
    """A chain whose images name each other without a directory can still be moved as a whole."""
    base = lab.pool.qcow2("base.qcow2")
    overlay = lab.pool.path / "overlay.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", overlay)
    copy = Path(shutil.copy2(base, base.with_name("copy.qcow2")))
    lab.pool.refresh()
    lab.define(domain("plain", disks=[disk(overlay)]))

    rebased(virtomate("domain-rebase", "--base", copy, "plain", json=True))

    assert image_info(overlay)["backing-filename"] == "copy.qcow2"


def test_clones_of_the_clone_stay_intact(lab: Lab, virtomate: Program) -> None:
    """The header of the clone's image changes, and the records of those who rest on it know that."""
    overlay = make_clone(lab, virtomate)
    assert virtomate("domain-clone", "--mode", "linked", "clone", "second").status == 0
    assert verified(virtomate, "clone", "second") == ["intact", "intact"]
    moved = move(lab, lab.pool.path / "original.qcow2", "moved.qcow2")

    rebased(virtomate("domain-rebase", "--base", moved, "clone", json=True))

    assert image_info(overlay)["backing-filename"] == str(moved)
    assert verified(virtomate, "clone", "second") == ["intact", "intact"]


def test_disk_must_be_named_among_several(lab: Lab, virtomate: Program) -> None:
    """Only the disk that was named gets the new base."""
    paths = {target: lab.pool.qcow2(f"original-{target}.qcow2") for target in ("vda", "vdb")}
    lab.define(domain("original", disks=[disk(path, target=target) for target, path in paths.items()]))
    document = clone(virtomate, "--mode", "linked")
    copy = Path(shutil.copy2(paths["vdb"], paths["vdb"].with_name("copy.qcow2")))
    lab.pool.refresh()

    ambiguous = virtomate("domain-rebase", "--base", copy, "clone")
    rebased(virtomate("domain-rebase", "--disk", "vdb", "--base", copy, "clone", json=True))

    assert (ambiguous.status, "vda, vdb" in ambiguous.stderr) == (2, True), str(ambiguous)
    names = [image_info(clone_path(document, target))["backing-filename"] for target in ("vda", "vdb")]
    assert names == [str(paths["vda"]), str(copy)]


def test_named_backing_store_changes_with_the_image(lab: Lab, virtomate: Program) -> None:
    """A definition that names the images below names the new one."""
    base = lab.pool.qcow2("base.qcow2")
    overlay = lab.pool.overlay("overlay.qcow2", base)
    below = f"<backingStore type='file'><format type='qcow2'/><source file='{base}'/><backingStore/></backingStore>"
    lab.define(domain("plain", disks=[disk(overlay, extra=below)]))
    copy = Path(shutil.copy2(base, base.with_name("copy.qcow2")))
    lab.pool.refresh()

    rebased(virtomate("domain-rebase", "--base", copy, "plain", json=True))

    assert str(copy) in definition(lab, "plain")
    assert str(base) not in definition(lab, "plain")


@pytest.mark.parametrize(
    ("words", "status", "parts"),
    [
        (("--base", "{pool}/original.qcow2", "missing"), 1, ("'missing'",)),
        (("--base", "original.qcow2", "clone"), 2, ("'original.qcow2'", "POOL/NAME")),
        (("--base", "{pool}/nope", "clone"), 1, ("there is no volume 'nope' in pool '{pool}'",)),
        (("--base", "/nowhere/base.qcow2", "clone"), 1, ("'/nowhere/base.qcow2'",)),
        (("--base", "{pool}/clone.qcow2", "clone"), 2, ("'{pool}/clone.qcow2'",)),
        (("--base", "{pool}/original.qcow2", "original"), 1, ("'original'", "no disk with a base")),
        (("--base", "{pool}/original.qcow2", "--disk", "vdz", "clone"), 2, ("'vdz'", "vda")),
    ],
    ids=["no-domain", "no-name", "no-volume", "no-file", "itself", "no-base", "no-disk"],
)
def test_bad_arguments(
    lab: Lab, virtomate: Program, words: tuple[str, ...], status: int, parts: tuple[str, ...]
) -> None:
    """A sentence names the value, and nothing is changed."""
    make_clone(lab, virtomate)
    before = lab.inventory()

    result = virtomate("domain-rebase", *(word.format(pool=lab.pool.name) for word in words))

    assert result.status == status, str(result)
    assert [part for part in parts if part.format(pool=lab.pool.name) not in result.stderr] == []
    assert before.difference(lab.inventory()) == ""


def test_running_domain_is_refused(lab: Lab, virtomate: Program) -> None:
    """The image of a running domain is open."""
    make_clone(lab, virtomate)
    base = lab.pool.path / "original.qcow2"
    lab.connection.lookupByName("clone").create()
    refusal = Refusal("IllegalStateError", ("'clone'", "must be shut off"), ("virsh shutdown clone",))

    check_refusal(lab, virtomate, ("domain-rebase", "--base", base, "clone"), refusal)


def test_image_on_another_host(root_lab: Lab, virtomate: Program) -> None:
    """Where the image cannot be opened, the hint has the command for its host, and a second run changes the record."""
    with root_lab.make_host("far") as far:
        directory = "/var/lib/libvirt/images"
        xml = f"<pool type='dir'><name>images</name><target><path>{directory}</path></target></pool>"
        far.connection.storagePoolDefineXML(xml).create()
        base, overlay = (far.on_host(f"{directory}/{name}.qcow2") for name in ("original", "clone"))
        images.make_qcow2(base, 64 * MIB)
        far.connection.storagePoolLookupByName("images").refresh()
        far.connection.defineXML(domain("original", disks=[disk(f"{directory}/original.qcow2")]))
        clone(virtomate, "--mode", "linked", uri=far.uri)
        base.rename(base.with_name("moved.qcow2"))
        words = ("domain-rebase", "--base", "images/moved.qcow2", "clone")

        first = virtomate(*words, json=True, uri=far.uri)
        command = f"qemu-img rebase -u -f qcow2 -F qcow2 -b {directory}/moved.qcow2 {directory}/clone.qcow2"
        images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"{directory}/moved.qcow2", overlay)
        second = virtomate(*words, json=True, uri=far.uri)

        assert first.status == 1, str(first)
        assert command in error_of(first)["hint"]
        assert rebased(second)["check"] == "record"
        (found,) = virtomate("domain-verify", "clone", json=True, uri=far.uri).json
        assert found["status"] == "intact"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted_run_is_completed(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """Between the image and the record a run is ended; the guest reads the same, and the same command completes."""
    overlay = make_clone(lab, virtomate)
    content = images.guest_digest(overlay, "qcow2")
    base = lab.pool.path / "original.qcow2"
    copy = lab.pool.path / "copy.qcow2"
    images.qemu_img("convert", "-f", "qcow2", "-O", "qcow2", base, copy)
    lab.pool.refresh()
    words = ("domain-rebase", "--base", str(copy), "clone")
    run = virtomate.pausing("virDomainSetMetadata").start(*words, json=True)
    with paused(run):
        run.signal(number)
    run.wait()
    assert images.guest_digest(overlay, "qcow2") == content

    rebased(virtomate(*words, json=True))

    assert image_info(overlay)["backing-filename"] == str(copy)
    assert images.guest_digest(overlay, "qcow2") == content
    assert verified(virtomate, "clone") == ["intact"]


MOMENTS = (
    "virDomainSetMetadata",
    "virDomainSetMetadata-2",
    "sync-1",
    "virDomainSetMetadata-3",
    "virDomainSetMetadata-4",
)


def begin_rebase(lab: Lab, virtomate: Program, moment: str) -> tuple[Path, Path, tuple[str, ...]]:
    """Kill a run at a moment that rebases a clone with a clone; return the images of both, and the run's words."""
    overlay = make_clone(lab, virtomate)
    second = clone_path(cloned(virtomate("domain-clone", "--mode", "linked", "clone", "second", json=True)))
    base, copy = lab.pool.path / "original.qcow2", lab.pool.path / "copy.qcow2"
    images.qemu_img("convert", "-f", "qcow2", "-O", "qcow2", base, copy)
    lab.pool.refresh()
    words = ("domain-rebase", "--base", str(copy), "clone")
    run = virtomate.pausing(moment).start(*words)
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    return overlay, second, words


def integrity(virtomate: Program) -> dict[str, Any]:
    """Return what `domain-list` says of clones."""
    return {item["name"]: item["integrity"] for item in virtomate("domain-list", "--clones", json=True).json}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_breaks_no_clone_of_the_clone(lab: Lab, virtomate: Program, moment: str) -> None:
    """At every moment all commands know on what the clones rest, and domain-verify writes it down."""
    overlay, second, words = begin_rebase(lab, virtomate, moment)
    content = images.guest_digest(second, "qcow2")
    is_rebased = moment not in MOMENTS[:2]
    assert (image_info(overlay)["backing-filename"] == words[2]) is is_rebased

    assert integrity(virtomate) == {"clone": "intact", "second": "intact"}
    assert verified(virtomate, "second") == ["intact"]
    assert verified(virtomate) == ["intact", "intact"]
    if is_rebased:
        assert "rebasing" not in definition(lab, "clone") + definition(lab, "second")
    cloned(virtomate("domain-clone", "--mode", "linked", "second", "third", json=True))
    rebased(virtomate(*words, json=True))

    assert "rebasing" not in definition(lab, "clone") + definition(lab, "second")
    assert image_info(overlay)["backing-filename"] == words[2]
    assert verified(virtomate) == ["intact", "intact", "intact"]
    assert images.guest_digest(second, "qcow2") == content


@pytest.mark.parametrize("moment", [MOMENTS[1], "sync-1"], ids=["before", "after"])
def test_image_that_was_written_to_after_the_kill(lab: Lab, virtomate: Program, moment: str) -> None:
    """A clone of the clone is broken when somebody has written to the clone, whether it has its new base or not."""
    overlay, _, words = begin_rebase(lab, virtomate, moment)
    # into a part that the image holds already: neither its length nor its tables change
    images.qemu_io(overlay, "qcow2", "write -P 99 5M 4k")

    assert integrity(virtomate)["second"] == "broken"
    assert verified(virtomate, "clone", "second") == ["intact", "broken"]
    rebased(virtomate(*words, json=True))
    assert verified(virtomate, "clone", "second") == ["intact", "broken"]


def test_deletion_after_a_killed_run_names_the_new_base(lab: Lab, virtomate: Program) -> None:
    """The base that the image names by now is one that nobody uses any more."""
    _, _, words = begin_rebase(lab, virtomate, "sync-1")

    (clone_, second) = virtomate("domain-delete", "--yes", "clone", "second", json=True).json

    assert (clone_["status"], second["status"]) == ("deleted", "deleted")
    assert any(words[2] in kept for kept in clone_["kept"] + second["kept"])


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_ends_at_every_moment(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """Whenever a run ends, all clones read the same and are intact, and the same command completes the work."""
    overlay = make_clone(lab, virtomate)
    second = clone_path(cloned(virtomate("domain-clone", "--mode", "linked", "clone", "second", json=True)))
    bases = (lab.pool.path / "original.qcow2", lab.pool.path / "copy.qcow2")
    images.qemu_img("convert", "-f", "qcow2", "-O", "qcow2", *bases)
    lab.pool.refresh()
    content = [images.guest_digest(path, "qcow2") for path in (*bases, overlay, second)]
    digests = [images.file_digest(path) for path in bases]
    seconds, ends = 0.0, Counter[str]()
    for moment in range(32):
        target = bases[(moment + 1) % 2]
        words = ("domain-rebase", "--base", str(target), "clone")
        run = virtomate.start(*words, json=True)
        if moment > 1:
            time.sleep(seconds * (moment - 2) / 29)
            run.signal(number)
        seconds = max(seconds, run.wait().seconds)
        is_rebased = image_info(overlay)["backing-filename"] == str(target)
        is_noted = "rebasing" not in definition(lab, "clone") + definition(lab, "second")
        ends[f"rebased: {is_rebased}, noted: {is_noted}"] += 1
        assert verified(virtomate) == ["intact", "intact"]
        assert [images.guest_digest(path, "qcow2") for path in (*bases, overlay, second)] == content
        rebased(virtomate(*words, json=True))
        assert verified(virtomate) == ["intact", "intact"]
    assert [images.file_digest(path) for path in bases] == digests
    print(f"{number.name}: {dict(ends)}")
