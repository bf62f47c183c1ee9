"""The making of one clone: claim, fill, define, commit, and the undo of all of it."""

from __future__ import annotations

import os
import posixpath
import time
from functools import partial
from typing import TYPE_CHECKING

from virtomate.advice import virtomate
from virtomate.definition.provenance import Artifact, Provenance
from virtomate.enums import ArtifactKind, ArtifactState, NvramAction, Status
from virtomate.errors import ConflictError, InternalError, InterruptedBySignalError, VirtomateError
from virtomate.hypervisor.storage import get_pool
from virtomate.rollback import Rollback
from virtomate.services.clone.result import clone_result
from virtomate.services.clone.side_files import NvramPlan, refuse_taken_path
from virtomate.services.clone.warnings import refuse_warnings
from virtomate.services.storage import find_volume, this_process
from virtomate.services.storage.artifacts import name_artifact
from virtomate.services.transaction.claim import Claim, release_unless_needed
from virtomate.services.transaction.fill import Filled, VolumeFiller, planned

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.session import Session
    from virtomate.hypervisor.storage import Pool
    from virtomate.progress import Progress
    from virtomate.services.clone.plan import ClonePlan
    from virtomate.services.clone.records import CloneResult
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction.guard import Guard
    from virtomate.services.transaction.limits import RunLimits


_NOTICE_SECONDS = 0.3

_CLAIM_ATTEMPTS = 6
_MAX_PAUSE_SECONDS = 1.0


class CloneTransaction:
    """One clone in the making, on the connections of a session that nobody else uses meanwhile."""

    def __init__(
        self,
        session: Session,
        plan: ClonePlan,
        turns: RunLimits,
        guard: Guard,
        temporary_pools: TemporaryPools,
        progress: Progress,
        cancel: CancelToken,
    ) -> None:
        self._session = session
        self._plan = plan
        self._turns = turns
        self._guard = guard
        self._pools = temporary_pools
        self._progress = progress
        self._cancel = cancel
        self._rollback = Rollback()
        self._nvram = plan.nvram
        self._held: list[str] = []
        self._claim = Claim(
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
                mark=os.urandom(16).hex(),
                reserved=plan.reserved,
            ),
            plan.source.definition,
            turns,
            is_uuid_given=plan.is_uuid_given,
        )

    def execute(self) -> CloneResult:
        """Make it.

        Returns:
            The clone; where it failed after its name was claimed, the failed attempt with its error.

        Raises:
            ConflictError: The name is taken by now, and nothing was made.
        """
        begin = time.monotonic()
        try:
            filled = self._make()
        except Exception as unforeseen:
            error = self._first_error(unforeseen)
            error.leftovers = self._rollback.run(self._cancel.awaiting)
            self._guard.look_again()
            if isinstance(error, ConflictError) and not self._claim.is_taken and not error.leftovers:
                raise
            if error.leftovers:
                error.hint = f"{virtomate('domain-delete', self._plan.name)} removes what is left of the clone."
            is_interrupted = isinstance(error, InterruptedBySignalError)
            status = Status.INTERRUPTED if is_interrupted else Status.FAILED
            return clone_result(self._plan, status, self._nvram, seconds=time.monotonic() - begin, error=error)
        self._rollback.commit()
        return clone_result(self._plan, Status.CLONED, self._nvram, filled, time.monotonic() - begin)

    def _first_error(self, error: Exception) -> VirtomateError:
        """What to report; a signal that came before the failure may be noticed after it, in the main thread."""
        if self._cancel.wait(_NOTICE_SECONDS) and self._cancel.signal_number is not None:
            return InterruptedBySignalError(self._cancel.signal_number)
        return error if isinstance(error, VirtomateError) else InternalError(error)

    def _make(self) -> dict[str, Filled]:
        plan = self._plan
        self._cancel.check()
        # without a connection nothing can be left behind
        self._session.connect()
        self._cancel.begin()
        # Pushed before the claim: when the connection breaks during that call, only a look tells whether it is there.
        self._rollback.push(
            f"domain '{plan.name}', an unfinished clone", partial(release_unless_needed, self._claim, self._rollback)
        )
        self._take_claim()
        self._guard.refuse_deletion(self._session.connection)
        self._cancel.check()
        late = self._nvram_of_no_pool()
        filling = VolumeFiller(self._session, self._claim, self._rollback, self._turns, self._progress, self._cancel)
        filled = filling.run((*plan.duplications, *late), plan.definition)
        self._guard.require_unchanged(self._session.connection, [duplication.source for duplication in late])
        self._claim.require_intact()
        for directory in tuple(self._held):
            self._let_go(directory)
        # some warnings come only with the files: of a temporary pool, of a list of permissions that cannot be copied
        late_warnings = (
            *(self._nvram.warnings if self._nvram else ()),
            *(w for one in filled.values() for w in one.warnings),
        )
        refuse_warnings(plan.fail_on, late_warnings)
        self._cancel.check()
        self._claim.finish(plan.definition)
        return filled

    def _take_claim(self) -> None:
        """Claim the name, and what was asked for besides.

        Two runs that want the same see each other's claims, and both give way; the next time one of them is earlier.

        Raises:
            ConflictError: The name, or something else that was asked for, is taken.
        """
        for attempt in range(_CLAIM_ATTEMPTS):
            self._claim.take()
            conflict = self._claim.find_conflict()
            if conflict is None:
                return
            self._claim.release()
            is_last = attempt == _CLAIM_ATTEMPTS - 1
            if is_last or self._cancel.wait(int.from_bytes(os.urandom(2)) / 2**16 * _MAX_PAUSE_SECONDS):
                raise conflict

    def _nvram_of_no_pool(self) -> tuple[Duplication, ...]:
        """Look at an NVRAM whose directory is no pool, through a pool that lasts as long as it is needed."""
        nvram, planner = self._nvram, self._plan.nvram_planner
        if nvram is None or planner is None or not nvram.uncovered or nvram.source_path is None or nvram.path is None:
            return ()
        is_local = self._session.connection.is_local
        source_pool = self._pool_over(posixpath.dirname(nvram.source_path), planner.surveyed.pool)
        pool = self._pool_over(posixpath.dirname(nvram.path), planner.pool(posixpath.dirname(nvram.path)))
        refuse_taken_path(pool, nvram.path, is_local=is_local)
        found = find_volume(source_pool, posixpath.basename(nvram.source_path))
        if found is None:
            self._nvram = NvramPlan(NvramAction.FRESH, nvram.source_path, nvram.path, nvram.format)
            return ()
        duplication, warnings = planner.duplication(
            self._session.connection, found.description, source_pool, pool, nvram.path, self._plan.name
        )
        self._nvram = NvramPlan(NvramAction.COPIED, nvram.source_path, nvram.path, nvram.format, warnings=warnings)
        self._claim.record(planned(duplication))
        return (duplication,)

    def _pool_over(self, directory: str, known: Pool | None) -> Pool:
        """The pool over a directory, a temporary one where there is none."""
        if known is not None:
            return get_pool(self._session.connection, known.name)
        made = Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, self._pools.name(directory), None, directory)
        self._claim.record(made)
        self._pools.hold(directory)
        self._held.append(directory)
        self._rollback.push(name_artifact(made), partial(self._let_go, directory))
        return self._pools.start(self._session.connection, directory)

    def _let_go(self, directory: str) -> None:
        """Give the temporary pool of a directory back, if it is still held."""
        if directory in self._held:
            self._pools.let_go(self._session.connection, directory)
            self._held.remove(directory)
