"""The state of an emulated TPM: a clone gets a new one, or a copy with which it unseals what its original sealed."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import paused
from tests.functional.support import clone, clone_path, cloned, definition, refused, unchanged, virsh
from tests.lab import Lab, Program, Result, disk, domain, images, mounts
from tests.lab.tpm import Emulator, TpmError

UUID = "5e0c8f3a-0000-4000-8000-00000000000{}"
SECRET_UUID = "5e0c8f3a-0000-4000-8000-0000000000ff"
SECRET = f"""
<secret ephemeral='no' private='yes'>
  <uuid>{SECRET_UUID}</uuid><usage type='vtpm'><name>original</name></usage>
</secret>"""


def tpm(attributes: str = "", content: str = "") -> str:
    """Return an emulated TPM."""
    return f"<tpm model='tpm-crb'><backend type='emulator' version='2.0'{attributes}>{content}</backend></tpm>"


@pytest.fixture
def states(lab: Lab) -> Iterator[Path]:
    """Where libvirt keeps the states of TPMs, which is empty before the test and after it."""
    if lab.privileged:
        directory = lab.hypervisor.on_host("/var/lib/libvirt/swtpm")
    else:
        directory = lab.hypervisor.file_directories[0].parent / "swtpm"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o711)
    yield directory
    shutil.rmtree(directory)
    directory.mkdir(mode=0o711)


def told(lab: Lab, path: Path) -> str:
    """Return a path as libvirt and the program have it."""
    if not lab.privileged:
        return str(path)
    return str(path).replace(str(lab.hypervisor.on_host("/var/lib/libvirt")), "/var/lib/libvirt")


def define(lab: Lab, device: str, uuid: str | None = None) -> Any:
    """Define a domain `original` without disks that has this TPM."""
    return lab.define(domain("original", devices=device, uuid_=uuid))


def file_of(states: Path, uuid: str) -> Path:
    """Return where the state of a domain is."""
    return states / uuid / "tpm2" / "tpm2-00.permall"


@pytest.fixture
def original(lab: Lab, states: Path) -> Path:
    """A domain `original` whose TPM has state, as if it had run; the file with the state."""
    path = file_of(states, define(lab, tpm()).UUIDString())
    with Emulator(path.parent):
        pass
    path.parent.parent.chmod(0o711)
    path.parent.chmod(0o700)
    path.chmod(0o600)
    return path


def pools_of(lab: Lab) -> list[str]:
    """Return the names of all pools."""
    return sorted(pool.name() for pool in lab.connection.listAllStoragePools())


def codes(document: Any) -> list[str]:
    """Return the codes of the warnings and changes of a clone."""
    return [notice["code"] for notice in document["notices"]]


def run_once(lab: Lab, name: str) -> None:
    """Have libvirt start a domain, and switch it off."""
    found = lab.connection.lookupByName(name)
    found.create()
    found.destroy()


def test_clone_unseals_what_its_original_sealed(lab: Lab, virtomate: Program, states: Path, original: Path) -> None:
    """With a copy of the state the clone unseals, also after libvirt has started it; with a new TPM it does not."""
    uuid = original.parent.parent.name
    with Emulator(original.parent) as emulator:
        sealed = emulator.seal(b"the key of the disk")
    before = pools_of(lab)

    copied = clone(virtomate, "--tpm", "copy")
    new = cloned(virtomate("domain-clone", "original", "other", json=True))

    path = file_of(states, copied["uuid"])
    assert copied["tpm"] == {
        "action": "copied",
        "source": told(lab, original),
        "clone": told(lab, path),
        "reason": None,
    }
    assert new["tpm"] == {"action": "fresh", "source": None, "clone": None, "reason": None}
    assert [code for document in (copied, new) for code in codes(document) if "tpm" in code] == [
        "same-tpm",
        "without-tpm-state",
    ]
    assert images.file_digest(path) == images.file_digest(original)
    assert pools_of(lab) == before
    run_once(lab, "clone")
    for owner in (copied["uuid"], uuid):
        with Emulator(file_of(states, owner).parent) as emulator:
            assert emulator.unseal(sealed) == b"the key of the disk"
    with Emulator(file_of(states, new["uuid"]).parent) as emulator, pytest.raises(TpmError):
        emulator.unseal(sealed)


@pytest.mark.parametrize("who", ["root", "nobody"])
def test_owners_and_modes_are_kept(root_lab: Lab, request: pytest.FixtureRequest, original: Path, who: str) -> None:
    """File and directories of the copy are the emulator's, whoever may see them; several clones get theirs at once."""
    os.chown(original, 12345, 54321)
    os.chown(original.parent, 12345, 54321)
    original.parent.parent.chmod(0o751)
    words = ("domain-clone", "--tpm", "copy", "--count", "3", "original", "clone")
    if who == "root":
        result = request.getfixturevalue("virtomate")(*words, json=True)
    else:
        nobody = request.getfixturevalue("nobody")
        assert not nobody.can_read(original)
        result = nobody(*words)

    assert result.status == 0, str(result)
    for document in result.json:
        path = file_of(original.parent.parent.parent, document["uuid"])
        assert path.read_bytes() == original.read_bytes()
        for ours, theirs in ((path, original), *zip(list(path.parents)[:2], list(original.parents)[:2], strict=True)):
            found, wanted = ours.stat(), theirs.stat()
            assert (found.st_uid, found.st_gid, oct(found.st_mode)) == (
                wanted.st_uid,
                wanted.st_gid,
                oct(wanted.st_mode),
            )
    assert not [name for name in pools_of(root_lab) if name.startswith("virtomate")]


@pytest.mark.parametrize("missing", ["state", "states"])
def test_state_that_was_never_made(lab: Lab, virtomate: Program, states: Path, missing: str) -> None:
    """A domain that never ran has no state yet, which is said and no error."""
    define(lab, tpm())
    if missing == "states":
        states.rmdir()
    before = pools_of(lab)
    try:
        document = clone(virtomate, "--tpm", "copy")
        human = virtomate("domain-clone", "--tpm", "copy", "original", "second")
    finally:
        states.mkdir(mode=0o711, exist_ok=True)

    reason = "the TPM of the original has no state yet"
    assert document["tpm"] == {"action": "fresh", "source": None, "clone": None, "reason": reason}
    assert codes(document) == ["new-identifier"]
    assert f"TPM   new ({reason})" in human.stdout
    assert pools_of(lab) == before
    assert not list(states.iterdir())


def test_plan_changes_nothing(lab: Lab, virtomate: Program, original: Path) -> None:
    """A plan says that the state would be copied, and starts no pool."""
    before = lab.inventory()

    result = virtomate("domain-clone", "--dry-run", "--tpm", "copy", "original", "clone", json=True)

    (document,) = result.json
    path = file_of(original.parent.parent.parent, document["uuid"])
    assert (document["tpm"]["action"], document["tpm"]["clone"]) == ("copied", told(lab, path))
    assert "same-tpm" in codes(document)
    unchanged(lab, before)


def test_refused_where_a_tpm_is_not_accepted(lab: Lab, virtomate: Program, original: Path) -> None:
    """With --tpm refuse, and with --fail-on, nothing is made."""
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--tpm", "refuse", "original", "clone", json=True))
    words = ("--tpm", "copy", "--fail-on", "same-tpm")
    other = refused(lab, before, virtomate("domain-clone", *words, "original", "clone", json=True))

    assert error["message"] == "domain 'original' has an emulated TPM, which --tpm refuse does not accept"
    assert "same-tpm" in other["message"]
    assert original.exists()


def test_snapshot_has_no_state(lab: Lab, virtomate: Program, states: Path) -> None:
    """The state of now does not go together with the disks of then."""
    uuid = lab.define(domain("original", disks=[disk(lab.pool.qcow2("o.qcow2", images.MIB))], devices=tpm()))
    uuid.snapshotCreateXML("<domainsnapshot><name>then</name></domainsnapshot>", 0)
    before = lab.inventory()

    result = virtomate("domain-clone", "--tpm", "copy", "--snapshot", "then", "original", "clone", json=True)

    error = refused(lab, before, result)
    assert "snapshot 'then' does not contain the state of the TPM" in error["message"]
    assert not list(states.iterdir())


def test_device_of_the_host_is_shared_as_ever(lab: Lab, virtomate: Program) -> None:
    """A TPM that is passed through has no state to copy."""
    device = "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>"
    define(lab, device)

    document = clone(virtomate, "--tpm", "copy")

    assert document["tpm"] == {"action": "shared", "source": "/dev/tpm0", "clone": "/dev/tpm0", "reason": None}
    assert "shared-resource" in codes(document)


def test_encrypted_state_and_its_secret(lab: Lab, virtomate: Program, states: Path) -> None:
    """The clone names the same secret, and libvirt starts it with the state that the secret opens."""
    secret = lab.connection.secretDefineXML(SECRET)
    try:
        secret.setValue(b"passphrase")
        uuid = define(lab, tpm("", f"<encryption secret='{SECRET_UUID}'/>")).UUIDString()
        run_once(lab, "original")

        document = clone(virtomate, "--tpm", "copy")

        assert f"secret='{SECRET_UUID}'" in definition(lab, "clone")
        assert file_of(states, document["uuid"]).read_bytes() == file_of(states, uuid).read_bytes()
        run_once(lab, "clone")
    finally:
        secret.undefine()


def test_running_original(lab: Lab, virtomate: Program, original: Path) -> None:
    """The emulator replaces its file as a whole, so a copy of a running domain's state is whole, too."""
    lab.connection.lookupByName("original").create()

    document = clone(virtomate, "--live", "--tpm", "copy")

    path = file_of(original.parent.parent.parent, document["uuid"])
    assert document["tpm"]["action"] == "copied"
    assert path.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("virStorageVolCreateXML-1", signal.SIGKILL),
        ("virStorageVolCreateXML-2", signal.SIGKILL),
        ("sync-1", signal.SIGKILL),
        ("sync-1", signal.SIGINT),
    ],
    ids=["directory-killed", "file-killed", "content-killed", "content-interrupted"],
)
def test_stopped_while_the_state_is_made(
    root_lab: Lab, virtomate: Program, original: Path, moment: str, number: signal.Signals
) -> None:
    """When the directory, the file or its content was just made: undone, or removed by one command after a kill."""
    lab, digest = root_lab, images.file_digest(original)
    before = lab.inventory()
    run = virtomate.pausing(moment).start("domain-clone", "--tpm", "copy", "original", "clone")
    with paused(run):
        assert len(list(original.parent.parent.parent.iterdir())) == 2
        run.signal(number)
        if number == signal.SIGKILL:
            run.process.wait()
    run.wait()

    if number == signal.SIGKILL:
        assert "unfinished" in lab.connection.lookupByName("clone").XMLDesc().lower()
        assert virtomate("domain-delete", "clone").status == 0
    unchanged(lab, before)
    assert images.file_digest(original) == digest


@pytest.mark.parametrize("moment", ["virDomainDefineXMLFlags", "virDomainDefineXMLFlags-3"], ids=["claimed", "held"])
def test_state_of_somebody_else(lab: Lab, virtomate: Program, original: Path, moment: str) -> None:
    """State that appears by the UUID of the clone at the last moment is a conflict, and stays."""
    uuid = UUID.format(1)
    strangers = original.parent.parent.parent / uuid / "tpm2" / "tpm2-00.permall"
    words = ("domain-clone", "--tpm", "copy", "--uuid", uuid, "original", "clone")
    run = virtomate.pausing(moment).start(*words, json=True)
    with paused(run):
        strangers.parent.mkdir(parents=True)
        strangers.write_bytes(b"not yours")

    result = run.wait()

    assert result.status == 1, str(result)
    assert f"/{uuid}' holds the state of a TPM" in str(result.json)
    assert strangers.read_bytes() == b"not yours"
    assert [found.name() for found in lab.connection.listAllDomains()] == ["original"]
    if moment == "virDomainDefineXMLFlags":
        before = lab.inventory()
        assert refused(lab, before, virtomate(*words, json=True))["type"] == "Conflict"


@pytest.mark.parametrize("who", ["virtomate", "nobody"])
def test_new_tpm_under_the_uuid_of_an_earlier_domain(
    lab: Lab, request: pytest.FixtureRequest, states: Path, original: Path, who: str
) -> None:
    """State that stands by the UUID that was asked for would be the clone's, also in a session daemon."""
    if who == "nobody" and not lab.privileged:
        pytest.skip("needs root: a user who sees no files")
    program = request.getfixturevalue(who)
    words = ("--json", "domain-clone", "--uuid", UUID.format(3), "original", "clone")
    shutil.copytree(original.parent.parent, states / UUID.format(3))
    if who == "nobody":
        # what nobody cannot see, libvirt does
        states.chmod(0o700)
    before = lab.inventory()
    try:
        error = refused(lab, before, program(*words))
        assert error["type"] == "Conflict"
        assert f"/{UUID.format(3)}' holds the state of a TPM" in error["message"]
        shutil.rmtree(states / UUID.format(3))
        assert cloned(program(*words))["tpm"]["action"] == "fresh"
    finally:
        states.chmod(0o711)


@pytest.mark.parametrize("who", ["virtomate", "nobody"])
def test_link_in_the_place_of_the_state(
    root_lab: Lab, request: pytest.FixtureRequest, original: Path, tmp_path: Path, who: str
) -> None:
    """The emulator's user may put a link there, which libvirt as root would follow."""
    secret = tmp_path / "secret"
    secret.write_text("of root\n" * 100)
    original.unlink()
    original.symlink_to(secret)
    program = request.getfixturevalue(who)
    before = root_lab.inventory()

    result = program("--json", "domain-clone", "--tpm", "copy", "original", "clone")

    seen = {"virtomate": "is a symbolic link, and is not followed", "nobody": "does not hold the state of an emulated"}
    assert seen[who] in refused(root_lab, before, result)["message"]


def test_link_in_the_place_of_a_directory(virtomate: Program, original: Path, tmp_path: Path) -> None:
    """Somebody may keep a state on another file system; the copy of a state is a directory of its own."""
    directory = original.parent.parent
    shutil.move(directory, tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")

    document = clone(virtomate, "--tpm", "copy")

    path = file_of(directory.parent, document["uuid"])
    assert path.read_bytes() == original.read_bytes()
    assert not path.parent.parent.is_symlink()
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    assert not path.parent.parent.exists()
    assert original.exists()
    directory.unlink()


def test_full_disk(root_lab: Lab, virtomate: Program, original: Path) -> None:
    """A state for which there is no room is undone, and the original's stays."""
    states, content = original.parent.parent.parent, original.read_bytes()
    tpm2 = original.parent
    mounts.mount("-t", "tmpfs", "-o", "size=4096,mode=711", "none", states)
    try:
        tpm2.mkdir(parents=True)
        original.write_bytes(content)
        before = root_lab.inventory()
        result = virtomate("domain-clone", "--tpm", "copy", "original", "clone", json=True)
        refused(root_lab, before, result)
        assert "No space left" in str(result.json)
    finally:
        mounts.unmount(states)


def test_deleted_with_the_clone(lab: Lab, virtomate: Program, original: Path) -> None:
    """The copy goes with the clone, although libvirt would keep this state by itself; the original's stays."""
    define(lab, tpm(" persistent_state='yes'"), original.parent.parent.name)
    document = clone(virtomate, "--tpm", "copy")
    path = file_of(original.parent.parent.parent, document["uuid"])
    assert path.exists()
    assert "persistent_state='yes'" in definition(lab, "clone")

    result = virtomate("domain-delete", "--yes", "clone", json=True)

    assert "TPM state" in result.json[0]["removed"]
    assert not path.parent.parent.exists()
    assert original.exists()


def test_replaced_clone_with_the_same_uuid(virtomate: Program, original: Path) -> None:
    """The state of the former clone goes before the state of the new one comes."""
    words = ("domain-clone", "--tpm", "copy", "--uuid", UUID.format(2), "original", "clone")
    cloned(virtomate(*words, json=True))
    path = file_of(original.parent.parent.parent, UUID.format(2))
    path.write_bytes(b"former")

    result = virtomate(*words, "--if-exists", "replace", json=True)

    assert result.status == 0, str(result)
    assert "TPM state" in result.json[0]["replaced"]["removed"]
    assert path.read_bytes() == original.read_bytes()


def test_existing_clone_with_another_tpm(lab: Lab, virtomate: Program, original: Path) -> None:
    """A clone with a copy of the TPM is no clone with a new one, and the other way round."""
    clone(virtomate, "--tpm", "copy")
    cloned(virtomate("domain-clone", "original", "new", json=True))

    def keep(*words: str) -> Result:
        return virtomate("domain-clone", "--if-exists", "keep", *words, json=True)

    for words in (("--tpm", "copy", "original", "clone"), ("original", "new")):
        (document,) = keep(*words).json
        assert (document["status"], document["tpm"]["action"]) == ("unchanged", "kept")
    before = lab.inventory()
    error = refused(lab, before, keep("original", "clone"))
    assert "a domain 'clone', which has a copy of the TPM of 'original'" in error["message"]
    error = refused(lab, before, keep("--tpm", "copy", "original", "new"))
    assert "a domain 'new', which has a TPM of its own, and not a copy of the TPM of 'original'" in error["message"]
    replaced = virtomate("domain-clone", "--if-exists", "replace", "original", "clone", json=True)
    assert replaced.status == 0, str(replaced)
    assert [path.name for path in original.parent.parent.parent.iterdir()] == [original.parent.parent.name]


def test_existing_clone_of_a_tpm_without_state(lab: Lab, virtomate: Program, states: Path) -> None:
    """A clone that was made with --tpm copy is the one that is asked for, also if there was nothing to copy then."""
    words = ("domain-clone", "--if-exists", "keep", "--tpm", "copy", "original", "clone")
    path = file_of(states, define(lab, tpm()).UUIDString())
    cloned(virtomate(*words, json=True))
    with Emulator(path.parent):
        pass

    assert virtomate(*words, json=True).json[0]["status"] == "unchanged"
    assert virtomate("domain-clone", "--if-exists", "keep", "original", "clone", json=True).status == 0


@pytest.mark.parametrize("name", ["stranger", "clone"])
def test_named_command_leaves_the_state(lab: Lab, virtomate: Program, states: Path, name: str) -> None:
    """A hint how to remove a definition that is in the way keeps the TPM, which may be all that opens a disk."""
    lab.define(domain("original", disks=[disk(lab.pool.qcow2("original.qcow2", images.MIB))]))
    stranger = lab.define(domain("stranger", disks=[disk(clone_path(clone(virtomate)))], devices=tpm()))
    path = file_of(states, stranger.UUIDString())
    with Emulator(path.parent):
        pass

    result = virtomate("domain-delete", "--yes", name, json=True)

    command = re.search("virsh .*?stranger", result.json["hint"])
    assert command, str(result)
    virsh(command[0])
    assert sorted(found.name() for found in lab.connection.listAllDomains()) == ["clone", "original"]
    assert path.exists()


def test_reset_leaves_the_state(lab: Lab, virtomate: Program, states: Path, original: Path) -> None:
    """A clone that is reset opens what its original sealed, unless its guest has cleared the TPM; a new clone does."""
    disks = [disk(lab.pool.qcow2("original.qcow2", images.MIB))]
    lab.define(domain("original", disks=disks, devices=tpm(), uuid_=original.parent.parent.name))
    with Emulator(original.parent) as emulator:
        sealed = emulator.seal(b"the key of the disk")
    words = ("domain-clone", "--if-exists", "replace", "--mode", "linked", "--tpm", "copy", "original", "clone")
    path = file_of(states, cloned(virtomate(*words, json=True))["uuid"])

    def reset() -> None:
        before = path.read_bytes()
        result = virtomate("domain-reset", "clone", json=True)
        assert [code for code in codes(result.json[0]) if "tpm" in code] == ["tpm-not-reset"]
        assert path.read_bytes() == before

    reset()
    with Emulator(path.parent) as emulator:
        assert emulator.unseal(sealed) == b"the key of the disk"
        emulator.clear()
    reset()
    with Emulator(path.parent) as emulator, pytest.raises(TpmError):
        emulator.unseal(sealed)
    path = file_of(states, virtomate(*words, json=True).json[0]["uuid"])
    with Emulator(path.parent) as emulator:
        assert emulator.unseal(sealed) == b"the key of the disk"
