"""Images that are nothing but a header."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DATA_FILE = 0x44415441


def write_qcow2(path: Path, below: str | Path | None = None, *, data_file: str | Path | None = None) -> Path:
    """Write the header of a qcow2 that names another file below it, or one with its data."""
    name = b"" if below is None else str(below).encode()
    extensions = b""
    if data_file is not None:
        content = str(data_file).encode()
        extensions = struct.pack(">II", _DATA_FILE, len(content)) + content + bytes(-len(content) % 8)
    extensions += bytes(8)
    offset = 104 + len(extensions) if name else 0
    fields = struct.pack(">4sIQI", b"QFI\xfb", 3, offset, len(name)).ljust(72, b"\0")
    fields += struct.pack(">QQQII", 0 if data_file is None else 4, 0, 0, 4, 104)
    path.write_bytes((fields + extensions + name).ljust(4096, b"\0"))
    return path


def write_qed(path: Path, below: Path) -> Path:
    """Write the header of a qed that names another file below it."""
    name = str(below).encode()
    fields = struct.pack("<4sIIIQQQQQII", b"QED\0", 65536, 4, 1, 1, 0, 0, 65536, 1, 64, len(name))
    path.write_bytes((fields + name).ljust(4096, b"\0"))
    return path
