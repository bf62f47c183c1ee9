"""Seeds for cloud-init: what cloud-init reads from the seed of a clone, where the seed stands, and what removes it."""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.functional.runs import Watched, make_big_source, midway
from tests.functional.support import by_target, clone, cloned, definition, pool_on, refused, unchanged
from tests.functional.test_remote import make_far_pool
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.cloud_init import make_command, read_seed
from tests.lab.images import MIB
from virtomate.duplication.labels import LABEL_BYTES, TOKEN_OFFSET, file_system_label

if TYPE_CHECKING:
    from tests.lab.ssh import SshServer

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzUqYBhWnkrwVLmHWyy8GIkbEGPQw9Ll1K6YtNhVQ3f ada@example.org"
CONFIG = "#cloud-config\nruncmd: [[touch, /secret-of-the-test]]\n"
NETWORK = "version: 2\nethernets:\n  eth0: {addresses: [192.0.2.7/24]}\n"


def define(lab: Lab) -> Path:
    """Define the domain `original` with a disk, and return its path."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    lab.define(domain("original", disks=[disk(path)]))
    return path


def written(directory: Path, **files: str) -> Path:
    """Write files, with hyphens in their names for underscores, and return their directory."""
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("_", "-")).write_text(content)
    return directory


def seed_of(lab: Lab, name: str = "clone") -> Path:
    """Return where the seed of a clone is."""
    return lab.pool.path / f"{name}-seed.iso"


def command_lines() -> Iterator[bytes]:
    """Yield the command lines of all processes; a process may end meanwhile."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


def drives(lab: Lab, name: str = "clone") -> dict[str, ET.Element]:
    """Return the disks in a definition by their targets."""
    found = ET.fromstring(definition(lab, name)).findall("devices/disk")
    return {item.find("target").get("dev") or "": item for item in found}  # type: ignore[union-attr]


def test_cloud_init_reads_host_name_and_instance_id(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A seed without options tells who the clone is; it is a read-only disk that only its owner can read."""
    define(lab)

    made = clone(virtomate, "--mode", "linked", "--seed")

    path = seed_of(lab)
    assert made["seed"] == {
        "target": "vdb",
        "clone": {"format": "raw", "path": str(path), "pool": lab.pool.name, "volume": "clone-seed.iso"},
        "host_name": "clone",
        "files": [],
    }
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())
    assert file_system_label(path.read_bytes()[:LABEL_BYTES]) == "cidata"
    read = read_seed(lab.guest.cache, path, tmp_path)
    assert (read["found"], read["instance_id"], read["host_name"]) == (True, made["uuid"], "clone")
    assert (read["user_data"], read["vendor_data"], read["network"]) == ([], [], None)
    drive = drives(lab)["vdb"]
    assert (drive.get("device"), drive.find("readonly") is not None) == ("disk", True)
    assert drive.find("source").get("file") == str(path)  # type: ignore[union-attr]
    lab.connection.lookupByName("clone").create()


def test_user_and_keys(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """The default user gets the name that was asked for, and may log in with each of the keys."""
    define(lab)
    keys = tmp_path / "keys"
    keys.write_text(f"# mine\n{KEY}\n\n{KEY.replace('ada', 'bob')}\n")

    clone(virtomate, "--seed", "--user", "ada", "--ssh-key", keys, "--ssh-key", KEY.replace("ada", "eve"))

    read = read_seed(lab.guest.cache, seed_of(lab), tmp_path)
    assert read["users"].keys() == {"ada"}
    assert (read["users"]["ada"]["default"], read["users"]["ada"]["shell"]) == (True, "/bin/bash")
    assert read["config"] == {"ssh_authorized_keys": [KEY, KEY.replace("ada", "bob"), KEY.replace("ada", "eve")]}


def test_files_are_passed_on_as_they_are(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """cloud-init gets the very text of each file; no text of the user is in a log or on a command line of QEMU."""
    define(lab)
    given = written(
        tmp_path / "given", user_data=CONFIG, network_config=NETWORK, vendor_data="#!/bin/sh\necho vendor\n"
    )
    words: list[str | Path] = ["--user-data", given / "user-data", "--network-data", given / "network-config"]

    result = virtomate(
        *("-l", "debug", "domain-clone", "--seed", *words, "--vendor-data", given / "vendor-data"),
        *("original", "clone"),
        json=True,
    )

    assert cloned(result)["seed"]["files"] == ["user-data", "network-config", "vendor-data"]
    read = read_seed(lab.guest.cache, seed_of(lab), tmp_path)
    assert read["user_data"] == [["text/cloud-config", CONFIG]]
    assert read["vendor_data"] == [["text/x-shellscript", "#!/bin/sh\necho vendor\n"]]
    assert read["network"] == {"version": 2, "ethernets": {"eth0": {"addresses": ["192.0.2.7/24"]}}}
    domain_ = lab.connection.lookupByName("clone")
    domain_.create()
    (qemu,) = [command for command in command_lines() if domain_.UUIDString().encode() in command]
    logs = [path.read_text(errors="replace") for path in lab.hypervisor.directory.rglob("*.log")]
    assert str(seed_of(lab)).encode() in qemu
    assert not [text for text in (result.stderr, result.stdout, qemu.decode(), *logs) if "secret-of-the-test" in text]


def test_directory_of_a_seed(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """All files of a directory are passed on, and the identity is added to its meta-data."""
    define(lab)
    given = written(tmp_path / "given", meta_data="rack: 7", user_data=f"## template: jinja\n{CONFIG}")

    made = clone(virtomate, "--seed", "--hostname", "web.example.org", "--seed-dir", given)

    read = read_seed(lab.guest.cache, seed_of(lab), tmp_path)
    assert (read["instance_id"], read["host_name"], read["fqdn"]) == (made["uuid"], "web", "web.example.org")
    assert read["meta_data"]["rack"] == 7
    assert read["user_data"][0][1] == f"## template: jinja\n{CONFIG}"


def test_each_clone_has_its_own(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Several clones get a seed each, with host names from the template; deletion takes the seeds along."""
    define(lab)
    before = lab.inventory()

    result = virtomate(
        *("domain-clone", "--mode", "linked", "--count", "2", "--seed", "--hostname", "w{:02}", "original", "web"),
        json=True,
    )

    assert result.status == 0, str(result)
    for number, made in enumerate(result.json, 1):
        read = read_seed(lab.guest.cache, seed_of(lab, f"web-{number}"), tmp_path / str(number))
        assert (read["instance_id"], read["host_name"]) == (made["uuid"], f"w{number:02}")
    deleted = virtomate("domain-delete", "-y", "web-1", "web-2", json=True)
    assert [item["removed"][1] for item in deleted.json] == [f"seed '{seed_of(lab, f'web-{n}')}'" for n in (1, 2)]
    unchanged(lab, before)


def test_plan_shows_the_seed(lab: Lab, virtomate: Program) -> None:
    """A plan names the seed and counts its space, the definition has it, and neither makes it."""
    define(lab)
    before = lab.inventory()

    plan = virtomate("domain-clone", "--dry-run", "--mode", "linked", "--seed", "original", "clone", json=True)
    without = virtomate("domain-clone", "--dry-run", "--mode", "linked", "original", "clone", json=True)
    shown = virtomate("domain-clone", "--dry-run", "--seed", "original", "clone")
    printed = virtomate("domain-clone", "--print-xml", "--seed", "original", "clone")

    assert plan.json[0]["seed"]["clone"]["path"] == str(seed_of(lab))
    assert "seed" not in without.json[0]
    # the label of an ISO 9660 file system is in its 17th sector of 2 KiB
    assert plan.json[0]["space"][0]["needed"] - without.json[0]["space"][0]["needed"] > 17 * 2048
    assert f"{seed_of(lab)} (vdb; host name clone)" in shown.stdout
    sources = [item.get("file") for item in ET.fromstring(printed.stdout).findall("devices/disk/source")]
    assert str(seed_of(lab)) in sources
    unchanged(lab, before)


def test_seed_of_the_original_is_replaced_in_place(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Known by its label, a seed of the original is neither shared nor copied; a second one is dropped."""
    system = lab.pool.qcow2("original.qcow2", 4 * MIB)
    first = images.make_iso(lab.pool.path / "whatever.img", "config-2")
    second = images.make_iso(lab.make_directory("media") / "medium.iso", "CIDATA")
    drive = disk(second, "raw", "sdb", bus="sata", device="cdrom", read_only=True)
    lab.define(domain("original", disks=[disk(system), disk(first, "raw", "vdb"), drive]))
    before = {path: images.file_digest(path) for path in (first, second)}

    made = clone(virtomate, "--seed")

    assert made["seed"]["target"] == "vdb"
    disks = by_target(made)
    assert {target: item["action"] for target, item in disks.items()} == {
        "vda": "copied",
        "vdb": "replaced",
        "sdb": "dropped",
    }
    assert disks["vdb"]["source"]["path"] == str(first)
    assert disks["vdb"]["clone"]["path"] == str(seed_of(lab))
    assert made["warnings"] == []
    of_clone, of_original = drives(lab), drives(lab, "original")
    assert of_clone.keys() == {"vda", "vdb"}
    assert (of_clone["vdb"].get("device"), of_clone["vdb"].find("readonly") is not None) == ("disk", True)
    places = [item["vdb"].find("address").attrib for item in (of_clone, of_original)]  # type: ignore[union-attr]
    assert places[0] == places[1]
    assert read_seed(lab.guest.cache, seed_of(lab), tmp_path)["instance_id"] == made["uuid"]
    assert {path: images.file_digest(path) for path in before} == before
    # the seed of the clone is recognised in its own clones
    again = cloned(virtomate("domain-clone", "--mode", "linked", "--seed", "clone", "again", json=True))
    assert by_target(again)["vdb"]["action"] == "replaced"
    shared = cloned(virtomate("domain-clone", "--mode", "linked", "clone", "third", json=True))
    assert "shared-seed" in [notice["code"] for notice in shared["notices"]]
    refusal = virtomate("domain-clone", "--seed", "--disk", "vdb=share", "clone", "fourth")
    assert (refusal.status, "--disk vdb contradicts --seed" in refusal.stderr) == (2, True)


@pytest.mark.parametrize("mode", ["copy", "linked", "reflink"])
def test_modes_of_a_running_original(lab: Lab, virtomate: Program, tmp_path: Path, mode: str) -> None:
    """A clone of a running original gets a seed in every mode."""
    pool = pool_on(lab, "xfs")
    path = pool.qcow2("original.qcow2", 4 * MIB)
    lab.define(domain("original", disks=[disk(path)])).create()

    made = clone(virtomate, "--live", "--mode", mode, "--seed")

    read = read_seed(lab.guest.cache, pool.path / "clone-seed.iso", tmp_path)
    assert (read["instance_id"], read["host_name"]) == (made["uuid"], "clone")
    assert virtomate("domain-delete", "-y", "clone").status == 0
    assert not (pool.path / "clone-seed.iso").exists()


def test_frozen_original(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A linked clone of an original that is frozen gets a seed, and the original gets none."""
    define(lab)
    before = drives(lab, "original").keys()

    made = clone(virtomate, "--mode", "linked", "--freeze", "--seed")

    assert read_seed(lab.guest.cache, seed_of(lab), tmp_path)["instance_id"] == made["uuid"]
    assert drives(lab, "original").keys() == before
    for name in ("original", "clone"):
        lab.connection.lookupByName(name).create()
        lab.connection.lookupByName(name).destroy()
    assert virtomate("domain-delete", "-y", "clone").status == 0
    assert not seed_of(lab).exists()


def test_snapshot_of_the_original(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A clone of what a snapshot holds gets a seed."""
    define(lab)
    external = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    lab.connection.lookupByName("original").snapshotCreateXML(
        "<domainsnapshot><name>then</name></domainsnapshot>", external
    )

    made = clone(virtomate, "--snapshot", "then", "--seed", "--hostname", "web")

    read = read_seed(lab.guest.cache, seed_of(lab), tmp_path)
    assert (made["snapshot"]["name"], read["instance_id"], read["host_name"]) == ("then", made["uuid"], "web")
    lab.connection.lookupByName("clone").create()


def test_seed_on_a_host_whose_files_are_not_seen(
    root_lab: Lab, sshd: "SshServer", virtomate: Program, tmp_path: Path
) -> None:
    """A seed goes over the connection and proves itself there; what has another token, or none, is left alone."""
    reasons = {None: None, "other": "was made for another clone", "none": "does not bear the clone's token"}
    with root_lab.make_host("far") as far:
        make_far_pool(far)
        storage, uri = far.on_host("/var/lib/libvirt/images"), sshd.uri(far)
        images.make_qcow2(storage / "original.qcow2", 4 * MIB)
        far.connection.storagePoolLookupByName("images").refresh()
        far.connection.defineXML(domain("original", disks=[disk("/var/lib/libvirt/images/original.qcow2")]))
        path = storage / "clone-seed.iso"
        for token, reason in reasons.items():
            made = clone(virtomate, "--mode", "linked", "--seed", uri=uri)
            data = path.read_bytes()
            if token is None:
                assert read_seed(root_lab.guest.cache, path, tmp_path)["instance_id"] == made["uuid"]
            elif token == "other":
                path.write_bytes(data.replace(f"virtomate:{made['uuid']}".encode(), b"virtomate:" + 36 * b"0"))
            else:
                path.write_bytes(data[:TOKEN_OFFSET] + bytes(4096))

            deleted = virtomate("domain-delete", "-y", "clone", json=True, uri=uri)

            left = [] if reason is None else [f"seed '/var/lib/libvirt/images/clone-seed.iso' ({reason})"]
            assert deleted.status == (3 if left else 0), str(deleted)
            assert deleted.json[0].get("error", {}).get("leftovers", []) == left
            assert path.exists() == bool(left)
            path.unlink(missing_ok=True)
            far.connection.storagePoolLookupByName("images").refresh()


def test_taken_name_of_a_seed(lab: Lab, virtomate: Program) -> None:
    """A file that is there already is nobody's to overwrite, and nothing is made."""
    define(lab)
    seed_of(lab).write_bytes(b"of somebody else")
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--seed", "original", "clone", json=True))

    assert "already a volume 'clone-seed.iso'" in error["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_seed_of_an_unfinished_clone(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """A seed is undone with its clone; after a kill, the journal has it, and `domain-delete` removes it."""
    make_big_source(lab, lab.pool)
    before = lab.inventory()
    words = ("--progress", "json", "domain-clone", "--transfer", "stream", "--seed", "big", "half")
    watched = Watched(virtomate.pausing("vda").start(*words, json=True))
    with midway(lab, watched, "stream", lab.pool.path / "half.raw"):
        assert file_system_label(seed_of(lab, "half").read_bytes()[:LABEL_BYTES]) == "cidata"
        watched.run.signal(number)
    watched.run.wait()

    if number == signal.SIGKILL:
        deleted = virtomate("domain-delete", "half", json=True)
        assert f"seed '{seed_of(lab, 'half')}'" in deleted.json[0]["removed"]
    unchanged(lab, before)


def test_schema_is_checked_where_cloud_init_is_installed(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """What cloud-init itself does not accept is refused before anything is made; the message shows no content."""
    define(lab)
    before = lab.inventory()
    given = written(tmp_path / "given", user_data="#cloud-config\nruncmd: secret-of-the-test\n", vendor_data=CONFIG)
    path = {"PATH": f"{make_command(lab.guest.cache, tmp_path)}:{os.environ['PATH']}"}

    words = ("domain-clone", "--seed", "--user-data")
    wrong = virtomate(*words, given / "user-data", "original", "clone", env=path)
    unchanged(lab, before)
    right = virtomate(*words, given / "vendor-data", "original", "clone", env=path)

    assert wrong.status == 2
    assert f"cloud-init does not accept '{given / 'user-data'}'" in wrong.stderr
    assert "secret-of-the-test" not in wrong.stderr
    assert right.status == 0, str(right)


def test_what_the_definition_tells_becomes_the_clones(lab: Lab, virtomate: Program) -> None:
    """With --hostname, host name, instance ID and title are renewed; else there are warnings."""
    told = {
        "<entry name='serial'>LAB-1</entry>": "<entry name='serial'>ds=nocloud;h=original;i=iid-1</entry>",
        "</system>": "</system><oemStrings><entry>io.systemd.credential:system.hostname=original</entry></oemStrings>",
    }
    text = domain("original", disks=[], smbios=True, extra="<title>original (tests)</title>")
    for old, new in told.items():
        assert old in text
        text = text.replace(old, new)
    lab.define(text)

    kept = clone(virtomate)
    renewed = cloned(virtomate("domain-clone", "--hostname", "web", "original", "clone-2", json=True))

    assert {item["code"] for item in kept["notices"]} >= {"same-title", "same-guest-data"}
    assert renewed["warnings"] == []
    assert "host name and instance ID in SMBIOS serial number" in renewed["changes"]
    found = ET.fromstring(definition(lab, "clone-2"))
    assert found.findtext("title") == "clone-2 (tests)"
    assert found.findtext("sysinfo/system/entry[@name='serial']") == f"ds=nocloud;h=web;i={renewed['uuid']}"
    assert found.findtext("sysinfo/oemStrings/entry") == "io.systemd.credential:system.hostname=web"
    lab.connection.lookupByName("clone-2").create()


REFUSED: list[tuple[list[str], str]] = [
    (["--user", "ada"], "--user is for a seed, and needs --seed"),
    (["--hostname", "web"], "--hostname would reach no guest"),
    (["--seed", "--hostname", "web_1"], "'web_1' cannot be a host name"),
    (["--seed", "--user-data", "/proc/version"], "cloud-init would ignore '/proc/version'"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refused_words(lab: Lab, virtomate: Program, words: list[str], message: str) -> None:
    """A word that no seed can have ends with status 2, and changes nothing."""
    define(lab)
    before = lab.inventory()

    result = virtomate("domain-clone", *words, "original", "clone")

    assert (result.status, message in result.stderr) == (2, True), str(result)
    unchanged(lab, before)


def test_name_that_is_no_host_name(lab: Lab, virtomate: Program) -> None:
    """The name of a clone that no guest can have is refused, with the option that helps."""
    define(lab)

    result: Any = virtomate("domain-clone", "--seed", "original", "web 1")
    assert (result.status, "--hostname gives the guest another name" in result.stderr) == (2, True)
    assert virtomate("domain-clone", "--seed", "--hostname", "web-1", "original", "web 1").status == 0
