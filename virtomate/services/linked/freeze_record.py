"""The record of a freeze that is going on, and what becomes of a freeze that was killed.

A run records the overlays before it makes them, and removes the record when the original is marked. The record is a
claim whose UUID follows from that of the original, so that one look-up finds the record, and no two runs freeze an
original at once.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from virtomate.cancel import backoff
from virtomate.definition import codec, file_readers
from virtomate.definition import freeze as marks
from virtomate.definition.lower_images import BaseFingerprint, fingerprint_base
from virtomate.definition.placeholders import claim_definition
from virtomate.definition.provenance import find_provenance
from virtomate.definition.rewrite import NewSource
from virtomate.duplication.hostfs import with_identity
from virtomate.duplication.image_headers import HEADER_BYTES, read_qcow2_header
from virtomate.duplication.overlays import is_written_overlay
from virtomate.enums import ArtifactState
from virtomate.errors import ConnectionLostError, IllegalStateError, VirtomateError
from virtomate.hypervisor.changes import set_metadata_element, update_disk
from virtomate.hypervisor.domains import define_domain, find_domain_by_uuid
from virtomate.hypervisor.storage import get_volume, read_head
from virtomate.paths import normalise
from virtomate.services.linked.record import write_record
from virtomate.services.origins import find_record
from virtomate.services.quiesce import thaw_own, thawed_note
from virtomate.services.storage import find_volume, may_be_running, read_pools, temporary_pools_on, this_process
from virtomate.services.storage.artifacts import BEGUN, delete_command, locked, pool_of, remove_artifact
from virtomate.services.storage.references import scan_references
from virtomate.services.transaction import Claim
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.definition.codec import Definition
    from virtomate.definition.freeze import FrozenDisk
    from virtomate.definition.provenance import Artifact, DomainReference, Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.storage import PoolIndex
    from virtomate.services.transaction import Run

_LOG = logging.getLogger(__name__)

_UUIDS = UUID("b7a53c0e-8d21-4f4a-9f27-52f6a1c9e3d4")
# A freeze takes a fraction of a second.
_WAIT_SECONDS = 30
_REMOVAL_SECONDS = 30


def record_name(original: DomainReference) -> str:
    """Return the name of the domain that records a freeze of an original."""
    return f"virtomate-freeze-{original.uuid}"


def record_uuid(original_uuid: str) -> str:
    """Return the UUID of the domain that records a freeze of an original."""
    return str(uuid5(_UUIDS, original_uuid))


def definitions_of(domain: Domain) -> tuple[Definition, ...]:
    """Return the definition of a domain, and of a running one also the definition that it runs with."""
    texts = [domain.inactive_definition_without_secrets()]
    if domain.is_active():
        texts.append(domain.live_definition())
    return tuple(map(codec.parse_definition, texts))


def find_disk(definitions: Iterable[Definition], made: Artifact, pools: PoolIndex) -> str | None:
    """Return the target of the disk that is an overlay, None where no disk is."""
    for disk in (disk for definition in definitions for disk in file_readers.disks(definition.domain)):
        path = disk.path or pools.path_of(disk.pool or "", disk.volume or "")
        if path is not None and normalise(path) == made.path:
            return disk.target
    return None


def mark_original(domain: Domain, frozen: Iterable[FrozenDisk], overlays: Iterable[Artifact]) -> None:
    """Write into an original's metadata which disks were moved; the record of a clone gets its overlays, too."""
    definition = codec.parse_definition(domain.inactive_definition_without_secrets())
    mark = marks.read_freeze_mark(definition) or marks.FreezeMark(domain.uuid)
    set_metadata_element(domain, marks.NAMESPACE, marks.PREFIX, marks.freeze_mark_element(mark.adding(frozen)))
    record = find_record(domain)
    if record is not None and record.finished and record.mark is not None:
        listed = {made.path: made for made in (*record.made, *overlays)}
        write_record(domain, record._replace(made=tuple(listed.values())))


def settle_disk(domain: Domain, target: str, overlay: NewSource, former: Definition) -> None:
    """Write a disk that libvirt has moved onto an overlay as a freeze writes the disk of a domain that is off.

    libvirt writes the backing chain into the definition, and forgets what else the source of the disk held. Where the
    definition cannot be changed, it stays as libvirt has written it, which is right, too.

    Raises:
        ConnectionLostError: The connection broke.
    """
    try:
        definition = codec.parse_definition(domain.inactive_definition())
        position = next(
            (disk.position for disk in file_readers.disks(definition.domain) if disk.target == target), None
        )
        if position is not None:
            update_disk(domain, marks.settled_disk(definition.domain, position, overlay, former.domain))
    except ConnectionLostError:
        raise
    except VirtomateError as error:
        _LOG.info("disk %s of %r stays as libvirt has defined it: %s", target, domain.name, error)


def await_freeze(run: Run, original: DomainReference) -> None:
    """Wait for the end of another run's freeze of the original; complete or undo one that was killed.

    Raises:
        IllegalStateError: The other run does not end, or what it has left cannot be removed.
        InterruptedBySignalError: A signal arrived.
    """
    connection = run.source.connection
    for _ in backoff(_WAIT_SECONDS, run.cancel):
        found = find_freeze(connection, original.uuid)
        if found is None:
            return
        domain, record = found
        if record.maker == this_process() or not may_be_running(record.maker):
            _settle(run, domain, record)
            return
    raise busy(original)


def busy(original: DomainReference) -> IllegalStateError:
    """Return the error for an original that another run is freezing."""
    return IllegalStateError(
        f"domain '{original.name}' is being frozen by another virtomate",
        hint="Wait for its end. If it was killed on another host, "
        f"{virtomate('domain-delete', record_name(original))} completes or undoes what it had begun.",
    )


def complete_freeze(connection: Connection, domain: Domain, record: Provenance) -> bool:
    """Complete a freeze that was killed, as far as disks of the original were moved; return whether any were.

    Args:
        connection: The connection of the domains.
        domain: The domain that holds the record; afterwards it lists only the overlays that no disk is.
        record: The record.

    Raises:
        IllegalStateError: An overlay that no disk is any more holds data of the original.
    """
    with temporary_pools_on(connection) as temporary:
        return _complete(connection, read_pools(connection).opening(temporary.over), domain, record)


def _complete(connection: Connection, pools: PoolIndex, domain: Domain, record: Provenance) -> bool:
    original = find_domain_by_uuid(connection, record.source.uuid)
    targets: dict[str, str | None] = {}
    definitions: tuple[Definition, ...] = ()
    if original is not None:
        definitions = definitions_of(original)
        targets = {made.path: find_disk(definitions, made, pools) for made in record.made}
    moved = [made for made in record.made if targets.get(made.path) is not None]
    for made in record.made:
        if made not in moved:
            _refuse_written(connection, record, made)
    if original is None or not moved:
        return False
    overlays = [_with_base(pools, made)._replace(state=ArtifactState.MADE) for made in moved]
    frozen = [_frozen_disk(connection, pools, made, targets[made.path] or "") for made in overlays]
    mark_original(original, frozen, overlays)
    if original.is_active():
        # libvirt has moved the disks itself
        for made in moved:
            overlay = NewSource(made.path, made.pool, made.volume or "", "qcow2")
            settle_disk(original, targets[made.path] or "", overlay, definitions[0])
    rest = record._replace(made=tuple(made for made in record.made if made not in moved))
    text = claim_definition(domain.name, rest, codec.parse_definition(domain.inactive_definition()).domain)
    define_domain(connection, domain.name, codec.unparse_definition(text))
    return True


def _refuse_written(connection: Connection, record: Provenance, made: Artifact) -> None:
    """Refuse to lose what the original has written since: a disk moves in one call, and the run is killed after it."""
    with pool_of(connection, made) as known:
        if made.volume is None or known is None or not known.is_active:
            return
        found = find_volume(known.pool, made.volume)
        if found is None or not is_written_overlay(connection, found.description):
            return
    delete = delete_command(made)
    raise IllegalStateError(
        f"volume '{made.path}' holds what domain '{record.source.name}' has written, and is not a disk of that domain "
        "any more",
        hint=f"Define the domain with this volume again. Or, if nothing of the volume is needed, delete it: {delete}",
    )


def find_freeze(connection: Connection, original_uuid: str) -> tuple[Domain, Provenance] | None:
    """Return the domain that records an unfinished freeze of an original, and the record; None if there is none."""
    domain = find_domain_by_uuid(connection, record_uuid(original_uuid))
    record = None if domain is None else find_provenance(domain.inactive_definition_without_secrets(), domain.uuid)
    return None if domain is None or record is None or not record.freezes else (domain, record)


def _settle(run: Run, domain: Domain, record: Provenance) -> None:
    """Complete or undo the freeze of a run that was killed, and remove the record."""
    connection = run.source.connection
    if thaw_own(connection, record.source.uuid, record.artifact_token or ""):
        run.progress.note(thawed_note(record.source.name))
    like = codec.parse_definition(domain.inactive_definition()).domain
    # with a token of this run: another run may take the record over, too
    claim = Claim(run.source, domain.name, record._replace(maker=this_process(), token=os.urandom(16).hex()), like)
    claim.take()
    if complete_freeze(connection, domain, claim.provenance):
        found = find_freeze(connection, record.source.uuid)
        if found is None:
            return
        claim.provenance = found[1]
    references = scan_references(connection, {domain.uuid: claim.provenance.made})
    for made in claim.provenance.made:
        if users := references.users(made):
            raise IllegalStateError(
                f"volume '{made.path}' is left of an unfinished freeze of '{record.source.name}' and cannot be "
                f"deleted: {users[0].says}",
                hint=f"Delete the named domain or volume, then run {virtomate('domain-delete', domain.name)}",
            )
        with locked(connection, [made], claim.token):
            remove_artifact(connection, made, claim.token, BEGUN, backoff(_REMOVAL_SECONDS))
    claim.release()


def _with_base(pools: PoolIndex, made: Artifact) -> Artifact:
    """Return an overlay with what its base is like now, if the original ran and wrote to the base until the freeze."""
    planned = made.base_fingerprint
    if made.base is None or planned is None or planned.modified is not None:
        return made
    with suppress(VirtomateError):
        return made._replace(base_fingerprint=fingerprint_base(with_identity(pools.find_path(made.base).description)))
    return made


def _frozen_disk(connection: Connection, pools: PoolIndex, made: Artifact, target: str) -> FrozenDisk:
    """Return what the mark says of a disk whose overlay was made by a run that was killed."""
    with pool_of(connection, made) as known:
        pool = made.pool if known is None else known.pool.name
        header = read_qcow2_header(read_head(connection, get_volume(connection, pool, made.volume or ""), HEADER_BYTES))
    base = made.base or ""
    fingerprint = made.base_fingerprint or BaseFingerprint(None, 0)
    mode = None
    with suppress(VirtomateError):
        mode = pools.find_path(base).description.mode
    format_ = "raw" if header is None or header.backing_format is None else header.backing_format
    return marks.FrozenDisk(target, made.path, base, format_, fingerprint, mode, made.below)
