"""The state of an emulated TPM at a place that the definition names: a clone gets a place of its own beside it."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import paused
from tests.functional.support import clone, cloned, definition, refused, unchanged
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.ssh import SshServer
from tests.lab.tpm import Emulator, TpmError

NAMES_PLACES = 10_010_000
FILES = {"dir": "tpm2-00.permall", "file": ""}


def require_places(lab: Lab) -> None:
    """Skip a test where no definition can name the place of a state."""
    if lab.connection.getLibVersion() < NAMES_PLACES:
        pytest.skip("libvirt before 10.10 knows no place of the state of an emulated TPM")


@pytest.fixture
def states(lab: Lab) -> Iterator[Path]:
    """A directory with states, which is in no storage pool."""
    require_places(lab)
    directory = lab.make_directory("tpm states")
    yield directory
    shutil.rmtree(directory)
    directory.mkdir()


def define(lab: Lab, place: Path, kind: str, attributes: str = "") -> Any:
    """Define a domain `original` with the state of its TPM at a place."""
    backend = f"<backend type='emulator' version='2.0'{attributes}><source type='{kind}' path='{place}'/></backend>"
    disks = [disk(lab.pool.qcow2("original.qcow2", images.MIB))]
    return lab.define(domain("original", disks=disks, devices=f"<tpm model='tpm-crb'>{backend}</tpm>"))


def run_once(lab: Lab, name: str) -> None:
    """Have libvirt start a domain, and switch it off."""
    found = lab.connection.lookupByName(name)
    found.create()
    found.destroy()


@pytest.fixture(params=["dir", "file"])
def original(lab: Lab, states: Path, request: pytest.FixtureRequest) -> Path:
    """The place of the state of a domain `original`, which has run once."""
    place = states / "original.tpm"
    define(lab, place, request.param)
    run_once(lab, "original")
    return place


def digest(place: Path) -> str:
    """Return the digest of the state at a place."""
    return images.file_digest(place if place.is_file() else place / FILES["dir"])


def test_clone_unseals_what_its_original_sealed(lab: Lab, virtomate: Program, states: Path, original: Path) -> None:
    """With a copy the clone unseals, with a new TPM it does not, and neither has to do with the original's place."""
    with Emulator(original) as emulator:
        sealed = emulator.seal(b"the key of the disk")
    before, inventory = digest(original), lab.inventory()

    copied = clone(virtomate, "--tpm", "copy")
    new = cloned(virtomate("domain-clone", "--mode", "linked", "original", "new", json=True))

    for document, name, action in ((copied, "clone", "copied"), (new, "new", "fresh")):
        place = states / f"{name}.tpm"
        tpm = {"action": action, "source": str(original), "clone": str(place), "reason": None}
        assert document["tpm"] == tpm
        assert f"path='{place}'" in definition(lab, name)
        assert f"'{original}'" not in definition(lab, name)
        run_once(lab, name)
        with Emulator(place) as emulator:
            if action == "copied":
                assert emulator.unseal(sealed) == b"the key of the disk"
            else:
                with pytest.raises(TpmError):
                    emulator.unseal(sealed)
    codes = {notice["code"] for notice in (*copied["notices"], *new["notices"])}
    assert {"same-tpm", "without-tpm-state"} <= codes
    assert "shared-resource" not in codes

    deleted = virtomate("domain-delete", "--yes", "clone", "new", json=True)
    assert deleted.status == 0, str(deleted)
    assert f"TPM state '{states / 'clone.tpm'}'" in deleted.json[0]["removed"]
    unchanged(lab, inventory)
    assert digest(original) == before


def test_owners_and_modes_are_kept(root_lab: Lab, nobody: Program, original: Path) -> None:
    """Whoever may see the places; several clones get theirs at once, and all go with the clones."""
    os.chown(original, 12345, 54321)
    original.chmod(0o750 if original.is_dir() else 0o640)
    if original.is_dir():
        os.chown(original / FILES["dir"], 12345, 54321)
    wanted = original.stat()
    before = root_lab.inventory()

    result = nobody("domain-clone", "--tpm", "copy", "--count", "2", "original", "clone")

    assert result.status == 0, str(result)
    for document in result.json:
        place = Path(document["tpm"]["clone"])
        assert digest(place) == digest(original)
        for ours in (place, place / FILES["dir"]) if place.is_dir() else (place,):
            assert (ours.stat().st_uid, ours.stat().st_gid) == (12345, 54321)
        assert oct(place.stat().st_mode) == oct(wanted.st_mode)
    names = [document["name"] for document in result.json]
    assert nobody("domain-delete", "--yes", "--yes-unproved", *names).status == 0
    unchanged(root_lab, before)


@pytest.mark.parametrize("treatment", ["new", "copy"])
def test_plan_changes_nothing(lab: Lab, virtomate: Program, states: Path, original: Path, treatment: str) -> None:
    """A plan names the place of the clone's state."""
    before = lab.inventory()

    result = virtomate("domain-clone", "--dry-run", "--tpm", treatment, "original", "clone", json=True)

    tpm = result.json[0]["tpm"]
    assert (tpm["action"], tpm["clone"]) == ({"new": "fresh", "copy": "copied"}[treatment], str(states / "clone.tpm"))
    assert str(original) not in virtomate("domain-clone", "--print-xml", "original", "clone").stdout
    unchanged(lab, before)


@pytest.mark.parametrize("treatment", ["new", "copy"])
def test_place_that_is_taken(lab: Lab, virtomate: Program, states: Path, original: Path, treatment: str) -> None:
    """Something at the place of the clone's state is a conflict, and stays."""
    shutil.copytree(original, states / "clone.tpm") if original.is_dir() else (states / "clone.tpm").touch()
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--tpm", treatment, "original", "clone", json=True))

    assert error["type"] == "Conflict"
    assert "which the clone would take for the state of its TPM" in error["message"]


def test_state_that_was_never_made(lab: Lab, virtomate: Program, states: Path) -> None:
    """Without a state of the original the clone starts with a new TPM at its own place, which is said."""
    define(lab, states / "original.tpm", "file")

    document = clone(virtomate, "--tpm", "copy")

    assert document["tpm"]["reason"] == "the TPM of the original has no state yet"
    run_once(lab, "clone")
    assert digest(states / "clone.tpm")
    assert not (states / "original.tpm").exists()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("virStorageVolCreateXML-2", signal.SIGKILL),
        ("virStorageVolCreateXML-3", signal.SIGKILL),
        ("sync-2", signal.SIGKILL),
        ("sync-2", signal.SIGINT),
    ],
    ids=["place-killed", "file-killed", "content-killed", "content-interrupted"],
)
def test_stopped_while_the_state_is_made(
    root_lab: Lab, virtomate: Program, states: Path, moment: str, number: signal.Signals
) -> None:
    """When the place, the file in it or its content was just made: undone, or removed by one command after a kill."""
    lab, original = root_lab, states / "original.tpm"
    define(lab, original, "dir")
    run_once(lab, "original")
    before, state = lab.inventory(), digest(original)
    run = virtomate.pausing(moment).start("domain-clone", "--tpm", "copy", "original", "clone")
    with paused(run):
        assert (states / "clone.tpm").exists()
        run.signal(number)
        if number == signal.SIGKILL:
            run.process.wait()
    run.wait()

    if number == signal.SIGKILL:
        assert virtomate("domain-delete", "clone").status == 0
    unchanged(lab, before)
    assert digest(original) == state


def test_files_of_others_in_the_place_stay(lab: Lab, virtomate: Program, states: Path) -> None:
    """Libvirt alone would remove a directory with all that somebody has put there."""
    define(lab, states / "original.tpm", "dir")
    clone(virtomate)
    run_once(lab, "clone")
    # two hexadecimal digits stand in the names of the emulator, too, which leaves a file behind when it is killed
    note = states / "clone.tpm" / "ca.pem"
    note.write_text("mine")
    (states / "clone.tpm" / "TMP2-00.permall").touch()

    result = virtomate("domain-delete", "--yes", "clone", json=True)

    assert result.status == 3, str(result)
    assert "Directory not empty" in str(result.json)
    assert note.read_text() == "mine"
    note.unlink()
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    assert not note.parent.exists()


def test_place_that_somebody_else_has_made_since(virtomate: Program, states: Path, original: Path) -> None:
    """What does not bear the clone's token stays."""
    place = states / "clone.tpm"
    clone(virtomate, "--tpm", "copy")
    place.rename(states / "elsewhere")
    shutil.copytree(original, place) if original.is_dir() else shutil.copy(original, place)

    result = virtomate("domain-delete", "--yes", "clone", json=True)

    assert "is another file than the one that was made" in str(result.json) or "token" in str(result.json)
    assert digest(place) == digest(original)


def test_place_that_another_domain_names(lab: Lab, virtomate: Program, original: Path) -> None:
    """A clone stays whole while a copy of its definition names its state, too."""
    clone(virtomate, "--tpm", "copy")
    place = original.with_name("clone.tpm")
    tpm = definition(lab, "clone").partition("<tpm")[2].partition("</tpm>")[0]
    lab.define(domain("other", devices=f"<tpm{tpm}</tpm>"))

    result = virtomate("domain-delete", "--yes", "clone", json=True)

    assert result.status == 1, str(result)
    assert "domain 'other' uses it" in result.json["message"]
    assert digest(place) == digest(original)


def test_place_of_the_original_in_an_older_clone(lab: Lab, virtomate: Program, original: Path) -> None:
    """A clone that names its original's place, as earlier versions made it, is deleted without the original's state."""
    clone(virtomate)
    place = original.with_name("clone.tpm")
    lab.connection.defineXML(definition(lab, "clone").replace(f"'{place}'", f"'{original}'"))
    before = digest(original)

    result = virtomate("domain-delete", "--yes", "clone", json=True)

    assert result.status == 0, str(result)
    assert digest(original) == before
    assert result.json[0]["kept"] == [f"TPM state '{original}', which cloning did not make"]
    assert not place.exists()


def test_replaced_clone(lab: Lab, virtomate: Program, original: Path) -> None:
    """The state of the former clone goes before that of the new one comes to the same place."""
    place = original.with_name("clone.tpm")
    clone(virtomate, "--tpm", "copy")
    run_once(lab, "clone")

    cloned(virtomate("domain-clone", "original", "new", json=True))
    kept = virtomate("domain-clone", "--if-exists", "keep", "--tpm", "copy", "original", "clone", json=True)
    new = virtomate("domain-clone", "--if-exists", "keep", "--tpm", "copy", "original", "new", json=True)
    other = virtomate("domain-clone", "--if-exists", "keep", "original", "clone", json=True)
    replaced = virtomate("domain-clone", "--if-exists", "replace", "--tpm", "copy", "original", "clone", json=True)

    assert kept.json[0]["status"] == "unchanged", str(kept)
    assert "has a copy of the TPM of 'original'" in other.json["message"]
    assert "has a TPM of its own" in new.json["message"]
    assert replaced.status == 0, str(replaced)
    assert f"TPM state '{place}'" in replaced.json[0]["replaced"]["removed"]
    assert digest(place) == digest(original)


def test_running_original(lab: Lab, virtomate: Program, original: Path) -> None:
    """The state of a running domain is read until two readings agree."""
    lab.connection.lookupByName("original").create()

    document = clone(virtomate, "--live", "--tpm", "copy")

    assert document["tpm"]["action"] == "copied"
    assert digest(original.with_name("clone.tpm")) == digest(original)


def test_state_in_the_memory_of_a_remote_host(root_lab: Lab, virtomate: Program, sshd: SshServer) -> None:
    """In /dev of another host, a file that is not seen here may still be no device."""
    require_places(root_lab)
    with tempfile.TemporaryDirectory(prefix="lab-", dir="/dev/shm") as directory:
        original = Path(directory) / "original.tpm"
        define(root_lab, original, "file")
        run_once(root_lab, "original")

        document = clone(virtomate, "--tpm", "copy", uri=sshd.uri(root_lab.hypervisor))

        place = original.with_name("clone.tpm")
        assert (document["tpm"]["action"], document["tpm"]["clone"]) == ("copied", str(place))
        assert digest(place) == digest(original)
        assert virtomate("domain-delete", "--yes", "clone").status == 0
        assert not place.exists()
