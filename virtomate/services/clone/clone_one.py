"""The making of one clone: claim, create, fill, define, commit, and the undo of all of it."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition.provenance import Artifact
from virtomate.enums import ArtifactKind, ArtifactState, Status
from virtomate.errors import ConflictError, InternalError, VirtomateError
from virtomate.rollback import Rollback
from virtomate.services.clone.result import clone_result
from virtomate.services.clone.warnings import refuse_warnings
from virtomate.services.transaction import Claim, create_volumes, fill_volumes, new_journal, release_unless_needed
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from virtomate.services.clone.plan import ClonePlan
    from virtomate.services.clone_records import CloneResult
    from virtomate.services.transaction import Acceptance, Guard, Run

_CLAIM_ATTEMPTS = 6
_MAX_PAUSE_SECONDS = 1.0


class Shared(NamedTuple):
    """What the clones of a run share.

    Attributes:
        guard: Sees to it that the original does not change.
        transfers: Fills volumes; its size is how many are filled at a time.
        temporary_pools: Names of the temporary pools by their directories, for every claim's journal.
        acceptance: libvirt's verdict on the definitions.
    """

    guard: Guard
    transfers: Executor
    temporary_pools: Mapping[str, str]
    acceptance: Acceptance


def clone_one(run: Run, plan: ClonePlan, shared: Shared) -> CloneResult:
    """Make one clone, on the connections of a run that no other thread uses.

    Returns:
        The clone; where it failed after its name was claimed, the failed attempt with its error.

    Raises:
        ConflictError: The name is taken by now, and nothing was made.
    """
    begin = time.monotonic()
    undo = Rollback()
    try:
        run.cancel.check()
        # without a connection nothing can be left behind
        run.target.connect()
        run.cancel.begin()
        claim = _new_claim(run, plan, shared.temporary_pools)
        # Pushed before the claim: when the connection breaks during that call, only a look tells whether it is there.
        undo.push(f"domain '{plan.name}', an unfinished clone", partial(release_unless_needed, claim, undo))
        _take(claim, run)
        shared.guard.refuse_deletion(run.source.connection)
        run.cancel.check()
        shared.acceptance.require(run.target.connection, plan.name, plan.definition, plan.source.definition)
        volumes = create_volumes(run, plan.jobs, claim, undo)
        filled = fill_volumes(run, volumes, shared.transfers)
        # some warnings come only with the files: of an access control list that cannot be copied
        refuse_warnings(plan.fail_on, (warning for one in filled.values() for warning in one.warnings))
        shared.guard.require_unchanged(run.source.connection)
        claim.require_intact()
        run.cancel.check()
        claim.become(plan.definition)
    except Exception as unforeseen:
        error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
        leftovers = undo.run(run.cancel.awaiting)
        shared.guard.look_again()
        if leftovers:
            hint = f"{virtomate('domain-delete', plan.name)} removes what is left of the clone."
            error = error.adding(hint=hint, leftovers=leftovers)
        elif isinstance(error, ConflictError):
            raise
        return clone_result(plan, Status.FAILED, seconds=time.monotonic() - begin, error=error)
    undo.commit()
    return clone_result(plan, Status.CLONED, filled, time.monotonic() - begin)


def _new_claim(run: Run, plan: ClonePlan, temporary_pools: Mapping[str, str]) -> Claim:
    pools = (
        Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, name, None, directory)
        for directory, name in temporary_pools.items()
    )
    made = (*pools, *(job.planned() for job in plan.jobs))
    journal = new_journal(plan.uuid, plan.source.reference, plan.mode, made, plan.reserved)
    return Claim(run.target, plan.name, journal, plan.source.definition.domain, is_uuid_given=plan.is_uuid_given)


def _take(claim: Claim, run: Run) -> None:
    """Claim the name, and what was asked for besides.

    Two runs that want the same see each other's claims, and both give way; the next time one of them is earlier.
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
