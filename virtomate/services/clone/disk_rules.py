"""The rules by which a disk cannot be duplicated as was asked, in a table."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.duplication.host_images import forbid_writing
from virtomate.duplication.hostfs import file_system, open_visible, visible_status
from virtomate.enums import Mode
from virtomate.errors import IllegalStateError, UnsupportedError
from virtomate.paths import is_relative, normalise, url_in
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.image_headers import Qcow2Header
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.services.storage import PoolEntry, PoolIndex

    DiskRule = Callable[["DiskCase"], None]

_FILES_TOO = "Name a pool of type dir, fs, netfs or vstorage."
_AGREE = f"Make them agree: {virsh('edit')} changes the one, qemu-img rebase -u the other."


class DiskCase(NamedTuple):
    """A disk that is to be duplicated, and what is known of its images: at first only of its volume.

    Attributes:
        format: The format of the disk's volume by the definition, or else by the pool.
        images: The disk's volume and the volumes below it, nearest first, as the definition or image above has them.
        headers: The headers of the images, None for an image that is not a qcow2.
        target: The pool that the new volume goes to.
        directory: The directory of that pool.
        writers: The names of domains that have a volume open for writing, by its path, or by its pool and name.
        is_running: Whether the original runs and has its images open: it is cloned by a backup, or looked at again when
            it is shut off.
        is_backed_up: Whether a backup of the running original fills the new volume.
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
    is_running: bool
    is_backed_up: bool

    @property
    def to_device(self) -> bool:
        """Whether the new volume is a block device."""
        return self.target.backend.makes_devices

    @property
    def rests_on_image(self) -> bool:
        """Whether the disk's volume has a base."""
        return self.source.backing_path is not None or (self.header is not None and self.header.has_backing_file)

    @property
    def source(self) -> VolumeDescription:
        """The disk's own volume."""
        return self.images[0]

    @property
    def header(self) -> Qcow2Header | None:
        """The header of that volume."""
        return self.headers[0]


def _refuse_writing_domain(case: DiskCase) -> None:
    for key, writer in case.writers.items():
        path = key if isinstance(key, str) else case.pools.path_of(*key)
        if path is not None and any(case.pools.is_same_file(path, image.path) for image in case.images):
            raise IllegalStateError(
                f"disk {case.disk.target} ('{path}') is open for writing by domain '{writer}', which is active",
                hint=f"Shut it down first: {virsh('shutdown', writer)}",
            )


def _refuse_writing_qemu(case: DiskCase) -> None:
    for image in () if case.is_running else case.images:
        # the writer may know the file behind a link by another path
        descriptor = open_visible(image, os.O_RDONLY, follow_link=True)
        if descriptor is not None:
            try:
                forbid_writing(descriptor, image.path)
            finally:
                os.close(descriptor)


def _refuse_slice(case: DiskCase) -> None:
    """Only raw bytes can stand in for a slice of a volume."""
    is_raw = case.format == "raw"
    if case.disk.is_sliced and (case.mode is Mode.LINKED or not is_raw):
        raise UnsupportedError(
            f"disk {case.disk.target} is a slice of '{case.source.path}', and cannot be duplicated in this mode and "
            "format",
            hint="Use --mode copy." if is_raw else "Make a volume of its own of the slice.",
        )


def _refuse_shareable(case: DiskCase) -> None:
    if case.disk.is_shareable and case.mode is Mode.LINKED:
        raise UnsupportedError(
            f"disk {case.disk.target} ('{case.source.path}') is shareable, and an overlay cannot be: only raw volumes "
            "can",
            hint="Use --mode copy.",
        )


def _refuse_other_chain(case: DiskCase) -> None:
    """The definition and the images must agree on the chain: the original reads the chain of its definition."""
    for above, header, store in zip(case.images, case.headers, case.disk.below, strict=False):
        if store.type == "network" and url_in(above.backing_path or "") is not None:
            # monitors of a cluster have many names
            break
        named = case.pools.path_of(store.pool or "", store.volume or "") if store.type == "volume" else store.path
        by_definition = None if named is None else normalise(named)
        by_image = None if above.backing_path is None else normalise(above.backing_path)
        if by_definition != by_image or (store.type is not None and named is None):
            unnamed = "nothing" if store.type is None else f"a {store.type} source"
            raise UnsupportedError(
                f"disk {case.disk.target}: by the definition '{by_definition or unnamed}' is below '{above.path}', "
                f"but by the image '{by_image or 'nothing'}' is",
                hint=_AGREE,
            )
        if header is not None and header.has_backing_file and store.format not in {None, header.backing_format}:
            raise UnsupportedError(
                f"disk {case.disk.target}: by the definition '{above.backing_path}', which is below '{above.path}', is "
                f"{store.format}, but by the image it is {header.backing_format}",
                hint=_AGREE,
            )


def _refuse_decrypting(case: DiskCase) -> None:
    """Libvirt would merge a chain with an encrypted volume as it is, or fail to open the chain."""
    if case.mode is Mode.COPY and any(store.is_encrypted for store in case.disk.below):
        raise UnsupportedError(
            f"disk {case.disk.target} ('{case.source.path}') rests on an encrypted volume, which libvirt would have to "
            "decrypt",
            hint=(f"{_FILES_TOO} " if case.to_device else "") + "Use --mode linked or --mode reflink.",
        )


def _refuse_far_reflink(case: DiskCase) -> None:
    """A reflink stays within its file system."""
    source, directory = case.source, posixpath.dirname(case.source.path)
    if case.mode is not Mode.REFLINK or case.directory == directory:
        return
    here, there = file_system(directory), file_system(case.directory)
    if visible_status(source) is not None and here is not None and there is not None:
        is_far = here != there
    else:
        is_far = case.pools.named(source.pool).pool.info().capacity != case.target.pool.info().capacity
    if is_far:
        raise UnsupportedError(
            f"'{source.path}' cannot be reflinked into storage pool '{case.target.pool.name}', which is on another "
            "file system",
            hint="Name a pool on the same file system, or use --mode copy or --mode linked.",
        )


def _refuse_relative_name(case: DiskCase) -> None:
    """The same bytes in another directory would rest on another base, if the base has a relative name."""
    source, header = case.source, case.header
    has_same_bytes = case.mode in {Mode.REFLINK, Mode.SHALLOW}
    if not has_same_bytes or header is None or case.directory == posixpath.dirname(source.path):
        return
    if header.has_backing_file and is_relative(header.backing_file or ""):
        done = "reflinked" if case.mode is Mode.REFLINK else "copied without its base"
        raise UnsupportedError(
            f"'{source.path}' cannot be {done} into storage pool '{case.target.pool.name}': the image names its base "
            "by a path that is relative to its own directory",
            hint="Leave the clone in the same pool, or use --mode copy or --mode linked.",
        )


def _refuse_shallow_backup(case: DiskCase) -> None:
    """A backup of a running domain copies what the guest sees."""
    if case.mode is Mode.SHALLOW and case.is_backed_up:
        raise UnsupportedError(
            f"disk {case.disk.target} ('{case.source.path}') is in use by the running original, and its backup would "
            "copy the images below it as well",
            hint="Use --mode copy or --mode linked, or --shutdown instead of --live.",
        )


def _refuse_device(case: DiskCase) -> None:
    """A block device holds the raw content of a disk, and nothing else."""
    if not case.to_device:
        return
    files = "name a pool of type dir, fs, netfs or vstorage"
    if case.mode is Mode.LINKED:
        reason, hint = "an overlay is a file", f"Use --mode copy, or {files}."
    elif case.mode is Mode.REFLINK:
        reason, hint = "a block device shares no blocks with another volume", "Use --mode copy."
    elif case.mode is Mode.SHALLOW and case.rests_on_image:
        reason, hint = "a block device rests on no other image", "Use --mode copy."
    elif case.is_backed_up:
        reason, hint = "the backup of a running original is made into files", f"Use --shutdown, or {files}."
    else:
        return
    raise UnsupportedError(
        f"'{case.source.path}' cannot be duplicated into storage pool '{case.target.pool.name}': {reason}", hint
    )


def refuse_nothing(disk: DiskDefinition, duplication: Duplication) -> None:
    """Refuse a disk without any content, and without a size that is asked for, where a block device is to be made."""
    if duplication.to_device and not duplication.new_capacity:
        name = duplication.source.path
        raise UnsupportedError(
            f"disk {disk.target} ('{name}') is empty, and a logical volume cannot be",
            hint=f"Say how large the logical volume is to be: --disk {disk.target}=copy,pool="
            f"{shell_word(duplication.place.pool)},size=SIZE.",
        )


# Rules that need no look into an image, which may have another format than the definition says.
VOLUME_RULES: tuple[DiskRule, ...] = (
    _refuse_device,
    _refuse_writing_domain,
    _refuse_writing_qemu,
    _refuse_slice,
    _refuse_shareable,
)
IMAGE_RULES: tuple[DiskRule, ...] = (
    _refuse_writing_domain,
    _refuse_writing_qemu,
    _refuse_other_chain,
    _refuse_decrypting,
    _refuse_far_reflink,
    _refuse_relative_name,
    _refuse_shallow_backup,
    _refuse_device,
)
