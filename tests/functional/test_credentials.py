"""Credentials for systemd in the guests: how they get there, and who else can see them."""

from __future__ import annotations

import os
import signal
import stat
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from tests.functional.runs import Watched, make_big_source, midway
from tests.functional.support import clone, cloned, definition, refused, unchanged
from tests.functional.test_remote import make_far_pool
from tests.functional.test_seed import command_lines
from tests.lab import Lab, Program, disk, domain, images, running
from tests.lab.images import MIB
from tests.lab.ordinary_user import NOBODY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab import Hypervisor
    from tests.lab.ssh import SshServer

SECRET = "secret-of-the-test"
READ = (
    "cat /sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/key/raw; echo;"
    "grep -ao 'io[.]systemd[.]credential:[^=]*=[a-z0-9-]*' /sys/firmware/dmi/tables/DMI"
)


def define(lab: Lab) -> None:
    """Define the original, with a disk in the pool."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    lab.define(domain("original", disks=[disk(path)]))


def key_file(directory: Path) -> Path:
    """Write a secret to a file."""
    path = directory / "key"
    path.write_text(f"{SECRET}\n")
    return path


def file_of(lab: Lab, name: str = "clone", credential: str = "key") -> Path:
    """Return where the file of a credential is."""
    return lab.pool.path / f"{name}-{credential}.credential"


def told(lab: Lab, name: str = "clone") -> tuple[list[str | None], dict[str | None, str | None]]:
    """Return the OEM strings of a definition, and the entries of its firmware configuration."""
    found = ET.fromstring(definition(lab, name))
    strings = [entry.text for entry in found.findall("sysinfo/oemStrings/entry")]
    entries = found.findall("sysinfo[@type='fwcfg']/entry")
    return strings, {entry.get("name"): entry.get("file") or entry.text for entry in entries}


def test_guest_reads_its_credentials(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A guest reads the string in its SMBIOS tables, and the secret in its firmware configuration."""
    lab.define(domain("original", guest=lab.guest, agent=True))
    words = ("--pool", lab.pool.name, "--credential", "system.hostname=web-7")

    clone(virtomate, *words, "--credential", f"key=@{key_file(tmp_path)}")

    with running(lab.connection, "clone") as guest:
        guest.wait_for_agent()
        said = virtomate("guest-run", "clone", "sh", "-c", READ)
    assert said.stdout.split() == [SECRET, "io.systemd.credential:system.hostname=web-7"], str(said)


def test_secrets_are_seen_by_nobody(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A secret is in no log, message, definition or process argument, and in a file of its owner alone."""
    define(lab)
    words = ["--credential", f"key=@{key_file(tmp_path)}", "--credential", f"app.token={SECRET}"]

    result = virtomate("-l", "debug", "domain-clone", *words, "original", "clone", json=True)

    made = cloned(result)
    assert [(item["name"], item["way"], item["value"]) for item in made["credentials"]] == [
        ("key", "fw_cfg", None),
        ("app.token", "fw_cfg", None),
    ]
    for credential in ("key", "app.token"):
        status = file_of(lab, credential=credential).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())
    assert file_of(lab).read_text() == f"{SECRET}\n"
    assert file_of(lab, credential="app.token").read_text() == SECRET
    shown = virtomate("domain-clone", "--dry-run", *words, "original", "other")
    printed = virtomate("domain-clone", "--print-xml", *words, "original", "other")
    domain_ = lab.connection.lookupByName("clone")
    domain_.create()
    (qemu,) = [command for command in command_lines() if domain_.UUIDString().encode() in command]
    assert str(file_of(lab)).encode() in qemu
    logs = [path.read_text(errors="replace") for path in lab.hypervisor.directory.rglob("*.log")]
    texts = (result.stderr, result.stdout, str(shown), str(printed), definition(lab, "clone"), qemu.decode(), *logs)
    # the arguments of our own process are the test's
    assert not [text for text in texts if SECRET in text.replace(f"app.token={SECRET}", "")]
    assert not [path for path in lab.pool.path.iterdir() if readable(path) and SECRET.encode() in path.read_bytes()]
    domain_.destroy()
    assert stat.S_IMODE(file_of(lab).stat().st_mode) == 0o600


def readable(path: Path) -> bool:
    """Tell whether everybody may read a file."""
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def test_each_clone_has_its_own(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Numbers are put into values, and deletion takes the files along."""
    define(lab)
    before = lab.inventory()
    words = ("--credential", "system.hostname=w{:02}", "--credential", f"key=@{key_file(tmp_path)}")

    result = virtomate("domain-clone", "--mode", "linked", "--count", "2", *words, "original", "web", json=True)

    assert result.status == 0, str(result)
    for number, made in enumerate(result.json, 1):
        assert made["credentials"][0] == {
            "name": "system.hostname",
            "way": "smbios",
            "value": f"w{number:02}",
            "clone": None,
        }
        place = file_of(lab, f"web-{number}")
        assert made["credentials"][1]["clone"]["path"] == str(place)
        assert told(lab, f"web-{number}") == (
            [f"io.systemd.credential:system.hostname=w{number:02}"],
            {"opt/io.systemd.credentials/key": str(place)},
        )
    deleted = virtomate("domain-delete", "-y", "web-1", "web-2", json=True)
    assert [item["removed"][1] for item in deleted.json] == [
        f"credential '{file_of(lab, f'web-{number}')}'" for number in (1, 2)
    ]
    unchanged(lab, before)


def test_credentials_of_the_original(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Those of the same name are replaced, without a warning, and all others stay."""
    sysinfo = (
        "<sysinfo type='smbios'><system><entry name='serial'>7</entry></system><oemStrings><entry>kept</entry>"
        "<entry>io.systemd.credential:system.hostname=old</entry>"
        "<entry>io.systemd.credential.binary:network.dns=b2xk</entry></oemStrings></sysinfo>"
        "<sysinfo type='fwcfg'><entry name='opt/io.systemd.credentials/key'>old</entry>"
        "<entry name='opt/com.example/other'>kept</entry></sysinfo>"
    )
    text = domain("original", disks=[disk(lab.pool.qcow2("original.qcow2", 4 * MIB))], extra=sysinfo)
    lab.define(text.replace("</os>", "<smbios mode='sysinfo'/></os>"))
    words = ("--credential", "system.hostname=web", "--credential", "network.dns=192.0.2.1\n192.0.2.2")

    made = clone(virtomate, *words, "--credential", f"key=@{key_file(tmp_path)}")

    assert told(lab) == (
        [
            "kept",
            "io.systemd.credential:system.hostname=web",
            "io.systemd.credential.binary:network.dns=MTkyLjAuMi4xCjE5Mi4wLjIuMg==",
        ],
        {"opt/com.example/other": "kept", "opt/io.systemd.credentials/key": str(file_of(lab))},
    )
    assert [notice["code"] for notice in made["notices"] if notice["code"] == "same-guest-data"] == []
    # a clone of the clone uses the same file, unless it has its own
    cloned(virtomate("domain-clone", "clone", "third", json=True))
    refusal = virtomate("domain-delete", "-y", "clone")
    assert (refusal.status, "third" in refusal.stderr) == (1, True), str(refusal)
    cloned(virtomate("domain-clone", "--credential", "key=mine", "clone", "fourth", json=True))
    assert file_of(lab, "fourth").read_text() == "mine"
    assert virtomate("domain-delete", "-y", "third", "clone").status == 0


def test_credentials_over_ssh(root_lab: Lab, sshd: SshServer, virtomate: Program, tmp_path: Path) -> None:
    """A file goes over the connection; where it is not seen, nothing proves it, and deletion asks."""
    with root_lab.make_host("far") as far:
        path = clone_there(far, virtomate, tmp_path, sshd.uri(far))

        assert (path.read_text(), owner_and_mode(path)) == (f"{SECRET}\n", (0, 0o600))
        unproved = virtomate("domain-delete", "-y", "clone", uri=sshd.uri(far))
        assert (unproved.status, path.exists()) == (2, True), str(unproved)
        assert virtomate("domain-delete", "-y", "--yes-unproved", "clone", uri=sshd.uri(far)).status == 0
        assert not path.exists()


@pytest.mark.stress
def test_user_of_qemu_reads_the_file(root_lab: Lab, sshd: SshServer, virtomate: Program, tmp_path: Path) -> None:
    """Libvirt gives the file to a QEMU that does not run as root, for as long as the clone runs.

    libvirt probes QEMU anew at each definition here, since that user may not open /dev/kvm.
    """
    far = root_lab.make_host("far")
    settings = far.on_host("/etc/libvirt") / "qemu.conf"
    settings.write_text(settings.read_text().replace('"root"', f'"+{NOBODY}"'))
    with far:
        path = clone_there(far, virtomate, tmp_path, sshd.uri(far))

        clone_ = far.connection.lookupByName("clone")
        clone_.create()
        assert owner_and_mode(path) == (NOBODY, 0o600)
        clone_.destroy()
        assert owner_and_mode(path) == (0, 0o600)


def clone_there(far: Hypervisor, virtomate: Program, directory: Path, uri: str) -> Path:
    """Clone a domain on another host with a credential, and return where its file is, as seen from here."""
    make_far_pool(far)
    storage = far.on_host("/var/lib/libvirt/images")
    images.make_raw(storage / "original.raw", MIB)
    far.connection.storagePoolLookupByName("images").refresh()
    far.connection.defineXML(domain("original", disks=[disk("/var/lib/libvirt/images/original.raw", "raw")]))
    clone(virtomate, "--credential", f"key=@{key_file(directory)}", uri=uri)
    return storage / "clone-key.credential"


def owner_and_mode(path: Path) -> tuple[int, int]:
    """Return the user ID of a file's owner, and its permission bits."""
    status = path.stat()
    return status.st_uid, stat.S_IMODE(status.st_mode)


def test_credential_of_an_unfinished_clone(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """After a kill, the journal has the file, and `domain-delete` removes it."""
    make_big_source(lab, lab.pool)
    before = lab.inventory()
    words = ("--progress", "json", "domain-clone", "--transfer", "stream", "--credential", f"key=@{key_file(tmp_path)}")
    watched = Watched(virtomate.pausing("vda").start(*words, "big", "half", json=True))
    with midway(lab, watched, "stream", lab.pool.path / "half.raw"):
        assert file_of(lab, "half").read_text() == f"{SECRET}\n"
        watched.run.signal(signal.SIGKILL)
    watched.run.wait()

    deleted = virtomate("domain-delete", "half", json=True)
    assert f"credential '{file_of(lab, 'half')}'" in deleted.json[0]["removed"]
    unchanged(lab, before)


def test_clone_that_replaces_another(lab: Lab, virtomate: Program) -> None:
    """The file of a clone that gives way is no obstacle to the file of the new clone."""
    define(lab)
    clone(virtomate, "--mode", "linked", "--credential", "key=old")

    clone(virtomate, "--mode", "linked", "--if-exists", "replace", "--credential", "key=new")

    assert file_of(lab).read_text() == "new"
    kept = virtomate(
        *("domain-clone", "--mode", "linked", "--if-exists", "keep", "--count", "2", "--credential", "key=w{}"),
        *("original", "{}"),
    )
    assert kept.status == 0, str(kept)
    assert virtomate("domain-delete", "-y", "2").status == 0
    again = virtomate(
        *("domain-clone", "--mode", "linked", "--if-exists", "keep", "--count", "2", "--credential", "key=w{}"),
        *("original", "{}"),
    )
    assert again.status == 0, str(again)
    assert [file_of(lab, name).read_text() for name in ("1", "2")] == ["w1", "w2"]


def test_string_that_becomes_a_file(lab: Lab, virtomate: Program) -> None:
    """A secret that the original has as its only OEM string goes by a file in the clone, which can be started."""
    strings = "<oemStrings><entry>io.systemd.credential:key=old</entry></oemStrings>"
    text = domain("original", disks=[disk(lab.pool.qcow2("original.qcow2", 4 * MIB))])
    lab.define(
        text.replace("<os>", f"<sysinfo type='smbios'>{strings}</sysinfo><os>").replace(
            "</os>", "<smbios mode='sysinfo'/></os>"
        )
    )

    clone(virtomate, "--credential", "key=new", "--start")

    assert told(lab) == ([], {"opt/io.systemd.credentials/key": str(file_of(lab))})


def test_taken_name_of_a_file(lab: Lab, virtomate: Program) -> None:
    """A file that is there already is nobody's to overwrite, and nothing is made."""
    define(lab)
    file_of(lab).write_bytes(b"of somebody else")
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--credential", "key=x", "original", "clone", json=True))

    assert "already a volume 'clone-key.credential'" in error["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["passwd.plaintext-password.root=x"], "is a secret, and the firmware configuration takes names of at"),
        (
            [f"network.network.{number}={4096 * 'x'}" for number in range(14)],
            "bytes together as OEM strings, and SMBIOS takes 57344",
        ),
        ([f"network.network.{'x' * 20}={'y' * 5000}"], "is long, and the firmware configuration takes names"),
    ],
)
def test_what_no_machine_carries(lab: Lab, virtomate: Program, words: list[str], message: str) -> None:
    """A secret that cannot get to the guest unseen is refused, and the hint names the way by a disk."""
    define(lab)
    before = lab.inventory()

    options = [part for word in words for part in ("--credential", word)]
    result = virtomate("domain-clone", *options, "original", "clone", json=True)

    error = refused(lab, before, result)
    assert message in error["message"]
    assert "--seed" in error["hint"]
