"""The making of one clone: claim, create, fill, define, commit, the undo of all of it, and the result."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.definition.provenance import Artifact
from virtomate.enums import Action, ArtifactKind, ArtifactState, SideFileAction, Status
from virtomate.errors import ConflictError, InternalError, VirtomateError
from virtomate.rollback import Rollback
from virtomate.services.clone.disks import volume_reference
from virtomate.services.clone.warnings import refuse_warnings
from virtomate.services.clone_parts import DiskResult, NvramResult, TpmResult, VolumeReference
from virtomate.services.clone_records import CloneResult
from virtomate.services.transaction import (
    Claim,
    Filled,
    Run,
    create_volumes,
    fill_volumes,
    new_journal,
    release_unless_needed,
)
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from virtomate.services.clone.clone_plan import ClonePlan
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.seeds import SeedPlan
    from virtomate.services.transaction import Acceptance, Guard

_CLAIM_ATTEMPTS = 6
_MAX_PAUSE_SECONDS = 1.0


class CloneRun(NamedTuple):
    """A run that makes clones of one original, with everything that the clones share.

    Attributes:
        here: The sessions of the thread, the progress and the cancel token.
        guard: Ensures that the original does not change.
        transfers: Fills volumes; its size is how many are filled at a time.
        temporary_pools: Names of the temporary pools by their directories, for the journal of every claim.
        acceptance: libvirt's verdict on the definitions.
    """

    here: Run
    guard: Guard
    transfers: Executor
    temporary_pools: Mapping[str, str]
    acceptance: Acceptance

    def require_unchanged(self) -> None:
        """Raise SourceChangedError if the original was started or written to; see `Guard.require_unchanged`."""
        with self.here.about_original():
            self.guard.require_unchanged(self.here.source.connection)


def clone_one(shared: CloneRun, plan: ClonePlan) -> CloneResult:
    """Make one clone, on connections that no other thread uses.

    Returns:
        The clone; if it failed after its name was claimed, the failed attempt with its error.

    Raises:
        ConflictError: The name is taken by now, and nothing was made.
    """
    run, guard = shared.here, shared.guard
    begin = time.monotonic()
    undo = Rollback()
    try:
        run.cancel.check()
        # without a connection nothing can be left behind
        run.target.connect()
        run.cancel.begin()
        claim = _new_claim(shared, plan)
        # The undo stands before the claim: if the connection breaks in that call, only a look tells what is there.
        undo.push(f"domain '{plan.name}', an unfinished clone", partial(release_unless_needed, claim, undo))
        _take(claim, run)
        with run.about_original():
            guard.refuse_deletion(run.source.connection)
        run.cancel.check()
        shared.acceptance.require(run.target.connection, plan.name, plan.definition, plan.source.definition)
        if plan.entries:
            from virtomate.services.clone.addresses import make_entries, with_entries  # noqa: PLC0415 - few clones

            entries = make_entries(run, claim, plan.entries, undo)
            plan = plan._replace(interfaces=with_entries(plan.interfaces, entries))
        directories = [file.directory for file in plan.side_files if file.directory is not None]
        if directories:
            from virtomate.services.clone.tpm_directory import make_directory, stop_pool  # noqa: PLC0415 - as above

            for directory in directories:
                make_directory(run, claim, directory, undo)
        volumes = create_volumes(run, plan.jobs, claim, undo)
        filled = fill_volumes(run, volumes, shared.transfers)
        # some warnings come only with the files: of an access control list that cannot be copied
        refuse_warnings(plan.fail_on, (warning for done in filled.values() for warning in done.warnings))
        shared.require_unchanged()
        if plan.prepared is not None:
            from virtomate.services.clone.preparing import prepare  # noqa: PLC0415 - few clones are prepared

            prepare(run, plan.prepared, plan.disks, filled, claim)
            shared.require_unchanged()
        claim.require_intact()
        for directory in directories:
            stop_pool(run, directory)
        run.cancel.check()
        if plan.autostarts:
            claim.have_autostarted()
        claim.become(plan.definition)
    except Exception as unforeseen:
        error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
        leftovers = undo.run(run.cancel.awaiting)
        guard.look_again()
        if leftovers:
            uri = None if plan.hosts is None else plan.hosts.uri
            hint = f"{virtomate('domain-delete', plan.name, uri=uri)} removes what is left of the clone."
            error = error.adding(hint=hint, leftovers=leftovers)
        elif isinstance(error, ConflictError):
            raise
        return clone_result(plan, Status.FAILED, seconds=time.monotonic() - begin, error=error)
    undo.commit()
    return clone_result(plan, Status.CLONED, filled, time.monotonic() - begin)


def _new_claim(shared: CloneRun, plan: ClonePlan) -> Claim:
    pools = (
        Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, name, None, directory)
        for directory, name in shared.temporary_pools.items()
    )
    directories = (file.directory for file in plan.side_files if file.directory is not None)
    own = (made for directory in directories for made in directory.planned)
    made = (*pools, *own, *(job.planned() for job in plan.jobs))
    snapshot = None if plan.source.snapshot is None else plan.source.snapshot.name
    journal = new_journal(plan.uuid, plan.source.reference, plan.mode, made, plan.reserved, snapshot)
    source = plan.side_file(ArtifactKind.TPM_SOURCE)
    journal = journal._replace(
        frozen=bool(plan.frozen),
        prepared=plan.prepared is not None,
        tpm=source is not None and source.action is SideFileAction.COPIED,
        stateless=any(file.reason is not None for file in plan.side_files),
        entries=tuple(planned.entry for planned in plan.entries),
    )
    if plan.hosts is not None:
        # images on the host of the original are no business of the clone
        journal = journal._replace(host=plan.hosts.original)
    elif plan.moment is not None:
        journal = journal._replace(moment=plan.moment.uuid)
    return Claim(shared.here.target, plan.name, journal, plan.definition.domain, is_uuid_given=plan.is_uuid_given)


def _take(claim: Claim, run: Run) -> None:
    """Claim the name, and the addresses and paths that the user chose.

    Two runs that want the same see each other's claims, and both give way; the next time one of the two is earlier.
    """
    for attempt in range(_CLAIM_ATTEMPTS):
        claim.take()
        conflict = claim.find_conflict()
        if conflict is None:
            return
        claim.release()
        is_last = attempt == _CLAIM_ATTEMPTS - 1
        if is_last or run.cancel.wait(int.from_bytes(os.urandom(2)) / 2**16 * _MAX_PAUSE_SECONDS):
            raise conflict


def clone_result(
    plan: ClonePlan,
    status: Status,
    filled: Mapping[str, Filled] | None = None,
    seconds: float = 0.0,
    error: VirtomateError | None = None,
) -> CloneResult:
    """Return the result of a clone, or of the attempt; `filled` tells by path how new volumes were filled."""
    filled = filled or {}
    nvram = plan.side_file(ArtifactKind.NVRAM)
    start = next((done.start for done in filled.values() if done.start is not None), None)
    warnings = (*plan.all_warnings, *(warning for done in filled.values() for warning in done.warnings))
    return CloneResult(
        status=status,
        name=plan.name,
        uuid=plan.uuid,
        source=plan.source.reference,
        mode=plan.mode,
        disks=tuple(_disk_result(disk, filled, plan.seed) for disk in plan.disks),
        nvram=None if nvram is None else NvramResult(nvram.action, nvram.source_path, nvram.path, nvram.format),
        interfaces=plan.interfaces,
        changes=plan.changes,
        warnings=tuple(dict.fromkeys(warnings)),
        seconds=round(seconds, 3),
        consistency=plan.source.consistency if start is None else start.consistency,
        frozen_seconds=None if start is None else start.frozen_seconds,
        moment=None if plan.base is None else plan.base.name,
        frozen=plan.frozen,
        snapshot=None if plan.source.snapshot is None else plan.source.snapshot.describe(),
        seed=None if plan.seed is None else plan.seed.result(),
        prepared=None if plan.prepared is None else plan.prepared.result(),
        credentials=tuple(item.result() for item in plan.credentials) or None,
        tpm=_tpm_result(plan),
        host=None if plan.hosts is None else plan.hosts.target,
        error=error,
    )


def _tpm_result(plan: ClonePlan) -> TpmResult | None:
    if not readers.devices(plan.definition.domain, "tpm"):
        return None
    from virtomate.definition.tpm import read_tpm  # noqa: PLC0415 - few domains have a TPM

    file = plan.side_file(ArtifactKind.TPM_SOURCE) or plan.side_file(ArtifactKind.TPM)
    tpm = read_tpm(plan.definition.domain)
    if tpm is None:
        return None
    if file is None or (file.kind is ArtifactKind.TPM and file.action is SideFileAction.FRESH):
        action = SideFileAction.FRESH if tpm.is_emulated else SideFileAction.SHARED
        return TpmResult(action, tpm.path, tpm.path, None if file is None else file.reason)
    return TpmResult(file.action, file.source_path, file.path, file.reason)


def _disk_result(plan: DiskPlan, filled: Mapping[str, Filled], seed: SeedPlan | None) -> DiskResult:
    duplication = plan.duplication
    if duplication is None and plan.action is Action.REPLACED and seed is not None:
        capacity = seed.job.total_bytes
        return DiskResult(
            plan.disk.target, plan.action, plan.reason, plan.source, seed.volume, capacity, capacity, None
        )
    if duplication is None:
        clone = VolumeReference(None, None, None, None) if plan.action is Action.DROPPED else plan.source
        return DiskResult(plan.disk.target, plan.action, plan.reason, plan.source, clone, None, 0, None)
    place = duplication.place
    done = filled.get(place.path, Filled(0, duplication.transfer, None))
    way = done.way or duplication
    return DiskResult(
        target=plan.disk.target,
        action=way.action,
        reason=done.reason or plan.reason,
        source=plan.source,
        clone=volume_reference(place.pool, place.name, place.path, way.new_format),
        capacity=done.capacity or duplication.new_capacity,
        bytes_copied=done.written_bytes,
        transfer=done.transfer,
        subclusters=done.subclusters,
        base_path=way.base_path if way.action is Action.LINKED else None,
    )
