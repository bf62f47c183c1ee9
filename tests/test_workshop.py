"""The commands that the README names work on a machine where nothing is installed."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab import packages

ROOT = Path(__file__).parents[1]
MANAGERS = {"apt-get": packages._APT, "dnf": packages._DNF, "zypper": packages._ZYPPER}


def test_ci_runs_the_command_of_the_readme() -> None:
    """What CI runs is what the README tells people to run."""
    last = (ROOT / ".ci" / "run").read_text().splitlines()[-1]

    assert last.removeprefix("exec ") == "python3 noxfile.py -s tests"
    assert last.removeprefix("exec ") in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("program", MANAGERS)
def test_every_manager_knows_every_group(program: str) -> None:
    """No group of packages is known to one package manager alone."""
    assert MANAGERS[program].groups.keys() == packages._APT.groups.keys()


@pytest.mark.parametrize("program", MANAGERS)
def test_without_rights_the_exact_command_is_printed(
    program: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A user who may not install packages is told how to, and the status says that something is missing."""
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == program else None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    status = packages.install(["build"])

    command = shlex.split(capfd.readouterr().err.splitlines()[-1])
    assert status == 1
    assert [program, "install"] == [word for word in command if word in {program, "install"}][-2:]
    assert command[-4:] == MANAGERS[program].groups["build"].split()
    assert all(words[0] in {"dpkg-query", "rpm"} for words in ran), "only asked, nothing installed"


def test_what_is_installed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all packages are there, no package manager is started."""
    ran: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command[0])
        return subprocess.CompletedProcess(command, 0, "installed\n", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)

    assert packages.install(["build", "libvirt", "lab"]) == 0
    assert set(ran) == {"dpkg-query"}
