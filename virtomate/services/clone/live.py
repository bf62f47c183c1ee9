"""The original while it runs: what a backup or freeze of it needs, and why there can be none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition import codec, file_readers
from virtomate.definition.active import plugged_devices
from virtomate.definition.readers import child, devices
from virtomate.duplication.hostfs import is_reserving
from virtomate.duplication.transfers.backup import unreserved
from virtomate.duplication.transfers.base import RunningDisk
from virtomate.errors import IllegalStateError, UnsupportedError
from virtomate.hypervisor.backup import capacity_bytes, find_block_job, find_job, knows_backups
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise
from virtomate.services.quiesce import Readiness, examine_guest
from virtomate.tuples import NamedTuple
from virtomate.words import shutdown_commands, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.codec import Document
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.storage import PoolEntry, PoolIndex

# what libvirt writes by a backup
_FORMATS = frozenset({"raw", "qcow2"})
# Of pools of this type another host keeps the files.
_REMOTE_POOL = "netfs"


class RunningOriginal(NamedTuple):
    """The original while it runs.

    Attributes:
        domain: The domain; its connection is that of the plan.
        run_id: Tells this run from others.
        active: The definition that the domain runs with.
        inactive: The definition that the domain has after its next start.
        is_local: Whether the directories of the host may be seen here.
        is_risk_accepted: Whether its guest may see I/O errors where no space can be reserved.
        readiness: Whether the file systems of its guest are frozen for the moment that the clones are of.
        is_to_move: Whether its disks move onto overlays, so that no backup is made.
    """

    domain: Domain
    reference: DomainReference
    run_id: int
    active: Document
    inactive: Document
    is_local: bool
    is_risk_accepted: bool
    readiness: Readiness
    is_to_move: bool

    @property
    def disks(self) -> dict[str, dict[str, Any]]:
        """The disks that the domain has now, by their targets."""
        return {str(child(disk, "target").get("@dev")): disk for disk in devices(self.active, "disk")}

    def back_up(
        self, disk: DiskDefinition, source: VolumeDescription, target: PoolEntry, directory: str, pools: PoolIndex
    ) -> tuple[RunningDisk, VolumeDescription]:
        """Return how a disk is backed up, and its volume with the capacity that the guest sees.

        Args:
            disk: The disk, as the definition of the clone has it.
            source: Its volume.
            target: The pool that the new volume goes to.
            directory: The directory of the new volume.
            pools: All pools.

        Raises:
            IllegalStateError: Something else writes to the disk, or the running domain has another disk of that name.
            UnsupportedError: No backup of the disk can be made, or its new volume would put the guest at risk.
        """
        name = disk.target
        unreadable = () if source.format in _FORMATS else (f"is {source.format}",)
        self._require(disk, source, pools, "so that no backup of it can be made", unreadable)
        is_doubtful = self.is_local and is_reserving(directory) is False
        is_reserved = target.description.type != _REMOTE_POOL and not is_doubtful
        if not is_reserved and not self.is_risk_accepted:
            raise unreserved(directory)
        running = RunningDisk(
            self.reference,
            self.run_id,
            name,
            tuple(self.disks),
            is_reserved,
            self.is_risk_accepted,
            self.readiness.quiesce,
        )
        return running, source._replace(capacity=capacity_bytes(self.domain, name))

    def move(self, disk: DiskDefinition, source: VolumeDescription, pools: PoolIndex) -> int:
        """Return the capacity of a disk that moves onto an overlay, as the guest sees it.

        Raises:
            IllegalStateError: Something else writes to the disk, or the definition of the domain has another disk of
                that name, or none.
            UnsupportedError: The disk cannot move while the domain runs.
        """
        name = disk.target
        self._require(disk, source, pools, "so that it cannot move onto an overlay while the domain runs")
        then = next((item for item in file_readers.disks(self.inactive) if item.target == name), None)
        if then is None:
            raise IllegalStateError(
                f"disk {name} is not in the definition of domain '{self.domain.name}', which would not have the "
                "overlay of the disk after its next start",
                hint=f"Use --disk {name}=drop, or leave out --freeze.",
            )
        there = _path(then, pools)
        if there is None or not pools.is_same_file(there, source.path):
            raise self._other_disk(name, source.path, there, "Make them agree, or leave out --freeze.")
        return capacity_bytes(self.domain, name)

    def _require(
        self,
        disk: DiskDefinition,
        source: VolumeDescription,
        pools: PoolIndex,
        consequence: str,
        more: Iterable[str] = (),
    ) -> None:
        """Refuse a disk of which the running domain has another one, or that something stands against.

        Args:
            disk: The disk, as the definition of the clone has it.
            source: Its volume.
            pools: All pools.
            consequence: What a reason means, as the end of a sentence.
            more: More reasons.
        """
        name = disk.target
        element = self.disks.get(name)
        active = next((item for item in file_readers.disks(self.active) if item.target == name), None)
        if element is None or active is None:
            raise IllegalStateError(
                f"disk {name} is in the definition of domain '{self.domain.name}', but not in the running domain",
                hint=f"Use --disk {name}=drop, or --live-devices for the disks that the domain has now.",
            )
        here, there = _path(active, pools), _path(disk, pools)
        for reason in (*_obstacles(disk, element, source), *more, *self._other_writers(name, here, pools)):
            raise UnsupportedError(
                f"disk {name} ('{source.path}') {reason}, {consequence}",
                hint=f"Shut the domain down first: {shutdown_commands(self.domain.name, self.domain.state())}",
            )
        if here != there:
            raise self._other_disk(name, here, there, "Use --live-devices for the disks that the domain has now.")
        if (job := find_block_job(self.domain, name)) is not None or "mirror" in element:
            raise IllegalStateError(
                f"disk {name} of domain '{self.domain.name}' has a {job or 'block copy'} running",
                hint=f"Wait for its end, or end it: {virsh('blockjob', self.domain.name, name)}",
            )

    def _other_disk(self, name: str, here: str | None, there: str | None, hint: str) -> IllegalStateError:
        return IllegalStateError(
            f"disk {name} of the running domain '{self.domain.name}' is '{here}', but its definition names '{there}'",
            hint=hint,
        )

    def _other_writers(self, target: str, path: str | None, pools: PoolIndex) -> Iterator[str]:
        """Yield which other disk of the domain writes to the volume; the backup would not notice what that writes."""
        for disk in file_readers.open_for_writing(self.active):
            other = _path(disk, pools)
            is_same = path is not None and other is not None and pools.is_same_file(other, path)
            if disk.target != target and is_same:
                yield f"is also disk {disk.target}"


def read_running(
    connection: Connection, domain: Domain, reference: DomainReference, inactive: Document, request: CloneRequest
) -> RunningOriginal:
    """Look at an original that runs and is to be cloned all the same.

    Raises:
        IllegalStateError: Another job of the domain is running, or the file systems of its guest have to be frozen,
            and cannot be, or the domain is to be frozen and is transient.
        UnsupportedError: The hypervisor cannot make backups, or something else was asked for that needs an original
            that is shut off.
    """
    commands = shutdown_commands(domain.name, domain.state())
    if not knows_backups(connection):
        raise UnsupportedError(
            f"domain '{domain.name}' is running, and this hypervisor is too old for --live: that takes libvirt 6.0 and "
            "QEMU 4.2",
            hint=f"Shut the domain down first: {commands}",
        )
    # on the way to another host, the transfer is that of the backup's images
    if request.transfer is not None and request.to is None:
        raise UnsupportedError(
            f"domain '{domain.name}' is running, and --transfer {request.transfer.value} needs one that is shut off",
            hint=f"Leave out --transfer, or shut the domain down first: {commands}",
        )
    if (job := find_job(domain)) is not None:
        raise IllegalStateError(
            f"domain '{domain.name}' has another job running: {job}",
            hint=f"Wait for its end: {virsh('domjobinfo', domain.name)} shows how far it is. If a virtomate that was "
            f"killed began it, {virtomate('domain-list', options='--clones')} shows an unfinished clone, and "
            "domain-delete of that clone ends the job.",
        )
    if request.freeze and not domain.is_persistent():
        raise IllegalStateError(
            f"domain '{domain.name}' is transient: libvirt forgets it when it is shut down, and its overlays with it",
            hint=f"Make it persistent first: {virsh('dumpxml', domain.name)} >FILE; {virsh('define', 'FILE')}",
        )
    active = codec.parse_definition(domain.active_definition()).domain
    readiness = examine_guest(domain, request.quiesce)
    return RunningOriginal(
        domain=domain,
        reference=reference,
        run_id=domain.run_id,
        active=active,
        inactive=inactive,
        is_local=connection.is_local,
        is_risk_accepted=request.risk_original,
        readiness=readiness,
        is_to_move=request.freeze,
    )


def hot_plugged(inactive: Document, running: RunningOriginal) -> Iterator[Notice]:
    """Yield a warning for each device that the running domain has, and its definition has not."""
    for name in plugged_devices(inactive, running.active):
        yield notice(CloneWarning.HOT_PLUGGED, name, original=running.domain.name)


def _path(disk: DiskDefinition, pools: PoolIndex) -> str | None:
    path = disk.path or pools.path_of(disk.pool or "", disk.volume or "")
    return None if path is None else normalise(path)


def _obstacles(disk: DiskDefinition, element: dict[str, Any], source: VolumeDescription) -> Iterator[str]:
    """Yield what stands against a backup of a disk, and against its move onto an overlay."""
    if "transient" in element:
        yield "is transient"
    if disk.is_sliced:
        yield "is a slice of a volume"
    if source.is_encrypted or "encryption" in element or "encryption" in child(element, "source"):
        yield "is encrypted, and what is made of it would be not"
