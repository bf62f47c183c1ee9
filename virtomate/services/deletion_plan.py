"""The plan of a deletion: what goes with each clone, in which order, and every reason not to touch anything."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition.provenance import read_provenance
from virtomate.definition.volume import normalise
from virtomate.duplication.evidence import observe
from virtomate.errors import IllegalStateError, NotFoundError, UsageError
from virtomate.hypervisor.domains import find_domain
from virtomate.kinds import MadeKind
from virtomate.records import DeletionPreview, DoomedThing
from virtomate.services.deletion_refusals import Refusals
from virtomate.services.maker import is_running
from virtomate.services.removal import name_made, object_to
from virtomate.services.snapshots import advise_merging
from virtomate.services.storage import scan_references
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.records import Made, Provenance
    from virtomate.services.storage import Reference, References

SAVED_STATE = "saved state"
# How many users of a volume a refusal names.
_NAMED_USERS = 3


@dataclass(frozen=True)
class Deletion:
    """The deletion of one clone.

    Attributes:
        text: Its definition as libvirt gave it, passwords included.
        going: What was made for it, is certainly what was made, and so will be removed.
        kept_disks: Its disks, and its NVRAM, that cloning did not make, each a phrase.
        records: What libvirt has on record of its snapshots and checkpoints, likewise.
        needs: UUIDs of the clones that have to be gone before, since they use what goes with this one.
    """

    preview: DeletionPreview
    provenance: Provenance
    text: str
    going: tuple[Made, ...]
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


@dataclass(frozen=True)
class DeletionPlan:
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
    def warnings(self) -> tuple[str, ...]:
        """What could not be looked at, each a sentence."""
        return self.references.warnings

    @property
    def needs_consent(self) -> bool:
        """Whether finished clones are among them, which somebody may still want."""
        return any(preview.is_finished for preview in self.previews)


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
            deletions.append(draft.finish(references))
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
            refusals.add_missing(name, error)
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


@dataclass(frozen=True)
class _Draft:
    """A clone that may be deleted, as far as it can be told without looking at others."""

    domain: Domain
    text: str
    definition: Definition
    provenance: Provenance

    def finish(self, references: References) -> Deletion:
        """Look at everything that was made for it, and at what libvirt keeps of it.

        Raises:
            IllegalStateError: Something cannot be looked at, so that deleting would leave it behind without a record.
        """
        kept_disks = (
            *_foreign_disks(self.definition, self.provenance, references),
            *_foreign_nvram(self.definition, self.provenance, references),
        )
        doomed, kept, going = [], [*kept_disks], []
        for made in self.provenance.made:
            if made.kind is MadeKind.POOL or made.evidence is None:
                continue
            volume = None
            if self._require_pool(made, references):
                volume = references.volume(made)
                if volume is None:
                    # somebody removed it by hand
                    continue
                is_unseen = made.evidence.inode is not None and observe(volume).inode is None
                if is_unseen and self.provenance.finished:
                    raise IllegalStateError(
                        f"{name_made(made)} of '{self.domain.name}' could be seen when it was made, and cannot be seen "
                        "from here now, so nobody knows whether it is still the same",
                        hint="Run virtomate on the host of that libvirt, as a user who can see the file.",
                    )
                if (objection := object_to(made, volume, self.provenance)) is not None:
                    kept.append(f"{name_made(made)} ({objection})")
                    continue
            going.append(made)
            doomed.append(DoomedThing(name_made(made), None if volume is None else volume.allocation))
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
                kept=tuple(kept),
            ),
            provenance=self.provenance,
            text=self.text,
            going=tuple(going),
            kept_disks=kept_disks,
            records=records,
            has_managed_save=has_managed_save,
        )

    def _require_pool(self, made: Made, references: References) -> bool:
        """Whether the volume can be looked at in its pool.

        What an unfinished clone has in a pool that is not there stays on its record; a finished one is still whole, and
        is left so.
        """
        known = references.pools.find(made.pool)
        if known is not None and known.is_active:
            return True
        if self.provenance.finished and (known is not None or made.kind is MadeKind.VOLUME):
            what = "is not there" if known is None else "is not active"
            start = f"Start it: virsh pool-start {shlex.quote(made.pool)}"
            raise IllegalStateError(
                f"{name_made(made)} of '{self.domain.name}' cannot be deleted: its storage pool '{made.pool}' {what}",
                hint="virsh pool-list --all shows the pools." if known is None else start,
            )
        return False


def _foreign_disks(definition: Definition, provenance: Provenance, references: References) -> Iterator[str]:
    """The disks that cloning did not make; what is read-only is nothing that anybody would miss."""
    own = {made.path for made in provenance.made}
    for disk in readers.disks(definition.domain):
        path = disk.path
        if path is None and disk.pool is not None and disk.volume is not None:
            path = references.pools.path_of(disk.pool, disk.volume)
        is_own = path is not None and normalise(path) in own
        if not (is_own or disk.is_readonly or disk.is_empty):
            yield f"disk {disk.target} ({disk.location}), which cloning did not make"


def _foreign_nvram(definition: Definition, provenance: Provenance, references: References) -> Iterator[str]:
    """An NVRAM that cloning did not make: where the original had none yet, libvirt makes one at the clone's start."""
    nvram = readers.nvram(definition.domain)
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
    owners = {made.path: deletion.uuid for deletion in deletions for made in deletion.going}
    uuids = set(owners.values()) | {deletion.uuid for deletion in deletions}
    needs: defaultdict[str, set[str]] = defaultdict(set)
    refusals = Refusals()
    for deletion in deletions:
        for made in deletion.going:
            staying = []
            for user in references.users(made):
                uuid = user.domain_uuid if user.domain_uuid in uuids else owners.get(user.path or "")
                if uuid is None:
                    staying.append(user)
                elif uuid != deletion.uuid:
                    needs[deletion.uuid].add(uuid)
            if staying:
                refusals.add(_in_use(drafts[deletion.uuid], made, staying, references))
    refusals.raise_if_any()
    return [replace(deletion, needs=frozenset(needs[deletion.uuid])) for deletion in deletions]


def _in_use(draft: _Draft, made: Made, users: list[Reference], references: References) -> IllegalStateError:
    named = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(named):
        named.append(f"and {len(users) - len(named)} more")
    images = [user.path for user in users if user.path is not None]
    advice = None
    if len(images) == len(users):
        advice = advise_merging(draft.domain, draft.definition.domain, references.pools, images)
    return IllegalStateError(
        f"{name_made(made)} of '{draft.domain.name}' cannot be deleted: {', '.join(named)}",
        hint=advice or "Delete that first. Clones that use it can be named in the same command.",
    )
