"""What virt-sysprep and virt-customize are told to do, and what becomes of a clone when they fail or are ended."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import is_alive, wait_for
from tests.functional.support import clone_path, cloned, definition, pool_on, refused, unchanged
from tests.lab import Lab, Pool, Program, disk, domain, images
from tests.lab.far import Far
from tests.lab.images import MIB
from tests.lab.ordinary_user import OrdinaryUser
from tests.lab.ssh import SshServer
from tests.lab.stand_in import StandIn
from virtomate.services.sysprep import USUAL_OPERATIONS

USUAL = ",".join(USUAL_OPERATIONS)


def define(lab: Lab, pool: Pool | None = None, **more: Any) -> Path:
    """Define the domain `original` with a disk, and return the path of its volume."""
    path = (pool or lab.pool).qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(path)], **more))
    return path


def test_only_volumes_of_the_clone_are_opened(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """virt-sysprep gets each new volume with its format, in the order of the disks, and no shared or read-only disk."""
    pool = lab.pool
    system, data = pool.raw("original.raw", 4 * MIB), pool.raw("original-data.raw", 4 * MIB)
    shared, cdrom = pool.raw("shared.raw", MIB), images.make_iso(pool.path / "tools.iso", "tools")
    disks = [
        disk(data, "raw", "vdb"),
        disk(shared, "raw", "vdc"),
        disk(system, "raw"),
        disk(cdrom, "raw", "sda", bus="sata", device="cdrom"),
    ]
    lab.define(domain("original", disks=disks))
    stand_in = StandIn(tmp_path / "bin")

    result = virtomate(
        *("domain-clone", "--disk", "vdc=share", "--disk", "vdb=linked", "--sysprep", "original", "clone"),
        json=True,
        env=stand_in.env,
    )

    made = cloned(result)
    (words,) = stand_in.said
    assert words[:9] == [
        *("virt-sysprep", "--format", "raw", "--add", str(pool.path / "clone.raw")),
        *("--format", "qcow2", "--add", str(pool.path / "clone-data.qcow2")),
    ]
    assert words[9:13] == ["--operations", USUAL, "--hostname", "clone"]
    assert made["prepared"] == {
        "program": "virt-sysprep",
        "operations": list(USUAL_OPERATIONS),
        "host_name": "clone",
        "disks": ["vda", "vdb"],
    }
    assert 'Performing "machine-id"' in result.stderr


def test_overlay_of_another_host(root_lab: Lab, virtomate: Program, tmp_path: Path, far: Far) -> None:
    """A clone on another host is prepared also where an image is made of the original's disk before."""
    base = root_lab.pool.qcow2("base.qcow2", 4 * MIB, data_bytes=MIB)
    root_lab.define(domain("original", disks=[disk(root_lab.pool.overlay("original.qcow2", base))]))
    stand_in = StandIn(tmp_path / "bin")

    result = virtomate("domain-clone", "--to", far.uri, "--sysprep", "original", "clone", json=True, env=stand_in.env)

    assert cloned(result)["prepared"]["disks"] == ["vda"]
    (words,) = stand_in.said
    assert words[3:5] == ["--add", str(far.directory / "clone.qcow2")]


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        *((mode, more) for mode in ("copy", "linked", "reflink") for more in ((), ("--live",))),
        ("linked", ("--freeze",)),
        ("linked", ("--freeze", "--live")),
    ],
)
def test_volumes_stay_the_clones_own(
    lab: Lab, virtomate: Program, tmp_path: Path, mode: str, more: tuple[str, ...]
) -> None:
    """A volume that was written to bears its token: the clone is whole, and goes with all of its volumes."""
    pool = pool_on(lab, "xfs")
    path = define(lab, pool)
    digest = images.guest_digest(path, "qcow2")
    if "--live" in more:
        lab.connection.lookupByName("original").create()

    made = cloned(
        virtomate(
            *("domain-clone", *more, "--mode", mode, "--sysprep", "original", "clone"),
            json=True,
            env=StandIn(tmp_path / "bin").env,
        )
    )

    new = clone_path(made)
    assert images.guest_digest(new, "qcow2") != digest
    assert 'prepared="yes"' in definition(lab, "clone")
    if mode == "linked":
        assert virtomate("domain-verify", "clone").status == 0
    deleted = virtomate("domain-delete", "-y", "clone")
    assert (deleted.status, new.exists()) == (0, False), str(deleted)
    if "--live" not in more:
        assert images.guest_digest(path, "qcow2") == digest


def test_each_clone_has_a_run_of_its_own(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Of several clones, each has its own host name, and its own volume is opened."""
    define(lab)
    stand_in = StandIn(tmp_path / "bin")

    result = virtomate(
        *("domain-clone", "--mode", "linked", "--count", "3", "--sysprep", "--hostname", "w{}.example.org"),
        *("original", "web"),
        json=True,
        env=stand_in.env,
    )

    assert result.status == 0, str(result)
    assert sorted(re.findall(r"^virt-sysprep, (.*)$", result.stderr, re.MULTILINE)) == [
        f"web-{number}: Examining the guest" for number in (1, 2, 3)
    ]
    assert {(stand_in.option(run, "--add")[0], stand_in.option(run, "--hostname")[0]) for run in stand_in.said} == {
        (str(lab.pool.path / f"web-{number}.qcow2"), f"w{number}.example.org") for number in (1, 2, 3)
    }
    assert [made["prepared"]["host_name"] for made in result.json] == [f"w{number}.example.org" for number in (1, 2, 3)]


def test_words_of_the_user(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """OPERATIONS and ARGS are passed on; a guest whose operations are chosen gets no new keys of ours."""
    define(lab)
    stand_in = StandIn(tmp_path / "bin")

    clone_words = ("--mode", "linked", "--sysprep=machine-id,customize", "--customize", "--write '/etc/motd:a b'")
    result = virtomate("domain-clone", *clone_words, "original", "clone", json=True, env=stand_in.env)
    customized = virtomate(
        *("domain-clone", "--mode", "linked", "--customize", "--touch /x --timezone UTC", "original", "other"),
        env=stand_in.env,
    )

    assert cloned(result)["prepared"]["operations"] == ["machine-id", "customize"]
    assert customized.status == 0, str(customized)
    first, second = (run[5:] for run in stand_in.said)
    assert first == [
        *("--operations", "machine-id,customize", "--hostname", "clone", "--selinux-relabel"),
        *("--write", "/etc/motd:a b"),
    ]
    assert (stand_in.said[1][0], second) == ("virt-customize", ["--touch", "/x", "--timezone", "UTC"])
    assert "inside  prepared by virt-customize\n" in customized.stdout


def test_reset_of_a_prepared_clone(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A reset would undo the preparation, so it needs --force."""
    path = define(lab)
    stand_in = StandIn(tmp_path / "bin")
    made = cloned(
        virtomate("domain-clone", "--mode", "linked", "--sysprep", "original", "clone", json=True, env=stand_in.env)
    )
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-reset", "clone", json=True))
    forced = virtomate("domain-reset", "--force", "clone")

    assert error["message"].startswith("domain 'clone' was made with --sysprep or --customize")
    assert "--force" in error["hint"]
    assert forced.status == 0, str(forced)
    assert images.same_content(clone_path(made), "qcow2", path, "qcow2")


def test_guest_without_operating_system(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A failure is one sentence with the reason of the program, which a stand-in gives; nothing is left."""
    define(lab)
    before = lab.inventory()

    for option in ("--sysprep", "--customize=--touch /x"):
        result = virtomate(
            *("domain-clone", "--mode", "linked", option, "original", "clone"),
            json=True,
            env=StandIn(tmp_path / "bin", status=1).env,
        )
        error = refused(lab, before, result)
        assert error["message"].endswith("failed for clone 'clone': no operating systems were found in the guest image")
        assert "-l info" in error["hint"]


def test_output_is_only_in_the_log(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """What the program says is in the log, and its steps are notes."""
    define(lab)
    words = ("domain-clone", "--mode", "linked", "--sysprep", "original")
    env = StandIn(tmp_path / "bin").env

    silent = virtomate("-q", *words, "one", env=env)
    logged = virtomate("-l", "info", *words, "two", env=env)
    progress = virtomate("--progress", "json", *words, "three", env=env).progress

    assert (silent.status, "machine-id" in silent.stderr) == (0, False), str(silent)
    assert "[   0.0] Examining the guest ..." in logged.stderr
    notes = [event["message"] for event in progress if event["event"] == "note"]
    assert notes == ["virt-sysprep, three: Examining the guest", 'virt-sysprep, three: Performing "machine-id"']


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_run_that_is_ended_meanwhile(lab: Lab, virtomate: Program, tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends virtomate ends the program and its appliance with it; a stand-in waits for the signal."""
    define(lab)
    before = lab.inventory()
    stand_in = StandIn(tmp_path / "bin", is_waiting=True)
    run = virtomate.start("domain-clone", "--mode", "linked", "--sysprep", "original", "clone", env=stand_in.env)
    wait_for(lambda: bool(stand_in.pids), "the program waits")
    pids = stand_in.pids
    assert all(map(is_alive, pids))

    run.signal(number)
    run.wait()

    wait_for(lambda: not any(map(is_alive, pids)), "the processes end")
    if number == signal.SIGKILL:
        assert virtomate("domain-delete", "clone").status == 0
    unchanged(lab, before)


def test_missing_program(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Without the program, nothing is begun, and the error names the package."""
    define(lab)
    before = lab.inventory()
    empty = tmp_path / "empty"
    empty.mkdir()

    result = virtomate("domain-clone", "--sysprep", "original", "clone", json=True, env={"PATH": str(empty)})

    error = refused(lab, before, result)
    assert (error["type"], error["message"]) == (
        "UnsupportedError",
        "--sysprep needs virt-sysprep, which is not installed on this host",
    )
    assert "guestfs-tools" in error["hint"]


def test_volumes_of_others(nobody: OrdinaryUser, root_lab: Lab) -> None:
    """Whoever cannot open the volumes is told so before anything is copied."""
    path = define(root_lab)
    path.chmod(0o600)
    before = root_lab.inventory()

    error = refused(root_lab, before, nobody("domain-clone", "--sysprep", "original", "clone"))

    assert error["type"] == "UnsupportedError"
    assert f"'{path}' cannot be read here" in error["message"]


def test_hypervisor_on_another_host(root_lab: Lab, sshd: SshServer, virtomate: Program) -> None:
    """The volumes of a remote hypervisor are not opened, though they may be seen here."""
    define(root_lab)
    before = root_lab.inventory()

    result = virtomate(
        *("domain-clone", "--sysprep", "original", "clone"), json=True, uri=sshd.uri(root_lab.hypervisor)
    )

    error = refused(root_lab, before, result)
    assert (error["type"], "the hypervisor is on another host" in error["message"]) == ("UnsupportedError", True)


REFUSED = [
    (["--sysprep=machine-id,nonsense"], "'nonsense' in --sysprep is not an operation of virt-sysprep on this host"),
    (["--sysprep=a b"], "'a b' in --sysprep=a b is not an operation"),
    (["--sysprep=machine-id", "--hostname", "w"], "--hostname needs the operation customize in --sysprep=machine-id"),
    (["--sysprep=machine-id", "--customize", "--touch /x"], "--customize needs the operation customize"),
    (["--sysprep", "--disk", "vda=share"], "--sysprep needs a disk that is duplicated"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refused_words(lab: Lab, virtomate: Program, tmp_path: Path, words: list[str], message: str) -> None:
    """A word that is not understood ends with status 2, and changes nothing."""
    define(lab)
    before = lab.inventory()
    stand_in = StandIn(tmp_path / "bin")

    result = virtomate("domain-clone", *words, "original", "clone", env=stand_in.env)

    assert (result.status, message in result.stderr) == (2, True), str(result)
    assert stand_in.said == []
    unchanged(lab, before)


def test_plan(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A preview says what would be changed, and runs nothing."""
    define(lab)
    before = lab.inventory()
    stand_in = StandIn(tmp_path / "bin")

    result = virtomate("domain-clone", "--dry-run", "--sysprep", "original", "clone", env=stand_in.env)

    assert result.status == 0, str(result)
    assert "inside  to be prepared by virt-sysprep (host name clone; dhcp-client-state, machine-id" in result.stdout
    assert stand_in.said == []
    unchanged(lab, before)
