"""Labels of file systems, and tokens in those that we make, by the first bytes of a file system."""

from __future__ import annotations

import struct

# Enough for the volume descriptor of ISO 9660, and for the root directory of a small FAT file system.
LABEL_BYTES = 64 << 10

# ECMA-119, 8.4: the primary volume descriptor is in sector 16 of 2,048 bytes.
_ISO_DESCRIPTOR = 16 * 2048
_ISO_SIGNATURE = b"\x01CD001"
_ISO_LABEL = slice(_ISO_DESCRIPTOR + 40, _ISO_DESCRIPTOR + 72)
# ECMA-119, 8.4.32: 512 bytes for the use of whoever makes the file system
TOKEN_OFFSET = _ISO_DESCRIPTOR + 883
_TOKEN_FIELD_BYTES = 512
_TOKEN_MARK = b"virtomate:"

# Microsoft's FAT specification, 3 and 6
_FAT_SIGNATURE = b"\x55\xaa"
_FAT_SECTOR_SIZES = frozenset({512, 1024, 2048, 4096})
_FAT_EXTENDED = 0x29
_FAT_ENTRY_BYTES = 32
_FAT_IS_LABEL = 0x08
_FAT_DELETED = 0xE5


def file_system_label(head: bytes) -> str | None:
    """Return the label of an ISO 9660 or FAT file system by its first `LABEL_BYTES`; None for any other content."""
    return _text(head[_ISO_LABEL]) if head.startswith(_ISO_SIGNATURE, _ISO_DESCRIPTOR) else _fat_label(head)


def token_field(token: str) -> bytes:
    """Return what stands at `TOKEN_OFFSET` in an ISO 9660 file system with a token."""
    return (_TOKEN_MARK + token.encode()).ljust(_TOKEN_FIELD_BYTES, b"\0")


def iso_token(head: bytes) -> str | None:
    """Return the token in an ISO 9660 file system, by its first `LABEL_BYTES`, if there is one."""
    field = head[TOKEN_OFFSET : TOKEN_OFFSET + _TOKEN_FIELD_BYTES]
    if not head.startswith(_ISO_SIGNATURE, _ISO_DESCRIPTOR) or not field.startswith(_TOKEN_MARK):
        return None
    return field.removeprefix(_TOKEN_MARK).rstrip(b"\0").decode(errors="replace")


def _fat_label(head: bytes) -> str | None:
    """Return the label in the root directory, which counts; else that in the boot sector, which may be out of date."""
    if head[510:512] != _FAT_SIGNATURE:
        return None
    sector, cluster_sectors, reserved, tables, root_entries = struct.unpack_from("<HBHBH", head, 11)
    if sector not in _FAT_SECTOR_SIZES or not cluster_sectors or not tables:
        return None
    (table_sectors,) = struct.unpack_from("<H", head, 22)
    at_signature, at_label = 38, 43
    begin = (reserved + tables * table_sectors) * sector
    length = root_entries * _FAT_ENTRY_BYTES
    if not table_sectors:
        # FAT32 has a file for the root directory: the first cluster is enough
        table_sectors, root_cluster = struct.unpack_from("<I4xI", head, 36)
        at_signature, at_label = 66, 71
        length = cluster_sectors * sector
        begin = (reserved + tables * table_sectors) * sector + (root_cluster - 2) * length
    label = _label_entry(head[begin : begin + length])
    if label is None and head[at_signature] == _FAT_EXTENDED:
        label = head[at_label : at_label + 11]
    return None if label is None else _text(label)


def _label_entry(directory: bytes) -> bytes | None:
    for offset in range(0, len(directory) - _FAT_ENTRY_BYTES + 1, _FAT_ENTRY_BYTES):
        entry = directory[offset : offset + _FAT_ENTRY_BYTES]
        if entry[0] == 0:
            return None
        # an entry for a long name has all four bits set
        if entry[11] & 0x0F == _FAT_IS_LABEL and entry[0] != _FAT_DELETED:
            return entry[:11]
    return None


def _text(label: bytes) -> str | None:
    return label.decode("latin-1").rstrip(" \0") or None
