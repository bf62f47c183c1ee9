"""Programs the lab needs: found on the machine, or unpacked from a Debian package into the cache."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.workspace import Cache


class MissingPackageError(Exception):
    """Something the lab cannot do without is not installed; the message names the package."""


# Root's own directories count even for an ordinary user, whose PATH leaves them out: mkfs and libvirtd live there.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def require_program(name: str, package: str) -> str:
    """Return the path of a program, or fail with the name of the package that holds it."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise MissingPackageError(f"{name} is missing: apt-get install --no-install-recommends {package}")
    return found


def run(
    *argv: str | Path, stdin: bytes | None = None, env: dict[str, str] | None = None, cwd: Path | None = None
) -> bytes:
    """Run a program to its end and return its standard output; what it said on failure becomes the error."""
    done = subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, check=False, env=env, cwd=cwd)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{' '.join(map(str, argv))} ended with {done.returncode}: {said}")
    return done.stdout


def unpack_packages(cache: Cache, names: Sequence[str]) -> Path:
    """Unpack Debian packages, without installing them, into one directory that is kept between runs."""

    def build(target: Path) -> None:
        for name in names:
            run("dpkg-deb", "-x", _download(cache, name, target.parent), target)

    return cache.build("packages-" + "-".join(names), build)


def _download(cache: Cache, name: str, directory: Path) -> Path:
    """Fetch one package with apt, by the machine's package lists or, where they are of no use, by lists of our own."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        try:
            return _apt_download(name, Path(scratch), directory, [])
        except RuntimeError:
            # A fresh machine has no lists or outdated ones. The lab changes nothing outside its directory, so
            # it does not update the machine's.
            state = cache.directory / "apt"
            for part in ("lists/partial", "archives/partial"):
                (state / part).mkdir(parents=True, exist_ok=True)
            options = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state}"]
            options += ["-o", "APT::Sandbox::User="]
            # apt does not wait for another apt.
            with cache.locked("apt"):
                run("apt-get", *options, "-q", "update")
                return _apt_download(name, Path(scratch), directory, options)


def _apt_download(name: str, scratch: Path, directory: Path, options: list[str]) -> Path:
    argv = ["apt-get", *options, "-q", "download", resolve_dependency(name, options)]
    done = subprocess.run(argv, cwd=scratch, capture_output=True, text=True, check=False)
    packages = list(scratch.glob("*.deb"))
    if done.returncode != 0 or not packages:
        raise RuntimeError(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return packages[0].rename(directory / packages[0].name)


def resolve_dependency(name: str, options: Sequence[str] = ()) -> str:
    """Return the real package behind a kernel's meta package (linux-image-cloud-amd64), any other name as it is."""
    if not name.startswith("linux-image-cloud"):
        return name
    listing = run("apt-cache", *options, "depends", "--important", name).decode()
    for line in listing.splitlines():
        relation, _, word = line.strip().partition(": ")
        if relation == "Depends" and word.startswith("linux-image-"):
            return word
    raise RuntimeError(f"apt knows no kernel package behind {name}: {listing!r}")
