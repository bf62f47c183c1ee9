"""A frozen original: the disks in its definition, and the mark in its metadata.

The mark says which overlays were made for disks of the domain, and on which bases they rest. libvirt keeps one element
for each namespace, so the mark has another namespace than the record of a clone, which may be frozen, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition import FREEZE_NAMESPACE, codec
from virtomate.definition.codec import Definition, Document, copied
from virtomate.definition.file_readers import disks
from virtomate.definition.lower_images import (
    BaseFingerprint,
    LowerImage,
    read_base,
    read_images,
    write_base,
    write_images,
)
from virtomate.definition.readers import as_list, child, devices, uuid
from virtomate.definition.rewrite.own import NewSource, with_sources
from virtomate.errors import MalformedDocumentError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMESPACE = FREEZE_NAMESPACE
# libvirt writes the mark with this prefix.
PREFIX = "virtomate-freeze"
_ELEMENT = "frozen"
_SCHEMA = "1"


class FrozenDisk(NamedTuple):
    """A disk that was moved onto an overlay.

    Attributes:
        target: Name of the device in the guest, `vda`.
        overlay: Normalised path of the overlay.
        base: Normalised path of the volume that the disk was before.
        fingerprint: What the base was like then.
        mode: Permission bits of the base before, in octal digits, if they are known.
        below: The volumes below the base, nearest first; none in marks of earlier versions.
    """

    target: str
    overlay: str
    base: str
    base_format: str
    fingerprint: BaseFingerprint
    mode: str | None
    below: tuple[LowerImage, ...] = ()


class FreezeMark(NamedTuple):
    """The mark of a frozen original; a mark with the UUID of another domain was copied along by another tool."""

    uuid: str
    disks: tuple[FrozenDisk, ...] = ()

    def of_disk(self, target: str) -> FrozenDisk | None:
        """Return what the mark says of a disk."""
        return next((disk for disk in self.disks if disk.target == target), None)

    @property
    def paths(self) -> frozenset[str]:
        """Return the paths of all overlays and bases."""
        return frozenset(path for disk in self.disks for path in (disk.overlay, disk.base))

    @property
    def modes(self) -> dict[str, int]:
        """Return the permission bits that the bases had before, by path."""
        return {disk.base: int(disk.mode, 8) for disk in self.disks if disk.mode is not None}

    def adding(self, frozen: Iterable[FrozenDisk]) -> FreezeMark:
        """Return the mark with these disks in place of what it said of them before."""
        merged = {disk.target: disk for disk in self.disks} | {disk.target: disk for disk in frozen}
        return self._replace(disks=tuple(merged.values()))


def read_freeze_mark(definition: Definition) -> FreezeMark | None:
    """Return the mark in a definition, if the mark is readable and about this very domain."""
    try:
        _, element = codec.cut_element(definition.metadata or "<metadata/>", NAMESPACE, _ELEMENT)
        mark = None if element is None else _read(element)
    except (MalformedDocumentError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return mark if mark is not None and mark.uuid == uuid(definition.domain) else None


def read_freeze_element(element: str, domain_uuid: str) -> FreezeMark | None:
    """Return the mark in an element that libvirt returns alone, as `read_freeze_mark` does."""
    try:
        mark = _read(element)
    except (MalformedDocumentError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return mark if mark.uuid == domain_uuid else None


def freeze_mark_element(mark: FreezeMark) -> str | None:
    """Return the mark as libvirt takes it, without prefix and namespace; None if it says nothing."""
    if not mark.disks:
        return None
    entries = [
        {
            "@target": disk.target,
            "@overlay": disk.overlay,
            "@base": disk.base,
            "@format": disk.base_format,
            **write_base(disk.fingerprint, "@"),
            **({} if disk.mode is None else {"@mode": disk.mode}),
            # an empty list writes no element
            "below": write_images(disk.below),
        }
        for disk in mark.disks
    ]
    return codec.unparse({"@schema": _SCHEMA, "@uuid": mark.uuid, "disk": entries}, _ELEMENT)


def without_freeze_mark(definition: Definition) -> Definition:
    """Return the definition without a mark."""
    if definition.metadata is None:
        return definition
    return definition._replace(metadata=codec.cut_element(definition.metadata, NAMESPACE, _ELEMENT)[0])


def moved_disk(domain: Document, position: int, overlay: NewSource) -> str:
    """Return the `<disk>` element at this position with an overlay on its volume as its source."""
    moved = with_sources(domain, {position: overlay})
    return codec.unparse(devices(moved, "disk")[position], "disk")


def settled_disk(domain: Document, position: int, overlay: NewSource, former: Document) -> str:
    """Return the `<disk>` element at this position with an overlay in place of the source in a former definition."""
    domain = copied(domain)
    element = devices(domain, "disk")[position]
    before = _element(former, disks(domain)[position].target)
    element["@type"], element["source"] = before.get("@type"), copied(child(before, "source"))
    return moved_disk(domain, position, overlay)


def returned_disk(domain: Document, position: int, former: Document) -> str:
    """Return the `<disk>` element at this position with the source that it had in a former definition of the domain."""
    old: dict[str, Any] = copied(_element(former, disks(domain)[position].target))
    element: dict[str, Any] = copied(devices(domain, "disk")[position])
    for key in ("@type", "source", "backingStore"):
        element.pop(key, None)
        if key in old:
            element[key] = old[key]
    driver = {**child(element, "driver")}
    driver.pop("@type", None)
    if "@type" in child(old, "driver"):
        driver["@type"] = old["driver"]["@type"]
    if driver or "driver" in old:
        element["driver"] = driver
    else:
        element.pop("driver", None)
    return codec.unparse(element, "disk")


def _element(domain: Document, target: str) -> dict[str, Any]:
    found = next(disk for disk in disks(domain) if disk.target == target)
    return devices(domain, "disk")[found.position]


def _read(element: str) -> FreezeMark:
    mark, prefix = codec.parse_own(element, _ELEMENT)
    if mark["@schema"] != _SCHEMA:
        raise ValueError(f"a mark of schema {mark['@schema']} is for a newer version")
    return FreezeMark(
        uuid=mark["@uuid"],
        disks=tuple(
            FrozenDisk(
                target=disk["@target"],
                overlay=disk["@overlay"],
                base=disk["@base"],
                base_format=disk["@format"],
                fingerprint=_fingerprint(disk),
                mode=disk.get("@mode"),
                below=read_images(as_list(disk.get(f"{prefix}below"))),
            )
            for disk in as_list(mark.get(f"{prefix}disk"))
        ),
    )


def _fingerprint(disk: Document) -> BaseFingerprint:
    fingerprint = read_base(disk, "@")
    if fingerprint is None:
        raise ValueError("the base has no length")
    return fingerprint
