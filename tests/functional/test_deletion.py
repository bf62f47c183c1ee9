"""domain-delete removes clones with all that cloning made for them, and nothing that anybody else has or uses."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import (
    Question,
    Refusal,
    check_refusal,
    make_big_source,
    midway,
    paused,
    reaching,
    start_clone,
    unchanged,
    wait_for,
)
from tests.functional.support import EVERYTHING
from tests.lab import Lab, Program, Result, disk, domain, images, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import MIB
from tests.lab.ssh import SshServer
from tests.lab.storage import make_pool
from virtomate.cancel import CancelToken
from virtomate.enums import DeletionStatus
from virtomate.hypervisor.session import open_session
from virtomate.progress import Progress
from virtomate.services.delete import Selection, execute_plan, plan_deletion

MANY_MOMENTS = 40


def define_source(lab: Lab, name: str = "src", **keywords: Any) -> Path:
    """Define a domain with one small qcow2 disk; its path."""
    path = lab.pool.qcow2(f"{name}.qcow2", 8 * MIB)
    lab.define(domain(name, disks=[disk(path)], interfaces=[interface()], **keywords))
    return path


def make_clone(virtomate: Program, name: str, source: str = "src", mode: str = "copy") -> Path:
    """Make a clone; the path of its disk."""
    result = virtomate("domain-clone", "--mode", mode, source, name, json=True)
    assert result.status == 0, str(result)
    (clone,) = result.json
    return Path(clone["disks"][0]["clone"]["path"])


def delete(virtomate: Program, *names: str, json: bool = True, uri: str | None = None) -> Result:
    """Delete clones without being asked."""
    return virtomate("domain-delete", "--yes", *names, json=json, uri=uri)


def names_of(lab: Lab) -> set[str]:
    """Return the names of all domains."""
    return {found.name() for found in lab.connection.listAllDomains()}


def outcome(result: Result) -> dict[str, str]:
    """Return the status of each clone by its name."""
    return {item["name"]: item["status"] for item in result.json}


@pytest.mark.parametrize("mode", ["copy", "linked", "reflink"])
def test_finished_clone_goes_with_all_that_was_made(root_lab: Lab, virtomate: Program, mode: str) -> None:
    """Volumes in two pools and an NVRAM in none go with the clone; its original, and everything else, stays."""
    lab = root_lab
    pools = (lab.pools["xfs"], lab.pools["btrfs"])
    store = lab.make_directory("stores") / "src_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    disks = [disk(pools[0].raw("src.raw", 4 * MIB), "raw"), disk(pools[1].raw("b.raw", 4 * MIB), "raw", "vdb")]
    lab.define(domain("src", disks=disks, firmware=nvram(store), memory_mib=256))
    before = lab.inventory()
    (clone,) = virtomate("domain-clone", "--mode", mode, "src", "web", json=True).json
    paths = [Path(part["clone"]["path"]) for part in clone["disks"]] + [Path(clone["nvram"]["clone"])]
    assert all(path.exists() for path in paths)

    result = delete(virtomate, clone["uuid"])

    assert result.status == 0, str(result)
    (document,) = result.json
    assert (document["status"], document["name"], document["uuid"]) == ("deleted", "web", clone["uuid"])
    assert document["removed"] == [*(f"volume '{path}'" for path in paths[:-1]), f"NVRAM '{paths[-1]}'"]
    assert document["kept"] == []
    unchanged(before, lab)


def test_chain_of_clones_goes_in_one_command(lab: Lab, virtomate: Program) -> None:
    """Linked clones of a clone go before it, whatever the order of the names; the answer is in that order."""
    define_source(lab)
    before = lab.inventory()
    make_clone(virtomate, "a")
    make_clone(virtomate, "b", "a", "linked")
    make_clone(virtomate, "c", "b", "linked")
    make_clone(virtomate, "d", "a", "linked")

    result = delete(virtomate, "a", "c", "b", "d")

    assert result.status == 0, str(result)
    assert list(outcome(result).items()) == [(name, "deleted") for name in ("a", "c", "b", "d")]
    unchanged(before, lab)


def test_one_refusal_refuses_all(lab: Lab, virtomate: Program) -> None:
    """Whatever is wrong with one of the names, none of the clones is touched."""
    define_source(lab)
    make_clone(virtomate, "good")
    base = make_clone(virtomate, "base")
    overlay = make_clone(virtomate, "over", "base", "linked")
    make_clone(virtomate, "runs")
    make_clone(virtomate, "runs too")

    def refused(names: tuple[str, ...], type_: str, message: tuple[str, ...], hint: str) -> None:
        check_refusal(lab, virtomate, ("domain-delete", "--yes", *names), Refusal(type_, message, (hint,)))

    refused(("good", "nobody"), "NotFoundError", ("'nobody'",), "virtomate domain-list")
    refused(("good", "src"), "IllegalStateError", ("'src'", "not a clone"), "virsh undefine --keep-nvram src")
    refused(("base", "good"), "IllegalStateError", (str(base), str(overlay), "'over'"), "same command")
    lab.connection.lookupByName("runs").create()
    refused(("good", "runs"), "IllegalStateError", ("'runs' is running",), "virsh shutdown runs")
    # one look tells of everything
    lab.connection.lookupByName("runs too").create()
    parts = (
        "there are no domains 'nobody' and 'no'",
        "'src' is not a clone",
        "domains 'runs' and 'runs too' are running, and must be shut off to be deleted",
    )
    commands = "virsh shutdown runs; virsh shutdown 'runs too'"
    refused(("runs", "nobody", "good", "src", "runs too", "no"), "IllegalStateError", parts, commands)
    assert virtomate("domain-delete", "--yes", "good", "good").status == 2
    uuid = lab.connection.lookupByName("good").UUIDString()
    assert virtomate("domain-delete", "--yes", "good", uuid).status == 2
    assert names_of(lab) == {"src", "good", "base", "over", "runs", "runs too"}


def other_users(lab: Lab, path: Path) -> dict[str, dict[str, Any]]:
    """Return ways in which a domain can use a file, as what `domain` is to be given."""
    link = lab.make_directory("links") / "disk"
    link.symlink_to(path)
    lab.connection.storagePoolCreateXML(
        f"<pool type='dir'><name>again</name><target><path>{path.parent}/.</path></target></pool>"
    )
    below = f"<backingStore type='file'><format type='qcow2'/><source file='{path}'/><backingStore/></backingStore>"
    chain = f"<backingStore type='file'><format type='qcow2'/><source file='/x/mid.qcow2'/>{below}</backingStore>"
    drive = f"<qemu:arg value='-drive'/><qemu:arg value='file={path},if=none,id=x'/>"
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    return {
        "by path": {"disks": [disk(path)]},
        "by another spelling": {"disks": [disk(f"{path.parent}/./../{path.parent.name}//{path.name}")]},
        "by pool and volume": {"disks": [disk((lab.pool.name, path.name))]},
        "by another pool": {"disks": [disk(("again", path.name), read_only=True)]},
        "by a link": {"disks": [disk(link)]},
        "in a chain": {"disks": [disk("/x/top.qcow2", extra=chain)]},
        "as NVRAM": {"firmware": nvram(path), "memory_mib": 256},
        "on QEMU's command line": {"extra": f"<qemu:commandline xmlns:qemu='{namespace}'>{drive}</qemu:commandline>"},
        "as a device": {"devices": f"<serial type='file'><source path='{path}'/><target port='1'/></serial>"},
    }


def test_what_another_domain_uses_stays(lab: Lab, virtomate: Program) -> None:
    """However another domain names the volume, the clone is refused and the domain is named."""
    define_source(lab)
    path = make_clone(virtomate, "web")
    for way, parts in other_users(lab, path).items():
        other = lab.define(domain("other", **parts))
        result = delete(virtomate, "web")
        assert result.status == 1, (way, str(result))
        assert result.json["type"] == "IllegalStateError", way
        assert str(path) in result.json["message"], way
        assert "domain 'other' uses it" in result.json["message"], way
        assert result.json["hint"].startswith("If 'other' is not needed, remove the definition: virsh "), way
        other.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    assert path.exists()
    assert outcome(delete(virtomate, "web")) == {"web": "deleted"}


def test_what_only_a_running_domain_uses_stays(lab: Lab, virtomate: Program) -> None:
    """What a domain uses until its next start counts, and a transient domain counts as well."""
    define_source(lab)
    path = make_clone(virtomate, "web")
    other = lab.define(domain("other", disks=[disk(path)]))
    other.create()
    lab.define(domain("other", uuid_=other.UUIDString(), interfaces=[interface()]))
    refusal = Refusal("IllegalStateError", (str(path), "domain 'other' uses it"), ())
    check_refusal(lab, virtomate, ("domain-delete", "--yes", "web"), refusal)
    other.destroy()
    other.undefine()
    transient = lab.connection.createXML(domain("passing", disks=[disk(path, read_only=True)]), 0)
    refusal = Refusal("IllegalStateError", (str(path), "domain 'passing' uses it"), ())
    check_refusal(lab, virtomate, ("domain-delete", "--yes", "web"), refusal)
    transient.destroy()


def test_what_an_overlay_rests_on_stays(lab: Lab, virtomate: Program) -> None:
    """An image that rests on the volume is named, wherever it is and however it names the volume."""
    define_source(lab)
    path = make_clone(virtomate, "web")
    other_pool = lab.make_pool("other").path
    outside = lab.make_directory("outside")
    lab.define(domain("other", disks=[disk(outside / "plain.qcow2"), disk(outside / "json.qcow2", target="vdb")]))
    as_json = f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{path}"}}}}'
    overlays: dict[Path, Path | str] = {
        path.parent / "absolute.qcow2": path,
        path.parent / "relative.qcow2": path.name,
        path.parent / "json.qcow2": as_json,
        other_pool / "over.qcow2": path,
        outside / "plain.qcow2": path,
        outside / "json.qcow2": as_json,
    }
    for overlay, backing in overlays.items():
        # made without libvirt, which does not know of it yet
        images.qemu_img("create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", overlay)
        result = delete(virtomate, "web")
        assert result.status == 1, (overlay, str(result))
        assert str(path) in result.json["message"]
        assert f"'{overlay}'" in result.json["message"], result.json
        assert "rests on it" in result.json["message"]
        assert ("of domain 'other'" in result.json["message"]) == (overlay.parent == outside)
        overlay.unlink()
    assert path.exists()
    assert outcome(delete(virtomate, "web")) == {"web": "deleted"}


def test_what_libvirt_has_not_looked_at_yet_counts(lab: Lab, virtomate: Program) -> None:
    """Overlays that libvirt does not know, since a build keeps it from looking at the files, are found all the same."""
    define_source(lab)
    path = make_clone(virtomate, "web")
    stranger = lab.pool.path / "stranger.qcow2"
    with building(lab):
        over = virtomate("domain-clone", "--mode", "linked", "--jobs", "1", "web", "first", "second", json=True)
        assert over.status == 0, str(over)
        # the second one is made by the mould of the first
        assert outcome(delete(virtomate, "first")) == {"first": "deleted"}
        by_mould = delete(virtomate, "web")
        unknown = virtomate("domain-clone", "second", "third", json=True)
        assert outcome(delete(virtomate, "second")) == {"second": "deleted"}
        images.qemu_img("create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", stranger)
        by_hand = delete(virtomate, "web")
        stranger.unlink()
        free = delete(virtomate, "web")

    assert (unknown.status, unknown.json["type"]) == (1, "IllegalStateError")
    assert "being built" in unknown.json["message"]
    for result, user in ((by_mould, path.with_name("second.qcow2")), (by_hand, stranger)):
        assert result.status == 1, str(result)
        assert f"'{user}'" in result.json["message"]
        assert "rests on it" in result.json["message"]
    assert outcome(free) == {"web": "deleted"}


@contextmanager
def building(lab: Lab) -> Iterator[None]:
    """Let libvirt build a volume in the pool for the time of the block, and longer."""
    lab.pool.raw("sparse.raw", 4 << 40, data_bytes=0)
    pool = lab.hypervisor.connect().storagePoolLookupByName(lab.pool.name)
    document = "<volume><name>slow.raw</name><allocation>0</allocation><capacity>4398046511104</capacity></volume>"

    def build() -> None:
        # it ends with its daemon
        with suppress(libvirt.libvirtError):
            pool.createXMLFrom(document, pool.storageVolLookupByName("sparse.raw"), 0)

    builder = threading.Thread(target=build)
    builder.start()
    try:
        wait_for((lab.pool.path / "slow.raw").exists, "it builds")
        yield
        assert builder.is_alive(), "The build was over too early"
    finally:
        lab.hypervisor.kill()
        builder.join()
        lab.hypervisor.start()


def test_what_libvirt_keeps_of_a_clone_goes_with_it(root_lab: Lab, virtomate: Program) -> None:
    """Internal snapshots, the managed-save image, autostart and the TPM's state go with the clone, and are named."""
    lab = root_lab
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    define_source(lab, devices=tpm)
    before = lab.inventory()
    make_clone(virtomate, "web")
    web = lab.connection.lookupByName("web")
    web.snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>", 0)
    web.snapshotCreateXML("<domainsnapshot><name>s2</name></domainsnapshot>", 0)
    web.setAutostart(1)
    web.create()
    web.managedSave()
    state = lab.hypervisor.on_host("/var/lib/libvirt/swtpm") / web.UUIDString()
    assert state.exists()

    result = delete(virtomate, "web")

    assert result.status == 0, str(result)
    assert {"managed-save image", "record of 2 snapshots"} <= set(result.json[0]["removed"])
    assert not state.exists()
    difference = before.difference(lab.inventory())
    assert not [line for line in difference.splitlines() if "web" in line or "snapshot" in line], difference


def test_clone_that_is_being_cloned_stays(lab: Lab, virtomate: Program) -> None:
    """A clone is not deleted under a run that copies it."""
    make_big_source(lab, lab.pool)
    path = make_clone(virtomate, "web", "big")
    watched = start_clone(virtomate, "--transfer", "host", "web", "web-2")
    with midway(lab, watched, "host", lab.pool.path / "web-2.raw"):
        result = delete(virtomate, "web")
        assert result.status == 1, str(result)
        assert "'web-2' is being cloned from it" in result.json["message"]
    assert watched.run.wait().status == 0
    assert path.exists()


def test_finished_clone_needs_somebody_to_agree(lab: Lab, virtomate: Program) -> None:
    """Without a terminal, or with --json, nobody is asked and nothing done, unless --yes is given."""
    define_source(lab)
    make_clone(virtomate, "web")
    before = lab.inventory()

    human = virtomate("domain-delete", "web")
    machine = virtomate("domain-delete", "web", json=True)

    for result in (human, machine):
        assert (result.status, result.stdout) == (2, ""), str(result)
        assert "'web'" in result.stderr
        assert "--yes is required to delete 'web' when not at a terminal" in result.stderr
    unchanged(before, lab)


def test_several_finished_clones_are_counted(lab: Lab, virtomate: Program) -> None:
    """Who named clones by a pattern reads how many clones need --yes."""
    define_source(lab)
    make_clone(virtomate, "web")
    make_clone(virtomate, "web-2")
    before = lab.inventory()

    result = virtomate("domain-delete", "web*")

    assert (result.status, result.stdout) == (2, ""), str(result)
    assert "--yes is required to delete 2 clones when not at a terminal" in result.stderr
    unchanged(before, lab)


def test_question_at_a_terminal(lab: Lab, virtomate: Program) -> None:
    """The question names domains and volumes with sizes; only a yes deletes, and Ctrl-C ends the program."""
    define_source(lab)
    paths = [make_clone(virtomate, "web"), make_clone(virtomate, "web-2", "web", "linked")]
    before = lab.inventory()

    question = Question(virtomate, "web", "web-2")
    for name, path in zip(("web", "web-2"), paths, strict=True):
        assert f"{name} (clone of " in question.text
        assert re.search(rf"volume '{re.escape(str(path))}' +[\d.]+ [KM]iB", question.text)
    assert "2 domains, " in question.text
    status, after = question.answer("\n")
    assert (status, "Nothing was deleted." in after) == (1, True)
    assert Question(virtomate, "web", "web-2").answer("n\n")[0] == 1
    assert Question(virtomate, "web", "web-2").answer("\x03") == (-2, "^C\r\nError: interrupted\r\n")
    assert Question(virtomate, "web", "web-2").answer("\x04") == (1, "\r\nNothing was deleted.\r\n")
    unchanged(before, lab)

    question = Question(virtomate, "web", "web-2")
    lab.define(domain("late", disks=[disk(paths[1])]))
    status, after = question.answer("y\n")
    assert status == 1
    assert "domain 'late' uses it" in after
    lab.connection.lookupByName("late").undefine()
    unchanged(before, lab)

    question = Question(virtomate, "web", "web-2")
    web = lab.connection.lookupByName("web")
    lab.define(web.XMLDesc(EVERYTHING).replace("</devices>", f"{disk(lab.pool.raw('x', MIB), 'raw', 'vdb')}</devices>"))
    status, after = question.answer("y\n")
    assert (status, "changed since the question" in after) == (1, True)

    status, after = Question(virtomate, "web", "web-2").answer("y\n")
    assert status == 0, after
    assert "Deleted web-2" in after
    assert "kept: disk vdb" in after
    assert not any(path.exists() for path in paths)


def test_what_cloning_did_not_make_stays(lab: Lab, virtomate: Program) -> None:
    """A disk that the clone got later, and files that took the place of its own, stay and are named."""
    store = lab.make_directory("stores") / "src_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    define_source(lab, firmware=nvram(store), memory_mib=256)
    path = make_clone(virtomate, "web")
    added = lab.pool.raw("added.raw", MIB)
    web = lab.connection.lookupByName("web")
    web.attachDeviceFlags(disk(added, "raw", "vdb"), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    other = store.with_name("other")
    other.write_bytes(b"precious")
    other.rename(store.with_name("web_VARS.fd"))
    make_clone(virtomate, "good")

    result = delete(virtomate, "web", "good")

    assert result.status == 3, str(result)
    assert outcome(result) == {"web": "failed", "good": "deleted"}
    error = result.json[0]["error"]
    assert error["type"] == "Conflict"
    assert [leftover for leftover in error["leftovers"] if "web_VARS.fd" in leftover] == error["leftovers"]
    assert store.with_name("web_VARS.fd").read_bytes() == b"precious"
    assert not store.with_name("good_VARS.fd").exists()
    assert not path.exists()
    assert added.exists()
    assert names_of(lab) == {"src"}

    path = make_clone(virtomate, "web-2")
    web = lab.connection.lookupByName("web-2")
    web.attachDeviceFlags(disk(added, "raw", "vdb"), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    result = delete(virtomate, "web-2")
    assert result.status == 0, str(result)
    assert result.json[0]["kept"] == [f"disk vdb ({added}), which cloning did not make"]
    assert added.exists()
    assert not path.exists()


def test_nvram_that_libvirt_made_is_named(lab: Lab, virtomate: Program) -> None:
    """An NVRAM that libvirt made when the clone was started is not cloning's to remove, and whoever deletes is told."""
    directory = lab.make_directory("stores")
    define_source(lab, firmware=nvram(directory / "src_VARS.fd"))
    for name in ("unborn", "web"):
        make_clone(virtomate, name, mode="linked")
    lab.connection.lookupByName("web").create()
    lab.connection.lookupByName("web").destroy()

    result = delete(virtomate, "web", "unborn")

    assert outcome(result) == {"web": "deleted", "unborn": "deleted"}
    store = directory / "web_VARS.fd"
    assert [item["kept"] for item in result.json] == [[f"NVRAM '{store}', which cloning did not make"], []]
    assert store.exists()


def test_clone_that_cannot_be_deleted_is_given_back(root_lab: Lab, virtomate: Program) -> None:
    """A clone of which nothing could be removed is as it was; one that lost a volume is the record of the rest."""
    lab = root_lab
    disks = [disk(lab.pool.raw(f"{target}.raw", MIB), "raw", target) for target in ("vda", "vdb")]
    lab.define(domain("src", disks=disks))
    first = make_clone(virtomate, "web")
    second = first.with_name(first.name.replace("vda", "vdb"))
    over = make_clone(virtomate, "over", "web", "linked")
    before = lab.inventory()
    with immutable(first, second, over, over.with_name(over.name.replace("vda", "vdb"))):
        result = delete(virtomate, "web", "over")
    assert result.status == 1, str(result)
    assert outcome(result) == {"web": "failed", "over": "failed"}
    assert "'over' could not be deleted" in result.json[0]["error"]["message"]
    assert "is kept" in result.json[1]["error"]["message"]
    unchanged(before, lab)

    with immutable(first):
        result = delete(virtomate, "over", "web")
        assert result.status == 3, str(result)
        assert outcome(result) == {"over": "deleted", "web": "failed"}
        volume, record = result.json[1]["error"]["leftovers"]
        assert str(first) in volume
        assert "domain 'web'" in record
        assert reaching(lab.uri, "virtomate domain-delete web") in result.json[1]["error"]["hint"]
        assert "src (copy), unfinished" in virtomate("domain-list").stdout
        with pytest.raises(libvirt.libvirtError):
            lab.connection.lookupByName("web").create()
    assert virtomate("domain-delete", "web").status == 0
    assert names_of(lab) == {"src"}
    assert not first.exists()


@contextmanager
def immutable(*paths: Path) -> Iterator[None]:
    """Make files undeletable for the time of the block."""
    subprocess.run(["chattr", "+i", *paths], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *(path for path in paths if path.exists())], check=True, capture_output=True)


def test_inactive_pool_is_refused(lab: Lab, virtomate: Program) -> None:
    """A finished clone whose volume cannot be reached is left whole."""
    define_source(lab)
    make_clone(virtomate, "web")
    lab.pool.handle.destroy()

    result = delete(virtomate, "web")

    assert result.status == 1, str(result)
    assert f"storage pool '{lab.pool.name}' is not active" in result.json["message"]
    assert reaching(lab.uri, f"virsh pool-start {lab.pool.name}") in result.json["hint"]
    lab.pool.handle.create()
    assert outcome(delete(virtomate, "web")) == {"web": "deleted"}


def test_pool_whose_directory_is_gone(lab: Lab, virtomate: Program) -> None:
    """A pool that libvirt stops as it looks for the files is no obstacle, but what was made in it keeps its clone."""
    define_source(lab)
    make_clone(virtomate, "web")
    pool = lab.make_pool("gone")
    assert virtomate("domain-clone", "--pool", "gone", "src", "far").status == 0
    away = pool.path.rename(pool.path.with_name("away"))

    assert outcome(delete(virtomate, "web")) == {"web": "deleted"}

    away.rename(pool.path)
    pool.handle.create()
    pool.path.rename(away)
    result = delete(virtomate, "far")
    assert result.status == 1, str(result)
    assert "storage pool 'gone' is not active" in result.json["message"]
    assert "far" in names_of(lab)
    away.rename(pool.path)
    pool.handle.create()
    assert outcome(delete(virtomate, "far")) == {"far": "deleted"}
    assert pool.volumes() == []


@pytest.mark.parametrize(
    "moments", [5, pytest.param(MANY_MOMENTS, marks=[pytest.mark.stress, pytest.mark.timeout(900)])]
)
def test_killed_deletion_is_finished_by_the_same_command(lab: Lab, virtomate: Program, moments: int) -> None:
    """Whenever deleting is killed, the clone is whole or unfinished, and the same command puts all back as before."""
    store = lab.make_directory("stores") / "src_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    disks = [disk(lab.pool.raw(f"{target}.raw", MIB), "raw", target) for target in ("vda", "vdb", "vdc")]
    lab.define(domain("src", disks=disks, firmware=nvram(store), memory_mib=256))
    before = lab.inventory()
    make_clone(virtomate, "web")
    seconds = delete(virtomate, "web").seconds
    unchanged(before, lab)
    found = set()
    for moment in range(moments):
        make_clone(virtomate, "web")
        whole = lab.connection.lookupByName("web").XMLDesc(EVERYTHING)
        run = virtomate.start("domain-delete", "--yes", "web")
        # nothing is touched before the program is loaded
        time.sleep(seconds * (0.5 + 0.5 * moment / (moments - 1)))
        run.signal(signal.SIGKILL)
        run.wait()
        lab.hypervisor.wait_until_idle()
        if "web" in names_of(lab):
            web = lab.connection.lookupByName("web")
            found.add("whole" if web.XMLDesc(EVERYTHING) == whole else "unfinished")
            if web.XMLDesc(EVERYTHING) != whole:
                with pytest.raises(libvirt.libvirtError):
                    web.create()
            result = delete(virtomate, "web")
            assert result.status == 0, str(result)
        unchanged(before, lab)
    # a few moments may all miss it
    assert moments < MANY_MOMENTS or "unfinished" in found


def test_signal_between_two_clones(lab: Lab, virtomate: Program) -> None:
    """A signal lets the clone at hand be deleted and leaves the others as they are."""
    define_source(lab)
    names = [f"web-{number}" for number in range(8)]
    paths = {name: make_clone(virtomate, name, mode="linked") for name in names}
    whole = {name: lab.connection.lookupByName(name).XMLDesc(EVERYTHING) for name in names}
    run = virtomate.pausing("virStorageVolDelete").start("domain-delete", "--yes", *names, json=True)
    with paused(run):
        run.signal(signal.SIGINT)
    result = run.wait()

    assert result.status == -signal.SIGINT, str(result)
    found = outcome(result)
    assert list(found) == names
    assert set(found.values()) == {"deleted", "interrupted"}
    for name, status in found.items():
        assert (name in names_of(lab), paths[name].exists()) == (status == "interrupted", status == "interrupted")
        if status == "interrupted":
            assert lab.connection.lookupByName(name).XMLDesc(EVERYTHING) == whole[name]
    assert "error" in result.json[-1]


@pytest.fixture
def far_uri(root_lab: Lab) -> Iterator[tuple[Any, str]]:
    """A host that is reached over SSH and whose files are not seen here, and its URI."""
    with (
        root_lab.make_host("far") as host,
        SshServer(root_lab.directory / "ssh", root_lab.workspace.cache) as server,
    ):
        yield host, server.uri(host)


def test_remote_host(far_uri: tuple[Any, str], root_lab: Lab, virtomate: Program) -> None:
    """Clones on another host are deleted over SSH, and what uses their volumes there is seen."""
    host, uri = far_uri
    directory = host.on_host("/var/lib/libvirt/images")
    pool = make_pool(host, "far", Path("/var/lib/libvirt/images"))
    images.make_qcow2(directory / "src.qcow2", 4 * MIB)
    pool.refresh()
    host.connection.defineXML(domain("src", disks=[disk(Path("/var/lib/libvirt/images/src.qcow2"))]))
    before = {path.name for path in directory.iterdir()}
    for source, name, mode in (("src", "a", "copy"), ("a", "b", "linked")):
        assert virtomate("domain-clone", "--mode", mode, source, name, uri=uri).status == 0

    refused = delete(virtomate, "a", uri=uri)
    host.on_host("/var/lib/libvirt/link").symlink_to("images")
    by_link = host.connection.defineXML(domain("by link", disks=[disk(Path("/var/lib/libvirt/link/b.qcow2"))]))
    perhaps = virtomate("domain-delete", "--yes", "--yes-unproved", "a", "b", json=True, uri=uri)
    by_link.undefine()
    deleted = virtomate("domain-delete", "--yes", "--yes-unproved", "a", "b", json=True, uri=uri)

    assert refused.status == 1, str(refused)
    assert "b.qcow2' of domain 'b' rests on it" in refused.json["message"]
    assert perhaps.status == 1, str(perhaps)
    assert "'by link' names '/var/lib/libvirt/link/b.qcow2', which cannot be seen" in perhaps.json["message"]
    assert deleted.status == 0, str(deleted)
    assert {path.name for path in directory.iterdir()} == before
    assert {found.name() for found in host.connection.listAllDomains()} == {"src"}
    assert root_lab.privileged


def count_calls(lab: Lab, virtomate: Program, clones: int, others: int) -> int:
    """Return how many calls to libvirt it takes to delete some clones beside so many other domains and volumes."""
    define_source(lab)
    for number in range(others):
        lab.define(domain(f"other-{number}", disks=[disk(lab.pool.raw(f"other-{number}.raw", MIB), "raw")]))
    names = tuple(f"web-{number}" for number in range(clones))
    for name in names:
        make_clone(virtomate, name, mode="linked")
    mark = Counter[str]()

    def profile(_frame: object, event: str, function: Any) -> None:
        name = getattr(function, "__name__", "")
        # the client knows names and UUIDs by itself
        if event == "c_call" and name.startswith("vir") and not name.endswith(("Free", "GetName", "GetUUIDString")):
            mark[name] += 1

    with open_session(lab.uri) as session:
        assert session.connection.is_alive
        sys.setprofile(profile)
        try:
            plan = plan_deletion(session.connection, Selection(names), CancelToken())
            results = execute_plan(session, plan, Progress(), CancelToken())
        finally:
            sys.setprofile(None)
    assert [result.status for result in results] == [DeletionStatus.DELETED] * clones
    return mark.total()


def test_clone_that_is_started_meanwhile(lab: Lab, virtomate: Program) -> None:
    """A clone that somebody starts between the look at it and its deletion is kept, and that is what is said."""
    # of one with a disk, the lock that QEMU holds on it tells
    lab.define(domain("src"))
    assert virtomate("domain-clone", "src", "web").status == 0

    with open_session(lab.uri) as session:
        plan = plan_deletion(session.connection, Selection(("web",)), CancelToken())
        lab.connection.lookupByName("web").create()
        (result,) = execute_plan(session, plan, Progress(), CancelToken())

    assert result.error is not None
    assert result.error.message == "domain 'web' was started meanwhile"
    assert result.error.leftovers == ()
    assert lab.connection.lookupByName("web").isActive()


def test_calls_to_libvirt_are_linear(lab: Lab, virtomate: Program) -> None:
    """Deleting looks at all domains and volumes once for the plan, and once more for each clone before it goes."""
    counts = {}
    mark = lab.mark()
    for clones, others in ((1, 0), (2, 0), (4, 0), (1, 3), (4, 3)):
        counts[clones, others] = count_calls(lab, virtomate, clones, others)
        lab.return_to(mark)

    for_others = counts[1, 3] - counts[1, 0]
    # a definition for a domain, at most a document for a volume
    assert 0 < for_others <= 2 * 3 * 2, counts
    assert counts[4, 3] - counts[4, 0] == for_others * 5 // 2, counts
    # each clone is looked at in the looks for those that go before it
    each_clone = counts[2, 0] - counts[1, 0]
    assert counts[4, 0] - counts[1, 0] <= 3 * each_clone + 3 * 2 * 2, counts
