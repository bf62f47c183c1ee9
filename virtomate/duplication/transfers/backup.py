"""The backup transfer: the hypervisor fills new volumes with the disks of a running domain, all as of one moment.

Nothing of the domain's own is touched. But while the job runs, the guest waits for the new volumes: what it is about to
overwrite is copied first. So their space is reserved before the job, and what was not needed is given back after it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken, backoff, call_interruptibly
from virtomate.definition.backup import BackupTarget, backup_document, backup_paths
from virtomate.definition.volume import describe_volume
from virtomate.duplication import hostfs
from virtomate.duplication.file_space import write_failure
from virtomate.enums import Consistency
from virtomate.errors import (
    HypervisorError,
    IllegalStateError,
    NoSpaceError,
    NotFoundError,
    SourceChangedError,
    TimedOutError,
    UnsupportedError,
    VirtomateError,
    lack_of_room,
)
from virtomate.hypervisor import backup
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.hypervisor.storage import get_volume
from virtomate.tuples import NamedTuple
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

# An aborted job ends within some tenths of a second, unless the host's disks are very busy.
_ABORT_SECONDS = 60

# A limit takes libvirt some milliseconds, unless it waits for the end of the backup.
_LIMIT_SECONDS = 10
# A backup that is over so soon disturbs nobody.
_SPARE_SECONDS = 1

# libvirt gives a file back to its owner so soon after the backup has ended.
_CLOSED_SECONDS = 5
_FOREVER = float("inf")
# Three short questions each; the clone is late by half of the interval.
_LOOK_EVERY_SECONDS = 0.1
_NEW_FILE_SYSTEMS = "the file systems of the new volumes"

RESUMED = "domain '{}', which the backup had left paused with an I/O error, was resumed"


class BackupStart(NamedTuple):
    """How the file systems of the guest were when a backup began.

    Attributes:
        consistency: In what state the disks are.
        frozen_seconds: How long the file systems were frozen; None where virtomate did not freeze them.
        problem: Why they were not frozen although the guest could do that, or an empty text.
    """

    consistency: Consistency
    frozen_seconds: float | None = None
    problem: str = ""


class BackedUp(NamedTuple):
    """A volume that a backup has filled.

    Attributes:
        taken_bytes: What the volume takes on the host.
        is_trimmed: Whether what was reserved and not needed was given back.
        is_too_fast: Whether the backup was over before libvirt limited it, and wrote more than the limit allows.
    """

    taken_bytes: int
    is_trimmed: bool
    start: BackupStart
    is_too_fast: bool = False


def require_reserved(duplication: Duplication, created: VolumeDescription) -> None:
    """Refuse a new volume whose space the file system has not reserved, unless somebody takes the risk.

    Raises:
        UnsupportedError: The volume takes less than its capacity.
    """
    disk = duplication.running
    if disk is not None and not disk.is_risk_accepted and created.allocation < created.capacity:
        raise unreserved(created.path)


def unreserved(path: str) -> UnsupportedError:
    """Return the error for a new volume whose space cannot be reserved."""
    return UnsupportedError(
        f"the file system of '{path}' does not reserve space: if the file system got full, the guest of the original "
        "would stop or see I/O errors",
        hint="Choose a pool on another file system with --pool, or take the risk with --risk-original.",
    )


def fill(
    filled: tuple[tuple[Duplication, VolumeDescription], ...],
    label: str,
    context: TransferContext,
    begin: Callable[[Domain, str], BackupStart],
) -> tuple[BackedUp, ...]:
    """Fill volumes with the disks of a running domain in one job.

    Args:
        filled: At least one disk, all of one domain, each with its new volume as libvirt described that.
        label: What progress calls the job.
        context: What to work with.
        begin: Begins the job that a document describes.

    Returns:
        What became of each volume.

    Raises:
        SourceChangedError: The domain was shut off, and perhaps started again.
        NoSpaceError: The job found no room.
        HypervisorError: libvirt refuses the job, or the job failed.
        InterruptedBySignalError: A signal arrived; the job was aborted.
    """
    duplications = [duplication for duplication, _ in filled]
    disks = [duplication.running for duplication in duplications if duplication.running is not None]
    original = disks[0].original
    domain = _same_run(context.connection, original, disks[0].run_id)
    targets = [
        BackupTarget(disk.disk, created.format, created.path) for disk, (_, created) in zip(disks, filled, strict=True)
    ]
    others = [name for name in disks[0].all_disks if name not in {target.disk for target in targets}]
    total = sum(duplication.total_bytes for duplication in duplications)
    paths = frozenset(target.path for target in targets)
    job = _Job(context.connection, domain, original, disks[0].run_id, paths, backup.waits_for_room(domain))
    rate_bytes, begun = context.pace.rate_bytes, time.monotonic()
    try:
        start = begin(domain, backup_document(targets, others))
        is_limited = not rate_bytes or _limit(context, domain, [target.disk for target in targets])
        for share in job.follow(context.cancel):
            context.progress.advanced(label, int(total * share))
    except VirtomateError as error:
        if job.has_harmed():
            raise error.adding(f"; {RESUMED.format(domain.name)}") from error
        raise
    allowed_bytes = rate_bytes * (time.monotonic() - begun + _SPARE_SECONDS)
    outcomes = tuple(_finish(*item, context.connection, start) for item in filled)
    is_too_fast = not is_limited and sum(outcome.taken_bytes for outcome in outcomes) > allowed_bytes
    return tuple(outcome._replace(is_too_fast=is_too_fast) for outcome in outcomes)


def _limit(context: TransferContext, domain: Domain, disks: list[str]) -> bool:
    """Limit a backup that has begun, all disks together, on a connection that nobody else waits for.

    Returns:
        Whether libvirt did so before the end of the backup.

    Raises:
        UnsupportedError: libvirt would not do that before the end of the backup, which lasts.
        InterruptedBySignalError: A signal arrived.
    """

    def limit() -> bool:
        with context.borrow() as connection:
            found = find_domain_by_uuid(connection, domain.uuid)
            if found is None:
                return False
            rate_bytes = context.pace.rate_bytes // len(disks)
            limited = [backup.limit_backup(found, disk, rate_bytes) for disk in disks]
            return all(limited)

    try:
        return call_interruptibly(limit, context.cancel, _LIMIT_SECONDS)
    except TimedOutError as error:
        raise UnsupportedError(
            f"libvirt on that host cannot limit the backup of domain '{domain.name}' while the backup runs",
            hint="Leave out --bandwidth. libvirt 11.3 has this defect, and libvirt 9.0 has not.",
        ) from error


def begin_unfrozen(domain: Domain, document: str) -> BackupStart:
    """Begin a backup, whatever the guest is about to write."""
    backup.begin_backup(domain, document)
    return BackupStart(Consistency.CRASH)


class _Job(NamedTuple):
    """A backup that runs.

    Attributes:
        run_id: Tells the run of the domain from others.
        paths: The images that it fills.
        was_waiting: Whether the domain was paused with an I/O error before.
    """

    connection: Connection
    domain: Domain
    original: DomainReference
    run_id: int
    paths: frozenset[str]
    was_waiting: bool

    def follow(self, cancel: CancelToken) -> Iterator[float]:
        """Yield which part is done, from time to time, until the job is complete."""
        try:
            yield from self._follow(cancel)
        except (HypervisorError, IllegalStateError, NotFoundError):
            # all of these may come of a domain that does not run any more
            _same_run(self.connection, self.original, self.run_id)
            raise

    def _follow(self, cancel: CancelToken) -> Iterator[float]:
        domain, share = self.domain, 0.0
        for _ in backoff(_FOREVER, cancel, _LOOK_EVERY_SECONDS):
            if (document := backup.find_backup(domain)) is None:
                break
            if backup_paths(document) != self.paths:
                raise HypervisorError(
                    f"another backup of domain '{domain.name}' began meanwhile, and libvirt does not tell how this one "
                    "ended",
                    hint="Run the command again after the end of the other backup.",
                )
            if not self.was_waiting and backup.waits_for_room(domain):
                raise NoSpaceError(
                    f"the backup of domain '{domain.name}' has no room for what its guest is about to overwrite",
                    hint=f"Make room on {_NEW_FILE_SYSTEMS}, then run the command again.",
                )
            # of a job that has ended since the look above, libvirt tells nothing
            share = max(share, backup.processed_share(domain))
            yield share
        call_interruptibly(partial(backup.wait_for_close, domain), cancel)
        _same_run(self.connection, self.original, self.run_id)
        end = backup.end_of_job(domain)
        if not end.is_success:
            reason = end.reason or "libvirt does not tell how it ended"
            message = f"the backup of domain '{domain.name}' failed: {reason}"
            raise lack_of_room(message, _NEW_FILE_SYSTEMS) or HypervisorError(message)

    def has_harmed(self) -> bool:
        """End the job, and return whether the domain had to be resumed.

        Where that fails, as on a broken connection, it is left to the undo, which has another connection.
        """
        with suppress(VirtomateError):
            has_resumed = end_backup(self.connection, self.domain.uuid, self.paths)
            return has_resumed or (not self.was_waiting and _resume(self.domain))
        return False


def end_backup(connection: Connection, domain_uuid: str, paths: Collection[str]) -> bool:
    """End the backup that fills these images, if there is one.

    libvirt aborts whatever job a domain has: a job that begins between the look and the abort cannot be told apart.

    Args:
        connection: Where the domain is.
        domain_uuid: UUID of the domain.
        paths: All images that a run of ours meant to fill in one job.

    Returns:
        Whether the domain, which was paused with an I/O error, was resumed.

    Raises:
        IllegalStateError: A job writes to one of the images and to others, or does not end.
    """
    domain = find_domain_by_uuid(connection, domain_uuid)
    document = None if domain is None else backup.find_backup(domain)
    if domain is None or document is None:
        return False
    found = backup_paths(document)
    if found.isdisjoint(paths):
        return False
    if found != frozenset(paths):
        raise IllegalStateError(
            f"a backup of domain '{domain.name}' writes to '{min(found.intersection(paths))}' and to other images",
            hint=f"Wait for its end: {virsh('domjobinfo', domain.name)} shows how far it is.",
        )
    backup.abort_job(domain)
    if all(backup.find_backup(domain) is not None for _ in backoff(_ABORT_SECONDS)):
        raise IllegalStateError(f"the backup of domain '{domain.name}' was aborted, but does not end")
    return _resume(domain)


def await_closed(connection: Connection, domain_uuid: str) -> None:
    """Wait until QEMU has closed the images of a backup of the domain that has ended, but not for a QEMU that hangs."""
    domain = find_domain_by_uuid(connection, domain_uuid)
    if domain is not None:
        with suppress(TimedOutError):
            call_interruptibly(partial(backup.wait_for_close, domain), CancelToken(), _ABORT_SECONDS)


def _resume(domain: Domain) -> bool:
    """Resume a domain that is paused with an I/O error; return whether it was."""
    if not domain.is_active() or not backup.waits_for_room(domain):
        return False
    backup.resume(domain)
    return True


def _finish(
    duplication: Duplication, created: VolumeDescription, connection: Connection, start: BackupStart
) -> BackedUp:
    """Give back what was reserved for a volume and not needed, where its file can be opened here."""
    volume = get_volume(connection, created.pool, created.name)
    source = duplication.source
    if source.format == "raw" and source.is_preallocated:
        return BackedUp(volume.allocation_bytes(), is_trimmed=True, start=start)
    for left in backoff(_CLOSED_SECONDS):
        descriptor = hostfs.open_visible(describe_volume(created.pool, volume.document()), os.O_RDWR)
        # to be given back to its owner changes the times of a file
        if descriptor is not None or not left or not os.path.exists(created.path):
            break
    if descriptor is None:
        return BackedUp(volume.allocation_bytes(), is_trimmed=False, start=start)
    try:
        hostfs.punch_holes(descriptor)
    except OSError as error:
        raise write_failure(error, created.path) from error
    finally:
        os.close(descriptor)
    return BackedUp(volume.allocation_bytes(), is_trimmed=True, start=start)


def _same_run(connection: Connection, original: DomainReference, run_id: int) -> Domain:
    """Return the domain, or raise SourceChangedError if it does not run any more as it did."""
    domain = find_domain_by_uuid(connection, original.uuid)
    if domain is not None and domain.run_id == run_id:
        return domain
    how = "was shut off" if domain is None or not domain.is_active() else "was shut off and started again"
    # libvirt forgets a transient domain
    hint = None if domain is None else "Run the command again: it can be cloned as it is."
    raise SourceChangedError(f"domain '{original.name}' {how} while it was being cloned", hint=hint)
