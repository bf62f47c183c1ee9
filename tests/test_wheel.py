"""What `pip install .` installs, from a source distribution, where all that the build needs is what it asks for."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.lab.workspace import Cache, default_base
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


def requirements() -> list[str]:
    """Name what building and running virtomate takes, by `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    return [*project["build-system"]["requires"], *hook["dependencies"], *project["project"]["dependencies"]]


def wheelhouse() -> Path:
    """Return a directory with wheels of what virtomate requires; it is filled once, and anew when that changes."""
    key = hashlib.sha256(json.dumps([requirements(), sys.version]).encode()).hexdigest()[:16]

    def fill(directory: Path) -> None:
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", directory, *requirements())

    return Cache(default_base() / "cache").build(f"wheelhouse-{key}", fill)


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A virtual environment in which virtomate is with what it requires, and nothing else."""
    wheels = wheelhouse()
    with TemporaryDirectory(prefix="virtomate-wheel-") as name:
        directory = Path(name)
        run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory)
        (archive,) = directory.glob("*.tar.gz")
        run("tar", "-xzf", archive, "-C", directory)
        environment = directory / "environment"
        venv.create(environment)
        settings = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            # Pip's settings for what would be typed in the activated environment.
            "PIP_PYTHON": str(environment / "bin" / "python"),
            "PIP_NO_INDEX": "yes",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_COMPILE": "no",  # Sphinx is used once
        }
        run("pip", "install", ".", directory=directory / archive.name.removesuffix(".tar.gz"), variables=settings)
        yield environment


def test_every_command_has_its_manual_page(installed: Path) -> None:
    """There is a manual page for the program and for each command, where `man` looks, beside those of pycdlib."""
    pages = {page.name for page in (installed / "share" / "man").rglob("*")}
    assert {name for name in pages if not name.startswith("pycdlib-")} == {
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
    printed = run(installed / "bin" / "virtomate", "completion", shell, directory=installed)

    assert printed == (installed / "share" / SCRIPTS[shell]).read_text()


def test_editable_installation_fetches_no_sphinx() -> None:
    """What has no manual pages does not wait for the program that makes them."""
    ask = "import hatch_build as backend; print(*backend.get_requires_for_build_{}(), sep='\\n')"

    editable = run(sys.executable, "-c", ask.format("editable")).split()
    wheel = run(sys.executable, "-c", ask.format("wheel")).split()

    assert [name for name in editable if name.startswith("sphinx")] == []
    assert [name for name in wheel if name.startswith("sphinx")] != []
