"""What a record says of the images below an overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from virtomate.definition.codec import Document
    from virtomate.definition.volume import VolumeDescription

# The attributes for the properties of an image below, in their order.
_BASE_ATTRIBUTES = ("modified", "size", "inode", "born", "header", "key")


class BaseFingerprint(NamedTuple):
    """Properties of an image below an overlay that change when somebody writes to the image or replaces the file.

    The change time is none of them: libvirt changes the owner of a base when a domain is started. Records of earlier
    versions have only the first two.

    Attributes:
        modified: Modification time, as libvirt reports it (seconds and nanoseconds since 1970).
        size: Length of the file in bytes.
        inode: Inode number, if the file could be seen.
        birth_time: Nanoseconds since 1970, if the file could be seen and the file system stores the time.
        header: Digest of the header of a qcow2 (`header_digest`), if the header was read.
        key: libvirt's identifier of a volume that has another than its path: the UUID of a logical volume.
    """

    modified: str | None
    size: int
    inode: int | None = None
    birth_time: int | None = None
    header: str | None = None
    key: str | None = None


class LowerImage(NamedTuple):
    """An image below the base of an overlay, by its path, and what it was like when the overlay was planned."""

    path: str
    fingerprint: BaseFingerprint


class Rebasing(NamedTuple):
    """The intention to let an image rest on another base, which counts once the image names that base.

    Attributes:
        path: Path of the image, which is the volume of the line or an image below.
        content: Digest of what the image holds beside its header; None for the volume of the line itself.
        chain: The new base and the images below it, nearest first.
    """

    path: str
    content: str | None
    chain: tuple[LowerImage, ...]


def fingerprint_base(base: VolumeDescription) -> BaseFingerprint:
    """Return what the base of an overlay is like; the times of a device's node tell nothing of the device."""
    if base.is_device:
        return BaseFingerprint(None, base.physical, key=base.key)
    return BaseFingerprint(base.modified, base.physical, base.inode, base.birth_time, base.header)


def write_images(images: tuple[LowerImage, ...]) -> list[Document]:
    """Return the elements for images."""
    return [{"@path": image.path, **write_base(image.fingerprint, "@")} for image in images]


def write_base(base: BaseFingerprint | None, prefix: str) -> dict[str, str]:
    """Return the attributes that say what an image is like, each with a prefix."""
    values = () if base is None else zip(_BASE_ATTRIBUTES, base, strict=True)
    return {f"{prefix}{name}": str(value) for name, value in values if value is not None}


def read_images(elements: Iterable[Mapping[str, Any]]) -> tuple[LowerImage, ...]:
    """Return the images in elements of `write_images`; those without a length are passed over."""
    found = ((element["@path"], read_base(element, "@")) for element in elements)
    return tuple(LowerImage(path, base) for path, base in found if base is not None)


def read_base(item: Mapping[str, Any], prefix: str) -> BaseFingerprint | None:
    """Return what an image is like by the attributes of an element that begin like this; None without a length."""
    modified, size, inode, birth_time, header, key = (item.get(f"{prefix}{name}") for name in _BASE_ATTRIBUTES)
    if size is None:
        return None
    inode_number, born = (None if value is None else int(value) for value in (inode, birth_time))
    return BaseFingerprint(modified, int(size), inode_number, born, header, key)
