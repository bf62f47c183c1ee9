"""What depends on the kind of a storage pool, behind one Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.definition.provenance import Artifact, Fingerprint
    from virtomate.definition.volume import NewVolume, PoolDescription, VolumeDescription
    from virtomate.duplication.file_space import FileSystemSpace
    from virtomate.hypervisor.storage import Pool


class VolumeKey(NamedTuple):
    """The identity of a volume; a path is an attribute that some kinds of volumes lack."""

    pool: str
    name: str


class PoolSpace(NamedTuple):
    """The space of a pool, in bytes.

    Attributes:
        seen: The pool's file system; None if it cannot be seen here, and the figures are libvirt's.
    """

    capacity: int
    allocation: int
    available: int
    seen: FileSystemSpace | None = None

    @property
    def is_impossible(self) -> bool:
        """Whether libvirt's count has gone below zero."""
        return self.available > self.capacity or self.allocation > self.capacity


class StorageBackend(Protocol):
    """One kind of storage pools; a pool comes as libvirt describes it.

    Attributes:
        makes_devices: Whether new volumes are block devices.
    """

    makes_devices: bool

    def path_of(self, pool: PoolDescription, volume: str) -> str | None:
        """Return the normalised path of a volume, None if its pool has no directory."""

    def require_new_volumes(self, pool: PoolDescription) -> None:
        """Raise UnsupportedError if new volumes cannot be made in a pool."""

    def document(self, new: NewVolume) -> str:
        """Return the document by which libvirt creates a volume."""

    def new_fingerprint(self, volume: VolumeDescription, pool: Pool) -> Fingerprint:
        """Return what identifies a volume that was just made, and what tells later whether its file system is there."""

    def fingerprint(self, volume: VolumeDescription) -> Fingerprint:
        """Return what identifies a volume now."""

    def absence(self, made: Artifact, pool: Pool) -> Fingerprint | None:
        """Return the fingerprint of the place of an artifact that is gone, as far as the record has it."""

    def seen_space(
        self, pool: Pool, description: PoolDescription, known: Iterable[VolumeDescription] = ()
    ) -> PoolSpace | None:
        """Return the space of an active pool if it can be seen here; `known` are volumes of any pools as they are."""

    def list_paths(self, directory: str) -> list[str]:
        """Return the paths in a pool's directory here that may be volumes, or raise OSError."""
