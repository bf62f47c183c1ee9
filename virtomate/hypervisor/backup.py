"""Backup jobs of running domains.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBackupBegin

What libvirt 9.0 with QEMU 7.2 does beyond that:

- A job outlives its client and a restart of the daemon. Only the statistics of a job that has ended are lost then.
- After an abort, `jobStats` says at once that there is no job, while the job ends only some tenths of a second later;
  `backupGetXMLDesc` says when.
- The job is gone before QEMU has closed its files, which can take seconds since it writes what is cached, and before
  the files belong to their owner again. libvirt does all that under one lock on the domain. A question to the guest's
  balloon waits for the lock, 30 seconds at a time.
- A domain has one job at a time. A block job (copy, commit, pull) of a disk excludes a backup of that disk alone.
- A job that was refused or has failed leaves the domain as it was, with one exception: where the target of the job has
  no room for what the guest is about to overwrite, the guest waits, and libvirt reports the state paused (I/O error).
  The domain stays paused after the abort; resumed, it writes what it was about to write.
- `blockJobSetSpeed` limits a job, too. In libvirt 11.3 the call waits until the backup has ended, but for 30 seconds at
  most: it asks for a kind of lock (VIR_JOB_MODIFY_MIGRATION_SAFE) that a backup does not share.
- Checkpoints, overlays and the state paused are no obstacles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import translating_errors
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

# REUSE_EXTERNAL: libvirt 6.0; backup jobs of QEMU that need no experimental setting: QEMU 4.2.
_BACKUP_LIBVIRT = 6_000_000
_BACKUP_QEMU = 4_002_000

# https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainJobOperation
_OPERATIONS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_START: "start",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
    libvirt.VIR_DOMAIN_JOB_OPERATION_RESTORE: "restore",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "incoming migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "outgoing migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "revert to a snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP: "dump",
    libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP: "backup",
    # libvirt 9.0 and newer
    10: "deletion of a snapshot",
}

# https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockJobType
_BLOCK_JOBS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: "block pull",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: "block copy",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: "block commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: "active block commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: "backup",
}

_WITHOUT_BACKUP = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN_BACKUP,
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_SUPPORT,
        # the domain is off
        libvirt.VIR_ERR_OPERATION_INVALID,
    }
)


class JobEnd(NamedTuple):
    """How a job has ended.

    Attributes:
        is_success: Whether the job is complete; None where libvirt does not know any more.
        reason: What went wrong, in libvirt's words, or an empty text.
    """

    is_success: bool | None
    reason: str


def knows_backups(connection: Connection) -> bool:
    """Return whether libvirt and its QEMU are new enough for backup jobs."""
    with translating_errors("cannot read the versions of libvirt and QEMU"):
        handle = connection.handle
        return bool(handle.getLibVersion() >= _BACKUP_LIBVIRT and handle.getVersion() >= _BACKUP_QEMU)


def begin_backup(domain: Domain, document: str) -> None:
    """Begin a job that fills existing images; all disks are read as they are at this moment.

    Raises:
        HypervisorError: libvirt refuses, and has changed nothing.
        ConnectionLostError: The connection broke; the job may have begun.
    """
    with translating_errors(f"cannot begin a backup of domain '{domain.name}'"):
        domain.handle.backupBegin(document, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)


def find_backup(domain: Domain) -> str | None:
    """Return the document of the backup job that the domain has; None where there is none, or the domain is off."""
    try:
        return str(domain.handle.backupGetXMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _WITHOUT_BACKUP:
            return None
        with translating_errors(f"cannot look at the backup of domain '{domain.name}'"):
            raise


def find_job(domain: Domain) -> str | None:
    """Return a word for the job that the domain has; None where there is none."""
    with translating_errors(f"cannot look at the jobs of domain '{domain.name}'"):
        stats = domain.handle.jobStats(0)
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    return _OPERATIONS.get(stats.get("operation"), "job")


def find_block_job(domain: Domain, disk: str) -> str | None:
    """Return a word for the block job of a disk; None where there is none."""
    with translating_errors(f"cannot look at the jobs of disk {disk} of domain '{domain.name}'"):
        info = domain.handle.blockJobInfo(disk, 0)
    return _BLOCK_JOBS.get(info["type"], "block job") if info else None


def limit_backup(domain: Domain, disk: str, rate_bytes: int) -> bool:
    """Limit how much a running backup copies of a disk in a second, in whole MiB and at least one.

    Returns:
        Whether libvirt did so; False for a backup that is over.
    """
    try:
        domain.handle.blockJobSetSpeed(disk, max(1, rate_bytes >> 20), 0)
    except libvirt.libvirtError:
        return False
    return True


def capacity_bytes(domain: Domain, disk: str) -> int:
    """Return the capacity of a disk of a running domain."""
    with translating_errors(f"cannot read the size of disk {disk} of domain '{domain.name}'"):
        return int(domain.handle.blockInfo(disk, 0)[0])


def processed_share(domain: Domain) -> float:
    """Return which part of the capacity of all disks a running job has gone through, holes included: 0 to 1."""
    with translating_errors(f"cannot look at the jobs of domain '{domain.name}'"):
        stats = domain.handle.jobStats(0)
    total = int(stats.get("disk_total", 0))
    return int(stats.get("disk_processed", 0)) / total if total else 0.0


def end_of_job(domain: Domain) -> JobEnd:
    """Return how the backup of a domain has ended; libvirt tells that once, and only of the last job."""
    with translating_errors(f"cannot look at the jobs of domain '{domain.name}'"):
        stats = domain.handle.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return JobEnd(None, "")
    return JobEnd(stats["type"] == libvirt.VIR_DOMAIN_JOB_COMPLETED, str(stats.get("errmsg", "")))


def wait_for_close(domain: Domain) -> None:
    """Wait until QEMU has closed the files of a backup that has ended; of a domain that is off it has."""
    while True:
        try:
            domain.handle.memoryStats()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
                continue
            if error.get_error_code() not in _WITHOUT_BACKUP:
                with translating_errors(f"cannot wait for the end of the backup of domain '{domain.name}'"):
                    raise
        return


def abort_job(domain: Domain) -> None:
    """Have the domain's job end; nothing happens where there is none. The job goes on for some tenths of a second."""
    try:
        domain.handle.abortJob()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            with translating_errors(f"cannot abort the backup of domain '{domain.name}'"):
                raise


def waits_for_room(domain: Domain) -> bool:
    """Return whether the domain is paused by an I/O error."""
    with translating_errors(f"cannot read the state of domain '{domain.name}'"):
        state, reason = domain.handle.state(0)
    return bool(state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR)


def resume(domain: Domain) -> None:
    """Let a paused domain go on."""
    with translating_errors(f"cannot resume domain '{domain.name}'"):
        domain.handle.resume()
