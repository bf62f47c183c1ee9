"""domain-reset takes linked clones back to their first moment."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import Refusal, check_refusal, paused, unchanged
from tests.functional.support import cloned, definition
from tests.lab import Inventory, Lab, Pool, Program, disk, domain, images, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.hypervisor import Hypervisor
from tests.lab.images import MIB
from tests.lab.inventory import take_inventory
from tests.lab.ordinary_user import OrdinaryUser
from tests.lab.storage import make_pool
from virtomate.cancel import CancelToken
from virtomate.duplication.emptying import Overlay
from virtomate.enums import ResetStatus
from virtomate.errors import NoSpaceError
from virtomate.hypervisor.session import open_session
from virtomate.services.linked import reset
from virtomate.services.linked.reset_plan import plan_resets

CLONE_DISK = "web.qcow2"
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
FAR_IMAGES = Path("/var/lib/libvirt/images")


def make_clone(lab: Lab, virtomate: Program, name: str = "web") -> Path:
    """Define an original of one disk, unless it is there, and make a linked clone; the path of the clone's overlay."""
    if "src" not in {found.name() for found in lab.connection.listAllDomains()}:
        path = lab.pool.qcow2("src.qcow2", 64 * MIB, data_bytes=2 * MIB)
        lab.define(domain("src", disks=[disk(path)], interfaces=[interface()]))
    cloned(virtomate("domain-clone", "--mode", "linked", "src", name, json=True))
    return lab.pool.path / f"{name}.qcow2"


def write(path: Path, megabytes: int = 5) -> None:
    """Write into a disk as a guest does."""
    images.qemu_io(path, "qcow2", f"write -P 7 1M {megabytes}M")


def test_clone_is_as_it_was_at_first(lab: Lab, virtomate: Program) -> None:
    """The same file has the bytes that it had; definition and pool are the same; only what was written is gone."""
    path = make_clone(lab, virtomate)
    first = lab.inventory()
    write(path)

    result = virtomate("domain-reset", "web", json=True)

    assert result.status == 0, str(result)
    (reset,) = result.json
    assert reset["disks"][0].pop("discarded") > 5 * MIB
    assert reset == {
        "disks": [{"path": str(path), "target": "vda"}],
        "ended": False,
        "name": "web",
        "notices": [],
        "nvram": None,
        "started": False,
        "status": "reset",
        "uuid": lab.connection.lookupByName("web").UUIDString(),
        "warnings": [],
    }
    unchanged(first, lab)
    again = virtomate("domain-reset", "web")
    assert (again.status, again.stdout, again.stderr) == (0, "Reset web\n  vda  discarded 0 B\n", "")
    assert virtomate("domain-delete", "--yes", "web").status == 0
    assert not path.exists()


def test_nvram_is_a_copy_again(lab: Lab, virtomate: Program) -> None:
    """It is what the original's is now, in the same file, which domain-delete removes as before."""
    store = lab.make_directory("nvram")
    original = store / "src_VARS.fd"
    original.write_bytes(OVMF_TEMPLATE.read_bytes())
    path = lab.pool.qcow2("src.qcow2", 8 * MIB)
    lab.define(domain("src", disks=[disk(path)], firmware=nvram(original)))
    (made,) = virtomate("domain-clone", "--mode", "linked", "src", "web", json=True).json
    variables = Path(made["nvram"]["clone"])
    inode = variables.stat().st_ino
    variables.write_bytes(b"variables of the clone")
    original.write_bytes(b"new variables of the original")

    result = virtomate("domain-reset", "web")

    assert result.status == 0, str(result)
    assert result.stdout == "Reset web\n  vda    discarded 0 B\n  NVRAM  as the original's\n"
    assert (variables.read_bytes(), variables.stat().st_ino) == (b"new variables of the original", inode)
    original.unlink()
    warned = virtomate("domain-reset", "web", json=True)
    assert [item["code"] for item in warned.json[0]["notices"]] == ["nvram-not-reset"]
    assert str(original) in warned.json[0]["warnings"][0]
    assert virtomate("domain-delete", "--yes", "web").status == 0
    assert not variables.exists()


def test_what_stays_is_a_warning(lab: Lab, virtomate: Program) -> None:
    """The NVRAM that libvirt made at the first start, and the state of the TPM."""
    store = lab.make_directory("nvram")
    path = lab.pool.qcow2("src.qcow2", 8 * MIB)
    lab.define(domain("src", disks=[disk(path)], devices=TPM, firmware=nvram(store / "src_VARS.fd")))
    (made,) = virtomate("domain-clone", "--mode", "linked", "src", "web", json=True).json
    Path(made["nvram"]["clone"]).write_bytes(b"made by libvirt")

    result = virtomate("domain-reset", "web", json=True)

    assert [item["code"] for item in result.json[0]["notices"]] == ["nvram-not-reset", "tpm-not-reset"]
    assert "start --reset-nvram web" in result.json[0]["warnings"][0]


def test_running_clone_is_ended_and_started(lab: Lab, virtomate: Program) -> None:
    """With --force; the guest has nothing of what it wrote, and the clone has the same identity."""
    path = make_clone(lab, virtomate)
    whole = definition(lab, "web")
    first = path.read_bytes()
    lab.connection.lookupByName("web").create()
    run_id = lab.connection.lookupByName("web").ID()

    result = virtomate("domain-reset", "--force", "--start", "web", json=True)

    assert result.status == 0, str(result)
    assert [(item["ended"], item["started"]) for item in result.json] == [(True, True)]
    clone = lab.connection.lookupByName("web")
    assert clone.isActive()
    assert clone.ID() != run_id
    clone.managedSave()
    assert virtomate("domain-reset", "--force", "web").status == 0
    assert (clone.isActive(), clone.hasManagedSaveImage()) == (0, 0)
    assert definition(lab, "web") == whole
    assert path.read_bytes() == first


def _run(lab: Lab, _path: Path) -> None:
    lab.connection.lookupByName("web").create()


def _save(lab: Lab, _path: Path) -> None:
    clone = lab.connection.lookupByName("web")
    clone.create()
    clone.managedSave()


def _snapshot(lab: Lab, _path: Path) -> None:
    lab.connection.lookupByName("web").snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")


def _hide(_lab: Lab, path: Path) -> None:
    images.qemu_img("snapshot", "-c", "s", path)


def _attach(lab: Lab, _path: Path) -> None:
    text = disk(lab.pool.raw("more.raw", MIB), "raw", "vdb")
    lab.connection.lookupByName("web").attachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _link(lab: Lab, path: Path) -> None:
    images.make_overlay(lab.pool.path / "over.qcow2", path, "qcow2")


def _write_base(lab: Lab, _path: Path) -> None:
    images.qemu_io(lab.pool.path / "src.qcow2", "qcow2", "write -P 1 0 64k")


def _open_base(lab: Lab, _path: Path) -> None:
    lab.connection.lookupByName("src").create()


def _remove_base(lab: Lab, _path: Path) -> None:
    (lab.pool.path / "src.qcow2").rename(lab.pool.path / "moved.qcow2")
    lab.pool.refresh()


def _flatten(_lab: Lab, path: Path) -> None:
    images.qemu_img("rebase", "-b", "", "-f", "qcow2", path)


def _replace(_lab: Lab, path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


REFUSALS: dict[str, tuple[Callable[[Lab, Path], None], str, tuple[str, ...], str]] = {
    "running": (_run, "IllegalStateError", ("domain 'web' is running", "must be shut off"), "virsh shutdown web"),
    "saved": (_save, "IllegalStateError", ("'web' has a managed-save image",), "virsh managedsave-remove web"),
    "snapshot": (_snapshot, "IllegalStateError", ("'web' has 1 snapshot, which would be lost",), "snapshot-delete web"),
    "other disk": (
        _attach,
        "UnsupportedError",
        ("disk vdb", "more.raw", "was not made by cloning"),
        "Delete the clone",
    ),
    "overlay": (_link, "IllegalStateError", ("others use disk vda", "over.qcow2", "rests on it"), "Delete the named"),
    "base written": (
        _write_base,
        "IllegalStateError",
        ("'web' is a broken linked clone", "written to"),
        "delete the clone",
    ),
    "base open": (
        _open_base,
        "IllegalStateError",
        ("'web' cannot be reset", "src.qcow2", "open for writing by domain 'src', which is active"),
        "virsh shutdown src",
    ),
    "base moved": (_remove_base, "IllegalStateError", ("'web' is a broken linked clone", "moved"), "moved.qcow2 web"),
    "flattened": (
        _flatten,
        "UnsupportedError",
        (CLONE_DISK, "is not a qcow2 image that rests on another"),
        "clone again",
    ),
    "hidden snapshot": (_hide, "IllegalStateError", (CLONE_DISK, "has 1 snapshot inside"), "clone again"),
    "replaced": (
        _replace,
        "IllegalStateError",
        (CLONE_DISK, "is a copy of what was made"),
        "certainly the clone's own",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(lab: Lab, virtomate: Program, name: str) -> None:
    """What would be lost, or corrupted, refuses the reset, and nothing is changed."""
    prepare, type_, message, hint = REFUSALS[name]
    path = make_clone(lab, virtomate)
    write(path)
    prepare(lab, path)

    check_refusal(lab, virtomate, ("domain-reset", "web"), Refusal(type_, message, (hint,)))


def test_others_are_not_reset(lab: Lab, virtomate: Program) -> None:
    """Originals, copies and templates are refused, each with its reason, in one error."""
    make_clone(lab, virtomate)
    assert virtomate("domain-clone", "src", "copy").status == 0
    assert virtomate("domain-template", "web").status == 0
    before = lab.inventory()

    result = virtomate("domain-reset", "src", "copy", "web", "gone", json=True)
    twice = virtomate("domain-reset", "copy", "copy")

    assert (result.status, result.json["type"]) == (1, "IllegalStateError")
    for part in (
        "'src' is not a clone made by virtomate",
        "'copy' cannot be reset: disk vda",
        "is a copy, and not linked",
        "'web' is a template",
        "'gone'",
    ):
        assert part in result.json["message"]
    assert twice.status == 2 or "not linked" in twice.stderr
    unchanged(before, lab)


def test_frozen_clone_is_not_reset(lab: Lab, virtomate: Program) -> None:
    """Its overlay holds only what it wrote since it was frozen: an empty one would not be its first moment."""
    write(make_clone(lab, virtomate))
    cloned(virtomate("domain-clone", "--mode", "linked", "--freeze", "web", "over", json=True))

    message = ("'web' cannot be reset", "since it was cloned with --freeze", CLONE_DISK, "--freeze")
    refusal = Refusal("UnsupportedError", message, ("clone again",))
    check_refusal(lab, virtomate, ("domain-reset", "web"), refusal)
    assert virtomate("domain-reset", "over").status == 0


# old: no header was written yet; new: one was
@pytest.mark.parametrize(("sync", "is_old"), [(1, True), (2, False), (3, False)])
def test_killed_reset_leaves_the_old_overlay_or_an_empty_one(
    lab: Lab, virtomate: Program, sync: int, is_old: bool
) -> None:
    """The clone is whole, and the same command completes the reset."""
    path = make_clone(lab, virtomate)
    first = lab.inventory()
    write(path)
    content = images.guest_digest(path, "qcow2")

    run = virtomate.pausing(f"sync-{sync}").start("domain-reset", "web")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()

    images.qemu_img("check", "-q", "-f", "qcow2", path)
    now = images.guest_digest(path, "qcow2")
    assert now == (content if is_old else images.guest_digest(lab.pool.path / "src.qcow2", "qcow2"))
    assert virtomate("domain-reset", "web").status == 0
    unchanged(first, lab)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_completes_what_is_begun(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """Every clone is reset or is as it was, and says which; the program ends by the signal."""
    paths = {name: make_clone(lab, virtomate, name) for name in ("a", "b")}
    first = {name: path.read_bytes() for name, path in paths.items()}
    for path in paths.values():
        write(path)
    dirty = {name: path.read_bytes() for name, path in paths.items()}

    run = virtomate.pausing("sync-1").start("domain-reset", "--start", "a", "b", json=True)
    with paused(run):
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    for item in result.json:
        expected = first if item["status"] == "reset" else dirty
        assert paths[item["name"]].read_bytes() == expected[item["name"]]
        assert item["started"] is False
    assert result.json[0]["status"] == "reset"


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_reset_that_is_ended_at_any_moment(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """Thirty moments of a reset of four clones: each overlay is the old one or an empty one, and is whole."""
    names = ("a", "b", "c", "d")
    paths = [make_clone(lab, virtomate, name) for name in names]
    first = lab.inventory()
    base = images.guest_digest(lab.pool.path / "src.qcow2", "qcow2")
    for path in paths:
        write(path)
    content = images.guest_digest(paths[0], "qcow2")
    begin = time.monotonic()
    assert virtomate("domain-reset", *names).status == 0
    seconds = time.monotonic() - begin
    moments = random.Random(1)
    found = set()
    for _ in range(30):
        for path in paths:
            write(path)
        run = virtomate.start("domain-reset", *names)
        time.sleep(seconds * moments.uniform(0.3, 1))
        run.signal(number)
        run.wait()
        for path in paths:
            images.qemu_img("check", "-q", "-f", "qcow2", path)
            now = images.guest_digest(path, "qcow2")
            assert now in {content, base}
            found.add(now)
        assert virtomate("domain-reset", *names).status == 0
        unchanged(first, lab)
    assert found


@pytest.fixture
def far(root_lab: Lab) -> Iterator[tuple[Hypervisor, Pool]]:
    """Another host, whose files are not seen from here, with a pool."""
    with root_lab.make_host("far") as host:
        make_pool(host, "images", FAR_IMAGES)
        yield host, Pool(host, "images", host.on_host(FAR_IMAGES))


def _make_far_clone(far: tuple[Hypervisor, Pool], virtomate: Program) -> Path:
    host, pool = far
    pool.qcow2("src.qcow2", 64 * MIB, data_bytes=2 * MIB)
    host.connection.defineXML(domain("src", disks=[disk(FAR_IMAGES / "src.qcow2")]))
    cloned(virtomate("domain-clone", "--mode", "linked", "src", "web", json=True, uri=host.uri))
    return pool.path / CLONE_DISK


def _take(host: Hypervisor) -> Inventory:
    return take_inventory(host.connection, host.state_directories)


def _there(path: Path) -> str:
    """Name an overlay there, whose base has another path here, for QEMU's tools."""
    base = path.parent / "src.qcow2"
    files = (("file", path), ("backing.file", base))
    named = [f"{key}.driver=file,{key}.filename={file}" for key, file in files]
    return f"driver=qcow2,backing.driver=qcow2,{','.join(named)}"


def _write_far(path: Path) -> None:
    subprocess.run(("qemu-io", "--image-opts", "-c", "write -P 7 1M 5M", _there(path)), check=True, capture_output=True)


def test_unseen_clone_is_reset_over_the_connection(far: tuple[Hypervisor, Pool], virtomate: Program) -> None:
    """The overlay has the bytes that it had, and is proved to be the clone's as before."""
    host, _ = far
    path = _make_far_clone(far, virtomate)
    first = _take(host)
    _write_far(path)

    result = virtomate("domain-reset", "web", json=True, uri=host.uri)

    assert result.status == 0, str(result)
    assert first.difference(_take(host)) == ""
    assert virtomate("domain-delete", "--yes", "web", uri=host.uri).status == 0


def test_unseen_nvram_is_reset_over_the_connection(far: tuple[Hypervisor, Pool], virtomate: Program) -> None:
    """Also in a directory outside all pools; the temporary pool is gone afterwards."""
    host, pool = far
    store = Path("/var/lib/libvirt/stores")
    here = host.on_host(store)
    here.mkdir()
    variables = OVMF_TEMPLATE.read_bytes()
    (here / "src_VARS.fd").write_bytes(variables)
    pool.qcow2("src.qcow2", 8 * MIB)
    text = domain("src", disks=[disk(FAR_IMAGES / "src.qcow2")], firmware=nvram(store / "src_VARS.fd"))
    host.connection.defineXML(text)
    cloned(virtomate("domain-clone", "--mode", "linked", "src", "web", json=True, uri=host.uri))
    first = _take(host)
    (here / "web_VARS.fd").write_bytes(b"shorter")
    (here / "src_VARS.fd").write_bytes(b"the original's")

    result = virtomate("domain-reset", "web", json=True, uri=host.uri)

    assert result.status == 0, str(result)
    assert [(item["nvram"], item["warnings"]) for item in result.json] == [(str(store / "web_VARS.fd"), [])]
    assert (here / "web_VARS.fd").read_bytes() == b"the original's"
    (here / "src_VARS.fd").write_bytes(variables)
    assert virtomate("domain-reset", "web", uri=host.uri).status == 0
    assert first.difference(_take(host)) == ""


@pytest.mark.parametrize("moment", ["virStorageVolUpload", "virStorageVolDownload"])
def test_killed_reset_over_the_connection(far: tuple[Hypervisor, Pool], virtomate: Program, moment: str) -> None:
    """Whatever had arrived there, the overlay is whole, and the same command completes the reset."""
    host, _ = far
    path = _make_far_clone(far, virtomate)
    first = _take(host)
    _write_far(path)

    run = virtomate.pausing(moment).start("domain-reset", "web", uri=host.uri)
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()

    images.qemu_img("check", "-q", "--image-opts", _there(path))
    assert virtomate("domain-reset", "web", uri=host.uri).status == 0
    assert first.difference(_take(host)) == ""


def test_whoever_cannot_open_the_files_resets_through_libvirt(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Members of libvirt's group see the files, and may not open them."""
    path = nobody.pool.qcow2("src.qcow2", 64 * MIB, data_bytes=2 * MIB)
    path.chmod(0o600)
    nobody.pool.refresh()
    root_lab.define(domain("src", disks=[disk(path)]))
    cloned(nobody("domain-clone", "--mode", "linked", "src", "web"))
    overlay = nobody.pool.path / CLONE_DISK
    overlay.chmod(0o600)
    first = overlay.read_bytes()
    write(overlay)

    result = nobody("domain-reset", "web")

    assert result.status == 0, str(result)
    assert overlay.read_bytes() == first
    assert nobody("domain-delete", "--yes", "web").status == 0


def test_clone_that_is_started_meanwhile_runs_on(lab: Lab, virtomate: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone that somebody starts after the look at it is not ended, and keeps its disk; the others are reset."""
    paths = {name: make_clone(lab, virtomate, name) for name in ("a", "b")}
    first = {name: path.read_bytes() for name, path in paths.items()}
    for path in paths.values():
        write(path)
    content = images.guest_digest(paths["a"], "qcow2")

    def plan_and_start(*words: Any, **named: Any) -> Any:
        plans = plan_resets(*words, **named)
        lab.connection.lookupByName("a").create()
        return plans

    monkeypatch.setattr(reset, "plan_resets", plan_and_start)
    with open_session(lab.uri) as session:
        results = reset.reset_clones(session, reset.ResetRequest(("a", "b")), CancelToken())

    assert [result.status for result in results] == [ResetStatus.FAILED, ResetStatus.RESET]
    assert paths["b"].read_bytes() == first["b"]
    assert lab.connection.lookupByName("a").isActive()
    lab.connection.lookupByName("a").destroy()
    assert images.guest_digest(paths["a"], "qcow2") == content


def test_disk_that_fails_says_which_are_reset(lab: Lab, virtomate: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of two disks cannot be written, the error says that the other one is reset, and what to do."""
    disks = [disk(lab.pool.qcow2(f"src-{name}.qcow2", 8 * MIB), target=name) for name in ("vda", "vdb")]
    lab.define(domain("src", disks=disks))
    cloned(virtomate("domain-clone", "--mode", "linked", "src", "web", json=True))
    overlays = [lab.pool.path / f"web-{name}.qcow2" for name in ("vda", "vdb")]
    first = lab.inventory()
    for path in overlays:
        write(path)
    empty = Overlay.empty

    def fail(overlay: Overlay, file: Any, length: int) -> None:
        if os.path.samestat(os.fstat(file._descriptor), overlays[1].stat()):
            raise NoSpaceError("the disk is full")
        empty(overlay, file, length)

    with monkeypatch.context() as patch, open_session(lab.uri) as session:
        patch.setattr(Overlay, "empty", fail)
        (result,) = reset.reset_clones(session, reset.ResetRequest(("web",)), CancelToken())

    assert result.status is ResetStatus.FAILED
    assert [done.target for done in result.disks] == ["vda"]
    assert result.error is not None
    assert result.error.message == "the disk is full; reset before that: vda"
    assert virtomate("domain-reset", "web").status == 0
    unchanged(first, lab)
