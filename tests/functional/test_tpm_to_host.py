"""A copy of the state of an emulated TPM on another host: what gets there, as whose, and what a stop leaves there."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.functional.runs import paused
from tests.functional.support import cloned
from tests.lab import domain, images, interface
from tests.lab.tpm import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.lab import Inventory, Lab, Program
    from tests.lab.far import Far
    from tests.lab.hypervisor import Hypervisor
    from tests.lab.ssh import SshServer

NAMES_PLACES = 10_010_000
STATES = "/var/lib/libvirt/swtpm"
# the first of the directories that are of the emulator's user; libvirt makes it with the first TPM
LOGS = "/var/log/swtpm/libvirt/qemu"
SECRET_UUID = "5e0c8f3a-0000-4000-8000-0000000000fe"
SECRET = (
    f"<secret ephemeral='no' private='yes'><uuid>{SECRET_UUID}</uuid><usage type='vtpm'><name>o</name></usage></secret>"
)


def tpm(content: str = "") -> str:
    """Return an emulated TPM."""
    return f"<tpm model='tpm-crb'><backend type='emulator' version='2.0'>{content}</backend></tpm>"


def define(lab: Lab, content: str = "", uuid: str | None = None, links: Sequence[str] = ()) -> Path:
    """Define a domain `original` without disks that has this TPM; return where libvirt keeps the file of its state."""
    uuid = lab.define(domain("original", devices=tpm(content), interfaces=links, uuid_=uuid)).UUIDString()
    return lab.hypervisor.on_host(STATES) / uuid / "tpm2" / "tpm2-00.permall"


def state_there(far: Far, uuid: str) -> Path:
    """Return where libvirt keeps the file of a state on the other host."""
    return far.host.on_host(STATES) / uuid / "tpm2" / "tpm2-00.permall"


@pytest.fixture(autouse=True)
def states(root_lab: Lab, far: Far) -> Iterator[None]:
    """No domain of either host has or leaves a state."""
    directories = [host.on_host(path) for host in (root_lab.hypervisor, far.host) for path in (STATES, LOGS)]
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    yield
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def original(root_lab: Lab) -> Path:
    """A domain `original` whose TPM has state, as if it had run; the file with the state."""
    path = define(root_lab)
    path.parent.mkdir(parents=True)
    with Emulator(path.parent):
        pass
    path.parent.parent.chmod(0o751)
    path.parent.chmod(0o700)
    return path


def run_once(host: Hypervisor, name: str) -> None:
    """Have libvirt start a domain, and switch it off."""
    found = host.connection.lookupByName(name)
    found.create()
    found.destroy()


def pools(far: Far) -> list[str]:
    """Return the names of the pools of the other host."""
    return [pool.name() for pool in far.host.connection.listAllStoragePools()]


@pytest.mark.parametrize("way", ["files", "streams"])
def test_clone_there_unseals_what_its_original_sealed(
    root_lab: Lab, virtomate: Program, far: Far, original: Path, request: pytest.FixtureRequest, way: str
) -> None:
    """The state is that of the original, in directories as libvirt makes them there, for the first TPM of that host."""
    with Emulator(original.parent) as emulator:
        sealed = emulator.seal(b"the key of the disk")
    before, here = root_lab.inventory(), pools(far)
    sshd: SshServer | None = request.getfixturevalue("sshd") if way == "streams" else None
    uri = far.uri if sshd is None else sshd.uri(far.host)

    planned = virtomate("domain-clone", "--to", uri, "--tpm", "copy", "--dry-run", "original", "clone", json=True)
    assert not far.host.on_host(STATES).exists()
    document = cloned(virtomate("domain-clone", "--to", uri, "--tpm", "copy", "original", "clone", json=True))

    path = state_there(far, document["uuid"])
    assert before.difference(root_lab.inventory()) == ""
    assert document["tpm"] == {
        "action": "copied",
        "source": f"{STATES}/{original.parent.parent.name}/tpm2/tpm2-00.permall",
        "clone": f"{STATES}/{document['uuid']}/tpm2/tpm2-00.permall",
        "reason": None,
    }
    assert planned.json[0]["tpm"]["action"] == "copied"
    assert images.file_digest(path) == images.file_digest(original)
    assert [oct(found.stat().st_mode & 0o7777) for found in (path, *list(path.parents)[:3])] == [
        oct(original.stat().st_mode & 0o7777),
        "0o700",
        "0o711",
        "0o711",
    ]
    assert pools(far) == here
    run_once(far.host, "clone")
    with Emulator(path.parent) as emulator:
        assert emulator.unseal(sealed) == b"the key of the disk"
    assert virtomate("domain-delete", "--yes", "clone", uri=far.uri).status == 0
    assert list(far.host.on_host(STATES).iterdir()) == []
    assert before.difference(root_lab.inventory()) == ""


@pytest.mark.parametrize("known", [LOGS, "/var/lib/swtpm-localca"], ids=["has-run", "installed"])
def test_state_belongs_to_the_emulator_of_that_host(virtomate: Program, far: Far, original: Path, known: str) -> None:
    """The user of the original's host has another number there, so a directory of that host tells the user."""
    os.chown(original, 1111, 2222)
    of_emulator = far.host.on_host(known)
    if not of_emulator.is_relative_to(far.host.directory):
        pytest.skip(f"the packages of swtpm make no {known} here")
    of_emulator.mkdir(parents=True, exist_ok=True)
    was = of_emulator.stat()
    os.chown(of_emulator, 12345, 54321)
    try:
        document = cloned(virtomate("domain-clone", "--to", far.uri, "--tpm", "copy", "original", "clone", json=True))
    finally:
        os.chown(of_emulator, was.st_uid, was.st_gid)

    path = state_there(far, document["uuid"])
    owners = [(found.stat().st_uid, found.stat().st_gid) for found in (path, *list(path.parents)[:3])]
    assert owners == [(12345, 54321), (12345, 54321), (0, 0), (0, 0)]


def test_encrypted_state_needs_its_secret_there(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """A secret that is missing there is named with all else that is missing; with it, libvirt opens the copy."""
    encryption = f"<encryption secret='{SECRET_UUID}'/>"
    here = root_lab.connection.secretDefineXML(SECRET)
    here.setValue(b"passphrase")
    try:
        path = define(root_lab, encryption)
        run_once(root_lab.hypervisor, "original")
        define(root_lab, encryption, path.parts[-3], [interface(type_="network", source="here")])
        words = ("domain-clone", "--to", far.uri, "--tpm", "copy", "original", "clone")
        missing = virtomate(*words, json=True)

        assert missing.status == 1, str(missing)
        for part in (f"secret '{SECRET_UUID}' (TPM)", "network 'here'"):
            assert part in missing.json["message"]
        assert far.names() == []
        there = far.host.connection.secretDefineXML(SECRET)
        there.setValue(b"passphrase")
        far.host.connection.networkDefineXML("<network><name>here</name></network>")
        document = cloned(virtomate(*words, json=True))
        assert state_there(far, document["uuid"]).read_bytes() == path.read_bytes()
        assert f"secret='{SECRET_UUID}'" in far.definition("clone")
        xml = far.definition("clone").replace("<interface type='network'>", "<interface type='user'>")
        far.host.connection.defineXML(xml.replace("<source network='here'/>", ""))
        run_once(far.host, "clone")
        there.undefine()
    finally:
        here.undefine()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("virStorageVolCreateXML-1", signal.SIGKILL),
        ("virStorageVolUpload", signal.SIGKILL),
        ("virStorageVolUpload", signal.SIGINT),
    ],
    ids=["directory-killed", "upload-killed", "upload-interrupted"],
)
def test_stopped_while_the_state_is_made(
    root_lab: Lab, virtomate: Program, far: Far, original: Path, moment: str, number: signal.Signals
) -> None:
    """Undone on the other host, or removed there by one command after a kill; the original's state stays."""
    far.host.on_host(STATES).mkdir(mode=0o711)
    digest = images.file_digest(original)
    before: tuple[Inventory, Inventory] = (root_lab.inventory(), far.inventory())
    words = ("domain-clone", "--to", far.uri, "--tpm", "copy", "original", "clone")
    run = virtomate.pausing(moment).start(*words, json=True)
    with paused(run):
        assert len(list(far.host.on_host(STATES).iterdir())) == 1
        run.signal(number)
        if number == signal.SIGKILL:
            run.process.wait()
    run.wait()

    if number == signal.SIGKILL:
        assert "unfinished" in far.definition("clone").lower()
        assert virtomate("domain-delete", "clone", uri=far.uri).status == 0
        # the next run on the host of the original stops the temporary pools there
        assert virtomate("domain-clone", "--tpm", "copy", "original", "second").status == 0
        assert virtomate("domain-delete", "--yes", "second").status == 0
    assert before[0].difference(root_lab.inventory()) == ""
    assert before[1].difference(far.inventory()) == ""
    assert images.file_digest(original) == digest


def test_state_that_is_there_is_kept(virtomate: Program, far: Far, original: Path) -> None:
    """State by the UUID of the clone there is a conflict, which a plan cannot know: only a temporary pool shows it."""
    uuid = "5e0c8f3a-0000-4000-8000-000000000001"
    strangers = state_there(far, uuid)
    strangers.parent.mkdir(parents=True)
    strangers.write_bytes(b"not yours")
    words = ("domain-clone", "--to", far.uri, "--tpm", "copy", "--uuid", uuid, "original", "clone")
    before = far.inventory()

    planned = virtomate(*words, "--dry-run", json=True)
    result = virtomate(*words, json=True)

    assert planned.json[0]["status"] == "planned", str(planned)
    assert (result.status, result.json["type"]) == (1, "Conflict"), str(result)
    assert before.difference(far.inventory()) == ""
    assert strangers.read_bytes() == b"not yours"
    assert far.names() == []
    assert original.exists()


def test_original_without_state(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """A domain that never ran has no state for the clone, which is said, and nothing is made on the other host."""
    define(root_lab)

    document = cloned(virtomate("domain-clone", "--to", far.uri, "--tpm", "copy", "original", "clone", json=True))

    reason = "the TPM of the original has no state yet"
    assert document["tpm"] == {"action": "fresh", "source": None, "clone": None, "reason": reason}
    assert not far.host.on_host(STATES).exists()


def test_state_at_a_place_of_its_own(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """The copy of a state whose place the definition names is kept by libvirt there, and the clone names no place."""
    if root_lab.connection.getLibVersion() < NAMES_PLACES:
        pytest.skip("libvirt before 10.10 knows no place of the state of an emulated TPM")
    place = root_lab.make_directory("tpm states") / "original.tpm"
    define(root_lab, f"<source type='dir' path='{place}'/>")
    run_once(root_lab.hypervisor, "original")

    document = cloned(virtomate("domain-clone", "--to", far.uri, "--tpm", "copy", "original", "clone", json=True))

    assert document["tpm"]["source"] == str(place / "tpm2-00.permall")
    path = state_there(far, document["uuid"])
    assert path.read_bytes() == (place / "tpm2-00.permall").read_bytes()
    assert str(place) not in far.definition("clone")
