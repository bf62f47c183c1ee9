"""Cloning a domain: read, plan, claim, fill, define, commit."""

from __future__ import annotations

import os
import posixpath
import shlex
import time
from functools import partial
from typing import TYPE_CHECKING

from virtomate.duplication.names import check_clone_name
from virtomate.errors import ConflictError, InternalError, InterruptedBySignalError, VirtomateError
from virtomate.hypervisor.storage import find_pool
from virtomate.records import (
    Action,
    CloneResult,
    DiskResult,
    Made,
    MadeKind,
    MadeState,
    NvramAction,
    NvramResult,
    Provenance,
    Status,
    VolumeReference,
)
from virtomate.rollback import Rollback
from virtomate.services.maker import this_process
from virtomate.services.nvram import NvramPlan, plan_nvram_duplication
from virtomate.services.plan import plan_clone
from virtomate.services.pools import start_temporary_pool, temporary_pool_name
from virtomate.services.removal import name_made
from virtomate.services.transaction import (
    Claim,
    Filled,
    Filling,
    planned,
    release_unless_needed,
    require_unchanged,
    undo_made,
)

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.progress import Progress
    from virtomate.records import CloneRequest
    from virtomate.services.disks import DiskPlan
    from virtomate.services.plan import ClonePlan
    from virtomate.services.session import Session


def clone_domain(session: Session, request: CloneRequest, progress: Progress, cancel: CancelToken) -> CloneResult:
    """Clone a domain.

    Returns:
        The clone; where it failed after its name was claimed, the failed attempt with its error.

    Raises:
        UsageError: The clone cannot have that name; libvirt was not asked.
        VirtomateError: It was refused; nothing has been touched.
    """
    begin = time.monotonic()
    check_clone_name(request.name)
    plan = plan_clone(session.connection, request)
    cancel.check()
    if request.dry_run:
        return _result(plan, Status.PLANNED, plan.nvram, None, begin)
    return _Run(session, plan, progress, cancel).execute(begin)


class _Run:
    """One clone in the making."""

    def __init__(self, session: Session, plan: ClonePlan, progress: Progress, cancel: CancelToken) -> None:
        self.session = session
        self.plan = plan
        self.progress = progress
        self.cancel = cancel
        self.rollback = Rollback()
        self.nvram = plan.nvram
        self.claim = Claim(
            session,
            plan.name,
            Provenance(
                finished=False,
                uuid=plan.uuid,
                token=os.urandom(16).hex(),
                source=plan.source.reference,
                mode=plan.mode,
                created=time.time(),
                made=tuple(planned(duplication) for duplication in plan.duplications),
                maker=this_process(),
            ),
            plan.source.definition.domain,
        )

    def execute(self, begin: float) -> CloneResult:
        try:
            filled = self._make()
        except Exception as unforeseen:
            error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            error.leftovers = self.rollback.run()
            if isinstance(error, ConflictError) and not self.claim.is_taken and not error.leftovers:
                # nothing was claimed: that is a refusal
                raise
            if error.leftovers:
                error.hint = f"virtomate domain-delete {shlex.quote(self.plan.name)} removes what is left of the clone."
            is_interrupted = isinstance(error, InterruptedBySignalError)
            status = Status.INTERRUPTED if is_interrupted else Status.FAILED
            return _result(self.plan, status, self.nvram, None, begin, error)
        self.rollback.commit()
        return _result(self.plan, Status.CLONED, self.nvram, filled, begin)

    def _make(self) -> dict[str, Filled]:
        plan = self.plan
        # Pushed before the claim: when the connection breaks during that call, only a look tells whether it is there.
        self.rollback.push(
            f"domain '{plan.name}', an unfinished clone", partial(release_unless_needed, self.claim, self.rollback)
        )
        self.claim.take()
        self.cancel.check()
        duplications = (*plan.duplications, *self._nvram_of_no_pool())
        filling = Filling(self.session, self.claim, self.rollback, self.progress, self.cancel)
        filled = filling.run(duplications, plan.definition)
        require_unchanged(self.session, plan.source, duplications)
        if self.nvram is not None and self.nvram.needs_temporary_pool:
            self._stop_temporary_pool()
        self.cancel.check()
        self.claim.finish(plan.definition)
        return filled

    def _nvram_of_no_pool(self) -> tuple[Duplication, ...]:
        """Look at an NVRAM whose directory is no pool, through a pool that lasts as long as the clone takes."""
        nvram = self.nvram
        if nvram is None or not nvram.needs_temporary_pool or nvram.source_path is None or nvram.path is None:
            return ()
        directory = posixpath.dirname(nvram.path)
        pool_name = temporary_pool_name(self.plan.uuid)
        made = Made(MadeKind.POOL, MadeState.PLANNED, pool_name, None, directory)
        self.claim.record(made)
        self.rollback.push(name_made(made), partial(undo_made, self.session, self.claim, made))
        pool = start_temporary_pool(self.session.connection, self.plan.uuid, directory)
        duplication = plan_nvram_duplication(
            pool,
            nvram.source_path,
            nvram.path,
            is_local=self.session.connection.is_local,
            keep_owner=self.plan.keep_owner,
        )
        if duplication is None:
            self.nvram = NvramPlan(NvramAction.FRESH, nvram.source_path, nvram.path, nvram.format, pool.name, None)
            self._stop_temporary_pool()
            return ()
        self.claim.record(planned(duplication))
        return (duplication,)

    def _stop_temporary_pool(self) -> None:
        pool = find_pool(self.session.connection, temporary_pool_name(self.plan.uuid))
        if pool is not None:
            pool.stop()


def _result(
    plan: ClonePlan,
    status: Status,
    nvram: NvramPlan | None,
    filled: dict[str, Filled] | None,
    begin: float,
    error: VirtomateError | None = None,
) -> CloneResult:
    return CloneResult(
        status=status,
        name=plan.name,
        uuid=plan.uuid,
        source=plan.source.reference,
        mode=plan.mode,
        disks=tuple(_disk_result(disk, status, filled) for disk in plan.disks),
        nvram=None if nvram is None else NvramResult(nvram.action, nvram.source_path, nvram.path, nvram.format),
        interfaces=plan.interfaces,
        changes=plan.changes,
        warnings=plan.warnings,
        seconds=round(time.monotonic() - begin, 3),
        error=error,
    )


def _disk_result(plan: DiskPlan, status: Status, filled: dict[str, Filled] | None) -> DiskResult:
    duplication = plan.duplication
    if duplication is None:
        return DiskResult(plan.disk.target, Action.SHARED, plan.reason, plan.source, plan.source, None, 0, None)
    format_ = "qcow2" if duplication.action is Action.LINKED else duplication.source.format
    if filled is not None:
        done = filled[duplication.path]
    else:
        is_to_write = status is Status.PLANNED and duplication.action is Action.COPIED
        done = Filled(duplication.total_bytes if is_to_write else 0, duplication.transfer, None)
    return DiskResult(
        target=plan.disk.target,
        action=duplication.action,
        reason=None,
        source=plan.source,
        clone=VolumeReference(duplication.pool, duplication.new.name, duplication.path, format_),
        capacity=duplication.source.capacity,
        bytes_copied=done.written_bytes,
        transfer=done.transfer,
        subclusters=done.subclusters,
    )
