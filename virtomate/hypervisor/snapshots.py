"""Snapshots of a domain, and block jobs that write into the images that snapshots froze.

Source: https://libvirt.org/html/libvirt-libvirt-domain-snapshot.html
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import look_up, sanitise, translating_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.hypervisor.domains import Domain

_COMMITS = frozenset({libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT, libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT})
# The domain went off, or has no such disk any more.
_WITHOUT_JOBS = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_DOMAIN)


def snapshot_names(domain: Domain) -> list[str]:
    """Return the names of all snapshots that libvirt keeps of a domain."""
    with translating_errors(f"cannot list the snapshots of domain '{domain.name}'"):
        return [str(snapshot.getName()) for snapshot in domain.handle.listAllSnapshots(0)]


def find_snapshot(domain: Domain, name: str) -> str | None:
    """Return the document of a snapshot, passwords included; None where there is no such snapshot."""
    failure = f"cannot read snapshot '{name}' of domain '{domain.name}'"
    missing = libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT
    snapshot = look_up(lambda: domain.handle.snapshotLookupByName(name, 0), failure, missing)
    if snapshot is None:
        return None
    with translating_errors(failure):
        return sanitise(lambda: snapshot.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE))


def find_commit(domain: Domain, targets: Iterable[str]) -> str | None:
    """Return the target of a disk of an active domain whose overlay is being committed, None where there is none."""
    for target in targets:
        failure = f"cannot read the block job of disk {target} of domain '{domain.name}'"
        job = look_up(partial(domain.handle.blockJobInfo, target, 0), failure, *_WITHOUT_JOBS)
        if job and job.get("type") in _COMMITS:
            return target
    return None


def move_onto_overlays(domain: Domain, document: str) -> None:
    """Have an active domain go on in overlays that are there already, all disks at one moment.

    libvirt changes the definition for the next start in the same call, and keeps no snapshot.

    Raises:
        HypervisorError: libvirt refuses, and has changed nothing.
        ConnectionLostError: The connection broke; the disks may have moved.
    """
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    with translating_errors(f"cannot move the disks of domain '{domain.name}' onto overlays"):
        domain.handle.snapshotCreateXML(document, flags)


def delete_internal_snapshots(domain: Domain) -> None:
    """Delete the snapshots that libvirt keeps inside of images, from all disks of a domain."""
    with translating_errors(f"cannot delete the snapshots of domain '{domain.name}'"):
        for snapshot in domain.handle.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL):
            snapshot.delete(0)
