"""What the README and `docs/installation.rst` say of installation works as it is written, on fresh Debians.

The commands are taken from there. Nothing is installed but what they name: where they name no compiler, nothing can
have been compiled.
"""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.debian import RELEASES, Debian
from tests.lab.examples import examples
from tests.lab.workspace import CHECKOUT
from virtomate import __version__

README = CHECKOUT / "README.md"
PAGE = CHECKOUT / "docs" / "installation.rst"

APT_INSTALL = "sudo apt-get install --no-install-recommends"

# Where pipx before 1.3 and uv put virtomate; both leave its manual pages there.
OLD_PIPX = "~/.local/pipx"
UV = "~/.local/share/uv"
RELEASE_WITH_OLD_PIPX = "bookworm"

# The older pipx writes into ~/.bashrc, since the newer one would find its directory on the PATH.
NEWEST_PIPX = ("pipx install pipx", "pipx ensurepath", "export PATH=~/.local/bin:$PATH", "hash -r")

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1800)]


@pytest.fixture(params=RELEASES)
def debian(request: pytest.FixtureRequest) -> Iterator[Debian]:
    """A fresh Debian."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a system of its own")
    with Debian(request.param) as system:
        yield system


def written(page: Path, *starts: str) -> list[str]:
    """Return the commands of a page that start so, one for each start, without their comments."""
    commands = [example.command.partition("  #")[0].rstrip() for example in examples(page)]
    return [next(command for command in commands if command.startswith(start)) for start in starts]


def in_new_shell(debian: Debian, *commands: str) -> str:
    """Run commands as in a terminal that is opened later."""
    return debian.run(f"bash -ic {shlex.quote(' && '.join(commands))}")


def check(debian: Debian, *activation: str) -> None:
    """See that virtomate starts, reaches libvirt, and that its manual pages and its completion are found."""
    version = in_new_shell(debian, *activation, "virtomate --version")
    domains = in_new_shell(debian, *activation, "virtomate --json -c test:///default domain-list")
    page = in_new_shell(debian, *activation, "man virtomate-domain-clone")
    completed = in_new_shell(debian, *activation, "source <(virtomate completion bash)", "complete -p virtomate")

    assert version.split() == ["virtomate", __version__]
    assert [domain["name"] for domain in json.loads(domains)] == ["test"]
    assert "virtomate-domain-clone - clone a domain" in page
    assert completed.split()[-1] == "virtomate"


def origin(debian: Debian, module: str) -> str:
    """Tell which file virtomate gets a module from."""
    python = '"$(dirname "$(readlink -f "$(command -v virtomate)")")/python"'
    return in_new_shell(debian, f"{python} -c 'import {module}; print({module}.__file__)'").strip()


def link_pages(debian: Debian, page: Path, home: str) -> None:
    """Link the manual pages of what was installed there to where `man` looks."""
    debian.run(*written(page, "mkdir -p ~/.local/share/man/man1", f"ln -sf {home}/"))


@pytest.mark.parametrize("others", [[], ["apt-get install python3-click python3-rich"]])
def test_binding_of_the_distribution(debian: Debian, others: list[str]) -> None:
    """The first way of the README takes the distribution's binding, but no click and no rich that are too old."""
    debian.run(
        *written(README, f"{APT_INSTALL} pipx python3-libvirt"),
        *others,
        *written(README, "pipx install --system-site-packages .", "pipx ensurepath"),
    )
    if debian.release == RELEASE_WITH_OLD_PIPX:
        link_pages(debian, README, OLD_PIPX)

    check(debian)
    assert origin(debian, "libvirt").startswith("/usr/lib/python3/dist-packages/")
    assert "/venvs/virtomate/" in origin(debian, "click")

    debian.run(*written(README, "echo 'source <(virtomate"))
    assert in_new_shell(debian, "complete -p virtomate").split()[-1] == "virtomate"
    debian.run("pipx reinstall virtomate")
    check(debian)
    assert origin(debian, "libvirt").startswith("/usr/lib/python3/dist-packages/")


def test_binding_of_the_distribution_with_the_newest_pipx(debian: Debian) -> None:
    """The newest pipx takes the distribution's binding, and so it does where it would leave the work to uv."""
    debian.run(
        *written(PAGE, f"{APT_INSTALL} pipx python3-libvirt"),
        *NEWEST_PIPX,
        *written(PAGE, "pipx install --system-site-packages ."),
    )
    check(debian)
    assert origin(debian, "libvirt").startswith("/usr/lib/python3/dist-packages/")

    debian.run(
        "export PATH=~/.local/bin:$PATH",
        "pipx uninstall virtomate",
        "pipx install uv",
        *written(PAGE, "PIPX_DEFAULT_BACKEND=pip"),
    )
    check(debian)
    assert origin(debian, "libvirt").startswith("/usr/lib/python3/dist-packages/")


@pytest.mark.parametrize("newest", [[], NEWEST_PIPX])
def test_pipx(debian: Debian, newest: list[str]) -> None:
    """The other way of the README compiles the binding, with the distribution's pipx and with the newest."""
    debian.run(
        *written(README, f"{APT_INSTALL} pipx gcc"),
        *newest,
        *written(README, "pipx install .", "pipx ensurepath"),
    )
    if debian.release == RELEASE_WITH_OLD_PIPX and not newest:
        link_pages(debian, README, OLD_PIPX)

    check(debian)
    assert "/venvs/virtomate/" in origin(debian, "libvirt")


def test_uv(debian: Debian) -> None:
    """Virtomate can be a tool of uv, which knows nothing of `man`."""
    debian.run(*written(README, f"{APT_INSTALL} pipx gcc"), "pipx install uv", "pipx ensurepath")
    in_new_shell(debian, *written(PAGE, "uv tool install ."))
    link_pages(debian, PAGE, UV)

    check(debian)


@pytest.mark.parametrize("newest", [[], ["pip install --upgrade pip"]])
def test_pip(debian: Debian, newest: list[str]) -> None:
    """Pip installs virtomate into a virtual environment: the distribution's pip, and the newest."""
    debian.run(
        *written(PAGE, f"{APT_INSTALL} gcc"),
        "sudo apt-get install python3-venv",
        *written(PAGE, "python3 -m venv ~/virtomate"),
        *newest,
        *written(PAGE, "pip install ."),
    )

    check(debian, ". ~/virtomate/bin/activate")


def test_wheel_and_source_distribution(debian: Debian) -> None:
    """What `build` makes can be installed with pip, and with pipx on the distribution's binding."""
    environment = written(PAGE, "python3 -m venv ~/virtomate")
    debian.run(
        *written(PAGE, f"{APT_INSTALL} gcc", f"{APT_INSTALL} pipx python3-libvirt"),
        "sudo apt-get install python3-venv",
        *environment,
        *written(PAGE, "pip install build", "python -m build"),
    )

    for archive in ("dist/*.whl", "dist/*.tar.gz"):
        debian.run("rm -r ~/virtomate", *environment, f"pip install {archive}")
        check(debian, ". ~/virtomate/bin/activate")

    debian.run("rm -r ~/virtomate", "pipx ensurepath")
    for archive in ("dist/*.whl", "dist/*.tar.gz"):
        debian.run(f"pipx install --system-site-packages {archive}")
        if debian.release == RELEASE_WITH_OLD_PIPX:
            link_pages(debian, PAGE, OLD_PIPX)
        check(debian)
        assert origin(debian, "libvirt").startswith("/usr/lib/python3/dist-packages/")
        debian.run("pipx uninstall virtomate")
