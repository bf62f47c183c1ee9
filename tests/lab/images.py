"""Disk images with known content, and ways to tell what a guest would read from one."""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.lab.programs import require_program, run
from tests.lab.workspace import Workspace

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

BLOCK_BYTES = 64 * KIB
MARKER_PREFIX = b"LAB-DISK "
_ENCRYPTING_ATTEMPTS = 50

Extent = tuple[int, int]


def qemu_img(*words: str | Path) -> bytes:
    """Call qemu-img, again where it was to encrypt: sometimes it fails to find out how fast this machine is."""
    program = require_program("qemu-img", "qemu-utils")
    attempts = _ENCRYPTING_ATTEMPTS if any("luks" in str(word) for word in words) else 1
    for _ in range(attempts - 1):
        with suppress(RuntimeError):
            return run(program, *words)
    return run(program, *words)


def qemu_io(path: Path, format_: str, *commands: str) -> None:
    """Have qemu-io carry out commands on an image, as a guest would: through its format."""
    words = [word for command in commands for word in ("-c", command)]
    said = run(require_program("qemu-io", "qemu-utils"), "-f", format_, *words, path)
    # It ends with 0 whatever becomes of its commands.
    if b"failed" in said or b"error" in said.lower():
        raise RuntimeError(f"qemu-io {commands}: {said.decode(errors='replace')}")


def content(seed: int, size_bytes: int) -> bytes:
    """Return pseudo-random bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size_bytes)


def marker_block(marker: str) -> bytes:
    """Return the first bytes of a disk whose guest is to report this marker."""
    return (MARKER_PREFIX + marker.encode() + b"\n").ljust(512, b"\0")


def scattered(capacity_bytes: int, data_bytes: int) -> list[Extent]:
    """Return extents of 1 MiB at most, spread evenly over a disk, that hold so much data together."""
    count = max(1, -(-data_bytes // MIB))
    step = max(MIB, capacity_bytes // count // BLOCK_BYTES * BLOCK_BYTES)
    extents = []
    for index in range(count):
        length = min(MIB, data_bytes - index * MIB, capacity_bytes - index * step)
        if length > 0:
            extents.append((index * step, length))
    return extents


def make_raw(
    path: Path,
    capacity_bytes: int,
    *,
    data_bytes: int | None = None,
    extents: Sequence[Extent] | None = None,
    seed: int = 1,
    marker: str | None = None,
) -> Path:
    """Make a raw image: a hole but for the extents given, or for so much data spread over it; by default 1/8 of it.

    Args:
        path: the file to make; it must not exist.
        capacity_bytes: its size.
        data_bytes: how much of it is data. As much as its capacity makes a full image, 0 one that is all hole.
        extents: where the data is, as offset and length; instead of `data_bytes`.
        seed: which pseudo-random data it is.
        marker: what the guest reports of the disk; written at its beginning.
    """
    if extents is None:
        extents = scattered(capacity_bytes, capacity_bytes // 8 if data_bytes is None else data_bytes)
    with path.open("xb") as file:
        file.truncate(capacity_bytes)
        for index, (offset, length) in enumerate(extents):
            file.seek(offset)
            file.write(content(seed * 1_000_003 + index, length))
        if marker is not None:
            file.seek(0)
            file.write(marker_block(marker))
    return path


def make_qcow2(
    path: Path,
    capacity_bytes: int,
    *,
    data_bytes: int | None = None,
    extents: Sequence[Extent] | None = None,
    seed: int = 1,
    marker: str | None = None,
    compat: str = "1.1",
    cluster_bytes: int = 64 * KIB,
    options: Sequence[str] = (),
    snapshots: Sequence[str] = (),
) -> Path:
    """Make a qcow2 image with the content that `make_raw` would give.

    Args:
        path: the file to make; it must not exist.
        capacity_bytes: its virtual size.
        data_bytes: as for `make_raw`.
        extents: as for `make_raw`.
        seed: as for `make_raw`.
        marker: as for `make_raw`.
        compat: its version, "0.10" or "1.1".
        cluster_bytes: the size of its clusters.
        options: further creation options (`lazy_refcounts=on`, `extended_l2=on`, `data_file=…`).
        snapshots: names of internal snapshots; after each, a part of the disk is overwritten, so that they differ.
    """
    if path.exists():
        raise FileExistsError(path)
    settings = ",".join([f"compat={compat}", f"cluster_size={cluster_bytes}", *options])
    with Workspace() as scratch:
        raw = make_raw(
            scratch.directory / "raw", capacity_bytes, data_bytes=data_bytes, extents=extents, seed=seed, marker=marker
        )
        qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", settings, raw, path)
    for number, name in enumerate(snapshots):
        qemu_img("snapshot", "-c", name, path)
        qemu_io(path, "qcow2", f"write -P {17 + number} {capacity_bytes // 2} {cluster_bytes}")
    return path


def make_chains(directory: Path, count: int, length: int) -> list[Path]:
    """Make many small qcow2 images that rest on each other, `length` of them in a row, and return the topmost ones.

    All but the first two are copies with other names in them, so that thousands take a moment.
    """

    def path(level: int, number: int) -> Path:
        return directory / f"chain-{number:05}-{level:02}.qcow2"

    qemu_img("create", "-q", "-f", "qcow2", path(0, 0), str(MIB))
    bottom = path(0, 0).read_bytes()
    if length > 1:
        qemu_img("create", "-q", "-f", "qcow2", "-b", path(0, 0).name, "-F", "qcow2", path(1, 0))
    overlay = path(1, 0).read_bytes() if length > 1 else b""
    for number in range(count):
        for level in range(length):
            below = path(level - 1, number).name.encode()
            content = overlay.replace(path(0, 0).name.encode(), below) if level else bottom
            path(level, number).write_bytes(content)
    return [path(length - 1, number) for number in range(count)]


def make_overlay(
    path: Path, backing: Path, backing_format: str, *, compat: str = "1.1", marker: str | None = None, pattern: int = 0
) -> Path:
    """Make a qcow2 overlay; with a marker or a pattern (1 to 255) it holds data of its own."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", "-b", backing, "-F", backing_format, path)
    if pattern:
        qemu_io(path, "qcow2", f"write -P {pattern} 1M 64k")
    if marker is not None:
        write_marker(path, "qcow2", marker)
    return path


def write_marker(path: Path, format_: str, marker: str, *, last_mib: bool = False) -> None:
    """Write a disk's marker at its beginning or, on bootable disks, at the beginning of its last MiB."""
    offset = 0
    if last_mib:
        offset = virtual_size(path, format_) - MIB
    with Workspace() as scratch:
        block = scratch.directory / "block"
        block.write_bytes(marker_block(marker))
        qemu_io(path, format_, f"write -s {block} {offset} 512")


def virtual_size(path: Path, format_: str) -> int:
    """Return the capacity that a guest sees."""
    described = qemu_img("info", "--force-share", "-f", format_, path).decode()
    (line,) = (line for line in described.splitlines() if line.startswith("virtual size:"))
    return int(line.split("(")[1].split(" bytes")[0])


def allocated_bytes(path: Path) -> int:
    """Return how much of the file is allocated on its file system."""
    return path.stat().st_blocks * 512


def guest_digest(path: Path, format_: str) -> str:
    """Return a digest of everything that a guest reads from an image, the chain below it included."""
    # Not beside the image, where libvirt would take the scratch file for a volume.
    with Workspace() as scratch:
        raw = scratch.directory / "raw"
        qemu_img("convert", "--force-share", "-f", format_, "-O", "raw", path, raw)
        return file_digest(raw)


def same_content(one: Path, one_format: str, other: Path, other_format: str) -> bool:
    """Tell whether a guest reads the same from two images, which includes their size."""
    return guest_digest(one, one_format) == guest_digest(other, other_format)


def make_iso(path: Path, label: str) -> Path:
    """Make an ISO 9660 file system without files: as much of one as tells its label (ECMA-119, 8.4)."""
    sector, sectors = 2048, 20
    descriptor = bytearray(sector)
    descriptor[:7] = b"\x01CD001\x01"
    descriptor[40:72] = label.encode().ljust(32)
    descriptor[80:88] = sectors.to_bytes(4, "little") + sectors.to_bytes(4, "big")
    descriptor[128:132] = sector.to_bytes(2, "little") + sector.to_bytes(2, "big")
    terminator = b"\xffCD001\x01".ljust(sector, b"\0")
    with path.open("xb") as file:
        file.seek(16 * sector)
        file.write(descriptor + terminator)
        file.truncate(sectors * sector)
    return path


def file_digest(path: Path) -> str:
    """Return a digest of a file's size and bytes that costs no more than its data: holes and zeros count the same."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        for offset in _data_blocks(file.fileno(), size):
            block = os.pread(file.fileno(), BLOCK_BYTES, offset)
            if block.count(0) != len(block):
                digest.update(offset.to_bytes(8, "big"))
                digest.update(block)
    return digest.hexdigest()


def _data_blocks(descriptor: int, size: int) -> Iterable[int]:
    """Return the offset of each block that is not wholly in a hole, in order."""

    def blocks() -> Iterator[int]:
        block = 0
        while block < size:
            try:
                data = os.lseek(descriptor, block, os.SEEK_DATA)
            except OSError:
                return
            hole = os.lseek(descriptor, data, os.SEEK_HOLE)
            block = max(block, data // BLOCK_BYTES * BLOCK_BYTES)
            while block < hole:
                yield block
                block += BLOCK_BYTES

    return blocks()
