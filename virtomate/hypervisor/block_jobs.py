"""Block jobs that copy into the image of a disk what its backing chain holds.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockPull

A job belongs to the hypervisor: it goes on when the client that began it ends. While it runs, and after an abort, the
image keeps its base, so the chain is whole at any moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import translating_errors
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

# Earlier ones end with a failed assertion when they pull into a cluster of which a part is in the image (7.2: tried).
# QEMU's commit fc6b211f920a ("block/io: align requests to subcluster_size") mends that. It came with the first pull
# request for the block layer of 8.2: https://lists.gnu.org/archive/html/qemu-devel/2023-08/
_PULLING_SUBCLUSTERS = 8_002_000


class BlockJob(NamedTuple):
    """A block job of a disk: whether it is a pull, and which part of it is done, 0 to 1."""

    is_pull: bool
    share: float


def pulls_subclusters(connection: Connection) -> bool:
    """Return whether the hypervisor can pull into an image with subclusters; an earlier QEMU ends, and the guest."""
    with translating_errors("cannot read the version of QEMU"):
        return bool(connection.handle.getVersion() >= _PULLING_SUBCLUSTERS)


def begin_pull(domain: Domain, disk: str, rate_bytes: int = 0) -> None:
    """Begin to pull the whole backing chain of a disk of a running domain into its image.

    Args:
        domain: The domain.
        disk: Target of the disk.
        rate_bytes: How much may be copied in a second, in whole MiB and at least one; 0 for no limit.

    Raises:
        HypervisorError: libvirt refuses, and has changed nothing.
    """
    rate = max(1, rate_bytes >> 20) if rate_bytes else 0
    with translating_errors(f"cannot pull the backing chain of disk {disk} of domain '{domain.name}'"):
        domain.handle.blockPull(disk, rate, 0)


def find_job(domain: Domain, disk: str) -> BlockJob | None:
    """Return the block job of a disk of a running domain, None where there is none."""
    with translating_errors(f"cannot look at the jobs of disk {disk} of domain '{domain.name}'"):
        info = domain.handle.blockJobInfo(disk, 0)
    if not info:
        return None
    end = int(info["end"])
    share = min(1.0, int(info["cur"]) / end) if end > 0 else 0.0
    return BlockJob(info["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL, share)


def abort(domain: Domain, disk: str) -> None:
    """End the block job of a disk, and wait until it has ended; nothing happens where there is none."""
    try:
        domain.handle.blockJobAbort(disk, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in {libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_OPERATION_INVALID}:
            with translating_errors(f"cannot end the block job of disk {disk} of domain '{domain.name}'"):
                raise
