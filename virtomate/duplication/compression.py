"""Compressed files, which are not images: their first bytes, and the programs that unpack them.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), https://tukaani.org/xz/xz-file-format.txt, APPNOTE.TXT of PKWARE (zip). The
magic number of bzip2 is followed by that of the first block, or of the end of an empty file.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple
from virtomate.words import shell_word

if TYPE_CHECKING:
    from collections.abc import Callable

_TARS = {".tgz", ".tbz", ".tbz2", ".txz", ".tzst"}


class Compression(NamedTuple):
    """A kind of compressed file, with the first bytes and the endings of names, in lower case, of such files.

    The program unpacks such a file from input to output; an archive of files has none.
    """

    name: str
    magic: re.Pattern[bytes]
    program: str | None
    suffixes: frozenset[str]


_COMPRESSIONS = (
    Compression("gzip", re.compile(rb"\x1f\x8b\x08"), "gzip", frozenset({".gz"})),
    Compression(
        "bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"), "bzip2", frozenset({".bz2", ".bz"})
    ),
    Compression("xz", re.compile(rb"\xfd7zXZ\0"), "xz", frozenset({".xz"})),
    Compression("zstd", re.compile(rb"\x28\xb5\x2f\xfd"), "zstd", frozenset({".zst", ".zstd"})),
    Compression("zip", re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)"), None, frozenset({".zip"})),
)


def detect_compression(data: bytes) -> Compression | None:
    """Return the kind of a compressed file by its first bytes, whatever its name; None for any other file."""
    return next((kind for kind in _COMPRESSIONS if kind.magic.match(data)), None)


def unpack_command(compression: Compression, path: str, is_taken: Callable[[str], bool]) -> str:
    """Return a shell command that unpacks a file beside it, into a name that is not taken."""
    stem, suffix = posixpath.splitext(path)
    # "-" would begin an option, and tar takes "HOST:" for another host
    operand = f"./{path}" if path.startswith("-") or (":" in path and not path.startswith("/")) else path
    if compression.program is None:
        return f"unzip {shell_word(operand)}"
    if suffix.lower() in _TARS or (suffix.lower() in compression.suffixes and stem.lower().endswith(".tar")):
        return f"tar -xf {shell_word(operand)}"
    new = stem if suffix.lower() in compression.suffixes else path
    base, ending = posixpath.splitext(new)
    number = 1
    while is_taken(new):
        new = f"{base}-unpacked{'' if number == 1 else f'-{number}'}{ending}"
        number += 1
    return f"{compression.program} -dc < {shell_word(path)} > {shell_word(new)}"
