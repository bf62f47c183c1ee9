"""Snapshots of clones and originals: what is said of them is so, and commands that are named do what they should."""

import os
import subprocess
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import reaching
from tests.functional.support import cloned
from tests.lab import Lab, Program, disk, domain, images, interface
from tests.lab.images import MIB

DISK_ONLY = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
UNKNOWN = DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA


@pytest.fixture
def original(lab: Lab) -> Any:
    """A domain `original` with one small qcow2 disk."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    return lab.define(domain("original", disks=[disk(path)], interfaces=[interface()], memory_mib=64))


def snapshot(domain_: Any, name: str, flags: int = 0) -> None:
    """Make a snapshot."""
    domain_.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>", flags)


def run(script: str) -> str:
    """Run commands as somebody would who was told to; virsh reaches no hypervisor that it is not told of."""
    environment = {**os.environ, "VIRSH_DEFAULT_CONNECT_URI": "qemu+unix:///system?socket=/nonexistent", "LC_ALL": "C"}
    result = subprocess.run(["bash", "-ec", script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (script, result.stdout, result.stderr)
    return result.stdout


@pytest.mark.parametrize("flags", [DISK_ONLY, UNKNOWN], ids=["snapshots", "overlays that libvirt does not know"])
@pytest.mark.usefixtures("original")
def test_clone_with_external_snapshots(lab: Lab, virtomate: Program, flags: int) -> None:
    """The clone's own overlays are in the way of its deletion; the hint's commands merge them, and then it goes."""
    clone = cloned(virtomate("domain-clone", "original", "web", json=True))
    path = Path(clone["disks"][0]["clone"]["path"])
    web = lab.connection.lookupByName("web")
    snapshot(web, "s 1", flags)
    snapshot(web, "s2", flags)
    overlays = [path.with_suffix(".s 1"), path.with_suffix(".s2")]
    assert all(overlay.exists() for overlay in overlays)

    refused = virtomate("domain-delete", "--yes", "web", json=True)
    assert refused.status == 1, str(refused)
    itself = "which is in the chain of disk vda of 'web' itself, rests on it"
    assert refused.json["message"].endswith(f"'{overlays[0]}', {itself}")
    assert path.exists()
    # where libvirt knows the snapshots, they go without the domain being started
    assert ("snapshot-delete" in refused.json["hint"]) is (flags == DISK_ONLY)
    # its guest has nothing that would hear a request
    run(refused.json["hint"].partition(": ")[2].replace(" shutdown web", " destroy web"))

    assert not any(overlay.exists() for overlay in overlays)
    deleted = virtomate("domain-delete", "--yes", "web", json=True)
    assert (deleted.status, deleted.json[0]["status"]) == (0, "deleted"), str(deleted)
    assert not path.exists()


def test_overlays_of_others_are_not_to_be_merged(lab: Lab, virtomate: Program, original: Any) -> None:
    """What merges the clone's own overlays would destroy a linked clone on the same volume, so nobody is told to."""
    assert original.name() == "original"
    cloned(virtomate("domain-clone", "original", "web", json=True))
    cloned(virtomate("domain-clone", "--mode", "linked", "web", "linked", json=True))
    snapshot(lab.connection.lookupByName("web"), "s1", DISK_ONLY)

    refused = virtomate("domain-delete", "--yes", "web", json=True)

    assert refused.status == 1, str(refused)
    assert "snapshot-delete" not in refused.json["hint"]
    assert "blockcommit" not in refused.json["hint"]


REDEFINE = """
{
    echo "<domainsnapshot><name>fresh</name><state>shutoff</state><creationTime>$(date +%s)</creationTime>"
    virsh dumpxml --inactive --security-info web
    echo "</domainsnapshot>"
} | virsh snapshot-create --redefine web /dev/stdin
virsh snapshot-revert web fresh"""


def test_internal_snapshots_are_in_the_copy(lab: Lab, virtomate: Program, original: Any) -> None:
    """A copy of a qcow2 has its internal snapshots, which libvirt learns of as the documentation says."""
    snapshot(original, "fresh")
    clone = cloned(virtomate("domain-clone", "original", "web", json=True))
    path = Path(clone["disks"][0]["clone"]["path"])
    (warning,) = clone["warnings"]
    assert warning.startswith("disk vda of the clone contains the snapshots of 'original'")
    web = lab.connection.lookupByName("web")
    assert web.snapshotNum() == 0
    content = images.guest_digest(path, "qcow2")
    images.qemu_io(path, "qcow2", "write -P 9 0 64k")
    assert images.guest_digest(path, "qcow2") != content

    run(reaching(lab.uri, REDEFINE))

    assert images.guest_digest(path, "qcow2") == content
    # the clone's own definition comes back, its record included
    assert {item["name"]: item["clone"] is not None for item in virtomate("domain-list", json=True).json}["web"]
    assert web.XMLDesc().count(clone["interfaces"][0]["mac"]) == 1


def test_snapshots_that_are_not_carried_over(lab: Lab, virtomate: Program, original: Any) -> None:
    """An overlay has none of the base's internal snapshots, and a flattened copy no external ones."""
    lost = "snapshots of 'original' are not carried over"
    snapshot(original, "fresh")
    linked = cloned(virtomate("domain-clone", "--mode", "linked", "original", "linked", json=True))
    assert lost in linked["warnings"]

    snapshot(original, "outside", DISK_ONLY)
    lab.pool.refresh()
    flat = cloned(virtomate("domain-clone", "original", "flat", json=True))
    assert lost in flat["warnings"]
