"""The making of the directory in which libvirt looks for the state of a clone's TPM."""

from __future__ import annotations

import posixpath
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition.volume import directory_pool_document, volume_document
from virtomate.errors import ConflictError
from virtomate.hypervisor.storage import find_pool, get_pool, start_transient_pool
from virtomate.services.clone.tpm import require_no_state, taken_state

if TYPE_CHECKING:
    from virtomate.rollback import Rollback
    from virtomate.services.clone.side_files import DirectoryPlan
    from virtomate.services.transaction import Claim, Run


def make_directory(run: Run, claim: Claim, plan: DirectoryPlan, undo: Rollback) -> None:
    """Make the directory, and start the pool over the inner one; libvirt removes the directory with the claim.

    libvirt would remove what somebody else has put there as well, so the claim has a TPM only while the directory is
    ours.

    Raises:
        ConflictError: The directory is there already.
        VirtomateError: libvirt cannot make it.
    """
    connection = run.target.connection
    states = get_pool(connection, plan.pool)
    new = posixpath.dirname(plan.place.directory)
    require_no_state(states, plan.volume.name, posixpath.dirname(new))
    claim.hold_tpm_state(is_held=True)
    try:
        states.create_volume(plan.volume.name, volume_document(plan.volume))
    except ConflictError as error:
        claim.hold_tpm_state(is_held=False)
        raise taken_state(new) from error
    place = plan.place
    undo.push(f"temporary storage pool '{place.pool}'", partial(stop_pool, run, plan))
    document = directory_pool_document(place.pool, place.directory, plan.inner)
    start_transient_pool(connection, place.pool, document, makes_directory=True)


def stop_pool(run: Run, plan: DirectoryPlan) -> None:
    """Stop the pool over the inner directory, if it runs."""
    if (pool := find_pool(run.target.connection, plan.place.pool)) is not None:
        pool.stop()
