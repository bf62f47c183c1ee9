"""Labels of file systems; what is made here by hand is shown to blkid, too."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.lab.images import make_iso, qemu_img
from tests.lab.programs import require_program, run
from virtomate.duplication.labels import LABEL_BYTES, TOKEN_OFFSET, file_system_label, iso_token, token_field

if TYPE_CHECKING:
    from pathlib import Path


def label_of(path: Path) -> str | None:
    """The label by the first bytes of a file, which blkid finds as well."""
    with path.open("rb") as file:
        label = file_system_label(file.read(LABEL_BYTES))
    blkid = run(require_program("blkid", "util-linux"), "-p", "-o", "value", "-s", "LABEL", path).decode()
    assert blkid.strip() == (label or "")
    return label


@pytest.mark.parametrize("label", ["cidata", "config-2", "OEMDRV", "x" * 32])
def test_iso(tmp_path: Path, label: str) -> None:
    """The label of an ISO 9660 file system is that of its primary volume descriptor."""
    assert label_of(make_iso(tmp_path / "seed.iso", label)) == label


@pytest.mark.parametrize("bits", ["12", "16"])
def test_fat(tmp_path: Path, bits: str) -> None:
    """The label of a FAT file system is in its root directory."""
    (tmp_path / "content").mkdir()
    (tmp_path / "content/meta-data").write_text("instance-id: web\n")
    image = tmp_path / "seed.img"
    source = f"driver=vvfat,dir={tmp_path / 'content'},label=cidata,floppy=on,fat-type={bits}"
    qemu_img("convert", "--image-opts", source, "-O", "raw", image)

    assert label_of(image) == "cidata"


def make_fat(path: Path, *, tables: int, entries: bytes, in_boot_sector: bytes, is_32: bool = False) -> Path:
    """A FAT file system with this root directory, and this label in its boot sector.

    Args:
        path: Where it is made.
        tables: Sectors of each of its two allocation tables.
        entries: Content of the root directory.
        in_boot_sector: The label there.
        is_32: Whether it is FAT32, and not FAT16.
    """
    boot = bytearray(512)
    sectors = 70_000 if is_32 else 40_000
    boot[:11] = b"\xeb\x3c\x90MSWIN4.1"
    entry_count = 0 if is_32 else 512
    struct.pack_into(
        "<HBHBHHBHHHII", boot, 11, 512, 1, 32, 2, entry_count, 0, 0xF8, 0 if is_32 else tables, 32, 64, 0, sectors
    )
    if is_32:
        struct.pack_into("<IHHIHH", boot, 36, tables, 0, 0, 2, 1, 6)
    at = 64 if is_32 else 36
    struct.pack_into(
        "<BBBI11s8s", boot, at, 0x80, 0, 0x29, 1, in_boot_sector.ljust(11), b"FAT32" if is_32 else b"FAT16"
    )
    boot[510:] = b"\x55\xaa"
    with path.open("wb") as file:
        file.write(boot)
        file.seek((32 + 2 * tables) * 512)
        file.write(entries)
        file.truncate(sectors * 512)
    return path  # fmt: skip


def entry(name: bytes, attributes: int) -> bytes:
    """An entry of a directory."""
    return name.ljust(11) + bytes([attributes]) + bytes(20)


LONG_NAME = entry(b"\x41a\x00b\x00c\x00", 0x0F)
FILE, LABEL = 0x20, 0x08


@pytest.mark.parametrize("is_32", [False, True], ids=["FAT16", "FAT32"])
@pytest.mark.parametrize(
    ("entries", "label"),
    [
        (entry(b"CIDATA", LABEL), "CIDATA"),
        (LONG_NAME + entry(b"META-DATA", FILE) + entry(b"CIDATA", LABEL), "CIDATA"),
        (entry(b"\xe5LD", LABEL) + entry(b"config-2", LABEL), "config-2"),
        (entry(b"META-DATA", FILE), "BOOT"),
        (b"", "BOOT"),
    ],
)
def test_label_in_the_root_directory_counts(tmp_path: Path, is_32: bool, entries: bytes, label: str) -> None:
    """The label in the boot sector counts where the root directory has none."""
    tables = 40 if not is_32 else 12
    image = make_fat(tmp_path / "a.img", tables=tables, entries=entries, in_boot_sector=b"BOOT", is_32=is_32)

    assert file_system_label(image.read_bytes()[:LABEL_BYTES]) == label


def test_root_directory_beyond_what_is_read(tmp_path: Path) -> None:
    """Of a large file system only the boot sector is seen."""
    image = make_fat(
        tmp_path / "a.img", tables=600, entries=entry(b"ROOT", LABEL), in_boot_sector=b"cidata", is_32=True
    )

    assert file_system_label(image.read_bytes()[:LABEL_BYTES]) == "cidata"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        bytes(LABEL_BYTES),
        b"\xff" * LABEL_BYTES,
        bytes(510) + b"\x55\xaa",
        bytes(32768) + b"\x01CD001",
        b"QFI\xfb" + bytes(600),
    ],
)
def test_no_label(head: bytes) -> None:
    """What is no such file system, or has been cut short, has no label."""
    assert file_system_label(head) is None


def test_token(tmp_path: Path) -> None:
    """A token stands in a field that nobody else uses, and only in a file system of ours is it one."""
    image = bytearray(make_iso(tmp_path / "a.iso", "cidata").read_bytes())
    assert iso_token(bytes(image)) is None
    field = token_field("uuid:random")
    image[TOKEN_OFFSET : TOKEN_OFFSET + len(field)] = field

    assert iso_token(bytes(image[:LABEL_BYTES])) == "uuid:random"
    assert file_system_label(bytes(image)) == "cidata"
    assert iso_token(bytes(32768) + bytes(image[32768 + 8 :])) is None
    assert iso_token(b"") is None
