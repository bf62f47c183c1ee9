"""domain-template makes domains that are only cloned, and makes ordinary domains of them again."""

import os
import random
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from tests.functional.runs import Refusal, check_refusal, paused, unchanged
from tests.functional.support import definition
from tests.lab import Lab, Program, disk, domain, images, interface
from tests.lab.acl import ACCESS, access_list, read_list
from tests.lab.images import MIB
from tests.lab.ordinary_user import OrdinaryUser
from virtomate.cancel import CancelToken
from virtomate.enums import TemplateStatus
from virtomate.errors import HypervisorError
from virtomate.hypervisor.domains import Domain
from virtomate.hypervisor.session import open_session
from virtomate.services.linked import make_templates, undo_templates

DEFINE = "virDomainDefineXMLFlags"
AUTOSTART = "virDomainSetAutostart"


def define_original(lab: Lab, name: str = "golden", mode: int = 0o664) -> Path:
    """Define a domain that starts with its host; the path of its disk."""
    path = lab.pool.qcow2(f"{name}.qcow2", 8 * MIB)
    path.chmod(mode)
    lab.define(domain(name, disks=[disk(path)], interfaces=[interface()])).setAutostart(1)
    return path


def mode_of(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_template_cannot_be_started_and_comes_back_as_it_was(lab: Lab, virtomate: Program) -> None:
    """The error says why, and no file is touched; definition, mode and autostart come back exactly as they were."""
    path = define_original(lab)
    before = lab.inventory()
    original = lab.connection.lookupByName("golden")

    made = virtomate("domain-template", "golden", json=True)

    assert made.status == 0, str(made)
    assert made.json == [
        {
            "autostart": True,
            "name": "golden",
            "notices": [],
            "status": "template",
            "uuid": original.UUIDString(),
            "volumes": [str(path)],
            "warnings": [],
        }
    ]
    assert (mode_of(path), original.autostart()) == (0o444, 0)
    touched = path.stat().st_ctime_ns
    with pytest.raises(libvirt.libvirtError, match="only cloned, until virtomate domain-template --undo makes"):
        original.create()
    assert path.stat().st_ctime_ns == touched
    (listed,) = virtomate("domain-list", json=True).json
    assert (listed["state"], listed["template"]) == ("shut-off", True)
    assert "golden  template" in virtomate("domain-list").stdout
    template = lab.inventory()
    assert virtomate("domain-template", "golden").status == 0
    unchanged(template, lab)

    undone = virtomate("domain-template", "--undo", "golden")

    assert undone.status == 0, str(undone)
    assert undone.stdout == "golden is an ordinary domain again\n  starts with its host\n"
    unchanged(before, lab)


@pytest.mark.parametrize("mode", ["copy", "linked", "reflink"])
def test_clone_of_a_template_is_ordinary(root_lab: Lab, virtomate: Program, mode: str) -> None:
    """It can be started and written to; nobody is warned of a start of the original, which nobody can start."""
    lab, pool = root_lab, root_lab.pools["xfs"]
    path = pool.qcow2("golden.qcow2", 8 * MIB)
    path.chmod(0o640)
    lab.define(domain("golden", disks=[disk(path)], interfaces=[interface()]))
    assert virtomate("domain-template", "golden").status == 0

    result = virtomate("domain-clone", "--mode", mode, "--start", "golden", "web", json=True)

    assert result.status == 0, str(result)
    (clone,) = result.json
    assert clone["warnings"] == []
    assert mode_of(Path(clone["disks"][0]["clone"]["path"])) == 0o640
    text = definition(lab, "web")
    assert "urn:virtomate:template" not in text
    assert "virtomate template" not in text
    assert {item["name"]: item["template"] for item in virtomate("domain-list", json=True).json} == {
        "golden": True,
        "web": False,
    }


def test_a_linked_clone_keeps_its_template(lab: Lab, virtomate: Program) -> None:
    """Whoever started the original would corrupt the clone; without the clone there is a way back."""
    path = define_original(lab)
    before = lab.inventory()
    assert virtomate("domain-template", "golden").status == 0
    assert virtomate("domain-clone", "--mode", "linked", "golden", "web").status == 0

    message = (f"'golden' must stay a template, since to start it would corrupt what uses disk vda ('{path}')", "'web'")
    refusal = Refusal("IllegalStateError", message, ("virtomate domain-clone golden NEWNAME",))
    check_refusal(lab, virtomate, ("domain-template", "--undo", "golden"), refusal)

    assert virtomate("domain-delete", "--yes", "web").status == 0
    assert virtomate("domain-template", "--undo", "golden").status == 0
    unchanged(before, lab)


def test_original_of_running_clones_becomes_a_template(lab: Lab, virtomate: Program) -> None:
    """A running guest only reads the base of its disk, with write bits or without; it can be started again."""
    path = define_original(lab)
    assert virtomate("domain-clone", "--mode", "linked", "--start", "golden", "web").status == 0

    result = virtomate("domain-template", "golden")

    assert result.status == 0, str(result)
    assert mode_of(path) == 0o444
    clone = lab.connection.lookupByName("web")
    clone.destroy()
    clone.create()
    verified = virtomate("domain-verify", "web", json=True)
    assert [item["status"] for item in verified.json] == ["intact"]


def test_clones_on_an_inactive_pool_keep_their_template(lab: Lab, virtomate: Program) -> None:
    """Whether libvirt can look at the volume of the template or not, the clone rests on it."""
    pool = lab.make_pool("other")
    path = pool.qcow2("golden.qcow2", 8 * MIB)
    lab.define(domain("golden", disks=[disk(path)]))
    assert virtomate("domain-template", "golden").status == 0
    assert virtomate("domain-clone", "--mode", "linked", "--pool", lab.pool.name, "golden", "web").status == 0
    lab.connection.storagePoolLookupByName("other").destroy()

    result = virtomate("domain-template", "--undo", "golden")

    assert result.status == 1, str(result)
    assert f"what uses disk vda ('{path}')" in result.stderr


def _run(lab: Lab) -> None:
    lab.connection.lookupByName("golden").create()


def _save(lab: Lab) -> None:
    running = lab.connection.lookupByName("golden")
    running.create()
    running.managedSave()


def _snapshot(lab: Lab) -> None:
    document = "<domainsnapshot><name>s1</name></domainsnapshot>"
    lab.connection.lookupByName("golden").snapshotCreateXML(document)


def _share(lab: Lab) -> None:
    lab.define(domain("other", disks=[disk(lab.pool.path / "golden.qcow2")]))


@pytest.mark.parametrize(
    ("prepare", "message", "hint"),
    [
        (_run, ("domain 'golden' is running", "must be shut off"), "virsh shutdown golden"),
        (_save, ("domain 'golden' has a managed-save image",), "virsh managedsave-remove golden"),
        (_snapshot, ("disk vda", "has 1 snapshot inside"), "virsh snapshot-list golden"),
        (_share, ("disk vda", "may be written to by others: domain 'other' uses it"), "Delete what is named"),
    ],
)
def test_refused(
    lab: Lab, virtomate: Program, prepare: Callable[[Lab], None], message: tuple[str, ...], hint: str
) -> None:
    """What can write to the volumes by another way than a start refuses the template; nothing is changed."""
    define_original(lab)
    prepare(lab)

    check_refusal(lab, virtomate, ("domain-template", "golden"), Refusal("IllegalStateError", message, (hint,)))


def test_file_outside_pools_stays_writable_with_a_warning(lab: Lab, virtomate: Program) -> None:
    """Nothing proves that the file here is the domain's; the domain cannot be started all the same."""
    path = lab.make_directory("elsewhere") / "golden.qcow2"
    images.make_qcow2(path, 8 * MIB)
    lab.define(domain("golden", disks=[disk(path)]))

    (made,) = virtomate("domain-template", "golden", json=True).json

    assert (made["status"], made["volumes"]) == ("template", [])
    assert [item["code"] for item in made["notices"]] == ["writable-template"]
    assert f"'{path}' could not be removed: '{path}' is in no storage pool" in made["warnings"][0]


def test_encrypted_disk_is_refused(lab: Lab, virtomate: Program) -> None:
    """The hint names a whole command, since a template is not made by cloning."""
    path = lab.pool.path / "golden.qcow2"
    luks = "encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s"
    images.qemu_img("create", "-q", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o", luks, path, "1M")
    lab.pool.refresh()
    lab.define(domain("golden", disks=[disk(path)]))
    refusal = Refusal("UnsupportedError", ("disk vda", "is encrypted"), ("virtomate domain-clone --mode copy golden",))

    check_refusal(lab, virtomate, ("domain-template", "golden"), refusal)


def test_one_refusal_refuses_all(lab: Lab, virtomate: Program) -> None:
    """Nothing is changed before everything is looked at; a name that is given twice is a mistake in the command."""
    define_original(lab)
    before = lab.inventory()

    refused = virtomate("domain-template", "golden", "gone", json=True)
    ordinary = virtomate("domain-template", "--undo", "golden")
    twice = virtomate("domain-template", "golden", lab.connection.lookupByName("golden").UUIDString())

    assert (refused.status, refused.json["type"]) == (1, "NotFoundError")
    assert (ordinary.status, "domain 'golden' is not a template" in ordinary.stderr) == (1, True)
    assert (twice.status, "domain 'golden' is named twice" in twice.stderr) == (2, True)
    unchanged(before, lab)


@pytest.mark.parametrize("moment", [DEFINE, AUTOSTART])
@pytest.mark.parametrize("words", [(), ("--undo",)], ids=["make", "undo"])
def test_killed_run_is_completed_by_the_next(lab: Lab, virtomate: Program, words: tuple[str, ...], moment: str) -> None:
    """Between any two steps the domain is a template or is not, and either command goes on from there."""
    define_original(lab)
    ordinary = lab.inventory()
    assert virtomate("domain-template", "golden").status == 0
    template = lab.inventory()
    if not words:
        assert virtomate("domain-template", "--undo", "golden").status == 0

    run = virtomate.pausing(moment).start("domain-template", *words, "golden")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()

    is_done = bool(words) and moment == DEFINE
    assert virtomate("domain-template", *words, "golden").status == (1 if is_done else 0)
    unchanged(ordinary if words else template, lab)
    if not words:
        assert virtomate("domain-template", "--undo", "golden").status == 0
        unchanged(ordinary, lab)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_keeps_the_others_as_they_are(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """The current domain is finished, the next is not begun, and the program ends by the signal."""
    define_original(lab, "a")
    define_original(lab, "b")
    whole = definition(lab, "b")

    run = virtomate.pausing(DEFINE).start("domain-template", "a", "b", json=True)
    with paused(run):
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    assert [item["status"] for item in result.json] == ["template", "interrupted"]
    assert [mode_of(lab.pool.path / f"{name}.qcow2") for name in "ab"] == [0o444, 0o664]
    assert definition(lab, "b") == whole


@pytest.mark.parametrize("is_undo", [False, True], ids=["make", "undo"])
def test_failure_is_undone(lab: Lab, virtomate: Program, monkeypatch: pytest.MonkeyPatch, *, is_undo: bool) -> None:
    """If libvirt refuses a step, the steps before it are undone."""
    define_original(lab)
    if is_undo:
        assert virtomate("domain-template", "golden").status == 0
    before = lab.inventory()

    def refuse(_domain: Domain, _is_on: bool) -> None:
        raise HypervisorError("no")

    monkeypatch.setattr(Domain, "set_autostart", refuse)
    with open_session(lab.uri) as session:
        change = undo_templates if is_undo else make_templates
        (result,) = change(session, ("golden",), CancelToken())

    assert (result.status, result.error is not None and result.error.leftovers) == (TemplateStatus.FAILED, ())
    unchanged(before, lab)


@pytest.mark.parametrize(
    ("words", "moment"),
    [((), "virDomainGetAutostart-2"), (("--undo",), "virDomainGetAutostart")],
    ids=["make", "undo"],
)
def test_broken_link_is_undone(lab: Lab, virtomate: Program, words: tuple[str, ...], moment: str) -> None:
    """If the connection breaks, the steps before that are undone over another one."""
    define_original(lab)
    if words:
        assert virtomate("domain-template", "golden").status == 0
    before = lab.inventory()

    run = virtomate.pausing(moment).start("domain-template", *words, "golden", json=True)
    with paused(run):
        lab.hypervisor.restart()
    result = run.wait()

    assert result.status == 1, str(result)
    assert result.json[0]["status"] == "failed"
    assert result.json[0]["error"]["type"] == "libvirtError"
    assert "leftovers" not in result.json[0]["error"]
    unchanged(before, lab)


def test_volumes_that_were_replaced_keep_their_mode(lab: Lab, virtomate: Program) -> None:
    """The way back changes no file that the template did not have."""
    path = define_original(lab)
    assert virtomate("domain-template", "golden").status == 0
    path.rename(path.with_name("old.qcow2"))
    images.make_qcow2(path, 8 * MIB)
    path.chmod(0o400)

    result = virtomate("domain-template", "--undo", "golden")

    assert result.status == 0, str(result)
    assert f"Warning: the write permission of '{path}' was not restored" in result.stderr
    assert mode_of(path) == 0o400


def test_copy_has_the_access_list_that_the_template_had(root_lab: Lab, virtomate: Program) -> None:
    """The mask of the list lost its write bit with the file, and the copy has that bit."""
    lab = root_lab
    path = define_original(lab, mode=0o640)
    acl = access_list(6, (1234, 6), 4, 6)
    os.setxattr(path, ACCESS, acl)
    assert virtomate("domain-template", "golden").status == 0
    assert read_list(path) == access_list(4, (1234, 6), 4, 4)

    assert virtomate("domain-clone", "golden", "web").status == 0

    assert read_list(lab.pool.path / "web.qcow2") == acl


def test_files_of_others_stay_writable_with_a_warning(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Whoever may talk to libvirt but not change its files makes a template all the same."""
    path = nobody.pool.qcow2("golden.qcow2", 8 * MIB)
    path.chmod(0o600)
    nobody.pool.refresh()
    root_lab.define(domain("golden", disks=[disk(path)]))
    before = root_lab.inventory()

    (made,) = nobody("domain-template", "golden").json

    assert [item["code"] for item in made["notices"]] == ["writable-template"]
    assert f"the write permission of '{path}' could not be removed" in made["warnings"][0]
    assert (made["status"], made["volumes"], mode_of(path)) == ("template", [], 0o600)
    with pytest.raises(libvirt.libvirtError, match="only cloned"):
        root_lab.connection.lookupByName("golden").create()
    (undone,) = nobody("domain-template", "--undo", "golden").json
    assert (undone["status"], undone["warnings"]) == ("ordinary", [])
    unchanged(before, root_lab)


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_command_that_is_ended_at_any_moment(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """Thirty moments of either command over four domains: each is a template or as before, and the next run goes on."""
    names = ("a", "b", "c", "d")
    for name in names:
        define_original(lab, name)
    ordinary = lab.inventory()
    begin = time.monotonic()
    assert virtomate("domain-template", *names).status == 0
    seconds = time.monotonic() - begin
    template = lab.inventory()
    moments = random.Random(1)
    for moment in range(30):
        words, expected = ((), template) if moment % 2 else (("--undo",), ordinary)
        run = virtomate.start("domain-template", *words, *names)
        time.sleep(seconds * moments.uniform(0.4, 1))
        run.signal(number)
        run.wait()
        for name in names:
            # what is done already is a refusal of the way back, which changes nothing
            assert virtomate("domain-template", *words, name).status in ({0, 1} if words else {0})
        unchanged(expected, lab)
