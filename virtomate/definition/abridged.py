"""Definitions that replace those that libvirt cannot send: what is known about the domains otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from virtomate.definition import PROVENANCE_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable


def abridged_definition(name: str, uuid: str, disk_paths: Iterable[str], record: str | None) -> str:
    """Return a definition with a domain's disks and our record, and nothing else.

    Args:
        name: The domain's name.
        uuid: The domain's UUID.
        disk_paths: Paths of the disks.
        record: Our element in the metadata, if there is one; libvirt returns it without the namespace.
    """
    disks = "".join(f"<disk type='file' device='disk'><source file={quoteattr(path)}/></disk>" for path in disk_paths)
    metadata = "" if record is None else f"<metadata>{_with_namespace(record)}</metadata>"
    return (
        f"<domain><name>{escape(name)}</name><uuid>{escape(uuid)}</uuid>{metadata}<devices>{disks}</devices></domain>"
    )


def _with_namespace(record: str) -> str:
    """Return the element with its namespace, which libvirt removes."""
    if PROVENANCE_NAMESPACE in record.partition(">")[0]:
        return record
    name = record[1:].split(maxsplit=1)[0].rstrip("/>")
    return record.replace(f"<{name}", f"<{name} xmlns={quoteattr(PROVENANCE_NAMESPACE)}", 1)
