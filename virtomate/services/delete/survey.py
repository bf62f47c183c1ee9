"""The look at clones that are to be deleted: which domains they are, and what is removed and kept with each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.placeholders import restored_definition
from virtomate.definition.provenance import read_provenance
from virtomate.definition.tpm import has_emulated_tpm, read_tpm
from virtomate.duplication.hostfs import NANOSECONDS, nanoseconds
from virtomate.enums import ArtifactKind, ArtifactState
from virtomate.errors import HypervisorError, IllegalStateError, NoSpaceError, UnsupportedError
from virtomate.hypervisor.domains import define_domain, find_domain_by_uuid
from virtomate.notices import Kept, Notice, ScanWarning, named, notice
from virtomate.paths import normalise
from virtomate.services.delete.judging import judge_made
from virtomate.services.delete.keepers import take_back
from virtomate.services.delete.records import Deletion, DoomedThing, HandedBase, Selection
from virtomate.services.delete.refusals import Refusals
from virtomate.services.delete.selection import select_domains
from virtomate.services.origins import find_record
from virtomate.services.storage import (
    is_running,
    may_be_running,
)
from virtomate.services.storage.artifacts import (
    OWN,
    Judgement,
    Verdict,
    bears_token_here,
    judge_in_pool,
    name_artifact,
    pool_of,
    why_not_in,
)
from virtomate.tuples import NamedTuple
from virtomate.words import counted, undefine_command, virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.host_entries import HostEntry
    from virtomate.definition.provenance import Artifact, DomainReference, Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.storage.references import Lineage, References

SAVED_STATE = "managed-save image"
_RECORD_ALONE = (
    "is no disk of the domain, and has the UUID in the domain's record, which everybody who defines domains can write"
)


class Clone(NamedTuple):
    """A clone that may be deleted, as far as that can be told without a look at others.

    Attributes:
        text: The definition as libvirt gave it, passwords included.
        state: State of a running clone, None of a clone that is shut off.
        handed: Volumes that stay, since others rest on them.
    """

    domain: Domain
    text: str
    definition: Definition
    provenance: Provenance
    state: str | None = None
    handed: tuple[HandedBase, ...] = ()

    @property
    def own_paths(self) -> set[str]:
        """The paths of everything that cloning made."""
        return {made.path for made in self.provenance.made}


def read_clones(
    connection: Connection,
    selection: Selection,
    cancel: CancelToken,
    warn: Callable[[tuple[Notice, ...]], None],
) -> list[Clone]:
    """Read the selected domains; refuse all that are not clones, or in no state to be deleted.

    `warn` is told of each clone that gets its definition back.
    """
    clones, refusals = [], Refusals(connection.name)
    for domain in select_domains(connection, selection, refusals, cancel):
        cancel.check()
        if (clone := _read(domain, refusals, selection)) is not None and _restore(connection, clone):
            warn((Notice(ScanWarning.RESTORED_DEFINITION, domain.name),))
            clone = _read(domain, refusals, selection)
        try:
            is_completed = clone is not None and _complete_freeze(connection, clone)
            if clone is not None:
                _refuse_only_copy(connection, clone)
        except IllegalStateError as error:
            refusals.others.append(error)
            continue
        if clone is not None and is_completed:
            warn((Notice(ScanWarning.COMPLETED_FREEZE, clone.provenance.source.name),))
            clone = _read(domain, refusals, selection)
        if clone is not None:
            clones.append(clone)
    refusals.raise_if_any()
    return clones


def read_moments(connection: Connection, clones: Iterable[Clone]) -> list[Clone]:
    """Read the domains that keep the images of a running original for these clones, and can be deleted."""
    own = {clone.domain.uuid for clone in clones}
    uuids = {clone.provenance.moment for clone in clones if clone.provenance.moment is not None}
    return _read_moments(connection, uuids - own)


def read_keepers(connection: Connection, known: Iterable[Clone], lineage: Lineage) -> list[Clone]:
    """Read the other domains that keep images of these clones, or images below, and can be deleted."""
    own = {clone.domain.uuid for clone in known}
    uuids = {uuid for clone in known for uuid in _keepers_below(clone, lineage)}
    return _read_moments(connection, uuids - own)


def _read_moments(connection: Connection, uuids: Iterable[str]) -> list[Clone]:
    domains = [find_domain_by_uuid(connection, uuid) for uuid in sorted(uuids)]
    # of other domains nothing but the record is read: their definitions may be longer than libvirt can send
    kept = [domain for domain in domains if domain is not None and (record := find_record(domain)) and record.is_moment]
    found = [_read(domain, Refusals(), Selection()) for domain in kept]
    return [moment for moment in found if moment is not None and moment.provenance.is_moment]


def _keepers_below(clone: Clone, lineage: Lineage) -> Iterator[str]:
    """Yield the UUIDs of domains without disks that keep images of the clone, or images below."""
    images = [image for made in clone.provenance.made if (image := lineage.find(made.path)) is not None]
    for image in images:
        for kept in (image, *lineage.chain(image)):
            yield from (use.domain.uuid for use in lineage.uses(kept) if use.target is None)


def read_dependents(connection: Connection, clones: list[Clone], selection: Selection, lineage: Lineage) -> list[Clone]:
    """Read all clones that rest on images of these clones, at once or above each other; refuse as `read_clones` does.

    Other domains that rest on the images are passed over: they refuse the deletion of the images.
    """
    refusals = Refusals(connection.name)
    known = {clone.domain.uuid for clone in clones}
    found: list[Clone] = []
    left = list(clones)
    while left:
        for user in _resting_on(left.pop(0), lineage):
            domain = None if user.uuid in known else find_domain_by_uuid(connection, user.uuid)
            known.add(user.uuid)
            if domain is None or find_record(domain) is None:
                continue
            if (clone := _read(domain, refusals, selection)) is not None:
                found.append(clone)
                left.append(clone)
    refusals.raise_if_any()
    return sorted(found, key=lambda clone: clone.domain.name)


def _resting_on(clone: Clone, lineage: Lineage) -> list[DomainReference]:
    """Return the domains with a disk on an image of the clone, by name."""
    own = [image for made in clone.provenance.made if (image := lineage.find(made.path)) is not None]
    above = {overlay for image in own for overlay in lineage.dependents(image)}
    return sorted({use.domain for image in above for use in lineage.uses(image)})


def _read(domain: Domain, refusals: Refusals, selection: Selection) -> Clone | None:
    text = domain.inactive_definition()
    definition = codec.parse_definition(text)
    provenance = read_provenance(definition)
    maker = None if provenance is None or provenance.finished else provenance.maker
    state = domain.state() if domain.is_active() else None
    if provenance is None:
        refusals.strangers[domain.name] = has_emulated_tpm(definition.domain)
    elif state is not None and not selection.force:
        refusals.active[domain.name] = state
    elif state is not None and not domain.is_persistent():
        refusals.others.append(_transient(domain.name))
    elif maker is not None and is_running(maker):
        refusals.in_the_making[domain.name] = maker.pid
    else:
        return Clone(domain, text, definition, provenance, state)
    return None


def _transient(name: str) -> IllegalStateError:
    return IllegalStateError(
        f"domain '{name}' is transient: when it is ended, the record of what was made for it is gone",
        hint=f"Make it persistent first: {virsh('dumpxml', name)} and {virsh('define')} do that.",
    )


def _restore(connection: Connection, clone: Clone) -> bool:
    """Give a clone its definition back whose deletion was killed before a file was removed; return whether it has.

    Then the clone is a finished one: its deletion needs consent, and a refusal leaves the clone whole.
    """
    provenance = clone.provenance
    if provenance.replaced is None or provenance.maker is None or may_be_running(provenance.maker):
        return False
    if not all(_is_there(connection, provenance, made) for made in provenance.made):
        return False
    if not all(entry in found for entry, found in _entries(connection, provenance)):
        return False
    take_back(connection, clone.domain.uuid, provenance)
    definition = restored_definition(clone.definition.domain, provenance.replaced)
    try:
        define_domain(connection, clone.domain.name, codec.unparse_definition(definition))
    except (HypervisorError, NoSpaceError):
        if not connection.is_alive:
            raise
        return False
    return True


def _complete_freeze(connection: Connection, clone: Clone) -> bool:
    """Complete the freeze that a run had begun that was killed, and return whether there was one to complete."""
    record = clone.provenance
    if record.finished or not record.freezes or record.maker is None or is_running(record.maker):
        return False
    from virtomate.services.linked import complete_freeze  # noqa: PLC0415 - few runs are killed

    return complete_freeze(connection, clone.domain, record)


def _refuse_only_copy(connection: Connection, clone: Clone) -> None:
    """Refuse to delete what a flattening that was killed has made, if that may be all that there is of a disk."""
    if clone.provenance.finished or clone.provenance.source.uuid == clone.domain.uuid:
        return
    from virtomate.services.linked import refuse_only_copy  # noqa: PLC0415 - few runs are killed

    refuse_only_copy(connection, clone.provenance)


def _is_there(connection: Connection, provenance: Provenance, made: Artifact) -> bool:
    """Return whether an artifact may still be there; a temporary pool need not be."""
    token = provenance.artifact_token
    if made.state is ArtifactState.PLANNED or bears_token_here(made, token):
        return True
    try:
        with pool_of(connection, made) as known:
            judgement = judge_in_pool(connection, known, made, token)
    except (HypervisorError, UnsupportedError):
        return False
    return judgement is not None and judgement.verdict in OWN


def survey(connection: Connection, clone: Clone, references: References) -> Deletion:
    """Look at every artifact of a clone, and at what libvirt keeps of the clone.

    Raise IllegalStateError if an artifact of a finished clone cannot be looked at: it would be left without a record.
    """
    domain, provenance = clone.domain, clone.provenance
    # removed after the files: a deletion that was killed before that is told by the files
    entries = list(_entries(connection, provenance))
    doomed = [DoomedThing(entry.what, entry=entry) for entry, found in entries if entry in found]
    foreign: list[Notice] = []
    unreachable: list[Notice] = []
    hints: dict[str, None] = {}
    handed = {base.made.path for base in clone.handed}
    for made in provenance.made:
        if made.kind in {ArtifactKind.POOL, ArtifactKind.TPM} or made.path in handed:
            continue
        judgement, is_outside = judge_made(
            connection, clone.definition, clone.provenance, made, references.pools.find(made.pool)
        )
        judgement = _of_device(judgement, clone, made, references)
        if judgement.verdict is Verdict.GONE:
            continue
        if judgement.verdict is Verdict.AWAY:
            unreachable.append(notice(Kept.UNREACHABLE, name_artifact(made), reason=judgement.reason))
            if judgement.hint is not None:
                hints[judgement.hint] = None
            if judgement.may_be_gone:
                command = undefine_command(domain.name, has_tpm=has_emulated_tpm(clone.definition.domain))
                hints[f"If somebody removed the file or volume, {command} removes the definition."] = None
        elif judgement.verdict is Verdict.FOREIGN or (provenance.finished and judgement.verdict is Verdict.EMPTY):
            foreign.append(notice(Kept.FOREIGN, name_artifact(made), reason=judgement.reason))
        else:
            doomed.append(_doomed(made, judgement, is_outside=is_outside))
    if unreachable and provenance.finished:
        raise IllegalStateError(
            f"'{domain.name}' cannot be deleted completely: {named(unreachable)}", hint=" ".join(hints)
        )
    return Deletion(
        domain.name,
        domain.uuid,
        provenance,
        clone.text,
        doomed=(*doomed, *map(DoomedThing, _kept_by_libvirt(domain, provenance))),
        foreign=tuple(foreign),
        unreachable=tuple(unreachable),
        cures=tuple(hints),
        kept_disks=(
            *_foreign_disks(clone, references),
            *_foreign_nvram(clone, references),
            *_foreign_tpm(clone, references),
            *_foreign_entries(entries),
        ),
        handed=clone.handed,
        state=clone.state,
    )


def _of_device(judgement: Judgement, clone: Clone, made: Artifact, references: References) -> Judgement:
    """Return the judgement of a device in view of the domain's definition; that of anything else as it is.

    Everybody who may define a domain can write the key of any device into a record, which alone proves nothing. A disk
    of the domain is seen. A device that is not there, and may be not active, counts as removed if a deletion has begun.
    """
    if made.fingerprint is None or made.fingerprint.key is None:
        return judgement
    if judgement.verdict is Verdict.PROVED and not references.has_disk(clone.domain.uuid, made):
        return judgement._replace(verdict=Verdict.UNPROVED, reason=_RECORD_ALONE)
    is_missing = judgement.verdict is Verdict.AWAY and why_not_in(made, references.pools.find(made.pool)) is None
    return Judgement(Verdict.GONE) if is_missing and not clone.provenance.finished else judgement


def _doomed(made: Artifact, judgement: Judgement, *, is_outside: bool) -> DoomedThing:
    verdict, volume = judgement.verdict, judgement.volume
    size_bytes = None if volume is None else volume.allocation
    thing = DoomedThing(name_artifact(made), size_bytes, artifact=made, verdict=verdict, is_outside=is_outside)
    if verdict is not Verdict.UNPROVED:
        return thing
    owner = None if volume is None or volume.owner is None else f"{volume.owner}:{volume.group}"
    modified = None if volume is None or volume.modified is None else nanoseconds(volume.modified) / NANOSECONDS
    return thing._replace(doubt=judgement.reason, owner=owner, modified=modified)


def _foreign_disks(clone: Clone, references: References) -> Iterator[Notice]:
    """Yield the writable disks that cloning did not make."""
    for disk in file_readers.disks(clone.definition.domain):
        path = disk.path
        if path is None and disk.pool is not None and disk.volume is not None:
            path = references.pools.path_of(disk.pool, disk.volume)
        is_own = path is not None and normalise(path) in clone.own_paths
        if not (is_own or disk.is_readonly or disk.is_empty):
            yield notice(Kept.DISK, disk.target, location=disk.location)


def _foreign_nvram(clone: Clone, references: References) -> Iterator[Notice]:
    """Yield an NVRAM that cloning did not make: libvirt makes one at the clone's start if the original had none."""
    nvram = file_readers.nvram(clone.definition.domain)
    path = normalise(nvram.path) if nvram is not None and nvram.type == "file" and nvram.path else None
    if path is not None and path not in clone.own_paths and references.is_there(path):
        yield Notice(Kept.NVRAM, path)


def _foreign_tpm(clone: Clone, references: References) -> Iterator[Notice]:
    """Yield state of a TPM at a place that the definition names and cloning did not make."""
    tpm = read_tpm(clone.definition.domain)
    path = None if tpm is None or tpm.place is None or tpm.path is None else normalise(tpm.path)
    if path is not None and path not in clone.own_paths and references.is_there(path):
        yield Notice(Kept.TPM, path)


def _entries(connection: Connection, provenance: Provenance) -> Iterator[tuple[HostEntry, tuple[HostEntry, ...]]]:
    """Yield the DHCP entries of the record, each with the entries that its network has now for the MAC address."""
    if not provenance.entries:
        return
    from virtomate.services.host_entries import find_entries  # noqa: PLC0415 - few clones have an entry

    for entry in provenance.entries:
        yield entry, find_entries(connection, entry)


def _foreign_entries(entries: Iterable[tuple[HostEntry, tuple[HostEntry, ...]]]) -> Iterator[Notice]:
    """Yield the DHCP entries for the clone that are not as they were made."""
    for entry, found in entries:
        for other in found:
            if other != entry:
                yield notice(Kept.ENTRY, other.what)


def _kept_by_libvirt(domain: Domain, provenance: Provenance) -> Iterator[str]:
    """Yield what libvirt keeps of a domain, and removes with its definition."""
    if provenance.tpm and not any(made.kind is ArtifactKind.TPM_SOURCE for made in provenance.made):
        yield "TPM state"
    if domain.has_managed_save():
        yield SAVED_STATE
    for count, what in ((domain.snapshot_count(), "snapshot"), (domain.checkpoint_count(), "checkpoint")):
        if count:
            yield f"record of {counted(count, what)}"
