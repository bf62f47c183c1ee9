"""New files where the file system does not let libvirt give files away: NFS that squashes root, CIFS, FAT, FUSE.

An NFS server takes root for another user, mostly nobody. So root may neither make files in the directory of other users
nor give files to others. libvirt makes a file as the owner whom the document of the volume names, or as root.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from virtomate.enums import ArtifactKind
from virtomate.errors import UnwritableError
from virtomate.notices import CloneWarning, notice
from virtomate.services.transaction.jobs import FileOwner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.volume import NewVolume, PoolDescription
    from virtomate.duplication.transfers.base import TransferContext
    from virtomate.hypervisor.storage import Volume
    from virtomate.notices import Notice
    from virtomate.services.storage import PoolEntry
    from virtomate.services.transaction.jobs import VolumeJob

_LOG = logging.getLogger(__name__)

# the user for whom an NFS server takes root unless the export says otherwise (exports(5))
_NOBODY = FileOwner("65534", "65534")


def create_as_other(
    job: VolumeJob, known: PoolEntry, workplace: TransferContext, refusal: UnwritableError
) -> tuple[VolumeJob, Volume]:
    """Create a volume that libvirt refused to make for its owner; return it with the job that has another owner.

    Raises:
        UnwritableError: libvirt may not make the file, whoever owns it.
        ConflictError: The name is taken.
    """
    if not refusal.is_read_only and not workplace.connection.is_session:
        for owner in _others(job, known.description):
            _LOG.info("making %s as user %s: %s", job.place.path, owner.user, refusal)
            changed = job._replace(owner=owner)
            try:
                return changed, changed.create(known, workplace)
            except UnwritableError:
                continue
    hint = "Name a pool whose directory libvirt can write to: --pool POOL."
    if job.is_created_with_content:
        # the failure may be that of reading
        hint = "Check that libvirt can read the original's volume, and write to the directory of the new volume."
    elif job.kind is ArtifactKind.NVRAM:
        hint = "Name a place that libvirt can write to: --nvram PATH."
    raise UnwritableError(refusal.message, hint=hint, code=refusal.code, is_read_only=refusal.is_read_only) from refusal


def owner_warning(job: VolumeJob, wanted: NewVolume) -> Notice:
    """Return the warning that the file of a volume has another owner than it should have."""
    owner = job.new
    intended = f"user {wanted.owner} and group {wanted.group}" if wanted.owner else "root"
    return notice(
        CloneWarning.OTHER_OWNER, job.place.path, user=owner.owner or "", group=owner.group or "", wanted=intended
    )


def _others(job: VolumeJob, pool: PoolDescription) -> Iterator[FileOwner]:
    """Return who else may own the file: the owner of the directory, and whoever root is taken for."""
    tried = {(job.new.owner, job.new.group)}
    of_directory = () if pool.owner is None or pool.group is None else (FileOwner(str(pool.owner), str(pool.group)),)
    for owner in (*of_directory, _NOBODY):
        if owner not in tried:
            tried.add(owner)
            yield owner
