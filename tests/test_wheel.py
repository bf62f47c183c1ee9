"""What is installed from a wheel that was built from a source distribution."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.test_docs import COMMANDS, documented_options

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "bash": "bash-completion/completions/virtomate",
    "zsh": "zsh/site-functions/_virtomate",
    "fish": "fish/vendor_completions.d/virtomate.fish",
}


def run(*command: str | Path, directory: Path = ROOT, variables: Mapping[str, str] | None = None) -> str:
    """Run a program, with these variables added to its environment, and return what it wrote."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A virtual environment in which the wheel is, and nothing else."""
    with TemporaryDirectory(prefix="virtomate-wheel-") as name:
        directory = Path(name)
        run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory)
        (archive,) = directory.glob("*.tar.gz")
        run("tar", "-xzf", archive, "-C", directory)
        unpacked = directory / archive.name.removesuffix(".tar.gz")
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, directory=unpacked)
        (wheel,) = directory.glob("*.whl")
        environment = directory / "environment"
        venv.create(environment)
        python = environment / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
        yield environment


def test_every_command_has_its_manual_page(installed: Path) -> None:
    """There is a manual page for the program and for each command, where `man` looks."""
    assert {page.name for page in (installed / "share" / "man").rglob("*")} == {
        "man1",
        *(f"{name}.1" for name in COMMANDS),
    }


def test_man_finds_and_shows_the_page(installed: Path) -> None:
    """Where the program is found, `man` finds its pages, and they read as they should."""
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    path = f"{installed / 'bin'}:{os.environ['PATH']}"
    settings = {"PATH": path, "MANPATH": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}

    found = run("man", "--path", "virtomate-domain-clone", variables=settings)
    shown = run("man", "virtomate-domain-clone", variables=settings)
    warnings = run("man", "--warnings", "-l", found.strip(), variables=settings).removeprefix(shown)

    assert Path(found.strip()) == installed / "share" / "man" / "man1" / "virtomate-domain-clone.1"
    assert warnings == ""
    assert "virtomate-domain-clone - clone a domain" in shown
    assert "virtomate domain-clone [options] DOMAIN" in shown
    lines = {line.strip() for line in shown.splitlines()}
    for names in documented_options("virtomate-domain-clone"):
        assert any(name in line for line in lines for name in names), names


@pytest.mark.parametrize("shell", SCRIPTS)
def test_shells_find_their_scripts(installed: Path, shell: str) -> None:
    """The script that the installed program prints is also where the shell looks for it."""
    libraries = sysconfig.get_path("purelib")

    printed = run(
        installed / "bin" / "virtomate", "completion", shell, directory=installed, variables={"PYTHONPATH": libraries}
    )

    assert printed == (installed / "share" / SCRIPTS[shell]).read_text()
