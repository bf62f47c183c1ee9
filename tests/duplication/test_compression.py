"""Compressed files are told by their first bytes, and unpacked by the command that is shown."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from virtomate.duplication.compression import detect_compression, unpack_command

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"content\n" * 100
# by zstd 1.5.4, of nothing
ZSTD = bytes.fromhex("28b52ffd240001000099e9d851")


def zipped(content: bytes | None) -> bytes:
    """A zip archive of one file, or of none."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        if content is not None:
            opened.writestr(zipfile.ZipInfo("disk.img"), content)
    return archive.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (gzip.compress(CONTENT, mtime=0), "gzip"),
        (gzip.compress(b"", mtime=0), "gzip"),
        (bz2.compress(CONTENT), "bzip2"),
        (bz2.compress(b"", 1), "bzip2"),
        (lzma.compress(CONTENT), "xz"),
        (ZSTD, "zstd"),
        (zipped(CONTENT), "zip"),
        (zipped(None), "zip"),
        (b"", None),
        (CONTENT, None),
        (b"BZh9 is a word", None),
        (b"PK and more", None),
        (b"\x1f\x8b", None),
        (b" " + gzip.compress(CONTENT, mtime=0), None),
    ],
)
def test_kinds(data: bytes, name: str | None) -> None:
    """The first bytes decide, of an empty content, too."""
    found = detect_compression(data)

    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("data", "path", "command"),
    [
        (lzma.compress(b""), "a.qcow2.xz", "xz -dc < a.qcow2.xz > a.qcow2"),
        (bz2.compress(b""), "/srv/my disk.img.BZ2", "bzip2 -dc < '/srv/my disk.img.BZ2' > '/srv/my disk.img'"),
        (ZSTD, "it's.raw.zst", """zstd -dc < 'it'"'"'s.raw.zst' > 'it'"'"'s.raw'"""),
        (gzip.compress(b"", mtime=0), "a.xz", "gzip -dc < a.xz > a-unpacked.xz"),
        (gzip.compress(b"", mtime=0), "disk", "gzip -dc < disk > disk-unpacked"),
        (zipped(None), "a.img.zip", "unzip a.img.zip"),
        (zipped(None), "-a b.zip", "unzip './-a b.zip'"),
        (gzip.compress(b"", mtime=0), "host:a.tar.gz", "tar -xf ./host:a.tar.gz"),
        (lzma.compress(b""), "a.TXZ", "tar -xf a.TXZ"),
    ],
)
def test_commands(data: bytes, path: str, command: str) -> None:
    """The program is that of the content, the new name that of the file without what its content is called."""
    found = detect_compression(data)

    assert found is not None
    assert unpack_command(found, path, lambda taken: taken == path) == command


@pytest.mark.parametrize(
    "name",
    ["a.img.gz", "-rf.img.gz", "my disk's.img.gz", "$(id)`id`.img.gz", "a\n\x1b[31m\\\u202e\udcff'.img.gz", "~.gz"],
)
def test_commands_do_what_they_should(tmp_path: Path, name: str) -> None:
    """Whatever the file is called, a shell unpacks it beside it, keeps it, and overwrites nothing."""
    compressed = gzip.compress(CONTENT, mtime=0)
    (tmp_path / name).write_bytes(compressed)
    stem = name.removesuffix(".gz")
    base, dot, ending = stem.rpartition(".")
    (tmp_path / stem).write_bytes(b"precious")
    second, third = (f"{base or ending}{word}{dot}{ending if base else ''}" for word in ("-unpacked", "-unpacked-2"))
    (tmp_path / second).write_bytes(b"precious, too")
    found = detect_compression(compressed)
    assert found is not None

    command = unpack_command(found, name, lambda path: os.path.lexists(tmp_path / path))
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)

    assert command.isprintable()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        name: compressed,
        stem: b"precious",
        second: b"precious, too",
        third: CONTENT,
    }


def test_archives_of_files_are_unpacked_as_such(tmp_path: Path) -> None:
    """What tar has packed and gzip compressed is unpacked by tar."""
    (tmp_path / "disk.img").write_bytes(CONTENT)
    path = tmp_path / "host:a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "disk.img", "new.img")
    found = detect_compression(path.read_bytes())
    assert found is not None

    subprocess.run(["bash", "-c", unpack_command(found, path.name, lambda _: False)], cwd=tmp_path, check=True)

    assert (tmp_path / "new.img").read_bytes() == CONTENT
