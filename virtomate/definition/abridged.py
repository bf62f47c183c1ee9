"""Definitions in the place of those that libvirt cannot send: they hold what is known of a domain without them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from virtomate.definition import PROVENANCE_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable


def abridged_definition(name: str, uuid: str, disk_paths: Iterable[str], record: str | None) -> str:
    """The text of a definition with a domain's disks and our record in it, and nothing else.

    Args:
        name: The domain's name.
        uuid: Its UUID.
        disk_paths: What its disks are, as far as they have a path.
        record: Our element in its metadata, without the namespace that libvirt takes away from it; None for no element.
    """
    disks = "".join(f"<disk type='file' device='disk'><source file={quoteattr(path)}/></disk>" for path in disk_paths)
    metadata = "" if record is None else f"<metadata>{_with_namespace(record)}</metadata>"
    return (
        f"<domain><name>{escape(name)}</name><uuid>{escape(uuid)}</uuid>{metadata}<devices>{disks}</devices></domain>"
    )


def _with_namespace(record: str) -> str:
    """The element in its namespace; libvirt tells only that it belongs to the one that was asked for."""
    if PROVENANCE_NAMESPACE in record.partition(">")[0]:
        return record
    name = record[1:].split(maxsplit=1)[0].rstrip("/>")
    return record.replace(f"<{name}", f"<{name} xmlns={quoteattr(PROVENANCE_NAMESPACE)}", 1)
