"""The making of the directory in which a clone has the state of its TPM."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition.volume import directory_pool_document, volume_document
from virtomate.enums import ArtifactKind
from virtomate.errors import ConflictError
from virtomate.hypervisor.storage import find_pool, get_pool, start_transient_pool
from virtomate.services.clone.tpm import require_no_state, taken_state
from virtomate.services.transaction import create_volumes

if TYPE_CHECKING:
    from virtomate.rollback import Rollback
    from virtomate.services.clone.side_files import DirectoryPlan
    from virtomate.services.transaction import Claim, Run, VolumeJob


def make_directory(run: Run, claim: Claim, plan: DirectoryPlan, undo: Rollback) -> None:
    """Make the directory, and start the pool over the directory of the file.

    Raises:
        ConflictError: The directory is there already.
        VirtomateError: libvirt cannot make it.
    """
    if plan.job.kind is ArtifactKind.TPM:
        _make_by_uuid(run, claim, plan.job)
    else:
        create_volumes(run, (plan.job,), claim, undo)
    if (place := plan.place) is None:
        return
    undo.push(f"temporary storage pool '{place.pool}'", partial(stop_pool, run, plan))
    document = directory_pool_document(place.pool, place.directory, plan.inner)
    is_new = place.directory != plan.job.place.path
    start_transient_pool(run.target.connection, place.pool, document, makes_directory=is_new)


def _make_by_uuid(run: Run, claim: Claim, job: VolumeJob) -> None:
    """Make the directory that libvirt keeps by the clone's UUID, and removes with the claim.

    libvirt would remove what somebody else has put there as well, so the claim has a TPM only while the directory is
    ours.
    """
    place = job.place
    states = get_pool(run.target.connection, place.pool)
    require_no_state(states, place.name, place.directory)
    claim.hold_tpm_state(is_held=True)
    try:
        states.create_volume(place.name, volume_document(job.new))
    except ConflictError as error:
        claim.hold_tpm_state(is_held=False)
        raise taken_state(place.path) from error


def stop_pool(run: Run, plan: DirectoryPlan) -> None:
    """Stop the pool over the directory of the file, if there is one and it runs."""
    if plan.place is not None and (pool := find_pool(run.target.connection, plan.place.pool)) is not None:
        pool.stop()
