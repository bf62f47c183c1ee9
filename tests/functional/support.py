"""What the functional tests share: one clone made and looked at, and images as qemu-img sees them."""

import json
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.lab import GuestReport, Inventory, Lab, Pool, Program, Result, boot, images
from tests.lab.programs import require_program

EVERYTHING = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


def cloned(result: Result) -> Any:
    """Return the one clone of a run that must have succeeded."""
    assert result.status == 0, str(result)
    (clone,) = result.json
    assert clone["status"] == "cloned", str(result)
    return clone


def clone(virtomate: Program, *words: str | Path, uri: str | None = None) -> Any:
    """Clone the domain `original` to `clone`, which must succeed, and return what `--json` says of it."""
    return cloned(virtomate("domain-clone", *words, "original", "clone", json=True, uri=uri))


def refused(lab: Lab, before: Inventory, result: Result) -> Any:
    """Return the error of a run that must have failed and changed nothing in the lab."""
    assert result.status == 1, str(result)
    document = result.json
    if isinstance(document, list):
        (attempt,) = document
        assert attempt["status"] == "failed", str(result)
        document = attempt["error"]
    assert "leftovers" not in document, str(result)
    assert document["message"], str(result)
    assert "Traceback" not in result.stderr, str(result)
    unchanged(lab, before)
    return document


def unchanged(lab: Lab, before: Inventory) -> None:
    """Make sure that everything in the lab is as it was."""
    assert before.difference(lab.inventory()) == ""


def by_target(document: Any) -> dict[str, Any]:
    """Return the disks of a clone by their target."""
    return {disk["target"]: disk for disk in document["disks"]}


def clone_path(document: Any, target: str = "vda") -> Path:
    """Return where the clone's volume for a disk is."""
    return Path(by_target(document)[target]["clone"]["path"])


def pool_on(lab: Lab, file_system: str) -> Pool:
    """Return the pool on a file system; an ordinary user has one pool, which stands for ext4."""
    if lab.privileged:
        return lab.pools[file_system]
    if file_system != "ext4":
        pytest.skip("needs root: file systems of its own")
    return lab.pool


def boot_all(lab: Lab, *names: str) -> list[GuestReport]:
    """Boot domains side by side, each beside the others, and return what their guests say."""
    # Two threads on one connection would wait for each other.
    connections = [lab.hypervisor.connect() for _ in names]
    with ThreadPoolExecutor(len(names)) as executor:
        return list(executor.map(boot, connections, names))


def virsh(command: str) -> None:
    """Run a command that virtomate has named, as a user would paste it."""
    words = shlex.split(command)
    assert words[0] == "virsh"
    subprocess.run([require_program("virsh", "libvirt-clients"), *words[1:]], check=True, capture_output=True)


def definition(lab: Lab, name: str) -> str:
    """Return a domain's whole definition."""
    return str(lab.connection.lookupByName(name).XMLDesc(EVERYTHING))


def image_info(path: Path, format_: str = "qcow2") -> Any:
    """Return what qemu-img says of an image."""
    return json.loads(images.qemu_img("info", "--force-share", "--output=json", "-f", format_, path))
