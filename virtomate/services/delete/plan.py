"""The plan of a deletion: what goes with each clone, in which order, and every reason not to touch anything."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers, readers
from virtomate.definition.tpm import has_emulated_tpm
from virtomate.errors import IllegalStateError, VirtomateError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.paths import normalise
from virtomate.services.delete.bases import find_freed_bases
from virtomate.services.delete.handed import find_handed
from virtomate.services.delete.refusals import Refusals
from virtomate.services.delete.survey import (
    SAVED_STATE,
    read_clones,
    read_dependents,
    read_keepers,
    read_moments,
    survey,
)
from virtomate.services.origins import find_record
from virtomate.services.storage.artifacts import name_artifact
from virtomate.services.storage.references import ReferenceKind, scan_references
from virtomate.tuples import NamedTuple
from virtomate.words import quoted, undefine_command, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Document
    from virtomate.definition.provenance import Artifact
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Notice
    from virtomate.services.delete.records import Consent, Deletion, FreedBase, Selection
    from virtomate.services.delete.survey import Clone
    from virtomate.services.storage import PoolIndex
    from virtomate.services.storage.references import Reference, References

# How many users of a volume a refusal names.
_NAMED_USERS = 3
# How many commands a hint names, and how many images of a chain it looks at.
_MAX_COMMANDS = 5
_MAX_DEPTH = 200
_ADVICE_ON_DOUBT = (
    "See whether that is it. A definition leaves no doubt if it names a file or device by the path in its storage pool."
)


class DeletionPlan(NamedTuple):
    """What will be deleted.

    Attributes:
        deletions: In the order in which the clones were named.
        order: UUIDs in the order in which the clones are deleted.
        references: Who uses what.
        freed: The bases on which nothing rests any more when all is deleted.
    """

    deletions: tuple[Deletion, ...]
    order: tuple[str, ...]
    references: References
    freed: tuple[FreedBase, ...] = ()

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What could not be looked at."""
        return self.references.warnings

    @property
    def without_figures(self) -> tuple[Deletion, ...]:
        """The deletions without what changes while the clones run."""
        return tuple(deletion.without_figures for deletion in self.deletions)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Phrases for what would be removed although nothing proves that it was made for the clone."""
        return tuple(
            f"{thing.what} of '{deletion.name}'"
            for deletion in self.deletions
            for thing in deletion.doomed
            if thing.doubt is not None
        )

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of what somebody may still want: finished clones, and what has other disks or a managed-save image."""
        return tuple(
            deletion.name
            for deletion in self.deletions
            if deletion.is_finished
            or deletion.kept_disks
            or any(thing.what == SAVED_STATE for thing in deletion.doomed)
        )

    def is_covered_by(self, consent: Consent) -> bool:
        """Return whether everything may be deleted without a question."""
        return (consent.finished or not self.wanted) and (consent.unproved or not self.doubts)


def plan_deletion(
    connection: Connection,
    selection: Selection,
    cancel: CancelToken,
    warn: Callable[[tuple[Notice, ...]], None] = lambda _restored: None,
) -> DeletionPlan:
    """Plan the deletion of the selected clones; no file is changed.

    All domains and volumes are looked at once, however many clones there are. A clone whose deletion was killed before
    a file was removed gets its definition back at once, also if the plan is refused then; `warn` is told.

    Raises:
        UsageError: A clone is named twice.
        NotFoundError: There is no such domain, or no clone of the name.
        IllegalStateError: A domain is not a clone, is active or still being made, or another domain or image uses one
            of its artifacts.
        InterruptedBySignalError: A signal arrived.
    """
    clones = read_clones(connection, selection, cancel, warn)
    if not clones:
        return DeletionPlan((), (), scan_references(connection, {}))
    moments = read_moments(connection, clones)
    references = _scan(connection, (*clones, *moments))
    if selection.with_dependents and (more := read_dependents(connection, clones, selection, references.lineage)):
        clones += more
        moments = read_moments(connection, clones)
        references = _scan(connection, (*clones, *moments), references)
    if keepers := read_keepers(connection, (*clones, *moments), references.lineage):
        moments += keepers
        references = _scan(connection, (*clones, *moments), references)
    cancel.check()
    if handed := find_handed(connection, clones, references):
        clones = [clone._replace(handed=handed.get(clone.domain.uuid, ())) for clone in clones]
    clones += _unused_moments(moments, clones, references)
    refusals, deletions = Refusals(), []
    for clone in clones:
        try:
            deletions.append(survey(connection, clone, references))
        except IllegalStateError as error:
            refusals.others.append(error)
    refusals.raise_if_any()
    deletions = _with_needs(connection, deletions, references, clones)
    try:
        order = tuple(TopologicalSorter({deletion.uuid: deletion.needs for deletion in deletions}).static_order())
    except CycleError as error:
        raise IllegalStateError("these clones use each other's volumes, so that none can be deleted first") from error
    return DeletionPlan(tuple(deletions), order, references, find_freed_bases(deletions, references))


def _scan(connection: Connection, clones: Iterable[Clone], before: References | None = None) -> References:
    wanted = {clone.domain.uuid: clone.provenance.made for clone in clones}
    return scan_references(connection, wanted, None if before is None else before.cache)


def _unused_moments(moments: Iterable[Clone], clones: Iterable[Clone], references: References) -> list[Clone]:
    """Return the domains that only keep images on which nothing rests when these clones are gone."""
    uuids = {clone.domain.uuid for clone in clones}
    gone = {path for clone in clones for path in clone.own_paths} - {
        base.made.path for clone in clones for base in clone.handed
    }
    unused: list[Clone] = []
    left = list(moments)
    # the images of one may rest on those of another
    while found := [moment for moment in left if _is_used_by_none_but(moment, uuids, gone, references)]:
        unused += found
        uuids |= {moment.domain.uuid for moment in found}
        gone |= {path for moment in found for path in moment.own_paths}
        left = [moment for moment in left if moment not in found]
    return unused


def _is_used_by_none_but(moment: Clone, uuids: set[str], paths: set[str], references: References) -> bool:
    """Return whether nothing but these domains, and images with these paths, uses the images that a domain keeps."""
    users = (user for made in moment.provenance.made for user in references.users(made))
    return all(user.domain_uuid in {*uuids, moment.domain.uuid} or user.path in paths for user in users)


def _with_needs(
    connection: Connection, deletions: list[Deletion], references: References, clones: list[Clone]
) -> list[Deletion]:
    """Find out which clone must be deleted before which; refuse the plan if something that stays uses an artifact."""
    owners = {made.path: deletion.uuid for deletion in deletions for made in deletion.artifacts}
    uuids = {deletion.uuid for deletion in deletions}
    needs: defaultdict[str, set[str]] = defaultdict(set)
    refusals = Refusals()
    for deletion, clone in zip(deletions, clones, strict=True):
        for made in deletion.artifacts:
            staying = []
            for user in references.users(made):
                uuid = user.domain_uuid if user.domain_uuid in uuids else owners.get(user.path or "")
                if uuid is None:
                    staying.append(user)
                elif uuid != deletion.uuid:
                    needs[deletion.uuid].add(uuid)
            if staying:
                advice = (
                    _advise_on_freeze(connection, clone, staying)
                    or _advise(clone, staying, references.pools)
                    or _advise_on_strangers(connection, staying)
                )
                refusals.others.append(in_use(deletion.name, made, staying, advice))
    refusals.raise_if_any()
    return [deletion._replace(needs=frozenset(needs[deletion.uuid])) for deletion in deletions]


def in_use(name: str, made: Artifact, users: Sequence[Reference], advice: str | None = None) -> IllegalStateError:
    """Return the error that names who uses an artifact of the clone with this name."""
    named = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(named):
        named.append(f"and {len(users) - len(named)} more")
    return IllegalStateError(
        f"{name_artifact(made)} of '{name}' cannot be deleted: {', '.join(named)}",
        hint=advice
        or (_ADVICE_ON_DOUBT if all(user.kind is ReferenceKind.MAY_NAME for user in users) else None)
        or "Delete the named domain first, or the volume unless a domain on another host uses the volume. A clone can "
        "be named in the same command; --with-dependents adds all clones that rest on it.",
    )


def _advise_on_freeze(connection: Connection, clone: Clone, users: Sequence[Reference]) -> str | None:
    """Return how an unfinished freeze of the clone is ended; None if anything but its overlays uses the volume."""
    from virtomate.services.linked import find_freeze  # noqa: PLC0415 - few clones in use are deleted

    found = find_freeze(connection, clone.domain.uuid)
    overlays = set() if found is None else {made.path for made in found[1].made}
    if found is None or any(user.path is None or normalise(user.path) not in overlays for user in users):
        return None
    command = virtomate("domain-delete", found[0].name)
    return (
        f"A freeze of '{clone.domain.name}' was killed: {command} completes or undoes it. Then run the command again."
    )


def _advise_on_strangers(connection: Connection, users: Sequence[Reference]) -> str | None:
    """Return how the definitions of domains that use a volume are removed; None for clones, and for active domains.

    Such a domain may be a copy of a clone's definition under another name.
    """
    if any(user.kind is not ReferenceKind.NAMES or user.domain_uuid is None for user in users):
        return None
    found = (find_domain_by_uuid(connection, user.domain_uuid) for user in users if user.domain_uuid is not None)
    domains = [domain for domain in found if domain is not None]
    if not domains or any(domain.is_active() or find_record(domain) is not None for domain in domains):
        return None
    has_tpm = {domain.name: _has_tpm(domain) for domain in domains}
    names = sorted(has_tpm)
    commands = "; ".join(undefine_command(name, has_tpm=has_tpm[name]) for name in names[:_MAX_COMMANDS])
    return f"If {quoted(names)} {'is' if len(names) == 1 else 'are'} not needed, remove the definition: {commands}"


def _has_tpm(domain: Domain) -> bool:
    """Return whether libvirt keeps the state of a TPM of a domain, or may do so where the definition cannot be read."""
    try:
        return has_emulated_tpm(codec.parse_definition(domain.inactive_definition_without_secrets()).domain)
    except VirtomateError:
        return True


def _advise(clone: Clone, users: Sequence[Reference], pools: PoolIndex) -> str | None:
    """Return how the clone's own images can be merged into their bases; None if anything else uses its volume.

    With an external snapshot, a disk is an overlay, which rests on the former image of the disk.
    """
    images = [user.path for user in users if user.path is not None]
    if len(images) < len(users):
        return None
    domain = clone.domain
    chains = {target: tuple(_chain(path, pools)) for target, path in _disk_paths(clone.definition.domain, pools)}
    concerned = {target: chain[0] for target, chain in chains.items() for path in images if normalise(path) in chain}
    if any(all(normalise(path) not in chain for chain in chains.values()) for path in images) or not concerned:
        return None
    snapshots = domain.external_snapshots()
    files = {normalise(path) for _, text in snapshots for path in _files(text)}
    if set(concerned.values()) <= files:
        commands = [virsh("snapshot-delete", domain.name, snapshot) for snapshot, _ in snapshots]
        more = "; and so on, the newest first" if len(commands) > _MAX_COMMANDS else ""
        return f"Delete its external snapshots first: {'; '.join(commands[:_MAX_COMMANDS])}{more}"
    merge = "--active --pivot --delete --wait"
    commands = [
        virsh("start", domain.name),
        *(virsh("blockcommit", domain.name, target, options=merge) for target in concerned),
        virsh("shutdown", domain.name),
    ]
    return f"Start it, merge its overlays, and shut it down again: {'; '.join(commands)}"


def _disk_paths(definition: Document, pools: PoolIndex) -> Iterator[tuple[str, str]]:
    for disk in file_readers.disks(definition):
        path = disk.path or pools.path_of(disk.pool or "", disk.volume or "")
        if path is not None:
            yield disk.target, normalise(path)


def _chain(path: str, pools: PoolIndex) -> Iterator[str]:
    """Yield the paths of an image and of those below it, as far as they are volumes."""
    with suppress(VirtomateError):
        for _ in range(_MAX_DEPTH):
            yield path
            below = pools.find_path(path).description.backing_path
            if below is None:
                return
            path = normalise(below)


def _files(snapshot: str) -> Iterator[str]:
    """Yield the files of an external snapshot's disks."""
    disks = readers.child(codec.parse(snapshot, "domainsnapshot"), "disks").get("disk", [])
    for disk in disks if isinstance(disks, list) else [disks]:
        if path := readers.child(disk, "source").get("@file"):
            yield str(path)
