"""--if-exists of domain-clone: clones that exist are kept if they are what is asked for, or replaced by new ones."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import error_of, paused, unchanged
from tests.functional.support import cloned, definition
from tests.lab import Lab, Program, Result, disk, domain, images, interface
from tests.lab.domains import nvram
from tests.lab.images import MIB
from virtomate.cancel import CancelToken
from virtomate.enums import IfExists, Mode, Status
from virtomate.hypervisor.session import open_session
from virtomate.progress import Progress
from virtomate.services.clone_records import CloneRequest
from virtomate.services.delete.placeholder import Placeholder
from virtomate.services.existing import ExistingClones
from virtomate.services.transaction import Run

LINKED = ("--mode", "linked")
KEEP = (*LINKED, "--if-exists", "keep")
REPLACE = (*LINKED, "--if-exists", "replace")


@pytest.fixture
def original(lab: Lab) -> Path:
    """Define the domain `original`, and return the path of its disk."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    lab.define(domain("original", disks=[disk(path)], interfaces=[interface()]))
    return path


def made(virtomate: Program, *words: str | Path) -> Any:
    """Clone the domain `original` with these words, which must succeed."""
    return cloned(virtomate("domain-clone", "original", *words, json=True))


def statuses(result: Result) -> list[tuple[str, str]]:
    """Return what became of each clone of a run that succeeded."""
    assert result.status == 0, str(result)
    return [(item["name"], item["status"]) for item in result.json]


def refusal(lab: Lab, virtomate: Program, *words: str | Path) -> Any:
    """Return the error of a command that is refused and changes nothing."""
    before = lab.inventory()
    error = error_of(virtomate("domain-clone", *words, json=True))
    unchanged(before, lab)
    return error


def names_of(lab: Lab) -> set[str]:
    """Return the names of all domains."""
    return {found.name() for found in lab.connection.listAllDomains()}


@pytest.mark.usefixtures("original")
def test_whole_clone_is_kept(lab: Lab, virtomate: Program) -> None:
    """A clone that is as asked for counts as done: nothing changes, and its MAC address and volume are told."""
    first = made(virtomate, *KEEP, "web")
    before = lab.inventory()

    result = virtomate("domain-clone", *KEEP, "original", "web", json=True)

    unchanged(before, lab)
    assert statuses(result) == [("web", "unchanged")]
    (kept,) = result.json
    assert (kept["uuid"], kept["source"], kept["mode"]) == (first["uuid"], first["source"], "linked")
    assert [item["mac"] for item in kept["interfaces"]] == [item["mac"] for item in first["interfaces"]]
    assert [item["source_mac"] for item in kept["interfaces"]] == [None]
    assert [(item["action"], item["clone"]) for item in kept["disks"]] == [("kept", first["disks"][0]["clone"])]
    assert (kept["consistency"], kept["started"], kept["warnings"]) == (None, False, [])
    human = virtomate("domain-clone", *KEEP, "original", "web")
    assert human.stdout.startswith("web is there already, a clone of original (linked)\n")


@pytest.mark.usefixtures("original")
def test_only_missing_clones_are_made(lab: Lab, virtomate: Program) -> None:
    """Of several clones only those are made that do not exist, in the order of their names, with their host names."""
    first = made(virtomate, *KEEP, "ci-2")
    words = ("domain-clone", *KEEP, "--seed", "--hostname", "node-{}", "--count", "3", "original", "ci")

    planned = virtomate(*words, "--dry-run", json=True)
    result = virtomate(*words, json=True)

    assert statuses(planned) == [("ci-1", "planned"), ("ci-2", "unchanged"), ("ci-3", "planned")]
    assert statuses(result) == [("ci-1", "cloned"), ("ci-2", "unchanged"), ("ci-3", "cloned")]
    assert [item["seed"]["host_name"] for item in result.json if "seed" in item] == ["node-1", "node-3"]
    assert lab.connection.lookupByName("ci-2").UUIDString() == first["uuid"]
    human = virtomate(*words)
    assert human.status == 0
    assert "0 clones of original (linked)" in human.stdout
    assert "and 3 clones were there before" in human.stdout


@pytest.mark.usefixtures("original")
def test_kept_clone_is_started(lab: Lab, virtomate: Program) -> None:
    """With --start a kept clone runs afterwards, also if it ran already, and so may the original of kept clones."""
    made(virtomate, *LINKED, "web")
    domain_ = lab.connection.lookupByName("web")

    for _ in range(2):
        result = virtomate("domain-clone", *KEEP, "--start", "original", "web", json=True)
        assert statuses(result) == [("web", "unchanged")]
        assert result.json[0]["started"] is True
        assert domain_.isActive()


def _stranger(lab: Lab, _virtomate: Program, _original: Path) -> str:
    lab.define(domain("web"))
    return "which virtomate did not make"


def _of_another(lab: Lab, virtomate: Program, _original: Path) -> str:
    lab.define(domain("other", disks=[disk(lab.pool.qcow2("other.qcow2", MIB))]))
    cloned(virtomate("domain-clone", *LINKED, "other", "web", json=True))
    return "which is a clone of 'other'"


def _of_a_namesake(lab: Lab, virtomate: Program, original: Path) -> str:
    made(virtomate, *LINKED, "web")
    lab.connection.lookupByName("original").undefine()
    lab.define(domain("original", disks=[disk(original)]))
    return "which is a clone of another domain that was called 'original'"


def _in_another_mode(_lab: Lab, virtomate: Program, _original: Path) -> str:
    made(virtomate, "web")
    return "which is a clone of 'original' in mode copy"


def _without_its_volume(lab: Lab, virtomate: Program, _original: Path) -> str:
    path = Path(made(virtomate, *LINKED, "web")["disks"][0]["clone"]["path"])
    lab.pool.handle.storageVolLookupByName(path.name).delete()
    return f"the clone 'web' is not whole: volume '{path}' does not exist any more"


def _with_another_volume(lab: Lab, virtomate: Program, _original: Path) -> str:
    path = Path(made(virtomate, *LINKED, "web")["disks"][0]["clone"]["path"])
    path.unlink()
    lab.pool.qcow2(path.name, MIB)
    return f"the clone 'web' is not whole: volume '{path}' is another file than the one that was made"


def _broken(_lab: Lab, virtomate: Program, original: Path) -> str:
    made(virtomate, *LINKED, "web")
    images.qemu_io(original, "qcow2", "write -P 7 0 64k")
    return "'web' is a broken linked clone"


def _unfinished(_lab: Lab, virtomate: Program, _original: Path) -> str:
    run = virtomate.pausing("virStorageVolCreateXML").start("domain-clone", *LINKED, "original", "web")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    return "which is an unfinished clone of 'original'"


@pytest.mark.parametrize(
    "prepare",
    [
        *(_stranger, _of_another, _of_a_namesake, _in_another_mode),
        *(_without_its_volume, _with_another_volume, _broken, _unfinished),
    ],
)
def test_other_domain_is_not_kept(lab: Lab, virtomate: Program, original: Path, prepare: Any) -> None:
    """A domain of that name that is not the whole clone that is asked for is named with the difference."""
    expected = prepare(lab, virtomate, original)

    error = refusal(lab, virtomate, *KEEP, "original", "missing", "web")

    assert expected in error["message"]


@pytest.mark.usefixtures("original")
def test_other_identity_is_not_kept(lab: Lab, virtomate: Program) -> None:
    """A clone has to have the UUID and the MAC addresses that are asked for."""
    first = made(virtomate, *LINKED, "web")
    mac = first["interfaces"][0]["mac"]

    same = virtomate("domain-clone", *KEEP, "--uuid", first["uuid"], "--mac", mac, "original", "web", json=True)

    assert statuses(same) == [("web", "unchanged")]
    other = refusal(lab, virtomate, *KEEP, "--mac", "52:54:00:00:00:99", "original", "web")
    assert f"which has the MAC address {mac}" in other["message"]
    other = refusal(lab, virtomate, *KEEP, "--uuid", "9c1b2a0e-0000-4000-8000-000000000001", "original", "web")
    assert f"which has the UUID '{first['uuid']}'" in other["message"]


@pytest.mark.usefixtures("original")
def test_kept_clone_is_not_prepared(virtomate: Program) -> None:
    """--sysprep and --customize change the guests of new clones only, which a note says."""
    made(virtomate, *LINKED, "web")

    for words in (("--sysprep",), ("--customize", "--touch /x")):
        result = virtomate("domain-clone", *KEEP, *words, "original", "web")
        assert result.status == 0, str(result)
        assert "--sysprep and --customize change new clones only, and 'web' existed before\n" in result.stderr
    assert "--sysprep" not in virtomate("domain-clone", *KEEP, "original", "web").stderr


@pytest.mark.usefixtures("original")
def test_automatic_names_do_not_exist(virtomate: Program) -> None:
    """--auto-name chooses names that no domain has, so that nothing could be kept or replaced."""
    for choice in ("keep", "replace"):
        result = virtomate("domain-clone", "--auto-name", "--if-exists", choice, "original")
        assert (result.status, result.stdout) == (2, "")
        assert f"--if-exists {choice} is for names that exist" in result.stderr


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_clone_is_replaced(lab: Lab, virtomate: Program, original: Path, mode: str) -> None:
    """A clone gives way to a new one with its name and volume names, and another UUID and MAC address."""
    words = ("--mode", mode, "--seed", "--if-exists", "replace", "web")
    first = made(virtomate, *words)
    path = Path(first["disks"][0]["clone"]["path"])
    images.qemu_io(path, "qcow2", "write -P 7 0 64k")
    before = lab.inventory()

    (planned,) = virtomate("domain-clone", "original", *words, "--dry-run", json=True).json
    unchanged(before, lab)
    second = made(virtomate, *words)

    assert planned["replaced"]["uuid"] == second["replaced"]["uuid"] == first["uuid"]
    removed = [f"volume '{path}'", f"seed '{first['seed']['clone']['path']}'"]
    assert planned["replaced"]["removed"] == second["replaced"]["removed"] == removed
    assert (second["replaced"]["mode"], second["replaced"]["source"]) == (mode, first["source"])
    assert second["uuid"] != first["uuid"]
    assert second["interfaces"][0]["mac"] != first["interfaces"][0]["mac"]
    assert [item["clone"] for item in second["disks"]] == [item["clone"] for item in first["disks"]]
    assert images.same_content(path, "qcow2", original, "qcow2")
    assert "replaced" not in made(virtomate, *LINKED, "--if-exists", "replace", "another")


def test_clone_with_nvram_is_replaced(lab: Lab, virtomate: Program) -> None:
    """The NVRAM of the new clone takes the place of the former one, in a directory that is no storage pool."""
    store = lab.make_directory("nvram") / "original_VARS.fd"
    store.write_bytes(b"variables")
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    lab.define(domain("original", disks=[disk(path)], interfaces=[interface()], firmware=nvram(store)))
    first = made(virtomate, *REPLACE, "web")
    own = Path(first["nvram"]["clone"])
    own.write_bytes(b"of the guest")

    second = made(virtomate, *REPLACE, "web")

    assert own.read_bytes() == b"variables"
    assert (second["nvram"]["clone"], second["replaced"]["uuid"]) == (str(own), first["uuid"])
    several = virtomate("domain-clone", *REPLACE, "original", "web", "another", json=True)
    assert statuses(several) == [("web", "cloned"), ("another", "cloned")]
    listed = own.parent / "clones.json"
    listed.write_text('{"clones": [{"name": "web"}, {"name": "another", "memory": "256M"}]}')
    differing = virtomate("domain-clone", *REPLACE, "--from", listed, "original", json=True)
    assert statuses(differing) == [("web", "cloned"), ("another", "cloned")]


@pytest.mark.usefixtures("original")
def test_replaced_clone_may_have_the_same_identity(lab: Lab, virtomate: Program) -> None:
    """The UUID and the MAC address of the clone that gives way are free for the new one."""
    first = made(virtomate, *LINKED, "web")
    words = ("--uuid", first["uuid"], "--mac", first["interfaces"][0]["mac"])

    second = made(virtomate, *REPLACE, *words, "web")

    assert (second["uuid"], second["interfaces"][0]["mac"]) == (first["uuid"], first["interfaces"][0]["mac"])
    assert second["replaced"]["uuid"] == first["uuid"]
    assert names_of(lab) == {"original", "web"}


@pytest.mark.usefixtures("original")
def test_plans_say_what_would_be_replaced(lab: Lab, virtomate: Program) -> None:
    """Plan and definition of a clone that replaces another one change nothing; those of a kept one are its own."""
    first = made(virtomate, *LINKED, "web")
    before = lab.inventory()

    plan = virtomate("domain-clone", *REPLACE, "--dry-run", "original", "web", "new")
    printed = virtomate("domain-clone", *REPLACE, "--print-xml", "original", "web")
    kept = virtomate("domain-clone", *KEEP, "--print-xml", "original", "web")

    unchanged(before, lab)
    path = first["disks"][0]["clone"]["path"]
    assert f"replaces  the clone {first['uuid']} of original (linked)" in " ".join(plan.stdout.split(" ")), plan
    assert f"volume '{path}'" in plan.stdout
    assert "<name>web</name>" in printed.stdout
    assert first["uuid"] not in printed.stdout
    assert kept.stdout == definition(lab, "web")


def _running(lab: Lab, virtomate: Program) -> str:
    made(virtomate, *LINKED, "web")
    lab.connection.lookupByName("web").create()
    return "'web' is running"


def _with_dependents(_lab: Lab, virtomate: Program) -> str:
    made(virtomate, *LINKED, "web")
    cloned(virtomate("domain-clone", *LINKED, "web", "rests-on-web", json=True))
    return "of domain 'rests-on-web' rests on it"


def _with_foreign_volume(lab: Lab, virtomate: Program) -> str:
    _with_another_volume(lab, virtomate, Path())
    return "the clone 'web' cannot be replaced: volume"


def _without_mark(_lab: Lab, virtomate: Program) -> str:
    os.removexattr(made(virtomate, "web")["disks"][0]["clone"]["path"], "user.virtomate.id")
    return "the clone 'web' cannot be replaced: volume"


def _not_proved(_lab: Lab, virtomate: Program) -> str:
    path = Path(made(virtomate, "web")["disks"][0]["clone"]["path"])
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").rename(path)
    return f"nothing proves that these were made for it: volume '{path}'"


@pytest.mark.parametrize("prepare", [_running, _with_dependents, _with_foreign_volume, _without_mark, _not_proved])
@pytest.mark.usefixtures("original")
def test_what_may_not_be_deleted_is_not_replaced(lab: Lab, virtomate: Program, prepare: Any) -> None:
    """The rules of domain-delete hold, before anything is deleted; of several clones none is replaced then."""
    made(virtomate, *LINKED, "good")
    expected = prepare(lab, virtomate)

    error = refusal(lab, virtomate, *REPLACE, "original", "good", "web")

    assert expected in error["message"]


@pytest.mark.usefixtures("original")
def test_strangers_and_originals_are_not_replaced(lab: Lab, virtomate: Program) -> None:
    """Only what virtomate made is replaced, and never the domain that is to be cloned."""
    lab.define(domain("stranger"))
    made(virtomate, *LINKED, "web")

    assert "'stranger' is not a clone" in refusal(lab, virtomate, *REPLACE, "original", "stranger")["message"]
    result = virtomate("domain-clone", *REPLACE, "web", "web")
    assert (result.status, result.stdout) == (2, "")
    assert "'web' is to be cloned, and cannot be replaced by its clone" in result.stderr
    assert {"stranger", "web"} <= names_of(lab)


@pytest.mark.usefixtures("original")
def test_refused_plan_deletes_nothing(lab: Lab, virtomate: Program) -> None:
    """What cloning would refuse is refused before the former clone is deleted: here a missing disk, and a warning."""
    made(virtomate, *LINKED, "web")

    assert refusal(lab, virtomate, *REPLACE, "--fail-on", "any", "original", "web")["type"] == "RefusedWarningError"
    lab.connection.lookupByName("original").create()
    assert "is running" in refusal(lab, virtomate, *REPLACE, "original", "web")["message"]


def _hold(virtomate: Program, *words: str) -> Any:
    """Start a command that stands still when the former clone has just been deleted."""
    return virtomate.pausing("virDomainUndefineFlags").start("domain-clone", *REPLACE, "original", *words, json=True)


def _gone(lab: Lab, first: Any) -> None:
    """See that the former clone is gone, and its volume."""
    with pytest.raises(libvirt.libvirtError):
        lab.connection.lookupByUUIDString(first["uuid"])
    assert not Path(first["disks"][0]["clone"]["path"]).exists()


@pytest.mark.usefixtures("original")
def test_name_may_be_taken_between(lab: Lab, virtomate: Program) -> None:
    """Whoever takes the name after the deletion keeps it: the command fails, and says that the former clone is gone."""
    first = made(virtomate, *LINKED, "web")
    run = _hold(virtomate, "web")
    with paused(run):
        _gone(lab, first)
        lab.define(domain("web"))
        before = lab.inventory()
    error = error_of(run.wait())

    assert error["type"] == "Conflict"
    assert error["message"].endswith("the former clone 'web' was deleted before, so that neither is left")
    unchanged(before, lab)


@pytest.mark.usefixtures("original")
def test_signal_between_leaves_neither(lab: Lab, virtomate: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal after the deletion of a clone makes no new one; who is still there, stays."""
    first, other = made(virtomate, *LINKED, "web-1"), made(virtomate, *LINKED, "web-2")
    cancel, undefine = CancelToken(), Placeholder.undefine

    def then_interrupt(placeholder: Placeholder) -> None:
        undefine(placeholder)
        cancel.interrupt(signal.SIGINT)

    monkeypatch.setattr(Placeholder, "undefine", then_interrupt)
    request = CloneRequest("original", ("web-1", "web-2"), mode=Mode.LINKED, if_exists=IfExists.REPLACE)
    with open_session(lab.uri) as session:
        run = Run(session, session, Progress(), cancel)
        one, two = ExistingClones(lambda _: None).clone_each(run, (request,))

    assert one.status is two.status is Status.INTERRUPTED
    assert one.replaced is not None
    assert one.replaced.uuid == first["uuid"]
    assert str(one.error) == "interrupted; the former clone 'web-1' was deleted before, so that neither is left"
    assert (two.replaced, str(two.error)) == (None, "interrupted")
    assert lab.connection.lookupByName("web-2").UUIDString() == other["uuid"]
    assert names_of(lab) == {"original", "web-2"}
    _gone(lab, first)


@pytest.mark.usefixtures("original")
def test_command_is_repeated_after_a_kill(lab: Lab, virtomate: Program) -> None:
    """A run that is killed after the deletion leaves neither clone; during the deletion, a clone that is replaced."""
    first = made(virtomate, *LINKED, "web")
    run = _hold(virtomate, "web")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    assert names_of(lab) == {"original"}
    _gone(lab, first)
    second = made(virtomate, *REPLACE, "web")
    assert "replaced" not in second

    run = virtomate.pausing("virStorageVolDelete").start("domain-clone", *REPLACE, "original", "web")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()

    third = made(virtomate, *REPLACE, "web")
    assert third["replaced"]["uuid"] == second["uuid"]
    assert names_of(lab) == {"original", "web"}


@pytest.mark.usefixtures("original")
def test_clone_that_cannot_be_deleted_stays(lab: Lab, virtomate: Program) -> None:
    """Where a clone changes after the plan, it stays and fails, and the others are replaced."""
    made(virtomate, *LINKED, "web-1")
    made(virtomate, *LINKED, "web-2")
    run = virtomate.pausing("virDomainDefineXMLFlags").start(
        "domain-clone", *REPLACE, "original", "web-1", "web-2", json=True
    )
    with paused(run):
        lab.connection.lookupByName("web-2").setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "changed", None, None)
    result = run.wait()

    assert result.status == 1, str(result)
    one, two = result.json
    assert (one["status"], two["status"]) == ("cloned", "failed")
    assert "was changed by somebody else meanwhile" in two["error"]["message"]
    assert "deleted before" not in two["error"]["message"]
    assert names_of(lab) == {"original", "web-1", "web-2"}
