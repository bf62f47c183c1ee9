"""What the storage host is made of can be checked without starting it."""

import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.lab import storage_image
from tests.lab.storage_host import BUILD_FLAGS, POOLS
from tests.lab.storage_image import DISKS, FILES, RELEASE, SETTINGS, Image, recipe


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.iterdir()))
def test_scripts(name: str) -> None:
    """Each script of the host is a shell script without errors of syntax, and can be run."""
    script = FILES / name

    checked = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)

    assert (checked.returncode, checked.stderr) == (0, "")
    assert script.read_text().startswith("#!/bin/")
    assert script.stat().st_mode & 0o111


def test_scripts_that_are_named() -> None:
    """What the host's init runs is there."""
    named = [line.rpartition(":")[2] for line in SETTINGS["etc/inittab"].splitlines()]

    assert [Path(path).parent for path in named] == [Path("/lab")] * 2
    assert all((FILES / Path(path).name).exists() for path in named)


def test_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is made anew when the release, the packages or the settings are others."""
    made = recipe(RELEASE)
    assert recipe(RELEASE) == made

    others = {recipe("trixie")}
    monkeypatch.setattr(storage_image, "PACKAGES", ())
    others.add(recipe(RELEASE))
    monkeypatch.setitem(DISKS, "vdf", "1G")
    others.add(recipe(RELEASE))

    assert len(others - {made}) == 3


def test_disks() -> None:
    """The system is on the first disk."""
    assert next(disk.name for disk in Image(Path("/image")).disks) == "vda.raw"
    assert len(Image(Path("/image")).disks) == len(DISKS) + 1


@pytest.mark.parametrize("kind", sorted(POOLS))
def test_pools(kind: str) -> None:
    """Each pool that can be asked for is a document of the kind that its name says."""
    pool = ET.fromstring(POOLS[kind].format(name="lab"))

    assert pool.findtext("name") == "lab"
    assert pool.get("type") == kind.partition("-")[0]
    assert BUILD_FLAGS.keys() <= POOLS.keys()
