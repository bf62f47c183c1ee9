"""What there is to do with a checkout: ``python3 noxfile.py -s demo``, ``python3 noxfile.py -s tests``, ``--list``.

As a script this file needs nothing but Python: it fetches nox where it is missing. ``nox -s tests`` works as well.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
BOOTSTRAP = ROOT / ".nox-bootstrap"
NOX = "nox>=2025.5.1"
LAB = ("build", "libvirt", "lab")  # groups of system packages
# Tests on a private hypervisor, and those that build and install the program.
NOT_UNIT = ("functional", "test_examples.py", "test_installation.py", "test_lab.py", "test_wheel.py")
PREDECESSOR = "virtomate==0.1.2"
# A lab of its own for each core. Who has nothing left to do takes tests from the others, so that most tests of a module
# still share what is made once for it.
SIDE_BY_SIDE = ("--numprocesses", "auto", "--maxprocesses", "8", "--dist", "worksteal")

# Caches stay in the checkout, too: running a session changes nothing else of the user's.
os.environ.setdefault("PIP_CACHE_DIR", str(ROOT / ".nox" / "pip"))
os.environ.setdefault("VIRTUALENV_OVERRIDE_APP_DATA", str(ROOT / ".nox" / "virtualenv"))


def has_nox(python: Path) -> bool:
    """Tell whether an interpreter is there and has a nox that is recent enough."""
    test = "import nox; from importlib.metadata import version; assert int(version('nox').split('.')[0]) >= 2025"
    return python.exists() and subprocess.run([python, "-c", test], capture_output=True, check=False).returncode == 0


def has_distribution(python: Path, requirement: str) -> bool:
    """Tell whether an interpreter is there and has a distribution, NAME==VERSION."""
    test = "import sys; from importlib.metadata import version; assert version(sys.argv[1]) == sys.argv[2]"
    words: list[str | Path] = [python, "-c", test, *requirement.split("==")]
    return python.exists() and subprocess.run(words, capture_output=True, check=False).returncode == 0


def fetch_nox() -> Path:
    """Make a virtual environment that has nox, and return its interpreter."""
    python = BOOTSTRAP / "bin" / "python"
    if has_nox(python):
        return python
    print("Fetching nox", flush=True)
    if importlib.util.find_spec("ensurepip") is None:  # Debian's python3 leaves it to python3-venv
        subprocess.run([sys.executable, ROOT / "tests" / "lab" / "packages.py", "bootstrap"], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", BOOTSTRAP], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NOX], check=True)
    return python


def run_nox() -> NoReturn:
    """Become nox, with this file and the arguments given."""
    python = Path(sys.executable)
    try:
        python = python if has_nox(python) else fetch_nox()
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None  # it has said why
    os.execv(python, [str(python), "-m", "nox", "--noxfile", __file__, *sys.argv[1:]])


if __name__ == "__main__":
    run_nox()

import nox  # noqa: E402 - only from here on it is sure to be there

nox.needs_version = NOX.removeprefix("nox")
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"


def system(session: nox.Session, *packages: str) -> None:
    """Install groups of system packages."""
    session.run(sys.executable, "tests/lab/packages.py", *packages, external=True)


def groups(*names: str) -> list[str]:
    """List the requirements of dependency groups."""
    return list(nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), *names))


def check_style(session: nox.Session) -> None:
    """Let ruff look for mistakes and for unformatted code."""
    session.run("ruff", "check", "--quiet")
    session.run("ruff", "format", "--check", "--quiet")


def check_types(session: nox.Session) -> None:
    """Let mypy check every annotation."""
    session.run("mypy", "virtomate", "tests", "noxfile.py")


@nox.session
def demo(session: nox.Session) -> None:
    """Clone real domains in all modes on a private hypervisor, and boot the clones."""
    system(session, *LAB)
    session.install("--editable", ".")
    session.run("python", "-m", "tests.lab.demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Check style and types, then run every test, as many at once as there are cores; what follows -- is pytest's."""
    system(session, *LAB)
    session.install("--editable", ".", *groups("tests", "lint", "types"))
    check_style(session)
    check_types(session)
    session.run("pytest", "-m", "not stress", *SIDE_BY_SIDE, *session.posargs)


@nox.session
def unit(session: nox.Session) -> None:
    """Run the tests that need no hypervisor, as many at once as there are cores; what follows -- is pytest's."""
    system(session, *LAB)
    session.install("--editable", ".", *groups("tests"))
    session.run("pytest", *(f"--ignore=tests/{name}" for name in NOT_UNIT), *SIDE_BY_SIDE, *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """Run the long sweeps, of which tests runs samples, as many at once; arguments after -- go to pytest."""
    system(session, *LAB, "stress")
    session.install("--editable", ".", *groups("tests", "ansible"))
    session.run("pytest", "-m", "stress", *SIDE_BY_SIDE, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time clones beside other tools on a private hypervisor; after -- stand cases, --rounds N, --quick, --help."""
    system(session, *LAB, "peers")
    session.install("--editable", ".")
    # pip compiles what it installs; the checkout must not be compiled while it is timed
    session.run("python", "-m", "compileall", "-q", "virtomate")
    predecessor = ROOT / ".bench" / PREDECESSOR.replace("==", "-")
    python = predecessor / "bin" / "python"
    if not has_distribution(python, PREDECESSOR):
        # By the session's own interpreter, so that both programs run on the same Python.
        session.run("python", "-m", "venv", "--clear", "--without-pip", str(predecessor))
        session.run("python", "-m", "pip", "--python", str(python), "install", "--quiet", PREDECESSOR)
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the examples of the documentation, and write into it what they print; after -- stand pages."""
    system(session, *LAB)
    session.install("--editable", ".")
    session.run("python", "-m", "tests.lab.examples", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style."""
    session.install(*groups("lint"))
    check_style(session)


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    system(session, "build")
    session.install("--editable", ".", *groups("tests", "types"))
    check_types(session)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation and the manual pages; warnings are errors."""
    system(session, "build")
    session.install("--editable", ".", *groups("docs"))
    for builder in ("html", "man"):
        session.run("sphinx-build", "-W", "--keep-going", "-b", builder, "docs", f"docs/_build/{builder}")
