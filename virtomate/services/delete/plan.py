"""The plan of a deletion: what goes with each clone, in which order, and every reason not to touch anything."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, NamedTuple

from virtomate.advice import virsh
from virtomate.definition import codec, disk_readers, nvram_readers
from virtomate.definition.provenance import read_provenance
from virtomate.definition.volume import describe_pool
from virtomate.duplication.hostfs import NANOSECONDS, nanoseconds
from virtomate.enums import ArtifactKind
from virtomate.errors import HypervisorError, IllegalStateError, NotFoundError, UsageError
from virtomate.hypervisor.domains import find_domain
from virtomate.hypervisor.storage import find_pool
from virtomate.paths import normalise
from virtomate.services.delete.records import DeletionPreview, DoomedThing
from virtomate.services.delete.refusals import Refusals
from virtomate.services.delete.snapshots import advise_merging
from virtomate.services.storage.artifacts import (
    Judgement,
    Verdict,
    bears_token_here,
    judge,
    judge_outside_pools,
    name_artifact,
    sight,
    why_not_in,
)
from virtomate.services.storage.firmware import own_nvram_path
from virtomate.services.storage.owner import is_running
from virtomate.services.storage.pools import TEMPORARY_POOL_PREFIX, PoolEntry
from virtomate.services.storage.references import scan_references
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Notice
    from virtomate.services.storage.references import Reference, References

SAVED_STATE = "saved state"
# How many users of a volume a refusal names.
_NAMED_USERS = 3


class Going(NamedTuple):
    """An artifact that will be removed.

    Attributes:
        verdict: What is proved of it; what is found when it is removed must be the same.
        is_outside: Whether it is in no storage pool, so that a temporary one is needed.
    """

    made: Artifact
    verdict: Verdict
    is_outside: bool


class Deletion(NamedTuple):
    """The deletion of one clone.

    Attributes:
        text: Its definition as libvirt gave it, passwords included.
        going: What was made for it and will be removed, with what is proved of each.
        foreign: What stands on its record, but is another's by now, each a phrase with the reason.
        unreachable: What cannot be looked at, of an unfinished clone, likewise.
        kept_disks: Its disks, and its NVRAM, that cloning did not make, each a phrase.
        records: What libvirt has on record of its snapshots and checkpoints, likewise.
        needs: UUIDs of the clones that have to be gone before, since they use what goes with this one.
    """

    preview: DeletionPreview
    provenance: Provenance
    text: str
    going: tuple[Going, ...]
    foreign: tuple[str, ...]
    unreachable: tuple[str, ...]
    kept_disks: tuple[str, ...]
    records: tuple[str, ...]
    has_managed_save: bool
    needs: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Name of the clone."""
        return self.preview.name

    @property
    def uuid(self) -> str:
        """Its UUID."""
        return self.preview.uuid


class DeletionPlan(NamedTuple):
    """What will be deleted.

    Attributes:
        deletions: In the order in which the clones were named.
        order: UUIDs in the order in which they have to go.
        references: Who uses what.
    """

    deletions: tuple[Deletion, ...]
    order: tuple[str, ...]
    references: References

    @property
    def previews(self) -> tuple[DeletionPreview, ...]:
        """What would be done, for whoever has to agree."""
        return tuple(deletion.preview for deletion in self.deletions)

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What could not be looked at, each a sentence."""
        return self.references.warnings

    @property
    def doubts(self) -> tuple[str, ...]:
        """What would be removed although nothing proves that it was made for the clone, each a phrase."""
        return tuple(
            f"{thing.what} of '{preview.name}'"
            for preview in self.previews
            for thing in preview.doomed
            if thing.doubt is not None
        )

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of what somebody may still want: finished clones, and what has other disks or a saved state."""
        return tuple(
            deletion.name
            for deletion in self.deletions
            if deletion.preview.is_finished or deletion.kept_disks or deletion.has_managed_save
        )


def plan_deletion(connection: Connection, names: tuple[str, ...], cancel: CancelToken) -> DeletionPlan:
    """Plan the deletion of clones, each given by name or UUID; nothing is changed by it.

    All domains and volumes are looked at once, however many clones there are.

    Raises:
        UsageError: A clone is named twice.
        NotFoundError: There is no such domain.
        IllegalStateError: One is no clone, is active or still being made, or something else uses what was made for it.
        InterruptedBySignalError: A signal arrived.
    """
    drafts = _read(connection, names, cancel)
    references = scan_references(connection, {draft.domain.uuid: draft.provenance.made for draft in drafts})
    cancel.check()
    refusals, deletions = Refusals(), []
    for draft in drafts:
        try:
            deletions.append(draft.finish(connection, references))
        except IllegalStateError as error:
            refusals.add(error)
    refusals.raise_if_any()
    deletions = _with_needs(deletions, references, {draft.domain.uuid: draft for draft in drafts})
    try:
        order = tuple(TopologicalSorter({deletion.uuid: deletion.needs for deletion in deletions}).static_order())
    except CycleError as error:
        raise IllegalStateError("these clones use each other's volumes, so that none can be deleted first") from error
    return DeletionPlan(tuple(deletions), order, references)


def _read(connection: Connection, names: tuple[str, ...], cancel: CancelToken) -> list[_Draft]:
    """Look at the domains of these names, and refuse all that are no clones or in no state to be deleted."""
    domains: dict[str, Domain] = {}
    drafts, refusals = [], Refusals()
    for name in names:
        cancel.check()
        try:
            domain = find_domain(connection, name)
        except NotFoundError as error:
            refusals.add_missing(name, error, connection.name)
            continue
        if domain.uuid in domains:
            raise UsageError(f"domain '{domain.name}' is named twice")
        domains[domain.uuid] = domain
        if (draft := _draft(domain, refusals)) is not None:
            drafts.append(draft)
    refusals.raise_if_any()
    return drafts


def _draft(domain: Domain, refusals: Refusals) -> _Draft | None:
    text = domain.inactive_definition()
    definition = codec.parse_definition(text)
    provenance = read_provenance(definition)
    maker = None if provenance is None or provenance.finished else provenance.maker
    if provenance is None:
        refusals.add_stranger(domain.name)
    elif domain.is_active():
        refusals.add_active(domain.name, domain.state())
    elif maker is not None and is_running(maker):
        refusals.add_in_the_making(domain.name, maker.pid)
    else:
        return _Draft(domain, text, definition, provenance)
    return None


class _Draft(NamedTuple):
    """A clone that may be deleted, as far as it can be told without looking at others."""

    domain: Domain
    text: str
    definition: Definition
    provenance: Provenance

    def finish(self, connection: Connection, references: References) -> Deletion:
        """Look at everything that was made for it, and at what libvirt keeps of it.

        Raises:
            IllegalStateError: Something cannot be looked at, so that deleting would leave it behind without a record.
        """
        kept_disks = (
            *_foreign_disks(self.definition, self.provenance, references),
            *_foreign_nvram(self.definition, self.provenance, references),
        )
        doomed: list[DoomedThing] = []
        going: list[Going] = []
        foreign: list[str] = []
        unreachable: list[str] = []
        hints: dict[str, None] = {}
        for made in self.provenance.made:
            if made.kind is ArtifactKind.POOL:
                continue
            judgement, is_outside = self._judge(connection, made, references.pools.find(made.pool))
            if judgement.verdict is Verdict.GONE:
                continue
            phrase = f"{name_artifact(made)} ({judgement.reason})"
            if judgement.verdict is Verdict.AWAY:
                unreachable.append(phrase)
                hints[judgement.hint or f"{virsh('pool-list', options='--all')} shows the pools."] = None
            elif judgement.verdict is Verdict.FOREIGN or (
                self.provenance.finished and judgement.verdict is Verdict.EMPTY
            ):
                foreign.append(phrase)
            else:
                going.append(Going(made, judgement.verdict, is_outside))
                doomed.append(_doomed(made, judgement))
        if unreachable and self.provenance.finished:
            raise IllegalStateError(
                f"'{self.domain.name}' cannot be deleted completely: {'; '.join(unreachable)}", hint=" ".join(hints)
            )
        has_managed_save = self.domain.has_managed_save()
        records = tuple(_records_of(self.domain))
        doomed += [DoomedThing(what) for what in ((SAVED_STATE,) if has_managed_save else ()) + records]
        return Deletion(
            DeletionPreview(
                name=self.domain.name,
                uuid=self.domain.uuid,
                is_finished=self.provenance.finished,
                source=self.provenance.source,
                mode=self.provenance.mode,
                doomed=tuple(doomed),
                kept=(*kept_disks, *foreign, *unreachable),
            ),
            provenance=self.provenance,
            text=self.text,
            going=tuple(going),
            foreign=tuple(foreign),
            unreachable=tuple(unreachable),
            kept_disks=kept_disks,
            records=records,
            has_managed_save=has_managed_save,
        )

    def _judge(self, connection: Connection, made: Artifact, known: PoolEntry | None) -> tuple[Judgement, bool]:
        """Judge an artifact, and tell whether that was done without a storage pool that has it."""
        token = self.provenance.artifact_token
        known = known or _temporary(connection, made)
        objection = why_not_in(made, known)
        if known is not None and objection is None:
            sighting, _ = sight(connection, known.pool, made)
            return judge(made, token, sighting), False
        is_stopped = known is not None and not known.is_active
        if not is_stopped and token is not None and bears_token_here(made, token):
            return Judgement(Verdict.PROVED), True
        if known is None and made.kind is ArtifactKind.NVRAM:
            directories = _nvram_directories(connection, self.definition)
            return judge_outside_pools(made, token, directories, is_local=connection.is_local), True
        hint = f"Start it: {virsh('pool-start', made.pool)}" if is_stopped else None
        return Judgement(Verdict.AWAY, objection or "", hint=hint), False


def _temporary(connection: Connection, made: Artifact) -> PoolEntry | None:
    """The temporary pool that a killed run has left running, in which it made an NVRAM."""
    if not made.pool.startswith(TEMPORARY_POOL_PREFIX) or (pool := find_pool(connection, made.pool)) is None:
        return None
    return PoolEntry(pool, describe_pool(pool.document()), pool.is_active())


def _nvram_directories(connection: Connection, definition: Definition) -> frozenset[str]:
    """Where libvirt keeps the NVRAM of such domains; empty where it does not tell."""
    try:
        path = own_nvram_path(connection, definition.domain)
    except HypervisorError:
        return frozenset()
    return frozenset() if path is None else frozenset({posixpath.dirname(path)})


def _doomed(made: Artifact, judgement: Judgement) -> DoomedThing:
    volume = judgement.volume
    size = None if volume is None else volume.allocation
    if judgement.verdict is not Verdict.UNPROVED:
        return DoomedThing(name_artifact(made), size)
    return DoomedThing(
        name_artifact(made),
        size,
        doubt=judgement.reason,
        owner=None if volume is None or volume.owner is None else f"{volume.owner}:{volume.group}",
        modified=None if volume is None or volume.modified is None else nanoseconds(volume.modified) / NANOSECONDS,
    )


def _foreign_disks(definition: Definition, provenance: Provenance, references: References) -> Iterator[str]:
    """The disks that cloning did not make; what is read-only is nothing that anybody would miss."""
    own = {made.path for made in provenance.made}
    for disk in disk_readers.disks(definition.domain):
        path = disk.path
        if path is None and disk.pool is not None and disk.volume is not None:
            path = references.pools.path_of(disk.pool, disk.volume)
        is_own = path is not None and normalise(path) in own
        if not (is_own or disk.is_readonly or disk.is_empty):
            yield f"disk {disk.target} ({disk.location}), which cloning did not make"


def _foreign_nvram(definition: Definition, provenance: Provenance, references: References) -> Iterator[str]:
    """An NVRAM that cloning did not make: where the original had none yet, libvirt makes one at the clone's start."""
    nvram = nvram_readers.nvram(definition.domain)
    if nvram is None or nvram.type != "file" or not nvram.path:
        return
    path = normalise(nvram.path)
    if path not in {made.path for made in provenance.made} and references.is_there(path):
        yield f"NVRAM '{path}', which cloning did not make"


def _records_of(domain: Domain) -> Iterator[str]:
    """What libvirt has on record of a domain's snapshots and checkpoints."""
    for count, what in ((domain.snapshot_count(), "snapshot"), (domain.checkpoint_count(), "checkpoint")):
        if count:
            yield f"record of {counted(count, what)}"


def _with_needs(deletions: list[Deletion], references: References, drafts: Mapping[str, _Draft]) -> list[Deletion]:
    """Find out which clone has to go before which; refuse where something that stays uses what goes.

    Raises:
        IllegalStateError: That is so.
    """
    owners = {going.made.path: deletion.uuid for deletion in deletions for going in deletion.going}
    uuids = set(owners.values()) | {deletion.uuid for deletion in deletions}
    needs: defaultdict[str, set[str]] = defaultdict(set)
    refusals = Refusals()
    for deletion in deletions:
        for made in (going.made for going in deletion.going):
            staying = []
            for user in references.users(made):
                uuid = user.domain_uuid if user.domain_uuid in uuids else owners.get(user.path or "")
                if uuid is None:
                    staying.append(user)
                elif uuid != deletion.uuid:
                    needs[deletion.uuid].add(uuid)
            if staying:
                advice = _advise(drafts[deletion.uuid], staying, references)
                refusals.add(in_use(deletion.name, made, staying, advice))
    refusals.raise_if_any()
    return [deletion._replace(needs=frozenset(needs[deletion.uuid])) for deletion in deletions]


def _advise(draft: _Draft, users: list[Reference], references: References) -> str | None:
    """How the clone's own images can be merged, where nothing but these rest on its volume."""
    images = [user.path for user in users if user.path is not None]
    if len(images) < len(users):
        return None
    return advise_merging(draft.domain, draft.definition.domain, references.pools, images)


def in_use(name: str, made: Artifact, users: list[Reference], advice: str | None = None) -> IllegalStateError:
    """The error that names who uses an artifact of the clone with this name."""
    named = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(named):
        named.append(f"and {len(users) - len(named)} more")
    return IllegalStateError(
        f"{name_artifact(made)} of '{name}' cannot be deleted: {', '.join(named)}",
        hint=advice or "Delete that first. Clones that use it can be named in the same command.",
    )
