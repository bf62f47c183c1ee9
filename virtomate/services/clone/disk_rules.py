"""What keeps a disk from being duplicated as was asked, as a table of rules."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import file_system, open_visible, visible_status
from virtomate.duplication.image_lock import forbid_writing
from virtomate.enums import Mode
from virtomate.errors import IllegalStateError, UnsupportedError, VirtomateError
from virtomate.paths import is_relative, normalise
from virtomate.tuples import NamedTuple
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.image_headers import Qcow2Header
    from virtomate.services.storage import PoolEntry, PoolIndex

    DiskRule = Callable[["DiskCase"], VirtomateError | None]

_AGREE = f"Make them agree: {virsh('edit')} changes the one, qemu-img rebase -u the other."


class DiskCase(NamedTuple):
    """A disk that is to be duplicated, and what is known of its images: at first its volume alone.

    Attributes:
        format: The format of its volume by the definition, or else by the pool.
        images: Its volume, and those below it, nearest first, each as the definition or the image above calls it.
        headers: Their headers, each None where the image is no qcow2.
        target: The pool that the new volume goes to.
        directory: That pool's directory.
        writers: Who has a volume open for writing, by its path, or by its pool and name.
    """

    disk: DiskDefinition
    mode: Mode
    format: str
    images: tuple[VolumeDescription, ...]
    headers: tuple[Qcow2Header | None, ...]
    target: PoolEntry
    directory: str
    pools: PoolIndex
    writers: Mapping[str | tuple[str, str], str]

    @property
    def source(self) -> VolumeDescription:
        """The disk's own volume."""
        return self.images[0]

    @property
    def header(self) -> Qcow2Header | None:
        """The header of that volume."""
        return self.headers[0]

    @property
    def is_reflinked_elsewhere(self) -> bool:
        """Whether it is reflinked into another directory."""
        return self.mode is Mode.REFLINK and self.directory != posixpath.dirname(self.source.path)


def _written_by_a_domain(case: DiskCase) -> VirtomateError | None:
    for key, writer in case.writers.items():
        path = key if isinstance(key, str) else case.pools.path_of(*key)
        if path in {image.path for image in case.images}:
            return IllegalStateError(
                f"disk {case.disk.target} ('{path}') is open for writing by domain '{writer}', which is active",
                hint=f"Shut it down first: {virsh('shutdown', writer)}",
            )
    return None


def _written_by_any_qemu(case: DiskCase) -> VirtomateError | None:
    for image in case.images:
        # what a link leads to may be known by another path to whoever writes to it
        descriptor = open_visible(image, os.O_RDONLY, follow_link=True)
        if descriptor is None:
            continue
        try:
            forbid_writing(descriptor, image.path)
        except IllegalStateError as error:
            return error
        finally:
            os.close(descriptor)
    return None


def _slice(case: DiskCase) -> VirtomateError | None:
    """Nothing else can stand in for a slice of a volume than raw bytes."""
    is_raw = case.format == "raw"
    if not case.disk.is_sliced or (is_raw and case.mode is not Mode.LINKED):
        return None
    return UnsupportedError(
        f"disk {case.disk.target} is a slice of '{case.source.path}', and cannot be duplicated in this mode and format",
        hint="Use --mode copy." if is_raw else "Make a volume of its own of the slice.",
    )


def _shareable(case: DiskCase) -> VirtomateError | None:
    if not case.disk.is_shareable or case.mode is not Mode.LINKED:
        return None
    return UnsupportedError(
        f"disk {case.disk.target} ('{case.source.path}') is shareable, and an overlay cannot be: only raw volumes can",
        hint="Use --mode copy.",
    )


def _chain_of_the_definition(case: DiskCase) -> VirtomateError | None:
    """The definition and the images must agree on what is below: the original reads what its definition says."""
    for above, header, store in zip(case.images, case.headers, case.disk.below, strict=False):
        named = case.pools.path_of(store.pool or "", store.volume or "") if store.type == "volume" else store.path
        by_definition = None if named is None else normalise(named)
        by_image = None if above.backing_path is None else normalise(above.backing_path)
        if by_definition != by_image or (store.type is not None and named is None):
            unnamed = "nothing" if store.type is None else f"a {store.type} source"
            return UnsupportedError(
                f"disk {case.disk.target}: by the definition '{by_definition or unnamed}' is below '{above.path}', "
                f"but by the image '{by_image or 'nothing'}' is",
                hint=_AGREE,
            )
        if header is not None and header.has_backing_file and store.format not in {None, header.backing_format}:
            return UnsupportedError(
                f"disk {case.disk.target}: by the definition '{above.backing_path}', which is below '{above.path}', is "
                f"{store.format}, but by the image it is {header.backing_format}",
                hint=_AGREE,
            )
    return None


def _copy_of_decrypted(case: DiskCase) -> VirtomateError | None:
    """A flat copy of what rests on an encrypted volume: libvirt would merge it as it is, or fail to open it."""
    if case.mode is not Mode.COPY or not any(store.is_encrypted for store in case.disk.below):
        return None
    return UnsupportedError(
        f"disk {case.disk.target} ('{case.source.path}') rests on an encrypted volume, which libvirt would have to "
        "decrypt",
        hint="Use --mode linked or --mode reflink.",
    )


def _reflink_between_file_systems(case: DiskCase) -> VirtomateError | None:
    if not case.is_reflinked_elsewhere:
        return None
    here, there = file_system(posixpath.dirname(case.source.path)), file_system(case.directory)
    if visible_status(case.source) is not None and here is not None and there is not None:
        is_other = here != there
    else:
        is_other = case.pools.named(case.source.pool).pool.info().capacity != case.target.pool.info().capacity
    if not is_other:
        return None
    return UnsupportedError(
        f"'{case.source.path}' cannot be reflinked into storage pool '{case.target.pool.name}', which is on another "
        "file system",
        hint="Name a pool on the same file system, or use --mode copy or --mode linked.",
    )


def _reflink_of_a_relative_name(case: DiskCase) -> VirtomateError | None:
    """An image that names what is below it by a relative path would find something else in another directory."""
    header = case.header
    is_relative_name = header is not None and header.has_backing_file and is_relative(header.backing_file or "")
    if not case.is_reflinked_elsewhere or not is_relative_name:
        return None
    return UnsupportedError(
        f"'{case.source.path}' cannot be reflinked into storage pool '{case.target.pool.name}': it names what is below "
        "it by a path that is relative to its own directory",
        hint="Leave the clone in the same pool, or use --mode copy or --mode linked.",
    )


# What needs no look into an image, which may not be what the definition says.
VOLUME_RULES: tuple[DiskRule, ...] = (_written_by_a_domain, _written_by_any_qemu, _slice, _shareable)
IMAGE_RULES: tuple[DiskRule, ...] = (
    _written_by_a_domain,
    _written_by_any_qemu,
    _chain_of_the_definition,
    _copy_of_decrypted,
    _reflink_between_file_systems,
    _reflink_of_a_relative_name,
)


def refuse_case(case: DiskCase, rules: tuple[DiskRule, ...]) -> None:
    """Refuse a disk to which one of the rules objects, the first that does.

    Raises:
        IllegalStateError: Somebody writes to one of its images.
        UnsupportedError: It cannot be duplicated as was asked.
    """
    for rule in rules:
        if (refusal := rule(case)) is not None:
            raise refusal
