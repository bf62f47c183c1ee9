"""Volumes that are to be made, and what they are to hold: disks and side files of clones, and imported files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from virtomate.definition.lower_images import LowerImage, fingerprint_base
from virtomate.definition.provenance import Artifact
from virtomate.definition.volume import NewVolume, VolumeDescription
from virtomate.duplication import transfers
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.hostfs import open_visible, refuse_link
from virtomate.duplication.labels import token_field
from virtomate.duplication.transfers.base import TransferUnavailableError
from virtomate.duplication.transfers.stream import LocalFile, upload, write_volume
from virtomate.enums import Action, ArtifactKind, ArtifactState, Transfer
from virtomate.hypervisor.storage import get_volume
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.duplication.transfers.base import Duplication, Place, TransferContext
    from virtomate.errors import UnsupportedError
    from virtomate.hypervisor.storage import Volume
    from virtomate.services.storage import PoolEntry


class CopyOf(NamedTuple):
    """The content of another volume, which a transfer copies or reflinks."""

    way: Duplication


class OverlayOn(NamedTuple):
    """Nothing of its own, on top of another volume."""

    way: Duplication


class Bytes(NamedTuple):
    """These bytes, written to the file itself or through libvirt: the best way first.

    With an offset, the token of the clone is put there, see `token_field`.
    """

    data: bytes
    transfers: tuple[Transfer, ...] = (Transfer.HOST, Transfer.STREAM)
    token_offset: int | None = None

    def __repr__(self) -> str:
        """Return a text for logs and tracebacks, without the bytes, which may be secret."""
        return f"Bytes({len(self.data)} bytes, {self.transfers})"

    def marked(self, token: str) -> Bytes:
        """Return the bytes with the token of a clone."""
        if self.token_offset is None:
            return self
        field, begin = token_field(token), self.token_offset
        return self._replace(data=self.data[:begin] + field + self.data[begin + len(field) :])


class Empty(NamedTuple):
    """Nothing: a file or directory that others fill later."""

    new: NewVolume


Content: TypeAlias = CopyOf | OverlayOn | LocalFile | Bytes | Empty


class FileOwner(NamedTuple):
    """The user and the group of a file, as numbers."""

    user: str
    group: str


class VolumeJob(NamedTuple):
    """A new volume and its content; progress and messages call it by its label.

    Attributes:
        owner: The owner of the file where the file system does not let libvirt give it to the right one.
    """

    label: str
    kind: ArtifactKind
    place: Place
    content: Content
    owner: FileOwner | None = None

    @property
    def way(self) -> Duplication | None:
        """The duplication of another volume, if that is the content."""
        return self.content.way if isinstance(self.content, CopyOf | OverlayOn) else None

    def after(self, error: UnsupportedError) -> VolumeJob | None:
        """Return the job to try after an error, see `Duplication.after`."""
        way = None if self.way is None else self.way.after(error)
        return None if way is None else duplicating(way)._replace(owner=self.owner)

    @property
    def new(self) -> NewVolume:
        """The volume to ask libvirt for: an empty file, unless the size is known or libvirt copies what it creates."""
        if self.way is not None:
            new = self.way.new
        elif isinstance(self.content, Empty):
            new = self.content.new
        else:
            size = len(self.content.data) if isinstance(self.content, Bytes) else 0
            new = NewVolume(self.place.name, size, size, "raw")
        return new if self.owner is None else new._replace(owner=self.owner.user, group=self.owner.group)

    @property
    def transfer(self) -> Transfer | None:
        """The transfer that fills the volume, if another volume is duplicated."""
        return None if self.way is None else self.way.transfer

    @property
    def is_created_with_content(self) -> bool:
        """Whether libvirt copies while it creates the volume, so that this waits for a turn among the transfers."""
        return self.transfer is Transfer.SERVER

    @property
    def is_backed_up(self) -> bool:
        """Whether a backup of a running domain fills it, together with others."""
        return self.transfer is Transfer.BACKUP

    @property
    def total_bytes(self) -> int:
        """Number of bytes that will be copied, as far as that is known; the header of an overlay does not count."""
        match self.content:
            case LocalFile() as file:
                return file.data_bytes
            case Bytes(data, _):
                return len(data)
            case CopyOf(way):
                return way.total_bytes
            case OverlayOn() | Empty():
                return 0

    def planned(self) -> Artifact:
        """Return the journal's line for the volume before it is made."""
        images = () if self.way is None else self.way.rests_on
        return Artifact(
            self.kind,
            ArtifactState.PLANNED,
            self.place.pool,
            self.place.name,
            self.place.path,
            transfer=self.transfer,
            base=None if self.way is None else self.way.base_path,
            base_fingerprint=fingerprint_base(images[0]) if images else None,
            below=tuple(LowerImage(lower.path, fingerprint_base(lower)) for lower in images[1:]),
        )

    def create(self, known: PoolEntry, workplace: TransferContext) -> Volume:
        """Create the volume in its pool; raise ConflictError if its name is taken, without touching anything."""
        document = known.backend.document(self.new)
        if self.way is not None and self.is_created_with_content:
            return transfers.create_with_content(self.way, known.pool, document, workplace)
        is_reserved = self.is_backed_up and self.new.allocation >= self.new.capacity
        has_tables = is_reserved and self.new.format == "qcow2"
        return known.pool.create_volume(self.place.name, document, has_tables=has_tables)

    def fill(self, created: VolumeDescription, workplace: TransferContext) -> int:
        """Fill the volume and return the bytes written, or raise TransferUnavailableError."""
        if self.way is not None:
            return transfers.FILL[self.way.transfer](self.way, created, workplace)
        match self.content:
            case LocalFile() as file:
                volume = get_volume(workplace.connection, created.pool, created.name)
                upload(file, volume, workplace.connection, workplace.progress, workplace.cancel)
                file.require_unchanged()
            case Bytes() as content:
                _write(content.marked(workplace.token), created, workplace)
        return self.total_bytes


def _write(content: Bytes, created: VolumeDescription, workplace: TransferContext) -> None:
    """Write bytes into a new volume of their size, where possible without libvirt."""
    descriptor = open_visible(created, os.O_WRONLY) if Transfer.HOST in content.transfers else None
    if descriptor is not None:
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.data)
                file.flush()
                os.fdatasync(file.fileno())
        except OSError as error:
            raise write_failure(error, created.path) from error
        return
    if Transfer.HOST in content.transfers:
        # libvirt would follow the link
        refuse_link(created.path)
    if Transfer.STREAM not in content.transfers:
        raise TransferUnavailableError(
            f"'{created.path}' cannot be opened here, so it cannot be filled without libvirt",
            hint="Give --trust-pool if you trust whoever can write to the pool's directory.",
        )
    volume = get_volume(workplace.connection, created.pool, created.name)
    write_volume([content.data], volume, workplace.connection, volume.name, workplace.progress, workplace.cancel)


def duplicating(way: Duplication) -> VolumeJob:
    """Return the job that duplicates a volume."""
    content = OverlayOn(way) if way.action is Action.LINKED else CopyOf(way)
    return VolumeJob(way.label, way.kind, way.place, content)
