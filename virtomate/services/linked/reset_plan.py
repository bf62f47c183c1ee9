"""The plan of a reset: which overlays are emptied, and every reason not to touch anything."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.provenance import read_provenance
from virtomate.definition.template import is_template
from virtomate.duplication.emptying import Overlay
from virtomate.duplication.hostfs import open_visible, visible_status
from virtomate.duplication.image_headers import LONG_HEADER_BYTES
from virtomate.enums import ArtifactKind, Transfer
from virtomate.errors import (
    IllegalStateError,
    NotFoundError,
    UnsupportedError,
    VirtomateError,
    combined_error,
)
from virtomate.hypervisor.domains import list_active_domains
from virtomate.hypervisor.storage import get_volume, read_head
from virtomate.paths import normalise
from virtomate.services.definitions import Definitions
from virtomate.services.linked.record import select_clones
from virtomate.services.linked.sight import Sights
from virtomate.services.linked.verify import refuse_broken
from virtomate.services.storage import is_temporary, read_pools
from virtomate.services.storage.artifacts import Verdict, judge_in_pool, why_not_in
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple
from virtomate.words import counted, shutdown_commands, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.storage import PoolEntry, PoolIndex
    from virtomate.services.storage.references import Reference

# How many users of a volume a refusal names.
_NAMED_USERS = 3
_AGAIN = "Delete the clone, and clone again."


class LinkedDisk(NamedTuple):
    """A disk whose overlay cloning made.

    Attributes:
        known: The pool of the overlay.
        is_seen: Whether the overlay's file can be seen here.
    """

    target: str
    made: Artifact
    known: PoolEntry
    is_seen: bool


class ResetPlan(NamedTuple):
    """A clone that is reset, and its disks that can be written to."""

    domain: Domain
    definition: Definition
    provenance: Provenance
    disks: tuple[LinkedDisk, ...]


def plan_resets(
    connection: Connection,
    names: tuple[str, ...],
    cancel: CancelToken,
    open_directory: Callable[[str], Pool],
    *,
    is_forced: bool,
) -> list[ResetPlan]:
    """Plan the reset of clones, each given by name or UUID; nothing is changed, and one refusal refuses all.

    Args:
        connection: Where the clones are.
        names: The clones.
        cancel: A signal ends the look.
        open_directory: Starts a temporary pool over the directory of an overlay in no storage pool.
        is_forced: Whether active clones are ended, saved states discarded, and prepared clones made like the original.

    Raises:
        UsageError: A clone is named twice.
        VirtomateError: A clone cannot be reset; the error names all such clones.
    """
    gate = PoolGate(is_open=runs_unprivileged(connection))
    pools = read_pools(connection).opening(open_directory)
    planner = _Planner(connection, pools, Sights(connection), gate, is_forced=is_forced)
    domains, errors = select_clones(connection, names, cancel)
    plans = []
    for domain in domains:
        cancel.check()
        try:
            plans.append(planner.plan(domain))
        except (IllegalStateError, NotFoundError, UnsupportedError) as error:
            errors.append(error)
    if errors:
        raise combined_error(errors)
    return plans


class _Planner:
    """Plans one clone after the other; the clones of one original rest on the same bases."""

    def __init__(
        self, connection: Connection, pools: PoolIndex, sights: Sights, gate: PoolGate, *, is_forced: bool
    ) -> None:
        self._connection = connection
        self._pools = pools
        self._sights = sights
        self._gate = gate
        self._is_forced = is_forced

    def plan(self, domain: Domain) -> ResetPlan:
        """Plan the reset of a domain."""
        definition = codec.parse_definition(domain.inactive_definition())
        provenance = read_provenance(definition)
        if provenance is None or provenance.is_moment or provenance.restarts:
            raise IllegalStateError(
                f"domain '{domain.name}' is not a clone made by virtomate, and only those are reset",
                hint=f"{virtomate('domain-list', options='--clones')} shows the clones.",
            )
        if not provenance.finished:
            raise IllegalStateError(
                f"domain '{domain.name}' is an unfinished {provenance.what}",
                hint=f"{virtomate('domain-delete', domain.name)} removes the domain and its volumes.",
            )
        if is_template(definition.domain):
            raise IllegalStateError(
                f"domain '{domain.name}' is a template, and stays as it is",
                hint=f"{virtomate('domain-template', domain.name, options='--undo')} makes an ordinary domain of it.",
            )
        errors = list(self._refusals(domain))
        if provenance.prepared and not self._is_forced:
            errors.append(
                IllegalStateError(
                    f"domain '{domain.name}' was made with --sysprep or --customize, and a reset would undo what these "
                    "changed in its guest",
                    hint=f"--force resets it all the same; its guest then is like the original's. {_AGAIN}",
                )
            )
        if errors:
            raise combined_error(errors)
        disks = tuple(self._disks(domain, definition, provenance))
        refuse_broken(self._connection, domain.name, provenance, self._sights)
        self._refuse_written_bases(domain, disks)
        return ResetPlan(domain, definition, provenance, disks)

    def _refusals(self, domain: Domain) -> Iterator[IllegalStateError]:
        name = domain.name
        if domain.is_active() and not domain.is_persistent():
            yield IllegalStateError(f"domain '{name}' is transient, and libvirt would forget it")
        elif domain.is_active() and not self._is_forced:
            state = domain.state()
            yield IllegalStateError(
                f"domain '{name}' is {state}, and must be shut off to be reset",
                hint=f"--force ends it at once. Or shut it down first: {shutdown_commands(name, state)}",
            )
        if domain.has_managed_save() and not self._is_forced:
            yield IllegalStateError(
                f"domain '{name}' has a managed-save image, which does not fit to disks that are reset",
                hint=f"--force discards it, and so does {virsh('managedsave-remove', name)}.",
            )
        for count, noun, command in (
            (domain.snapshot_count(), "snapshot", "snapshot-delete"),
            (domain.checkpoint_count(), "checkpoint", "checkpoint-delete"),
        ):
            if count:
                yield IllegalStateError(
                    f"domain '{name}' has {counted(count, noun)}, which would be lost",
                    hint=f"Delete the {noun}s first: {virsh(command, name)}",
                )

    def _disks(self, domain: Domain, definition: Definition, provenance: Provenance) -> Iterator[LinkedDisk]:
        made_at = {made.path: made for made in provenance.made if made.kind is ArtifactKind.VOLUME}
        for disk in file_readers.disks(definition.domain):
            if disk.is_readonly or disk.is_empty:
                continue
            path = disk.path or self._pools.path_of(disk.pool or "", disk.volume or "")
            made = None if path is None else made_at.get(normalise(path))
            # an image with data of the original may rest on a base, too, such as a shallow copy
            if made is None or made.transfer is not Transfer.LINK:
                what = "was not made by cloning" if made is None else "is a copy, and not linked"
                if made is not None and made.base is not None:
                    what = f"is a copy of the original's own image, and only rests on the same base ('{made.base}')"
                raise UnsupportedError(
                    f"'{domain.name}' cannot be reset: disk {disk.target} ({disk.location}) {what}",
                    hint=_AGAIN,
                )
            if made.base is not None and normalise(made.base) in made_at:
                raise UnsupportedError(
                    f"'{domain.name}' cannot be reset: since it was cloned with --freeze, disk {disk.target} rests on "
                    f"its own former volume '{made.base}', with all that the guest had written until then",
                    hint=_AGAIN,
                )
            yield self._linked(domain, disk.target, made, provenance)

    def _linked(self, domain: Domain, target: str, made: Artifact, provenance: Provenance) -> LinkedDisk:
        known = self._known(made)
        judgement = judge_in_pool(self._connection, known, made, provenance.artifact_token)
        if known is None or judgement is None or judgement.verdict is not Verdict.PROVED:
            reason = why_not_in(made, known) if judgement is None else judgement.reason or "is not there any more"
            raise IllegalStateError(
                f"'{domain.name}' cannot be reset: volume '{made.path}' of disk {target} {reason}",
                hint=f"Only a file that is certainly the clone's own is emptied. {_AGAIN}",
            )
        volume = judgement.volume
        if volume is None:
            raise AssertionError("a volume that is proved is there")
        try:
            Overlay(made.path, self._head(volume))
        except (IllegalStateError, UnsupportedError) as error:
            raise error.adding(hint=_AGAIN) from error
        is_seen = visible_status(volume) is not None
        if not is_seen:
            pools, what = [(known.pool, known.description)], f"disk {target} of '{domain.name}'"
            self._gate.admit(self._connection, (Transfer.STREAM,), pools, what)
        return LinkedDisk(target, made, known, is_seen)

    def _known(self, made: Artifact) -> PoolEntry | None:
        """Return the pool of an overlay, a temporary one where the overlay is in no storage pool."""
        if not is_temporary(made.pool):
            return self._pools.find(made.pool)
        with suppress(VirtomateError):
            return self._pools.find(self._pools.find_path(made.path).pool.name)
        return None

    def _refuse_written_bases(self, domain: Domain, disks: Sequence[LinkedDisk]) -> None:
        """Refuse a clone that would read what another domain writes; nothing tells so before the first write."""
        for target, made in ((disk.target, disk.made) for disk in disks):
            bases = (self._sights.look_for_base(made.path).backing, made.base, *(image.path for image in made.below))
            for base in (normalise(base) for base in bases if base is not None):
                if (writer := self._writers.get(base)) is not None:
                    raise IllegalStateError(
                        f"'{domain.name}' cannot be reset: '{base}', on which disk {target} rests, is open for writing "
                        f"by domain '{writer}', which is active",
                        hint=f"Shut it down first: {virsh('shutdown', writer)}",
                    )

    @cached_property
    def _writers(self) -> dict[str, str]:
        """The names of the active domains that have images open for writing, by the paths of the images."""
        definitions, writers = Definitions(), dict[str, str]()
        for domain in list_active_domains(self._connection):
            with suppress(NotFoundError):
                for disk in file_readers.open_for_writing(codec.parse_definition(definitions.live(domain)).domain):
                    path = disk.path or self._pools.path_of(disk.pool or "", disk.volume or "")
                    writers |= {} if path is None else {normalise(path): domain.name}
        return writers

    def _head(self, volume: VolumeDescription) -> bytes:
        descriptor = open_visible(volume, os.O_RDONLY)
        if descriptor is None:
            found = get_volume(self._connection, volume.pool, volume.name)
            return read_head(self._connection, found, LONG_HEADER_BYTES)
        try:
            return os.pread(descriptor, LONG_HEADER_BYTES, 0)
        finally:
            os.close(descriptor)


def in_use(name: str, disk: LinkedDisk, users: Sequence[Reference]) -> IllegalStateError:
    """Return the error that names who uses an overlay that is to be emptied."""
    says = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(says):
        says.append(f"and {len(users) - len(says)} more")
    return IllegalStateError(
        f"'{name}' cannot be reset, since others use disk {disk.target} ('{disk.made.path}'): {', '.join(says)}",
        hint="Delete the named domain first, or the volume unless a domain on another host uses the volume.",
    )
