"""A disk whose directory no active pool covers is cloned through a temporary pool over the directory, if asked."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest

from tests.functional.runs import paused
from tests.functional.support import by_target, clone, clone_path, cloned, definition, image_info, refused
from tests.functional.test_proofs import forge
from tests.lab import Lab, Program, disk, domain, images, mounts
from tests.lab.images import MIB
from tests.lab.ssh import SshServer
from virtomate.definition.provenance import Artifact, Fingerprint
from virtomate.enums import ArtifactKind, ArtifactState

OUTSIDE = "--outside-pools"


def pools_of(lab: Lab) -> list[str]:
    """Return the names of all pools."""
    return sorted(pool.name() for pool in lab.connection.listAllStoragePools())


def define_original(lab: Lab, *paths: Path, format_: str = "qcow2") -> None:
    """Define the original with disks of these files."""
    disks = [disk(path, format_, f"vd{'abcd'[number]}") for number, path in enumerate(paths)]
    lab.define(domain("original", disks=disks))


def original_outside(lab: Lab, name: str = "outside") -> Path:
    """Define the original with a disk in a directory that is in no pool; return the path of the disk."""
    path = images.make_qcow2(lab.make_directory(name) / "original.qcow2", 8 * MIB, data_bytes=MIB)
    define_original(lab, path)
    return path


def same_content(one: Path, other: Path) -> bool:
    """Tell whether guests read the same from two images."""
    return images.same_content(one, "qcow2", other, "qcow2")


@contextmanager
def another_spelling(lab: Lab, directory: Path, way: str) -> Iterator[Path]:
    """Another path of a directory."""
    other = lab.make_directory("other") / "a path"
    if way == "symbolic link":
        other.symlink_to(directory)
    else:
        other.mkdir()
        mounts.mount("--bind", directory, other)
    try:
        yield other
    finally:
        if way == "symbolic link":
            other.unlink()
        else:
            mounts.unmount(other)


def test_refused_unless_asked(lab: Lab, virtomate: Program) -> None:
    """Without the option, the error says how the directory becomes a pool, and names the option."""
    below = lab.pool.path / "below"
    below.mkdir()
    places = {"outside": lab.make_directory("outside"), "below": below, "asleep": lab.make_directory("asleep")}
    lab.make_pool("asleep", places["asleep"]).handle.destroy()
    paths = {}
    for name, directory in places.items():
        paths[name] = images.make_qcow2(directory / f"{name}.qcow2", 8 * MIB)
        lab.define(domain(name, disks=[disk(paths[name])]))
    before = lab.inventory()

    errors = {name: refused(lab, before, virtomate("domain-clone", name, "x", json=True)) for name in places}

    for name, directory in places.items():
        cure = "pool-start asleep" if name == "asleep" else f"--target {directory}"
        assert errors[name]["type"] == "IllegalStateError"
        assert cure in errors[name]["hint"]
        assert "--outside-pools" in errors[name]["hint"]
        document = cloned(virtomate("domain-clone", OUTSIDE, name, f"{name}-clone", json=True))
        assert clone_path(document).parent == directory
        assert same_content(paths[name], clone_path(document))


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_copied_beside(lab: Lab, virtomate: Program, transfer: str) -> None:
    """The copy goes beside the original, and no pool is left; the plan says the same."""
    path = original_outside(lab, "out side")
    before = pools_of(lab)
    plan = virtomate("domain-clone", "--dry-run", OUTSIDE, "original", "clone", json=True)
    assert pools_of(lab) == before
    (planned,) = plan.json

    document = clone(virtomate, OUTSIDE, "--transfer", transfer)

    copy = path.with_name("clone.qcow2")
    source, made = ({"format": "qcow2", "path": str(file), "pool": None, "volume": None} for file in (path, copy))
    assert (by_target(document)["vda"]["source"], by_target(document)["vda"]["clone"]) == (source, made)
    assert by_target(planned)["vda"]["clone"] == made
    assert {(need["pool"], need["directory"]) for need in planned["space"]} == {(None, str(path.parent))}
    assert by_target(document)["vda"]["transfer"] == transfer
    assert same_content(path, copy)
    assert f"file='{copy}'" in definition(lab, "clone")
    assert pools_of(lab) == before


@pytest.mark.parametrize("mode", ["linked", "reflink", "shallow"])
def test_every_mode_and_chains_outside(root_lab: Lab, virtomate: Program, mode: str) -> None:
    """A chain in two directories outside pools is read to its end; overlays and top images go beside the original."""
    xfs = root_lab.pools["xfs"].path
    below, above = xfs / "bases", xfs / "tops"
    for directory in (below, above):
        directory.mkdir()
    base = images.make_qcow2(below / "base.qcow2", 8 * MIB, data_bytes=MIB)
    top = images.make_overlay(above / "original.qcow2", base, "qcow2", pattern=7)
    define_original(root_lab, top)

    document = clone(virtomate, OUTSIDE, "--mode", mode)

    path = clone_path(document)
    assert path == above / "clone.qcow2"
    assert same_content(top, path)
    assert image_info(path)["full-backing-filename"] == str(top if mode == "linked" else base)
    record = definition(root_lab, "clone")
    assert str(base) in record
    assert virtomate("domain-verify", "clone").status == 0


def test_chain_flattened(lab: Lab, virtomate: Program) -> None:
    """A base outside pools is copied into the clone; without the option the error names it."""
    base = images.make_qcow2(lab.make_directory("bases") / "base.qcow2", 8 * MIB, data_bytes=MIB)
    top = lab.pool.overlay("original.qcow2", base, pattern=7)
    define_original(lab, top)

    error = refused(lab, lab.inventory(), virtomate("domain-clone", "original", "clone", json=True))
    document = clone(virtomate, OUTSIDE)

    assert str(base) in error["message"]
    assert OUTSIDE in error["hint"]
    assert by_target(document)["vda"]["clone"]["pool"] == lab.pool.name
    assert same_content(top, clone_path(document))
    assert "backing-filename" not in image_info(clone_path(document))


def test_into_a_pool(lab: Lab, virtomate: Program) -> None:
    """With --pool the original alone is outside, and the clone is an ordinary one."""
    path = original_outside(lab)
    there = len(list(path.parent.iterdir()))

    document = clone(virtomate, OUTSIDE, "--pool", lab.pool.name)

    assert by_target(document)["vda"]["clone"]["pool"] == lab.pool.name
    assert same_content(path, clone_path(document))
    assert len(list(path.parent.iterdir())) == there
    assert "virtomate-clone-" not in definition(lab, "clone")


@pytest.mark.parametrize("way", ["symbolic link", "bind mount"])
def test_pool_under_another_spelling(root_lab: Lab, virtomate: Program, way: str) -> None:
    """An active pool that covers the directory under another path is used, and no option is needed."""
    path = root_lab.pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    with another_spelling(root_lab, path.parent, way) as other:
        define_original(root_lab, other / path.name)

        document = clone(virtomate)
        linked = cloned(virtomate("domain-clone", "--mode", "linked", "original", "linked", json=True))

        assert by_target(document)["vda"]["clone"]["pool"] == root_lab.pool.name
        assert same_content(path, clone_path(document))
        assert image_info(clone_path(linked))["full-backing-filename"] == str(path)
        delete = virtomate("domain-delete", "-y", "clone", "linked")
        assert delete.status == 0, str(delete)


@pytest.mark.parametrize("way", ["symbolic link", "bind mount"])
def test_two_spellings_are_one_directory(root_lab: Lab, virtomate: Program, way: str) -> None:
    """Two disks in two spellings of a directory have one temporary pool, and two names."""
    directory = root_lab.make_directory("outside")
    one = images.make_qcow2(directory / "disk.qcow2", 8 * MIB, data_bytes=MIB)
    with another_spelling(root_lab, directory, way) as other:
        (other / "sub").mkdir()
        two = images.make_qcow2(other / "original.qcow2", 8 * MIB, data_bytes=MIB, seed=2)
        lab_disks = [disk(one, target="vda"), disk(two, target="vdb"), disk(other / one.name, target="vdc")]
        root_lab.define(domain("original", disks=lab_disks))
        words = ("domain-clone", OUTSIDE, "--disk", "vda=name=new.qcow2", "--disk", "vdb=name=new.qcow2")

        clash = virtomate(*words, "original", "clone", json=True)
        document = clone(virtomate, OUTSIDE)

        assert clash.json["type"] == "Conflict", str(clash)
        paths = {target: item["clone"]["path"] for target, item in by_target(document).items()}
        assert paths["vda"] == paths["vdc"] == str(directory / "clone-disk.qcow2")
        assert paths["vdb"] == str(directory / "clone.qcow2")
        assert same_content(two, Path(paths["vdb"]))


def names_in(directory: Path) -> set[str]:
    """Return the names of the files in a directory."""
    return {path.name for path in directory.iterdir()}


def test_every_command_on_a_clone_outside(lab: Lab, virtomate: Program) -> None:
    """What is done with a linked clone is done with one whose overlay is in no pool, and no pool is left."""
    path = original_outside(lab)
    before = pools_of(lab)
    linked = clone_path(clone(virtomate, OUTSIDE, "--mode", "linked"))
    assert virtomate("domain-clone", OUTSIDE, "--mode", "linked", "clone", "above").status == 0
    images.write_marker(linked.with_name("above.qcow2"), "qcow2", "written")

    (verified,) = virtomate("domain-verify", "clone", json=True).json
    tree = {node["name"]: node for node in virtomate("domain-list", "--tree", json=True).json}
    kept = virtomate("domain-clone", "--if-exists", "keep", "--mode", "linked", OUTSIDE, "original", "clone", json=True)
    used = virtomate("domain-delete", "-y", "clone", json=True)
    reset = virtomate("domain-reset", "above")
    moved = path.rename(path.with_name("moved.qcow2"))
    rebased = virtomate("domain-rebase", "--base", moved, "clone")
    flat = virtomate("domain-flatten", "above", json=True)
    deleted = virtomate("domain-delete", "-y", "above", "clone", json=True)

    assert verified["status"] == "intact"
    assert [item["path"] for item in tree["clone"]["base"]] == [str(path)]
    assert [item["path"] for item in tree["clone"]["dependents"]] == [str(linked.with_name("above.qcow2"))]
    assert [item["status"] for item in kept.json] == ["unchanged"], str(kept)
    assert used.status == 1, str(used)
    assert "'above' rests on it" in used.json["message"]
    assert reset.status == 0, str(reset)
    assert rebased.status == 0, str(rebased)
    assert flat.status == 0, str(flat)
    assert flat.json[0]["status"] == "flattened"
    assert deleted.status == 0, str(deleted)
    assert names_in(path.parent) == {moved.name}
    assert pools_of(lab) == before


def test_deletion_sees_overlays_of_other_tools(lab: Lab, virtomate: Program) -> None:
    """An overlay that no definition names keeps the base beside it, which is in no pool either."""
    original_outside(lab)
    path = clone_path(clone(virtomate, OUTSIDE))
    images.make_overlay(path.with_name("theirs.qcow2"), path, "qcow2")

    refusal = virtomate("domain-delete", "-y", "clone", json=True)

    assert refusal.status == 1, str(refusal)
    assert "theirs.qcow2' rests on it" in refusal.json["message"]


def test_frozen_outside(lab: Lab, virtomate: Program) -> None:
    """The overlay of a frozen original goes beside its volume, and the base may be in no pool."""
    path = original_outside(lab)

    document = clone(virtomate, OUTSIDE, "--mode", "linked", "--freeze")
    again = cloned(virtomate("domain-clone", OUTSIDE, "--mode", "linked", "--freeze", "original", "two", json=True))

    (frozen,) = document["frozen"]
    overlay = path.with_name("original-overlay.qcow2")
    assert (frozen["base"]["path"], frozen["overlay"]["path"]) == (str(path), str(overlay))
    assert {frozen[key]["pool"] for key in ("base", "overlay")} == {None}
    assert f"file='{overlay}'" in definition(lab, "original")
    assert [item["new"] for item in again["frozen"]] == [False]
    assert image_info(clone_path(again))["full-backing-filename"] == str(path)
    assert virtomate("domain-delete", "-y", "clone", "two").status == 0


def test_replaced_numbered_and_from_a_file(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """The option goes together with those that make several clones, or clones anew."""
    path = original_outside(lab)
    file = tmp_path / "clones.toml"
    file.write_text('domain = "original"\noutside-pools = true\n[[clones]]\nname = "one"\n[[clones]]\nname = "two"\n')

    counted = virtomate("domain-clone", OUTSIDE, "--count", "2", "original", "web", json=True)
    listed = virtomate("domain-clone", "--from", file, json=True)
    plan = virtomate("domain-clone", "--from", file, "--if-exists", "replace", "--dry-run", json=True)
    replaced = virtomate("domain-clone", OUTSIDE, "--if-exists", "replace", "original", "one", json=True)

    assert [item["status"] for item in counted.json] == ["cloned"] * 2, str(counted)
    assert [item["status"] for item in listed.json] == ["cloned"] * 2, str(listed)
    assert [item["status"] for item in plan.json] == ["planned"] * 2, str(plan)
    assert replaced.status == 0, str(replaced)
    assert names_in(path.parent) == {f"{name}.qcow2" for name in ("original", "web-1", "web-2", "one", "two")}
    assert not [name for name in pools_of(lab) if name.startswith("virtomate")]


def test_undone(lab: Lab, virtomate: Program) -> None:
    """A failure leaves neither a file nor a pool; a directory of devices, and a missing one, are refused."""
    path = original_outside(lab)
    lab.define(domain("devices", disks=[disk(Path("/proc/version"), "raw")]))
    lab.define(domain("missing", disks=[disk(path.parent / "not there" / "disk.img", "raw")]))
    path.with_name("clone.qcow2").write_bytes(b"mine")
    before = lab.inventory()

    taken = refused(lab, before, virtomate("domain-clone", OUTSIDE, "original", "clone", json=True))
    devices = refused(lab, before, virtomate("domain-clone", OUTSIDE, "devices", "clone-2", json=True))
    missing = refused(lab, before, virtomate("domain-clone", OUTSIDE, "missing", "clone-2", json=True))
    replaced = images.make_raw(path.with_name("raw"), MIB).replace(path)
    other = refused(lab, lab.inventory(), virtomate("domain-clone", OUTSIDE, "original", "clone-2", json=True))

    assert taken["message"] == f"there is already a file '{path.with_name('clone.qcow2')}'"
    assert "'/proc' is a directory of devices" in devices["message"]
    assert missing["message"].startswith("disk vda: ")
    assert f"'{path.parent / 'not there'}'" in missing["message"]
    assert str(replaced) in other["message"]


@pytest.mark.parametrize(
    ("words", "number"), [(("--dry-run",), signal.SIGINT), ((), signal.SIGKILL)], ids=["preview", "clone"]
)
def test_ended_in_the_plan(lab: Lab, virtomate: Program, words: tuple[str, ...], number: signal.Signals) -> None:
    """A signal stops the temporary pool of a plan; after a kill the next run that needs one stops it."""
    original_outside(lab)
    before = lab.inventory()
    run = virtomate.pausing("virStoragePoolCreateXML").start("domain-clone", *words, OUTSIDE, "original", "killed")

    with paused(run):
        (left,) = [name for name in pools_of(lab) if name.startswith("virtomate-clone-")]
        run.signal(number)
    status = run.wait().status

    assert status == -number
    if number == signal.SIGKILL:
        assert left in pools_of(lab)
        assert virtomate("domain-clone", "--dry-run", OUTSIDE, "original", "clone").status == 0
    assert before.difference(lab.inventory()) == ""


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_killed_in_the_middle(lab: Lab, virtomate: Program, mode: str) -> None:
    """What a killed run has left is removed by domain-delete, also when its temporary pool is gone."""
    original_outside(lab)
    before = lab.inventory()
    moment = "vda" if mode == "copy" else "virStorageVolCreateXML"
    run = virtomate.pausing(moment).start("domain-clone", OUTSIDE, "--mode", mode, "original", "killed")

    with paused(run):
        run.signal(signal.SIGKILL)
        run.process.wait()
    (left,) = [name for name in pools_of(lab) if name.startswith("virtomate-clone-")]
    lab.connection.storagePoolLookupByName(left).destroy()
    deleted = virtomate("domain-delete", "-y", "killed", json=True)

    assert deleted.status == 0, str(deleted)
    assert before.difference(lab.inventory()) == ""


def test_killed_in_a_freeze(lab: Lab, virtomate: Program) -> None:
    """A freeze that was killed after a disk moved is completed, also when its temporary pool is gone."""
    path = original_outside(lab)
    words = ("domain-clone", OUTSIDE, "--mode", "linked", "--freeze", "original")
    run = virtomate.pausing("virDomainUpdateDeviceFlags").start(*words, "killed")

    with paused(run):
        run.signal(signal.SIGKILL)
        run.process.wait()
    for name in pools_of(lab):
        if name.startswith("virtomate-clone-"):
            lab.connection.storagePoolLookupByName(name).destroy()
    document = cloned(virtomate(*words, "clone", json=True))

    overlay = path.with_name("original-overlay.qcow2")
    assert f"file='{overlay}'" in definition(lab, "original")
    assert image_info(clone_path(document))["full-backing-filename"] == str(path)
    assert {found.name() for found in lab.connection.listAllDomains()} == {"original", "clone"}


def test_live_and_snapshots(root_lab: Lab, virtomate: Program) -> None:
    """A running original is cloned, and an external snapshot whose overlay is in no pool."""
    path = original_outside(root_lab)
    overlay = root_lab.make_directory("overlays") / "now.qcow2"
    original = root_lab.connection.lookupByName("original")
    original.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    live = cloned(virtomate("domain-clone", "--live", OUTSIDE, "original", "live", json=True))
    words = ("domain-clone", "--live", "--mode", "linked", OUTSIDE, "original", "linked")
    linked = cloned(virtomate(*words, json=True))
    original.destroy()
    snapshot = f"<domainsnapshot><name>then</name><disks><disk name='vda'><source file='{overlay}'/></disk></disks>"
    original.snapshotCreateXML(f"{snapshot}</domainsnapshot>", libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    now = cloned(virtomate("domain-clone", OUTSIDE, "original", "now", json=True))
    then = cloned(virtomate("domain-clone", OUTSIDE, "--snapshot", "then", "original", "then", json=True))

    assert clone_path(live) == path.with_name("live.qcow2")
    assert same_content(path, clone_path(live))
    assert Path(image_info(clone_path(linked))["full-backing-filename"]).parent == path.parent
    assert clone_path(now).parent == overlay.parent
    assert clone_path(then).parent == path.parent
    assert all(same_content(path, clone_path(document)) for document in (linked, now, then))
    deleted = virtomate("domain-delete", "-y", "live", "linked", "now", "then", json=True)
    assert deleted.status == 0, str(deleted)
    assert names_in(path.parent) == {path.name}
    assert names_in(overlay.parent) == {overlay.name}


def test_far_host(root_lab: Lab, sshd: SshServer, virtomate: Program) -> None:
    """Where no file is seen, everything goes through libvirt; deletion asks about what nothing proves."""
    place = "/var/lib/libvirt/images/no pool"
    with root_lab.make_host("far") as far:
        uri = sshd.uri(far)
        directory = far.on_host(place)
        directory.mkdir()
        base = images.make_qcow2(directory / "original.qcow2", 8 * MIB, data_bytes=MIB)
        far.connection.defineXML(domain("original", disks=[disk(Path(f"{place}/original.qcow2"))]))

        copy = virtomate("domain-clone", OUTSIDE, "original", "copy", uri=uri, json=True)
        linked = virtomate("domain-clone", OUTSIDE, "--mode", "linked", "original", "linked", uri=uri, json=True)
        content = same_content(base, directory / "copy.qcow2")
        reset = virtomate("domain-reset", "linked", uri=uri, json=True)
        unproved = virtomate("domain-delete", "-y", "copy", uri=uri, json=True)
        deleted = virtomate("domain-delete", "-y", "linked", uri=uri, json=True)
        agreed = virtomate("domain-delete", "-y", "--yes-unproved", "copy", uri=uri, json=True)

        assert (cloned(copy)["name"], cloned(linked)["name"]) == ("copy", "linked")
        assert content
        assert reset.status == 0, str(reset)
        assert unproved.status != 0, str(unproved)
        assert deleted.status == 0, str(deleted)
        assert agreed.status == 0, str(agreed)
        assert names_in(directory) == {"original.qcow2"}
        assert not far.connection.listAllStoragePools()


@pytest.mark.parametrize("place", ["directory", "/dev"])
def test_record_alone_deletes_no_file(lab: Lab, virtomate: Program, place: str) -> None:
    """A forged record of a volume in no pool is a question at most; no pool is started over devices."""
    victim = lab.make_directory("precious") / "keys" if place == "directory" else Path("/dev/zero")
    if place == "directory":
        victim.write_bytes(b"secret")
    pool = "virtomate-clone-1-1-00000000-host"
    made = Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, pool, victim.name, str(victim), Fingerprint("0"))
    forge(lab, made, finished=True)
    before = lab.inventory()

    result = virtomate("domain-delete", "-y", "forged", json=True)

    assert result.status == (2 if place == "directory" else 1), str(result)
    assert str(victim) in result.stdout + result.stderr
    assert before.difference(lab.inventory()) == ""


def test_no_pool_without_need(lab: Lab, virtomate: Program) -> None:
    """Where all disks are in active pools, no temporary pool is started: the run would stand still after the call."""
    path = lab.pool.qcow2("original.qcow2", 8 * MIB)
    define_original(lab, path)

    result = virtomate.pausing("virStoragePoolCreateXML")("domain-clone", OUTSIDE, "original", "clone", json=True)

    assert cloned(result)["disks"][0]["clone"]["pool"] == lab.pool.name
