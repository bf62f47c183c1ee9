"""Who is measured: virtomate, its predecessor, other tools, and the floors that nobody can fall below."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.programs import require_program
from tests.lab.workspace import CHECKOUT

OURS = "virtomate"
STREAM = "virtomate (stream)"
SERVER = "virtomate (server)"
OLD = "virtomate 0.1.2"
EARLIER = "virtomate (earlier)"
VIRT_CLONE = "virt-clone"
VIRSH_PIPE = "virsh vol-download | virsh vol-upload"
CP = "cp"
CP_REFLINK = "cp --reflink"
QEMU_IMG = "qemu-img create -b"
CONVERT = "qemu-img convert"
BARE = "bare libvirt calls"

ORIGINAL = "original"
CLONE = "clone"

CACHED_HOLES = ", holes cached"

NEW_FILE = "{new file}"
"""In a command line: the file that the preparation made."""

OLD_PROGRAM = CHECKOUT / ".bench" / "virtomate-0.1.2" / "bin" / "virtomate"

Argv = Sequence[str | Path]


def _no_note(_: str) -> str:
    return ""


@dataclass(frozen=True)
class Contender:
    """One program that does the work of a case.

    Attributes:
        label: What it is called in the table.
        argv: What is measured.
        sources: The files that it reads; their data is in the page cache when it starts.
        cached_holes: Whether their holes are there as well, as they are after somebody read the files whole.
        prepare: What is run before, and not measured.
        note: Makes a note out of what it printed.
        sync: Whether `sync` belongs to its work.
    """

    label: str
    argv: Argv
    sources: Sequence[Path] = ()
    cached_holes: bool = False
    prepare: Sequence[Argv] = ()
    note: Callable[[str], str] = _no_note
    sync: bool = True


def numbered(argv: Argv) -> Argv:
    """Have every clone of these command lines bear a number, in place of which `{}` stands."""
    return [f"{CLONE}-{{}}" if word == CLONE else word for word in argv]


def find_ours() -> Path:
    """Return the program under test as it was installed, beside the interpreter."""
    return _installed(Path(sys.executable).with_name("virtomate"))


def find_old() -> Path:
    """Return virtomate 0.1.2, which the nox session installs."""
    return _installed(OLD_PROGRAM)


def clone_with_ours(uri: str, mode: str, source: str = ORIGINAL, transfer: str | None = None) -> list[str | Path]:
    """Compose a clone by virtomate."""
    words: list[str | Path] = [find_ours(), "-c", uri, "--json", "domain-clone", "--mode", mode]
    return [*words, *([] if transfer is None else ["--transfer", transfer]), source, CLONE]


def freeze_with_ours(uri: str, source: str, name: str = CLONE) -> list[str | Path]:
    """Compose a linked clone of a frozen original by virtomate."""
    return [find_ours(), "-c", uri, "--json", "domain-clone", "--mode", "linked", "--freeze", source, name]


def freeze_live_with_ours(uri: str, source: str) -> list[str | Path]:
    """Compose a linked clone of an original that runs and is frozen by virtomate."""
    *words, original, clone = freeze_with_ours(uri, source)
    return [*words, "--live", "--quiesce", "off", original, clone]


def start(uri: str, name: str) -> list[str | Path]:
    """Compose the start of a domain by virsh."""
    return [require_program("virsh", "libvirt-clients"), "-c", uri, "start", name]


def define(uri: str, definition: Path) -> list[str | Path]:
    """Compose the definition of a domain by virsh."""
    return [require_program("virsh", "libvirt-clients"), "-c", uri, "define", definition]


def seed_with_ours(uri: str) -> list[str | Path]:
    """Compose a linked clone by virtomate that has a seed for cloud-init."""
    *words, source, clone = clone_with_ours(uri, "linked")
    return [*words, "--seed", source, clone]


def clone_with_old(uri: str, mode: str, source: str = ORIGINAL) -> list[str | Path]:
    """Compose a clone by virtomate 0.1.2."""
    return [find_old(), "-c", uri, "domain-clone", "--mode", mode, source, CLONE]


def clone_with_virt_clone(uri: str, path: Path) -> list[str | Path]:
    """Compose a copy of a domain with one disk by virt-clone."""
    program = require_program("virt-clone", "virtinst")
    return [program, "--connect", uri, "--original", ORIGINAL, "--name", CLONE, "--file", path, "--quiet"]


def clone_to_host_with_ours(uri: str, other: str) -> list[str | Path]:
    """Compose a copy by virtomate on another host, through the connections."""
    return [find_ours(), "-c", uri, "--json", "domain-clone", "--to", other, "--transfer", "stream", ORIGINAL, CLONE]


def copy_to_host_with_virsh(uri: str, other: str, pool: str, volume: str, size_bytes: int) -> list[str | Path]:
    """Compose a copy of one volume on another host, in the pool of the same name, by two virsh and a pipe."""
    virsh = str(require_program("virsh", "libvirt-clients"))
    here, there = (shlex.join([virsh, "-q", "-c", one]) for one in (uri, other))
    script = (
        f"{there} vol-create-as {pool} {CLONE}.raw {size_bytes} --allocation 0 --format raw >&2 && "
        f"{here} vol-download --sparse --pool {pool} {volume} /dev/stdout | "
        f"{there} vol-upload --pool {pool} {CLONE}.raw /dev/stdin"
    )
    return ["/bin/bash", "-o", "pipefail", "-c", script]


def copy_with_cp(source: Path, path: Path, *, reflink: bool = False) -> list[str | Path]:
    """Compose a copy of one file by cp."""
    options = ["--reflink=always"] if reflink else ["--sparse=auto", "--reflink=never"]
    return [require_program("cp", "coreutils"), *options, source, path]


def link_with_qemu_img(source: Path, format_: str, path: Path) -> list[str | Path]:
    """Compose an overlay by qemu-img."""
    program = require_program("qemu-img", "qemu-utils")
    return [program, "create", "-q", "-f", "qcow2", "-b", source, "-F", format_, path]


def link_with_bare_calls(uri: str) -> list[str | Path]:
    """Compose a linked clone by the fewest libvirt calls."""
    return [sys.executable, Path(__file__).with_name("bare_libvirt.py"), uri, ORIGINAL, CLONE]


def clone_live_with_ours(uri: str, mode: str, count: int = 1) -> Argv:
    """Compose clones of a running domain by virtomate."""
    words: list[str | Path] = [
        find_ours(),
        "-c",
        uri,
        "--json",
        "domain-clone",
        "--live",
        "--mode",
        mode,
        ORIGINAL,
        CLONE,
    ]
    return words if count == 1 else [*numbered(words), "--count", str(count)]


def back_up_with_bare_calls(uri: str, format_: str, path: Path) -> Argv:
    """Compose a backup of a running domain with one disk by the fewest libvirt calls."""
    return [sys.executable, Path(__file__).with_name("bare_backup.py"), uri, ORIGINAL, format_, path]


def clone_many_with_ours(uri: str, mode: str, count: int, source: str = ORIGINAL) -> Argv:
    """Compose many clones by virtomate in one command."""
    return [*numbered(clone_with_ours(uri, mode, source)), "--count", str(count)]


def clone_many_with_old(uri: str, mode: str, count: int, source: str = ORIGINAL) -> Argv:
    """Compose many clones by virtomate 0.1.2, one after the other."""
    return _in_a_row(count, numbered(clone_with_old(uri, mode, source)))


def write_to_many(count: int, directory: Path) -> Argv:
    """Compose what the guests of many clones write."""
    program = require_program("qemu-io", "qemu-utils")
    argv: Argv = [program, "-f", "qcow2", "-c", "write 0 8M", directory / f"{CLONE}-{{}}.qcow2"]
    return _in_a_row(count, argv)


def flatten_with_ours(uri: str) -> Argv:
    """Compose the flattening of a linked clone by virtomate."""
    return [find_ours(), "-c", uri, "--json", "domain-flatten", CLONE]


def list_with_ours(uri: str, *options: str) -> Argv:
    """Compose a list of all domains by virtomate."""
    return [find_ours(), "-c", uri, "--json", "domain-list", *options]


def verify_with_ours(uri: str) -> Argv:
    """Compose the verification of all linked clones by virtomate."""
    return [find_ours(), "-c", uri, "--json", "domain-verify"]


def convert(source: Path, target: Path) -> Argv:
    """Compose a copy of a chain into one image by qemu-img."""
    program = require_program("qemu-img", "qemu-utils")
    return [program, "convert", "-f", "qcow2", "-O", "qcow2", source, target]


def reset_many(uri: str, count: int) -> Argv:
    """Compose the reset of many clones by virtomate in one command."""
    return [find_ours(), "-c", uri, "--json", "domain-reset", *(f"{CLONE}-{number + 1}" for number in range(count))]


def make_many_anew_with_old(uri: str, mode: str, count: int) -> Argv:
    """Compose the deletion of each clone by virsh, since virtomate 0.1.2 deletes none, and a new clone by it."""
    virsh = require_program("virsh", "libvirt-clients")
    delete = [virsh, "-q", "-c", uri, "undefine", f"{CLONE}-{{}}", "--remove-all-storage"]
    clone = numbered(clone_with_old(uri, mode))
    commands = (shlex.join(map(str, argv)) for argv in (delete, clone))
    return _in_a_row(count, ["sh", "-c", " && ".join(commands)])


def _in_a_row(count: int, argv: Argv) -> Argv:
    return [sys.executable, "-I", "-S", Path(__file__).with_name("in_a_row.py"), str(count), *argv]


def scan(uri: str) -> list[str | Path]:
    """Compose a look at all definitions of a host by bare libvirt calls."""
    return [sys.executable, Path(__file__).with_name("scan.py"), uri]


def clone_with(program: Path, uri: str) -> list[str | Path]:
    """Compose a copy by a virtomate, which need not understand what another version writes down of its clones."""
    return [program, "-c", uri, "--json", "domain-clone", ORIGINAL, CLONE]


def delete_with(program: Path, uri: str) -> list[str | Path]:
    """Compose the deletion of a clone by a virtomate."""
    return [program, "-c", uri, "--json", "domain-delete", "--yes", CLONE]


def clone_one_by_one(uri: str) -> list[str | Path]:
    """Compose a copy by virtomate that takes one volume after the other."""
    script = Path(__file__).with_name("one_at_a_time.py")
    return [sys.executable, script, "-c", uri, "--json", "domain-clone", ORIGINAL, CLONE]


def note_transfers(stdout: str) -> str:
    """Say how virtomate duplicated the disks, by its JSON."""
    notes = set()
    for clone in json.loads(stdout):
        for disk in clone["disks"]:
            notes.add(disk["transfer"] + (", subclusters" if disk.get("subclusters") else ""))
    return "; ".join(sorted(notes))


def make_environment(home: Path) -> dict[str, str]:
    """Return what every program gets: nothing of the caller's but the search path."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}


def _installed(path: Path) -> Path:
    if not path.exists():
        raise SystemExit(f"{path} is missing; run the benchmark by nox -s bench, which installs it")
    return path
