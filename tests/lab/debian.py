"""A Debian in a directory, where nothing but the essential packages is installed: what installations are tried in.

Packages come from where this machine's own come from, through the same proxies and with the same certificates.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tests.lab.workspace import CHECKOUT, Cache, Workspace

RELEASES = ("bookworm", "trixie")

CERTIFICATES = ("CURL_CA_BUNDLE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a file with certificates."""
NETWORK = (
    *(name for proxy in ("http_proxy", "https_proxy", "no_proxy") for name in (proxy, proxy.upper())),
    *("PIP_DEFAULT_TIMEOUT", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
)
"""Variables that say how package managers reach their index."""

# Nothing that no command names: recommendations of Debian's python3-pip would bring a compiler.
APT = 'APT::Install-Recommends "false";\nAPT::Get::Assume-Yes "true";\n'
SUDO = '#!/bin/sh\nexec "$@"\n'


class Debian:
    """A fresh Debian of one release, with the checkout in `/checkout` and `man` to show manual pages with.

    Use it as a context manager: leaving removes it.
    """

    def __init__(self, release: str) -> None:
        self.release = release
        self._workspace = Workspace()
        self._root = self._workspace.directory / "root"

    def __enter__(self) -> Self:
        _run("cp", "--archive", "--reflink=auto", bootstrap(self._workspace.cache, self.release), self._root)
        self._copy_checkout()
        self.run("apt-get update", "apt-get install man-db")
        return self

    def __exit__(self, *_: object) -> None:
        self._workspace.close()

    def run(self, *commands: str) -> str:
        """Run commands in one shell, in the checkout, up to the first that fails; return what they wrote to stdout."""
        return run_in_root(self._root, "cd /checkout", *commands)

    def _copy_checkout(self) -> None:
        files = _run("git", "-C", CHECKOUT, "ls-files", "-z").rstrip("\0").split("\0")
        target = self._root / "checkout"
        target.mkdir()
        _run("cp", "--parents", "--no-dereference", f"--target-directory={target}", *files)


def bootstrap(cache: Cache, release: str) -> Path:
    """Return a directory with nothing but the essential packages of a release. Copy it; it is shared by all runs."""
    return cache.build(f"debian-{release}", lambda directory: _bootstrap(release, directory))


def run_in_root(root: Path, *commands: str) -> str:
    """Run commands in one shell, in a system in a directory, up to the first that fails; return what they wrote."""
    for path in ("etc/hosts", "etc/resolv.conf"):
        (root / path).write_bytes(Path("/", path).read_bytes())
    for name in CERTIFICATES:
        if name in os.environ:
            (root / "etc" / name).write_bytes(Path(os.environ[name]).read_bytes())
    # Mounts and processes are gone when the shell has ended.
    enter = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", f"--root={root}")
    return _run(*enter, "env", "-i", *_variables(), "bash", "-c", "\n".join(("set -e", *commands)))


def _bootstrap(release: str, directory: Path) -> None:
    # It mounts /proc there, which must not stay, whatever ends it.
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    _run(*apart, "debootstrap", "--variant=minbase", release, directory, *_mirror())
    configuration = _run("apt-config", "dump", "Acquire") if _has_apt() else ""
    own = [line for line in configuration.splitlines() if "::IndexTargets" not in line]  # of other releases, maybe
    (directory / "etc/apt/apt.conf.d/99lab").write_text("\n".join([*own, APT]))
    sudo = directory / "usr/local/bin/sudo"
    sudo.write_text(SUDO)
    sudo.chmod(0o755)


def _variables() -> Iterable[str]:
    yield from ("HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "MANWIDTH=80")
    yield "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for name in CERTIFICATES:
        if name in os.environ:
            yield f"{name}=/etc/{name}"
    for name in NETWORK:
        if name in os.environ:
            yield f"{name}={os.environ[name]}"


def _has_apt() -> bool:
    return Path("/usr/bin/apt-get").exists()


def _mirror() -> list[str]:
    """Return where this machine gets Debian's packages from; nothing where that is left to debootstrap."""
    if not _has_apt():
        return []
    of_debian = ("Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main")
    return _run("apt-get", "indextargets", "--format=$(REPO_URI)", *of_debian).split("\n")[:1]


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        raise RuntimeError(f"status {done.returncode}: {shlex.join(map(str, command))}")
    return done.stdout
