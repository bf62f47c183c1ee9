"""The plan of flattening: which disks of which domains, in which way and order, and every reason to refuse."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.provenance import Artifact
from virtomate.duplication.hostfs import visible_status
from virtomate.duplication.qemu_img import is_installed
from virtomate.duplication.rebasing import ClosedImageError, opened_for_reading
from virtomate.enums import ArtifactKind, ArtifactState, FlattenWay
from virtomate.errors import (
    IllegalStateError,
    UnsupportedError,
    UsageError,
    VirtomateError,
    combined_error,
)
from virtomate.hypervisor import block_jobs
from virtomate.services.linked.chain import DiskChain, read_chain
from virtomate.services.linked.flatten_copy import plan_copy, refuse_busy
from virtomate.services.linked.flatten_refusals import (
    judge_bases,
    refuse_placeholder,
    refuse_snapshots,
    refuse_state,
    refuse_template,
)
from virtomate.services.linked.record import select_clones
from virtomate.services.linked.sight import Sights
from virtomate.services.origins import find_record
from virtomate.services.storage import SpaceLedger, read_pools
from virtomate.services.storage.references import ReferenceCache, ReferenceKind, scan_references
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple
from virtomate.words import quoted, shutdown_commands, virsh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtomate.cancel import CancelToken
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.provenance import Provenance
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Notice
    from virtomate.services.linked.flatten_records import FlattenRequest
    from virtomate.services.storage import PoolIndex, TemporaryPools
    from virtomate.services.storage.references import Reference, References

_LOG = logging.getLogger(__name__)
_FILE_TYPES = frozenset({"file", "volume"})
# How many users of an image a refusal names.
_NAMED_USERS = 3


class DiskPlan(NamedTuple):
    """A disk that is to be flattened.

    Attributes:
        copy: The copy that takes the place of its image, where the way is a copy.
        warnings: What to know about the copy.
    """

    chain: DiskChain
    way: FlattenWay
    copy: Duplication | None = None
    warnings: tuple[Notice, ...] = ()

    @property
    def target(self) -> str:
        """Target of the disk."""
        return self.chain.disk.target

    @property
    def path(self) -> str:
        """Path of the disk's own image."""
        return self.chain.volume.path

    @property
    def needed_bytes(self) -> int:
        """Bytes that are written at most."""
        return self.chain.missing_bytes if self.copy is None else self.copy.total_bytes


class DomainPlan(NamedTuple):
    """A domain that is to be flattened.

    Attributes:
        record: The record of its cloning, None for a domain that is no clone.
        disks: The disks to flatten.
        independent: Other disks, whose images have no base.
        is_all: Whether no disk has a base afterwards.
        warnings: What has happened to the bases of the disks.
        needs: UUIDs of the domains that must be flattened before, since they rest on this one.
    """

    domain: Domain
    is_active: bool
    record: Provenance | None
    disks: tuple[DiskPlan, ...]
    independent: tuple[DiskChain, ...]
    is_all: bool
    warnings: tuple[Notice, ...] = ()
    needs: frozenset[str] = frozenset()


class FlattenPlan(NamedTuple):
    """The domains in the order of the request, their UUIDs in the order of the work, and what the look has read."""

    domains: tuple[DomainPlan, ...]
    order: tuple[str, ...]
    cache: ReferenceCache


def plan_flatten(
    connection: Connection, request: FlattenRequest, cancel: CancelToken, temporary: TemporaryPools
) -> FlattenPlan:
    """Plan the flattening of domains; nothing is changed, but temporary pools start over images in no storage pool.

    Raises:
        UsageError: A domain is named twice, or has no disk that was named.
        VirtomateError: A domain is missing or cannot be flattened.
    """
    pools, sights = read_pools(connection).opening(temporary.opener(cancel)), Sights(connection)
    gate = PoolGate(is_open=request.trust_pool or runs_unprivileged(connection))
    domains, errors = select_clones(connection, request.names, cancel)
    plans: dict[str, DomainPlan] = {}
    for domain in domains:
        cancel.check()
        try:
            plans[domain.uuid] = _plan_domain(connection, pools, sights, gate, domain, request)
        except UsageError:
            raise
        except VirtomateError as error:
            if not connection.is_alive:
                raise
            errors.append(error)
    if errors:
        raise combined_error(errors)
    cache = ReferenceCache()
    planned = _with_needs(connection, tuple(plans.values()), cache)
    cancel.check()
    if request.check_space:
        _require_space(pools, planned, is_local=connection.is_local)
    try:
        order = tuple(TopologicalSorter({plan.domain.uuid: plan.needs for plan in planned}).static_order())
    except CycleError as error:
        raise IllegalStateError("the images of these domains rest on each other") from error
    return FlattenPlan(planned, order, cache)


def _plan_domain(
    connection: Connection, pools: PoolIndex, sights: Sights, gate: PoolGate, domain: Domain, request: FlattenRequest
) -> DomainPlan:
    refuse_busy(connection, domain)
    record = find_record(domain)
    refuse_placeholder(domain, record)
    is_active = domain.is_active()
    text = domain.live_definition() if is_active else domain.inactive_definition_without_secrets()
    definition = codec.parse_definition(text).domain
    refuse_template(domain, definition)
    disks = file_readers.disks(definition)
    chosen = _chosen(domain.name, disks, request.disks)
    left = [disk for disk in disks if disk not in chosen]
    warnings = judge_bases(sights, pools, domain.name, record, left, is_checked=request.is_checked)
    chains = [read_chain(connection, pools, domain.name, disk) for disk in chosen]
    based = [chain for chain in chains if chain.below]
    if based:
        refuse_state(domain, based, is_active=is_active)
    plans = []
    for chain in based:
        refuse_snapshots(domain, chain, request)
        plans.append(_plan_disk(connection, pools, gate, domain, chain, is_active=is_active))
    # what was not looked at may have a base
    is_all = not request.disks or {disk.target for disk in disks if _may_have_base(disk)} <= {*request.disks}
    independent = tuple(chain for chain in chains if not chain.below)
    return DomainPlan(domain, is_active, record, tuple(plans), independent, is_all, warnings)


def _chosen(name: str, disks: Sequence[DiskDefinition], wanted: tuple[str, ...]) -> list[DiskDefinition]:
    """Return the disks that may have to be flattened: those that were named, or else all that may have a base."""
    targets = [disk.target for disk in disks]
    if (unknown := next((target for target in wanted if target not in targets), None)) is not None:
        there = f"it has {', '.join(targets)}" if targets else "it has no disks"
        raise UsageError(f"domain '{name}' has no disk '{unknown}': {there}")
    if not wanted:
        return [disk for disk in disks if _may_have_base(disk)]
    chosen = [disk for disk in disks if disk.target in wanted]
    for disk in chosen:
        if disk.type not in _FILE_TYPES or disk.is_empty:
            kind = "an empty drive" if disk.is_empty else f"a {disk.type} disk"
            raise UnsupportedError(
                f"disk {disk.target} of '{name}' is {kind}, and only volumes that are files rest on others"
            )
    return chosen


def _may_have_base(disk: DiskDefinition) -> bool:
    is_file = disk.type in _FILE_TYPES and not disk.is_empty
    return is_file and not disk.is_readonly and disk.format != "raw"


def _plan_disk(
    connection: Connection, pools: PoolIndex, gate: PoolGate, domain: Domain, chain: DiskChain, *, is_active: bool
) -> DiskPlan:
    if is_active:
        _refuse_pull(connection, domain, chain)
        return DiskPlan(chain, FlattenWay.PULL)
    if chain.is_encrypted:
        raise UnsupportedError(
            f"disk {chain.disk.target} of '{domain.name}' is encrypted, and only its running domain has the key",
            hint=f"Start it, and flatten it while it runs: {virsh('start', domain.name)}",
        )
    if (reason := why_not_here(chain)) is None:
        return DiskPlan(chain, FlattenWay.IN_PLACE)
    _LOG.info("disk %s of %r is flattened by a copy: %s", chain.disk.target, domain.name, reason)
    if domain.checkpoint_count():
        raise UnsupportedError(
            f"domain '{domain.name}' has checkpoints for incremental backups, which a copy would lose, and cannot be "
            f"flattened in place: {reason}",
            hint="Flatten the domain while it runs, or where its images can be opened.",
        )
    copy, cautions = plan_copy(connection, pools, gate, chain)
    return DiskPlan(chain, FlattenWay.COPY, copy, cautions)


def _refuse_pull(connection: Connection, domain: Domain, chain: DiskChain) -> None:
    if chain.header is not None and chain.header.has_subclusters and not block_jobs.pulls_subclusters(connection):
        raise UnsupportedError(
            f"disk {chain.disk.target} of '{domain.name}' has subclusters, and QEMU before version 8.2 ends, with the "
            "guest, when it pulls into such an image",
            hint=f"Shut it down first: {shutdown_commands(domain.name, domain.state())}",
        )


def why_not_here(chain: DiskChain) -> str | None:
    """Return why the images of a chain cannot be worked on here, None where they can.

    Raises:
        IllegalStateError: Somebody writes to an image below.
    """
    if not is_installed():
        return "there is no qemu-img here"
    if visible_status(chain.volume) is None:
        return "its file cannot be seen here"
    if not os.access(chain.volume.path, os.R_OK | os.W_OK):
        return "its file cannot be written here"
    images = [(image.path, image.format) for image in chain.below if image.path is not None]
    if len(images) < len(chain.below):
        return f"the name of a base, '{chain.below[len(images)].name}', is more than a path"
    try:
        with opened_for_reading(images):
            return None
    except ClosedImageError as error:
        return error.message


def _with_needs(connection: Connection, plans: tuple[DomainPlan, ...], cache: ReferenceCache) -> tuple[DomainPlan, ...]:
    """Find out which domain must be flattened before which; refuse an image on which something rests that stays."""
    wanted = {plan.domain.uuid: [artifact_of(disk, plan.record) for disk in plan.disks] for plan in plans}
    if not any(wanted.values()):
        return plans
    references = scan_references(connection, wanted, cache)
    owners = {disk.path: plan.domain.uuid for plan in plans for disk in plan.disks}
    needs: defaultdict[str, set[str]] = defaultdict(set)
    errors: list[VirtomateError] = []
    for plan in plans:
        uuid = plan.domain.uuid
        for disk in plan.disks:
            staying = []
            for user in users_of(references, disk, plan.record):
                owner = owners.get(user.path or "")
                if owner is None or owner == uuid:
                    staying.append(user)
                else:
                    needs[uuid].add(owner)
            if staying:
                errors.append(in_use(plan.domain.name, disk, staying))
    if errors:
        raise combined_error(errors)
    return tuple(plan._replace(needs=frozenset(needs[plan.domain.uuid])) for plan in plans)


def artifact_of(disk: DiskPlan, record: Provenance | None) -> Artifact:
    """Return the image of a disk as a line of the record; a line of the record itself, if the image has one."""
    made = next((made for made in record.made if made.path == disk.path), None) if record is not None else None
    volume = disk.chain.volume
    return made or Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, volume.pool, volume.name, volume.path)


def users_of(references: References, disk: DiskPlan, record: Provenance | None) -> Iterator[Reference]:
    """Yield who certainly uses the image of a disk, other than its domain."""
    for user in references.users(artifact_of(disk, record)):
        if user.kind is not ReferenceKind.MAY_NAME:
            yield user


def in_use(name: str, disk: DiskPlan, users: Sequence[Reference]) -> IllegalStateError:
    """Return the error that names who uses the image of a disk."""
    named = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(named):
        named.append(f"and {len(users) - len(named)} more")
    return IllegalStateError(
        f"disk {disk.target} of '{name}' ('{disk.path}') cannot be flattened: {', '.join(named)}",
        hint="Flatten what rests on it first. A domain can be named in the same command.",
    )


def _require_space(pools: PoolIndex, plans: Sequence[DomainPlan], *, is_local: bool) -> None:
    """Raise NoSpaceError if the pools have too little space for what the images lack."""
    ledger = SpaceLedger(is_local=is_local)
    for plan in plans:
        for disk in plan.disks:
            volume = disk.chain.volume
            known = pools.named(volume.pool)
            ledger.add(known.pool, known.description, disk.needed_bytes, (volume,), files=0)
    names = [plan.domain.name for plan in plans if plan.disks]
    if names:
        ledger.refuse_lack(
            "Make room, or, where the file system compresses, use --no-space-check.", f" to flatten {quoted(names)}"
        )
