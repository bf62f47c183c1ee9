"""An original as it was at a snapshot, read once, and whether the snapshot is still what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.snapshot import EXTERNAL, INTERNAL, read_snapshot
from virtomate.errors import (
    IllegalStateError,
    MalformedDocumentError,
    NotFoundError,
    SourceChangedError,
    UnsupportedError,
)
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.hypervisor.snapshots import find_commit, find_snapshot, snapshot_names
from virtomate.notices import CloneWarning, Notice
from virtomate.paths import normalise
from virtomate.services.clone_parts import SnapshotReference
from virtomate.tuples import NamedTuple
from virtomate.words import quoted, virsh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.snapshot import Snapshot
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

_MAX_NAMES = 10


class SnapshotSource(NamedTuple):
    """A snapshot of the original, and the original as it is now.

    Attributes:
        is_running: Whether the original is active, so that its disks but not its frozen images are written to.
        current: The original's disks as they are now; of a running one with the chains of images.
    """

    snapshot: Snapshot
    is_running: bool
    current: tuple[DiskDefinition, ...]

    @property
    def name(self) -> str:
        """Name of the snapshot."""
        return self.snapshot.name

    def is_frozen(self, target: str) -> bool:
        """Return whether the snapshot froze the image of a disk."""
        held = self.snapshot.disks.get(target)
        return held is not None and held.kind == EXTERNAL

    def keeps(self, disk: DiskDefinition) -> bool:
        """Return whether a disk is a frozen image, to which the original does not write when it is started."""
        held = self.snapshot.disks.get(disk.target)
        frozen = None if held is None or held.kind != EXTERNAL else held.frozen
        return frozen is not None and frozen.has_volume_of(disk) and not self.uses(disk)

    def uses(self, disk: DiskDefinition) -> bool:
        """Return whether the original writes, or would write when it is started, to the volume of a disk."""
        return any(disk.has_volume_of(current) for current in self.current)

    @property
    def frozen_targets(self) -> tuple[str, ...]:
        """Targets of the disks whose images are frozen."""
        return tuple(filter(self.is_frozen, self.snapshot.disks))

    @property
    def has_internal(self) -> bool:
        """Return whether content of a disk is inside of an image that a running original writes to."""
        return any(held.kind == INTERNAL for held in self.snapshot.disks.values())

    def refuse_commit(self, domain: Domain) -> None:
        """Refuse frozen images into which an overlay of the running original is being committed.

        Raises:
            IllegalStateError: There is such a job.
        """
        if not self.is_running or (target := find_commit(domain, self.frozen_targets)) is None:
            return
        raise IllegalStateError(
            f"a block commit writes into the images below disk {target} of domain '{domain.name}'",
            hint=f"Wait for its end, or end it: {virsh('blockjob', domain.name, target, options='--abort')}",
        )

    def require_kept(self, connection: Connection, original: DomainReference) -> None:
        """Make sure that what a clone was made of is still what the snapshot holds.

        Raises:
            SourceChangedError: The original was started, or an overlay of it is being committed.
        """
        domain = find_domain_by_uuid(connection, original.uuid)
        if domain is None or not domain.is_active():
            return
        if self.has_internal and not self.is_running:
            raise SourceChangedError(
                f"domain '{original.name}' was started while it was being cloned",
                hint="Shut it down, and keep it down while it is being cloned.",
            )
        frozen = {normalise(path) for path in self._frozen_paths}
        live = codec.parse_definition(domain.live_definition()).domain
        written = next(
            (disk for disk in file_readers.open_for_writing(live) if normalise(disk.path or "/") in frozen), None
        )
        if written is not None or find_commit(domain, self.frozen_targets) is not None:
            raise SourceChangedError(
                f"snapshot '{self.name}' of domain '{original.name}' was committed while it was being cloned",
                hint="Choose another snapshot.",
            )

    @property
    def _frozen_paths(self) -> Iterator[str]:
        for held in self.snapshot.disks.values():
            if held.kind == EXTERNAL and held.frozen is not None and held.frozen.path is not None:
                yield held.frozen.path

    def describe(self) -> SnapshotReference:
        """Return the snapshot as results have it."""
        from datetime import UTC, datetime  # noqa: PLC0415 - only snapshots have a time

        created = datetime.fromtimestamp(self.snapshot.created, UTC).isoformat(timespec="seconds")
        return SnapshotReference(self.name, created, self.snapshot.state)

    def warnings(self) -> Iterator[Notice]:
        """Yield warnings of what a clone does not get of a snapshot."""
        if self.snapshot.is_of_running_domain:
            yield Notice(CloneWarning.MEMORY, self.name)


def read_snapshot_source(domain: Domain, name: str) -> SnapshotSource:
    """Read a snapshot of a domain.

    Raises:
        NotFoundError: The domain has no such snapshot.
        UnsupportedError: libvirt keeps no definition with the snapshot.
    """
    document = find_snapshot(domain, name)
    if document is None:
        raise _missing(domain, name)
    try:
        snapshot = read_snapshot(document)
    except MalformedDocumentError as error:
        raise UnsupportedError(f"snapshot '{name}' of domain '{domain.name}' cannot be read: {error}") from error
    is_running = domain.is_active()
    now = domain.live_definition() if is_running else domain.inactive_definition_without_secrets()
    return SnapshotSource(snapshot, is_running, file_readers.disks(codec.parse_definition(now).domain))


def _missing(domain: Domain, name: str) -> NotFoundError:
    import difflib  # noqa: PLC0415 - mistakes are rare

    names = sorted(snapshot_names(domain))
    by_folded = {known.casefold(): known for known in names}
    similar = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    listed = virsh("snapshot-list", domain.name)
    if similar:
        hint = f"Did you mean '{by_folded[similar[0]]}'? {listed} shows all."
    elif names:
        more = f" and more; {listed} shows all" if len(names) > _MAX_NAMES else ""
        hint = f"There are {quoted(names[:_MAX_NAMES])}{more}." if len(names) > 1 else f"There is {quoted(names)}."
    else:
        hint = "The domain has no snapshots at all; leave out --snapshot."
    return NotFoundError(f"domain '{domain.name}' has no snapshot '{name}'", hint=hint)
