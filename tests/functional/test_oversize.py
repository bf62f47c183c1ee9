"""A domain whose definition libvirt cannot send is in nobody's way but its own."""

from pathlib import Path

import pytest

from tests.functional.runs import reaching
from tests.functional.support import cloned
from tests.lab import Lab, Program, disk, domain, interface
from tests.lab.images import MIB

# Libvirt writes six characters for each, and sends no text of more than 4 MiB.
LONG = '"' * 800_000


def define_oversize(lab: Lab, name: str, *paths: Path) -> None:
    """Define a domain with these raw disks whose definition cannot be read any more."""
    disks = [disk(path, "raw", f"vd{'abc'[number]}") for number, path in enumerate(paths)]
    text = domain(name, disks=disks, interfaces=[interface()], memory_mib=64)
    lab.define(text.replace("<name>", f"<description>{LONG}</description><name>", 1))


@pytest.fixture
def original(lab: Lab) -> Path:
    """The disk of a domain `original`, beside which there is one that cannot be read."""
    path = lab.pool.raw("original.raw", MIB)
    lab.define(domain("original", disks=[disk(path, "raw")], interfaces=[interface()]))
    define_oversize(lab, "huge", lab.pool.raw("huge.raw", MIB))
    return path


@pytest.mark.usefixtures("original")
def test_others_are_listed_cloned_and_deleted(lab: Lab, virtomate: Program) -> None:
    """What cannot be found out of that domain is a warning; the list has what is known without its definition."""
    clone = cloned(virtomate("domain-clone", "original", "web", json=True))
    (warning,) = clone["warnings"]
    assert "domain 'huge' is longer than libvirt can send: its MAC addresses" in warning
    lab.connection.lookupByName("web").setMetadata(0, LONG, None, None)

    listed = {item["name"]: item for item in virtomate("domain-list", json=True).json}
    assert listed.keys() == {"original", "huge", "web"}
    assert (listed["huge"]["state"], listed["huge"]["clone"]) == ("shut-off", None)
    # the record of a clone is sent without the rest
    assert (listed["web"]["clone"]["source"]["name"], listed["web"]["clone"]["mode"]) == ("original", "copy")

    lab.connection.lookupByName("web").setMetadata(0, None, None, None)
    deleted = virtomate("domain-delete", "--yes", "web", json=True)
    assert (deleted.status, deleted.json[0]["status"]) == (0, "deleted"), str(deleted)
    assert "domain 'huge' is longer than libvirt can send: of all that it uses, only its disks" in deleted.stderr


def refused(virtomate: Program, *words: str) -> dict[str, str]:
    """Return the error of a command that must have failed before anything was touched."""
    result = virtomate(*words, json=True)
    assert (result.status, result.stderr) == (1, ""), str(result)
    error: dict[str, str] = result.json
    return error


def test_what_it_uses_is_known(lab: Lab, virtomate: Program, original: Path) -> None:
    """A disk of that domain is not deleted, nor is one cloned that it may be writing to."""
    clone = cloned(virtomate("domain-clone", "original", "web", json=True))
    path = Path(clone["disks"][0]["clone"]["path"])
    define_oversize(lab, "user", path, original)

    used = refused(virtomate, "domain-delete", "--yes", "web")
    lab.connection.lookupByName("user").create()
    written = refused(virtomate, "domain-clone", "original", "db")

    assert (used["type"], written["type"]) == ("IllegalStateError", "IllegalStateError")
    assert "domain 'user' uses it" in used["message"]
    assert reaching(lab.uri, "virsh undefine --keep-nvram --keep-tpm user") in used["hint"]
    assert path.exists()
    assert "open for writing by domain 'user', which is active" in written["message"]
    assert reaching(lab.uri, "virsh shutdown user") in written["hint"]


@pytest.mark.usefixtures("original")
def test_the_domain_itself_is_refused(virtomate: Program) -> None:
    """A command that is about that domain says what is wrong with it, and not that a connection was lost."""
    for words in (["domain-clone", "huge", "web"], ["domain-delete", "--yes", "huge"]):
        error = refused(virtomate, *words)
        assert error["type"] == "libvirtError"
        assert "cannot read the definition of domain 'huge': it is longer than libvirt can send" in error["message"]
        assert reaching(str(virtomate.uri), "virsh desc huge") in error["hint"]
    taken = refused(virtomate, "domain-clone", "original", "huge")
    assert (taken["type"], taken["message"]) == ("Conflict", "there is already a domain 'huge'")
