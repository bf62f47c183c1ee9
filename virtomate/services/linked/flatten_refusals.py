"""Reasons not to flatten a domain, by its state, its record and its snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.snapshot import EXTERNAL, read_snapshot
from virtomate.definition.template import is_template
from virtomate.errors import IllegalStateError, MalformedDocumentError
from virtomate.hypervisor import block_jobs
from virtomate.services.linked.verify import broken_clone, find_broken
from virtomate.words import virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.definition.codec import Document
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Notice
    from virtomate.services.linked.chain import DiskChain
    from virtomate.services.linked.flatten_records import FlattenRequest
    from virtomate.services.linked.sight import Sights
    from virtomate.services.storage import PoolIndex


def refuse_placeholder(domain: Domain, record: Provenance | None) -> None:
    """Refuse an unfinished clone, and a domain that only keeps images."""
    if record is not None and not record.finished:
        raise IllegalStateError(
            f"domain '{domain.name}' is an unfinished {record.what} of '{record.source.name}'",
            hint=f"{virtomate('domain-delete', domain.name)} removes the domain and its volumes.",
        )
    if record is not None and record.is_moment:
        raise IllegalStateError(
            f"domain '{domain.name}' only keeps images of '{record.source.name}' for linked clones",
            hint="Flatten these clones.",
        )


def refuse_template(domain: Domain, definition: Document) -> None:
    """Refuse a template."""
    if is_template(definition):
        raise IllegalStateError(
            f"domain '{domain.name}' is a template, whose volumes nobody writes to",
            hint=f"Make it an ordinary domain first: {virtomate('domain-template', domain.name, options='--undo')}",
        )


def judge_bases(
    sights: Sights,
    pools: PoolIndex,
    name: str,
    record: Provenance | None,
    left: Sequence[DiskDefinition],
    *,
    is_checked: bool,
) -> tuple[Notice, ...]:
    """Return what has happened to bases of a clone, other than those of the disks that are left as they are.

    An image that was flattened does not tell any more that its base was not what it had been.

    Raises:
        IllegalStateError: Something has happened to a base, and bases are checked.
    """
    paths = {disk.path or pools.path_of(disk.pool or "", disk.volume or "") for disk in left}
    broken = [volume for volume in find_broken(sights, record) if volume.path not in paths]
    if broken and is_checked:
        raise broken_clone(name, broken[0]).adding(hint="--unsafe flattens the clone with what it reads now.")
    return tuple(volume.message for volume in broken if volume.message is not None)


def refuse_state(domain: Domain, chains: Sequence[DiskChain], *, is_active: bool) -> None:
    """Refuse a domain that would not find its disks as it knows them, or whose disks are busy."""
    name = domain.name
    if domain.has_managed_save():
        raise IllegalStateError(
            f"domain '{name}' has a managed-save image, which knows the chains of its disks",
            hint=f"Start the domain, which restores it: {virsh('start', name)}. It can be flattened while it runs.",
        )
    if not is_active:
        return
    if domain.is_persistent():
        later = file_readers.disks(codec.parse_definition(domain.inactive_definition_without_secrets()).domain)
        sources = {disk.target: (disk.path, disk.pool, disk.volume) for disk in later}
        for disk in (chain.disk for chain in chains):
            if sources.get(disk.target) not in {(disk.path, disk.pool, disk.volume), None}:
                raise IllegalStateError(
                    f"disk {disk.target} of '{name}' will be another one with the next start",
                    hint=f"Shut it down first: {virsh('shutdown', name)}",
                )
    for disk in (chain.disk for chain in chains):
        job = block_jobs.find_job(domain, disk.target)
        if job is not None and not job.is_pull:
            raise IllegalStateError(
                f"disk {disk.target} of '{name}' is busy with a block job",
                hint=f"Wait for its end: {virsh('blockjob', name, disk.target, options='--info')} shows it.",
            )


def refuse_snapshots(domain: Domain, chain: DiskChain, request: FlattenRequest) -> None:
    """Refuse a disk whose snapshots would be lost."""
    name, target, path = domain.name, chain.disk.target, chain.volume.path
    for snapshot, document in domain.external_snapshots():
        if _is_on(document, target):
            raise IllegalStateError(
                f"disk {target} of '{name}' rests on what the external snapshot '{snapshot}' has frozen, and the "
                "snapshot would be lost",
                hint=f"Delete the snapshot first: {virsh('snapshot-delete', name, snapshot)}",
            )
    if chain.header is not None and chain.header.snapshot_count and not request.discard_snapshots:
        raise IllegalStateError(
            f"disk {target} of '{name}' ('{path}') has internal snapshots, which need the base, too",
            hint="--discard-snapshots deletes them.",
        )


def _is_on(document: str, target: str) -> bool:
    """Return whether an external snapshot has frozen an image of a disk; True for a document that tells nothing."""
    try:
        held = read_snapshot(document).disks.get(target)
    except MalformedDocumentError:
        return True
    return held is not None and held.kind == EXTERNAL
