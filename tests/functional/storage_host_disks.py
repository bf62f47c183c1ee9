"""Disks of all kinds on the storage host, and what tests of them share."""

import hashlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any

from tests.functional.runs import wait_for
from tests.lab import Program, Result, disk, domain
from tests.lab.images import MIB, marker_block
from tests.lab.program import PAUSING
from tests.lab.storage_host import PROGRAM, StorageHost

EXTENT_BYTES = 4 * MIB
# Not a multiple of the extents of a volume group.
FILE_BYTES = 22 * MIB + 1536
FILES = "/srv/clones"
RUBBISH_MIB = 128


@dataclass(frozen=True)
class Original:
    """A disk of the original.

    Attributes:
        path: where it is.
        form: its format.
        number: of what is on it, see `content`.
        size_bytes: its capacity.
    """

    path: str
    form: str
    number: int
    size_bytes: int


def pieces(number: int, size_bytes: int) -> list[tuple[int, bytes]]:
    """Return what is on a disk, with the offsets: little data, with a marker for the guest; all else is zero."""
    block = hashlib.shake_128(bytes([number])).digest(64 * 1024)
    return [(0, marker_block(f"disk {number}")), (5 * MIB, block), (size_bytes - 512, block[:512])]


def make_reference(host: StorageHost, number: int, size_bytes: int) -> None:
    """Make a sparse file with what is on a disk; comparing with a file is much faster on the host than a checksum."""
    host.run(f"truncate --size {size_bytes} /srv/reference-{number}")
    write_content(host, f"/srv/reference-{number}", number, size_bytes)


def check_content(host: StorageHost, path: str, number: int, size_bytes: int) -> None:
    """Make sure that a device or a file has the content of a disk, and zeroes behind that up to a size."""
    reference = f"/srv/reference-{number}"
    host.run(f"truncate --size {size_bytes} {reference} && cmp {path} {reference}")


def check_volume(host: StorageHost, path: str, number: int, size_bytes: int) -> None:
    """Do the same with what libvirt reads from a volume; on the host, since SSH is slow there."""
    host.run(f"virsh -q vol-download --sparse {path} /tmp/downloaded")
    check_content(host, "/tmp/downloaded", number, size_bytes)


def write_content(host: StorageHost, path: str, number: int, size_bytes: int) -> None:
    """Write what is on a disk to a device or a file that reads as zeroes."""
    for offset, piece in pieces(number, size_bytes):
        host.write(path, piece, offset)


def make_originals(host: StorageHost) -> dict[str, Original]:
    """Define the domain `original` with a disk of each kind, in pools but for the thin volume, which libvirt 9.0 hides.

    Clones go to the pools `clones`, a directory, and `vg`.
    """
    host.make_directory_pool("clones", FILES)
    thick, thin = host.make_lv("original-thick", 24), host.make_thin("original-thin", 24)
    host.run("sfdisk --quiet --wipe always /dev/vdc", stdin=b"label: gpt\n,22MiB\n")
    originals = {
        "vda": Original(f"{FILES}/original.raw", "raw", 0, FILE_BYTES),
        "vdb": Original(f"{FILES}/original.qcow2", "qcow2", 0, FILE_BYTES),
        "vdc": Original(thick, "raw", 1, 24 * MIB),
        "vdd": Original(thin, "raw", 2, 24 * MIB),
        "vde": Original("/dev/vdc1", "raw", 3, 22 * MIB),
    }
    host.run(f"truncate --size {FILE_BYTES} {FILES}/original.raw; blkdiscard --zeroout {thick} && udevadm settle")
    host.run("blkdiscard --zeroout /dev/vdc1")
    for original in originals.values():
        if original.form == "raw":
            write_content(host, original.path, original.number, original.size_bytes)
            make_reference(host, original.number, original.size_bytes)
    host.run(f"qemu-img convert -f raw -O qcow2 {FILES}/original.raw {FILES}/original.qcow2")
    host.run(f"cp {FILES}/original.qcow2 /srv/reference.qcow2")
    host.make_pool("logical", "vg")
    host.connection.storagePoolCreateXML(
        "<pool type='disk'><name>parts</name><source><device path='/dev/vdc'/><format type='gpt'/></source>"
        "<target><path>/dev</path></target></pool>"
    )
    host.connection.storagePoolLookupByName("clones").refresh()
    disks = [disk(original.path, original.form, target) for target, original in originals.items()]
    host.connection.defineXML(domain("original", disks=disks))
    return originals


def rounded(size_bytes: int) -> int:
    """Return the size of a logical volume for so many bytes."""
    return -(-size_bytes // EXTENT_BYTES) * EXTENT_BYTES


def leave_rubbish(host: StorageHost) -> set[int]:
    """Fill the part of the volume group that the next volumes get, and return the numbers of its extents."""
    path = host.make_lv("stale", RUBBISH_MIB)
    host.run(f"yes | dd of={path} bs=1M count={RUBBISH_MIB} iflag=fullblock conv=fsync status=none")
    found = extents(host, path)
    host.run(f"lvremove --yes {path}")
    return found


def extents(host: StorageHost, path: str) -> set[int]:
    """Return the numbers of the extents of a logical volume."""
    found: set[int] = set()
    for part in host.run(f"lvs --noheadings --segments -o seg_pe_ranges {path}").split():
        first, last = part.rpartition(":")[2].split("-")
        found |= set(range(int(first), int(last) + 1))
    return found


def check_originals(host: StorageHost, originals: dict[str, Original]) -> None:
    """Make sure that all disks of the original are what they were."""
    for original in originals.values():
        if original.form == "raw":
            check_content(host, original.path, original.number, original.size_bytes)
        else:
            host.run(f"cmp {original.path} /srv/reference.qcow2")


def without(*targets: str) -> list[str]:
    """Return options that leave out disks."""
    return [word for target in targets for word in ("--disk", f"{target}=drop")]


def virtomate_at(host: StorageHost, virtomate: Program, *words: str, inside: bool, json: bool = False) -> Result:
    """Run the program on the host itself, or here."""
    return host.virtomate(*words, json=json) if inside else virtomate(*words, json=json, uri=host.uri)


def made_of_clones(host: StorageHost) -> list[str]:
    """Return the names of domains, files and logical volumes that clones left."""
    domains = [found.name() for found in host.connection.listAllDomains() if found.name() != "original"]
    names = host.run(f"ls -A {FILES} /dev/vg").split()
    return domains + [name for name in names if not name.startswith(("original", "/", "thinpool"))]


@contextmanager
def paused_on_host(host: StorageHost, moment: str, *words: str) -> Iterator[tuple[Any, str]]:
    """Have the program stand still on the host at a moment, see `pausing.py`; yield its ssh and its process ID."""
    host.run(f"cat >{PROGRAM}/pausing.py", stdin=PAUSING.read_bytes())
    line = shlex.join(host.argv(*words)).replace("-m virtomate", f"{PROGRAM}/pausing.py {shlex.quote(moment)}", 1)
    with host.start(f"echo $$; exec {line}", stdout=PIPE) as run:
        assert run.stdout is not None
        pid = run.stdout.readline().decode().strip()
        state = f"sed 's/.*) //' /proc/{pid}/stat | cut -c1"
        wait_for(lambda: run.poll() is not None or host.run(state).strip() == "T", "it stands still on the host")
        assert run.poll() is None, "It ended instead"
        yield run, pid
