"""Flattening by a copy, where the images cannot be opened here: a new volume takes the place of a disk's overlay.

A claim keeps the journal of the copy, as for a clone: its source is the domain, and what it reserves is the path of
the overlay. The UUID of the claim follows from that of the domain, so that one look-up finds the claim, and no two runs
copy for one domain at once. When the definition names the copy, the copy is the domain's: the record in the domain's
metadata lists it, the overlay goes, and the claim goes last.
"""

from __future__ import annotations

import posixpath
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.definition import codec
from virtomate.definition.provenance import DomainReference
from virtomate.duplication import select
from virtomate.duplication.hostfs import find_obstacle
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import Action, ArtifactKind, ArtifactState, Mode, TokenPlace
from virtomate.errors import (
    ConflictError,
    IllegalStateError,
    InternalError,
    SourceChangedError,
    UnsupportedError,
    VirtomateError,
)
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.notices import Kept, notice
from virtomate.paths import is_url, url_in
from virtomate.rollback import Rollback
from virtomate.services.linked.flatten_journal import claim_name, claim_uuid, has_disk, refuse_only_copy
from virtomate.services.linked.record import change_disk, write_record
from virtomate.services.origins import find_record
from virtomate.services.storage import describe, may_be_running, this_process
from virtomate.services.storage.artifacts import (
    BEGUN,
    OWN,
    Verdict,
    bears_token_here,
    name_artifact,
    pool_of,
    put_token,
    remove_artifact,
    require_intact,
)
from virtomate.services.storage.references import scan_references
from virtomate.services.transaction import (
    Claim,
    create_volumes,
    duplicating,
    new_journal,
    release_unless_needed,
)
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Notice
    from virtomate.services.linked.chain import DiskChain
    from virtomate.services.storage import PoolEntry, PoolIndex
    from virtomate.services.transaction import Run
    from virtomate.services.trust import PoolGate

# How long libvirt may take to let go of a volume.
_REMOVE_SECONDS = 30


def plan_copy(
    connection: Connection, pools: PoolIndex, gate: PoolGate, chain: DiskChain
) -> tuple[Duplication, tuple[Notice, ...]]:
    """Return how a copy of a disk's image and all that is below is made, and warnings about it.

    Raises:
        UnsupportedError: A copy would lose something, or is not possible.
        IllegalStateError: libvirt might follow a symbolic link of somebody else's.
    """
    volume, target = chain.volume, chain.disk.target
    if chain.header is not None and chain.header.has_bitmaps:
        raise UnsupportedError(
            f"disk {target} ('{volume.path}') has bitmaps for incremental backups, which a copy would lose",
            hint="Flatten the domain while it runs, or where its images can be opened.",
        )
    below = tuple(image.volume for image in chain.below if image.volume is not None)
    if len(below) < len(chain.below):
        image = chain.below[len(below)]
        below_name = image.path or url_in(image.name) or image.name
        if is_url(below_name):
            raise UnsupportedError(
                f"disk {target} rests on '{below_name}', an image in a Ceph cluster, which libvirt cannot copy",
                hint="Flatten the domain while it runs: QEMU reads the image.",
            )
        raise UnsupportedError(
            f"disk {target} rests on '{below_name}', which is in no active storage pool, and cannot be copied",
            hint="Flatten the domain while it runs, or make the directory of the image a storage pool.",
        )
    known = pools.named(volume.pool)
    transfers = select.choose_transfer(
        volume,
        volume.format,
        chain.header,
        Mode.COPY,
        is_local=connection.is_local,
        obstacle=find_obstacle(volume),
        is_exposed=select.is_exposed(volume, known.description.mode),
    )
    involved = {name: pools.named(name) for name in dict.fromkeys(item.pool for item in (volume, *below))}
    transfers, cautions = gate.admit(
        connection, transfers, [(entry.pool, entry.description) for entry in involved.values()], f"disk {target}"
    )
    directory = posixpath.dirname(volume.path)
    place = Place(known.pool.name, known.pool.uuid, directory, _free_name(known, volume.name))
    copy = Duplication(
        label=target,
        kind=ArtifactKind.VOLUME,
        source=volume,
        place=place,
        action=Action.COPIED,
        transfers=transfers,
        below=below,
        keep_owner=not connection.is_session,
        is_read_again=False,
    )
    return copy, cautions


def _free_name(known: PoolEntry, name: str) -> str:
    """Return the name of the copy of a volume, which no volume of the pool has."""
    stem, suffix = posixpath.splitext(name)
    return next(found for found in _names(stem, suffix) if known.pool.find_volume(found) is None)


def _names(stem: str, suffix: str) -> Iterator[str]:
    yield f"{stem}-flat{suffix}"
    number = 2
    while True:
        yield f"{stem}-flat-{number}{suffix}"
        number += 1


def refuse_busy(connection: Connection, domain: Domain) -> None:
    """Raise IllegalStateError if another run, which may still go on, makes a copy for the domain."""
    found = _find_claim(connection, domain)
    if found is not None and found[1].maker != this_process() and may_be_running(found[1].maker):
        raise _busy(domain)


def recover(run: Run, domain: Domain) -> tuple[Notice, ...]:
    """Complete what a killed run has begun with a copy, or remove what it has left; return what was kept.

    Raises:
        IllegalStateError: The run may still go on, nothing proves that a volume is what the run has made, or the volume
            may be all that there is of a disk.
    """
    connection = run.target.connection
    refuse_busy(connection, domain)
    found = _find_claim(connection, domain)
    if found is None:
        return ()
    claim, journal = found
    (made,) = journal.made
    if has_disk(connection, domain, made.path):
        kept = _finish(run, domain, journal)
    else:
        refuse_only_copy(connection, journal)
        kept = ()
        accepted = OWN if made.state is ArtifactState.MADE else BEGUN
        try:
            remove_artifact(connection, made, journal.artifact_token, accepted, backoff(_REMOVE_SECONDS))
        except ConflictError as error:
            raise IllegalStateError(
                f"an earlier run was killed, and {name_artifact(made)} that it may have left cannot be removed: "
                f"{error.message}",
                hint="Look at it, then remove it: "
                f"{virtomate('domain-delete', claim.name, options='--yes-unproved')}. Then run the command again.",
            ) from error
    claim.undefine_keeping_nvram()
    return kept


def flatten_by_copy(run: Run, domain: Domain, target: str, copy: Duplication) -> tuple[Notice, ...]:
    """Make a copy, and let it take the place of the overlay of the disk with this target; return what was kept.

    Raises:
        SourceChangedError: The domain was started, or the overlay was written to.
        VirtomateError: libvirt failed, or a signal arrived. The domain is as before, unless its definition names the
            copy already: then the same command completes the work.
    """
    connection = run.target.connection
    job = duplicating(copy)
    undo = Rollback()
    claim = _new_claim(run, domain, copy)
    undo.push(f"domain '{claim.name}', which keeps the journal", partial(release_unless_needed, claim, undo))
    try:
        _take(claim, domain)
        (volume,) = create_volumes(run, (job,), claim, undo)
        volume.fill(connection, run.cancel)
        _require_unchanged(connection, domain, copy)
        claim.require_intact()
        run.cancel.check()
        change_disk(domain, target, partial(_take_place, place=copy.place))
    except Exception as unforeseen:
        error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
        if has_disk(connection, domain, copy.place.path):
            raise error.adding(hint=f"{virtomate('domain-flatten', domain.name)} completes the work.") from unforeseen
        if leftovers := undo.run(run.cancel.awaiting):
            hint = f"{virtomate('domain-delete', claim.name)} removes what is left."
            error = error.adding(hint=hint, leftovers=leftovers)
        raise error from unforeseen
    undo.commit()
    kept = _finish(run, domain, claim.provenance)
    claim.release()
    return kept


def _new_claim(run: Run, domain: Domain, copy: Duplication) -> Claim:
    reference = DomainReference(domain.name, domain.uuid)
    planned = (duplicating(copy).planned(),)
    journal = new_journal(claim_uuid(domain.uuid), reference, Mode.COPY, planned, reserved=(copy.source.path,))
    like = codec.parse_definition(domain.inactive_definition_without_secrets()).domain
    return Claim(run.target, claim_name(domain.uuid), journal, like, is_uuid_given=True)


def _take(claim: Claim, domain: Domain) -> None:
    try:
        claim.take()
    except ConflictError as error:
        raise _busy(domain) from error


def _busy(domain: Domain) -> IllegalStateError:
    return IllegalStateError(
        f"domain '{domain.name}' is being flattened by another virtomate",
        hint="Wait for its end. If it was killed on another host, "
        f"{virtomate('domain-delete', claim_name(domain.uuid))} removes what it has left.",
    )


def _find_claim(connection: Connection, domain: Domain) -> tuple[Domain, Provenance] | None:
    """Return the claim of a copy for a domain, and the journal in it."""
    claim = find_domain_by_uuid(connection, claim_uuid(domain.uuid))
    journal = None if claim is None else find_record(claim)
    if claim is None or journal is None or journal.finished or journal.source.uuid != domain.uuid:
        return None
    return claim, journal


def _require_unchanged(connection: Connection, domain: Domain, copy: Duplication) -> None:
    hint = "Keep the domain shut off, or flatten it while it runs."
    if domain.is_active():
        raise SourceChangedError(f"domain '{domain.name}' was started while it was being flattened", hint=hint)
    for volume in (copy.source, *copy.below):
        now = describe(get_pool(connection, volume.pool), get_volume(connection, volume.pool, volume.name)).description
        if (now.modified, now.physical) != (volume.modified, volume.physical):
            raise SourceChangedError(f"'{volume.path}' was written to while it was being copied", hint=hint)


def _take_place(disk: Document, place: Place) -> None:
    """Let a disk have the volume at a place, which rests on nothing."""
    disk.pop("backingStore", None)
    if disk.get("@type") == "volume":
        disk["source"] |= {"@pool": place.pool, "@volume": place.name}
    else:
        disk["source"] |= {"@file": place.path}


def _finish(run: Run, domain: Domain, journal: Provenance) -> tuple[Notice, ...]:
    """Note the copy, which the definition names, in a clone's record, and remove the overlay; return what was kept.

    An overlay is removed only if the record lists it, its token proves it, and nobody uses it.
    """
    connection = run.target.connection
    (made,), (replaced,) = journal.made, journal.reserved
    record = find_record(domain)
    old = None if record is None else next((item for item in record.made if item.path == replaced), None)
    if record is None or old is None:
        return (_kept(f"volume '{replaced}'", "a copy has taken its place, and cloning did not make it"),)
    made = _as_own(connection, made, journal, record)
    others = tuple(item for item in record.made if item.path not in {made.path, replaced})
    # what stays is no disk of the clone any more
    write_record(domain, record._replace(made=(*others, old._replace(base=None, base_fingerprint=None), made)))
    references = scan_references(connection, {domain.uuid: (old, made)})
    users = [user.says for user in references.users(old) if user.domain_uuid != journal.uuid]
    if users:
        return (_kept(name_artifact(old), users[0]),)
    try:
        with run.cancel.awaiting(f"the removal of {name_artifact(old)}"):
            remove_artifact(connection, old, record.artifact_token, (Verdict.PROVED,), backoff(_REMOVE_SECONDS))
    except VirtomateError as error:
        if not connection.is_alive:
            raise
        return (_kept(name_artifact(old), error.message),)
    write_record(domain, record._replace(made=(*others, made)))
    return ()


def _as_own(connection: Connection, made: Artifact, journal: Provenance, record: Provenance) -> Artifact:
    """Return a copy as a line of the clone's record, with the clone's token where the file can be seen here."""
    token = record.artifact_token
    if not bears_token_here(made, token):
        require_intact(connection, (made,), journal.artifact_token or "")
    with pool_of(connection, made) as known:
        if known is None:
            raise IllegalStateError(f"storage pool '{made.pool}' is gone", hint="Bring it back, then try again.")
        volume = describe(known.pool, get_volume(connection, known.pool.name, made.volume or "")).description
        marked = None if token is None else put_token(volume, token)
        return made._replace(
            state=ArtifactState.MADE,
            fingerprint=known.backend.new_fingerprint(marked or volume, known.pool),
            token_place=None if marked is None else TokenPlace.ATTRIBUTE,
        )


def _kept(what: str, reason: str) -> Notice:
    return notice(Kept.FOREIGN, what, reason=reason)
