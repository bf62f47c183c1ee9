"""Flattening: domains whose disks rest on images of others become independent of these.

The disks of a domain that is shut off are flattened in place, by qemu-img, or by a copy where the files cannot be
opened here; those of a running domain by its hypervisor. An image keeps its base until it holds all that the guest
reads. So only a copy has to be undone: whatever ends the run, all images are whole, and the same command goes on with
the work. The record in a clone's metadata changes last.
"""

from __future__ import annotations

import logging
import os
import posixpath
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.duplication.host_images import alone_with, loop_device_over
from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.rebasing import OpenImage, delete_internal_snapshots, flatten, opened_for_reading
from virtomate.enums import FlattenStatus, FlattenWay
from virtomate.errors import (
    HypervisorError,
    IllegalStateError,
    InternalError,
    InterruptedBySignalError,
    VirtomateError,
)
from virtomate.hypervisor import block_jobs
from virtomate.hypervisor.snapshots import delete_internal_snapshots as delete_listed_snapshots
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.services.linked.chain import read_header
from virtomate.services.linked.flatten_copy import flatten_by_copy, recover
from virtomate.services.linked.flatten_freed import find_freed_bases
from virtomate.services.linked.flatten_plan import DiskPlan, DomainPlan, artifact_of, in_use, plan_flatten, users_of
from virtomate.services.linked.flatten_records import FlattenedDisk, FlattenResult
from virtomate.services.linked.record import change_disk, note_independence, without_backing_store
from virtomate.services.storage import describe, refresh_when_idle, temporary_pools_of
from virtomate.services.storage.references import scan_references
from virtomate.words import quoted, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.notices import Notice
    from virtomate.services.linked.flatten_plan import FlattenPlan
    from virtomate.services.linked.flatten_records import FlattenRequest
    from virtomate.services.storage import FoundVolume
    from virtomate.services.storage.references import ReferenceCache
    from virtomate.services.transaction import Run

_LOG = logging.getLogger(__name__)


def flatten_domains(run: Run, request: FlattenRequest) -> tuple[FlattenResult, ...]:
    """Flatten domains, one after the other, and return what became of each, in the order of their names.

    Raises:
        VirtomateError: The plan refuses something; nothing has been changed.
    """
    with temporary_pools_of(run.source) as temporary:
        results = _flatten_each(run, request, plan_flatten(run.source.connection, request, run.cancel, temporary))
    if temporary.left:
        first = results[0]
        error = first.error or IllegalStateError(f"'{first.name}' is flattened, but something is left")
        return (first._replace(error=error.adding(leftovers=temporary.left)), *results[1:])
    return results


def _flatten_each(run: Run, request: FlattenRequest, plan: FlattenPlan) -> tuple[FlattenResult, ...]:
    """Flatten the domains as planned."""
    run.cancel.begin()
    by_uuid = {domain_plan.domain.uuid: domain_plan for domain_plan in plan.domains}
    run.progress.expected(
        sum(disk.needed_bytes for domain_plan in plan.domains for disk in domain_plan.disks),
        sum(len(domain_plan.disks) for domain_plan in plan.domains),
    )
    results: dict[str, FlattenResult] = {}
    for uuid in plan.order:
        in_the_way = [by_uuid[other].domain.name for other in by_uuid[uuid].needs if results[other].error is not None]
        several = len(plan.domains) > 1
        results[uuid] = _Flattening(run, request, by_uuid[uuid], plan.cache, has_others=several).execute(in_the_way)
    done = tuple(by_uuid[uuid] for uuid in plan.order if results[uuid].error is None)
    # a failure here must not hide what became of the domains
    with suppress(VirtomateError):
        for uuid, freed in find_freed_bases(run.source.connection, done).items():
            results[uuid] = results[uuid]._replace(kept=(*results[uuid].kept, *freed))
    return tuple(results[domain_plan.domain.uuid] for domain_plan in plan.domains)


class _Flattening:
    """The flattening of one domain, and the disks that are done."""

    def __init__(
        self, run: Run, request: FlattenRequest, plan: DomainPlan, cache: ReferenceCache, *, has_others: bool
    ) -> None:
        self._run = run
        self._request = request
        self._plan = plan
        self._cache = cache
        self._has_others = has_others
        self._done: list[FlattenedDisk] = []
        self._kept: list[Notice] = []

    def execute(self, in_the_way: list[str]) -> FlattenResult:
        """Flatten the domain, unless a signal arrived or a domain that rests on it is not independent."""
        domain, begin = self._plan.domain, time.monotonic()
        error: VirtomateError | None = None
        status = FlattenStatus.FLATTENED if self._plan.disks else FlattenStatus.UNCHANGED
        try:
            self._run.cancel.check()
            self._flatten(in_the_way)
        except Exception as unforeseen:  # noqa: BLE001 - the other domains still have their turn
            error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            is_interrupted = isinstance(error, InterruptedBySignalError)
            status = FlattenStatus.INTERRUPTED if is_interrupted else FlattenStatus.FAILED
            if is_interrupted:
                again = virtomate("domain-flatten", domain.name)
                error = error.adding(hint=f"'{domain.name}' can be used as before. {again} goes on with the work.")
        seconds = round(time.monotonic() - begin, 3)
        warnings = (*self._plan.warnings, *(warning for disk in self._plan.disks for warning in disk.warnings))
        done, kept = tuple(self._done), tuple(self._kept)
        return FlattenResult(status, domain.name, domain.uuid, done, warnings, kept, seconds, error)

    def _flatten(self, in_the_way: list[str]) -> None:
        plan, connection = self._plan, self._run.source.connection
        if in_the_way:
            raise IllegalStateError(f"'{plan.domain.name}' is not flattened: {quoted(in_the_way)} still rests on it")
        self._require_as_planned()
        if plan.disks and self._request.discard_snapshots:
            delete_listed_snapshots(plan.domain)
        self._kept += recover(self._run, plan.domain)
        for disk in plan.disks:
            self._run.cancel.check()
            _LOG.info("flattening %s, %s", disk.path, disk.way)
            label = f"{plan.domain.name}/{disk.target}" if self._has_others else disk.target
            path = disk.path
            if disk.copy is not None:
                self._kept += flatten_by_copy(self._run, plan.domain, disk.target, disk.copy._replace(label=label))
                path = disk.copy.place.path
            else:
                with self._progress(disk, label):
                    self._pull(disk, label) if disk.way is FlattenWay.PULL else self._flatten_in_place(disk, label)
                refresh_when_idle(get_pool(connection, disk.chain.volume.pool))
            base = disk.chain.below[0]
            allocation = self._look(disk, posixpath.basename(path)).description.allocation
            self._done.append(FlattenedDisk(disk.target, disk.way, path, base.path or base.name, allocation))
        # also of what a killed run has done
        for target in (*(disk.target for disk in plan.disks), *(chain.disk.target for chain in plan.independent)):
            change_disk(plan.domain, target, without_backing_store)
        independent = {*(chain.volume.path for chain in plan.independent), *(disk.path for disk in self._done)}
        note_independence(plan.domain, independent, is_all=plan.is_all)

    def _require_as_planned(self) -> None:
        """Raise IllegalStateError if the domain was started or shut off, or something rests on its images by now."""
        plan, connection = self._plan, self._run.source.connection
        if plan.domain.is_active() != plan.is_active:
            raise IllegalStateError(
                f"domain '{plan.domain.name}' was {'shut off' if plan.is_active else 'started'} meanwhile",
                hint="Run the command again.",
            )
        if not plan.disks or not self._has_others:
            # the plan has looked just now
            return
        wanted = {plan.domain.uuid: [artifact_of(disk, plan.record) for disk in plan.disks]}
        references = scan_references(connection, wanted, self._cache)
        for disk in plan.disks:
            if users := list(users_of(references, disk, plan.record)):
                raise in_use(plan.domain.name, disk, users)

    @contextmanager
    def _progress(self, disk: DiskPlan, label: str) -> Iterator[None]:
        """Report that a disk begins and ends."""
        progress = self._run.progress
        progress.started(label, disk.chain.missing_bytes)
        try:
            yield
        except BaseException:
            progress.dropped(label)
            raise
        progress.finished(label)

    def _advance(self, disk: DiskPlan, label: str, share: float) -> None:
        self._run.progress.advanced(label, int(share * disk.chain.missing_bytes))

    def _look(self, disk: DiskPlan, name: str | None = None) -> FoundVolume:
        """Return a disk's image, or another volume of the same pool, as it is now."""
        connection, volume = self._run.source.connection, disk.chain.volume
        return describe(get_pool(connection, volume.pool), get_volume(connection, volume.pool, name or volume.name))

    def _flatten_in_place(self, disk: DiskPlan, label: str) -> None:
        """Let qemu-img copy into the image; it locks the files as QEMU does, so that no guest is started meanwhile."""
        cancel, volume = self._run.cancel, disk.chain.volume
        descriptor = open_visible(self._look(disk).description, os.O_RDWR)
        if descriptor is None:
            raise IllegalStateError(f"'{volume.path}' was replaced or written to meanwhile", hint="Try again.")
        images = [(image.path or "", image.format) for image in disk.chain.below]
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            with alone_with(volume.path):
                if (device := loop_device_over(volume.path)) is not None:
                    raise IllegalStateError(
                        f"'{volume.path}' is the content of loop device '{device}'",
                        hint=f"Detach the device first: losetup --detach {device}",
                    )
            below = stack.enter_context(opened_for_reading(images))
            top = OpenImage(volume.path, volume.format, descriptor)
            if self._request.discard_snapshots:
                delete_internal_snapshots(top, cancel)
            header = disk.chain.header
            flatten(
                (top, *below),
                cancel,
                lambda share: self._advance(disk, label, share),
                has_subclusters=header is not None and header.has_subclusters,
            )

    def _pull(self, disk: DiskPlan, label: str) -> None:
        """Have the hypervisor copy into the image; a job that a killed run has left is waited for.

        A signal ends only a job that this run has begun.
        """
        domain, target = self._plan.domain, disk.target
        header = read_header(self._run.source.connection, self._look(disk))
        if header is not None and header.snapshot_count:
            raise IllegalStateError(
                f"disk {target} of '{domain.name}' has internal snapshots that libvirt does not list",
                hint=f"Shut the domain down first: {virsh('shutdown', domain.name)}",
            )
        is_own = block_jobs.find_job(domain, target) is None
        header = read_header(self._run.source.connection, self._look(disk))
        if is_own and header is not None and not header.has_backing_file:
            # a job that a killed run has left has just ended
            return
        if is_own:
            block_jobs.begin_pull(domain, target)
        try:
            self._wait_for_pull(disk, label)
        except InterruptedBySignalError:
            if is_own:
                block_jobs.abort(domain, target)
            raise
        header = read_header(self._run.source.connection, self._look(disk))
        if header is None or header.has_backing_file:
            raise HypervisorError(
                f"the block pull of disk {target} of '{domain.name}' has ended before its end",
                hint="libvirt's log says why. The domain has its images as before.",
            )

    def _wait_for_pull(self, disk: DiskPlan, label: str) -> None:
        for _ in backoff(float("inf"), self._run.cancel):
            job = block_jobs.find_job(self._plan.domain, disk.target)
            if job is None:
                return
            self._advance(disk, label, job.share)
