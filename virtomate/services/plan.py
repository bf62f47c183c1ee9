"""The plan of a clone: everything that will be done, and every reason not to do it, before anything is touched."""

from __future__ import annotations

import logging
import os
import posixpath
import shlex
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from virtomate.definition import clone as changes
from virtomate.definition import codec, readers
from virtomate.definition.provenance import read_provenance, without_provenance
from virtomate.definition.volume import normalise
from virtomate.duplication import choice, names
from virtomate.duplication.hostfile import may_be_filled_here
from virtomate.duplication.images import HEADER_BYTES, Qcow2Header, read_qcow2_header
from virtomate.duplication.transfers.base import Duplication
from virtomate.errors import ConflictError, IllegalStateError, NoSpaceError, NotFoundError, UnsupportedError
from virtomate.hypervisor.domains import find_domain, find_domain_by_name, native_command_line
from virtomate.hypervisor.storage import find_pool, read_head
from virtomate.records import (
    Action,
    DomainReference,
    InterfaceResult,
    MadeKind,
    Mode,
    NvramAction,
    Transfer,
    VolumeReference,
)
from virtomate.services.identities import Identities, scan_identities
from virtomate.services.pools import FoundVolume, PoolDirectory, describe, find_volume, read_pools

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition
    from virtomate.definition.readers import DiskDefinition, NvramDefinition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.records import CloneRequest


# A random UUID of the kernel's (random(4)); Python's module takes longer to import than libvirt to define a domain.
_RANDOM_UUID = Path("/proc/sys/kernel/random/uuid")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The original, as it was when it was read.

    Attributes:
        left_behind: What libvirt keeps of it beside the definition, and a clone does not get.
    """

    reference: DomainReference
    definition: Definition
    has_managed_save: bool
    left_behind: tuple[str, ...]


@dataclass(frozen=True)
class DiskPlan:
    """What becomes of one disk.

    Attributes:
        reason: Why the disk is left untouched, else None.
        duplication: How its volume is duplicated, None for a disk that is left untouched.
        warnings: What should be known of it, each a sentence.
    """

    disk: DiskDefinition
    reason: str | None
    source: VolumeReference
    duplication: Duplication | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class NvramPlan:
    """What becomes of the NVRAM.

    Attributes:
        source_path: Its path, None where it is no file.
        path: Path of the clone's, likewise.
        pool: The pool over its directory, None where a temporary one is needed.
        duplication: How it is duplicated; None where that needs the temporary pool to tell, or nothing is to be copied.
    """

    action: NvramAction
    source_path: str | None
    path: str | None
    format: str
    pool: str | None
    duplication: Duplication | None

    @property
    def needs_temporary_pool(self) -> bool:
        """Whether its directory is no pool."""
        return self.action is NvramAction.COPIED and self.pool is None


@dataclass(frozen=True)
class ClonePlan:
    """Everything that will be done to make one clone.

    Attributes:
        definition: The clone's definition without a record of ours.
    """

    source: Source
    name: str
    uuid: str
    mode: Mode
    disks: tuple[DiskPlan, ...]
    nvram: NvramPlan | None
    interfaces: tuple[InterfaceResult, ...]
    definition: Definition
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    keeps_owner: bool

    @property
    def duplications(self) -> tuple[Duplication, ...]:
        """Every volume to be duplicated once, also where two disks share it."""
        unique = {plan.duplication.path: plan.duplication for plan in self.disks if plan.duplication is not None}
        if self.nvram is not None and self.nvram.duplication is not None:
            unique[self.nvram.duplication.path] = self.nvram.duplication
        return tuple(unique.values())


def plan_clone(connection: Connection, request: CloneRequest) -> ClonePlan:
    """Plan one clone, whose name has been checked; nothing is changed by it.

    Raises:
        UsageError: A volume's name would be too long.
        NotFoundError: There is no such domain, or a volume of it is missing.
        IllegalStateError: The original, one of its volumes or a pool is in no state to be cloned.
        ConflictError: The clone's name, or that of one of its volumes, is taken.
        UnsupportedError: A volume cannot be duplicated in this mode.
        NoSpaceError: A pool has too little space.
    """
    source = read_source(connection, request.source)
    if source.has_managed_save and request.mode is Mode.LINKED:
        raise IllegalStateError(
            f"domain '{source.reference.name}' has a saved state, so its disks are in the middle of something",
            hint="Start it and shut it down, or use --mode copy.",
        )
    refuse_taken_name(connection, request.name)
    _LOG.info("planning to clone %r to %r", source.reference.name, request.name)
    planner = _Planner(connection, source, request, scan_identities(connection), read_pools(connection))
    disks = planner.plan_disks()
    nvram = planner.plan_nvram()
    plan = _assemble(planner, disks, nvram)
    _check_space(connection, plan.duplications)
    return plan


def read_source(connection: Connection, name_or_uuid: str) -> Source:
    """Read the original once.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is active, or an unfinished clone.
    """
    domain = find_domain(connection, name_or_uuid)
    if domain.is_active():
        raise IllegalStateError(
            f"domain '{domain.name}' is {domain.state()}, and must be shut off to be cloned",
            hint=f"Shut it down first: virsh shutdown {shlex.quote(domain.name)}",
        )
    definition = codec.parse_definition(domain.inactive_definition())
    provenance = read_provenance(definition)
    if provenance is not None and not provenance.finished:
        raise IllegalStateError(
            f"domain '{domain.name}' is an unfinished clone",
            hint=f"virtomate domain-delete {shlex.quote(domain.name)} removes what is there of it.",
        )
    name = domain.name
    left_behind = {
        f"'{name}' has snapshots, which are not carried over": domain.snapshot_count() > 0,
        f"'{name}' has checkpoints, which are not carried over": domain.checkpoint_count() > 0,
        f"'{name}' starts with its host, its clone does not": domain.is_autostarted(),
    }
    return Source(
        reference=DomainReference(domain.name, domain.uuid),
        definition=definition,
        has_managed_save=domain.has_managed_save(),
        left_behind=tuple(sentence for sentence, is_so in left_behind.items() if is_so),
    )


def refuse_taken_name(connection: Connection, name: str) -> None:
    """Refuse the name of an existing domain.

    Raises:
        ConflictError: There is such a domain.
    """
    taken = find_domain_by_name(connection, name)
    if taken is None:
        return
    provenance = read_provenance(codec.parse_definition(taken.inactive_definition_without_secrets()))
    if provenance is not None and not provenance.finished:
        raise ConflictError(
            f"there is already a domain '{name}', an unfinished clone of '{provenance.source.name}'",
            hint=f"If no other virtomate is making it, virtomate domain-delete {shlex.quote(name)} removes it.",
        )
    raise ConflictError(f"there is already a domain '{name}'", hint="Choose another name for the clone.")


def plan_nvram_duplication(pool: Pool, source_path: str, path: str, *, keep_owner: bool) -> Duplication | None:
    """Plan the byte copy of an NVRAM within a pool over its directory; None if the file was never made.

    Raises:
        ConflictError: Something has the path that the clone's NVRAM would get; libvirt would silently use it.
    """
    name = posixpath.basename(path)
    # a pool does not list a link that leads nowhere
    if find_volume(pool, name) is not None or Path(path).is_symlink():
        raise ConflictError(
            f"there is already a file '{path}', which the clone would take for its NVRAM",
            hint="Choose another name for the clone, or move that file away.",
        )
    found = find_volume(pool, posixpath.basename(source_path))
    if found is None:
        return None
    # bytes are copied whatever they mean
    raw = choice.as_format(found.description, "raw")
    transfers = (Transfer.HOST, Transfer.STREAM) if may_be_filled_here(raw) else (Transfer.STREAM,)
    return plan_duplication("nvram", MadeKind.NVRAM, raw, name, Action.COPIED, transfers, (), keep_owner=keep_owner)


def plan_duplication(
    label: str,
    kind: MadeKind,
    source: VolumeDescription,
    name: str,
    action: Action,
    transfers: tuple[Transfer, ...],
    below: tuple[VolumeDescription, ...],
    *,
    keep_owner: bool,
) -> Duplication:
    """Plan the duplication of a volume within its pool: by the first transfer, or else by the next ones."""
    transfer, *rest = transfers
    alternative = None
    if rest:
        alternative = plan_duplication(label, kind, source, name, action, tuple(rest), below, keep_owner=keep_owner)
    return Duplication(
        label=label,
        kind=kind,
        source=source,
        pool=source.pool,
        new=choice.new_volume(source, name, transfer, keep_owner=keep_owner),
        path=posixpath.join(posixpath.dirname(source.path), name),
        action=action,
        transfer=transfer,
        total_bytes=choice.bytes_to_write(source, sum(volume.allocation for volume in below), transfer, action),
        below=below,
        alternative=alternative,
    )


class _Planner:
    """What planning one clone looks at; it only reads."""

    def __init__(
        self,
        connection: Connection,
        source: Source,
        request: CloneRequest,
        identities: Identities,
        pools: PoolDirectory,
    ) -> None:
        self.connection = connection
        self.source = source
        self.request = request
        self.identities = identities
        self.pools = pools
        self.domain = source.definition.domain
        self.taken_names: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def keeps_owner(self) -> bool:
        return not self.connection.is_session

    def plan_disks(self) -> tuple[DiskPlan, ...]:
        plans: list[DiskPlan] = []
        for disk in readers.disks(self.domain):
            plan = self._plan_disk(disk, plans)
            plans.append(plan)
        return tuple(plans)

    def _plan_disk(self, disk: DiskDefinition, others: list[DiskPlan]) -> DiskPlan:
        reason = _reason_to_leave(disk)
        if reason is not None:
            return _untouched(disk, reason)
        found = self._find(disk)
        if not found.volume.is_file():
            return _untouched(disk, "not file-based")
        self._refuse_writer(disk, found.description)
        format_ = disk.format or found.description.format
        found = self._with_known_format(found, format_)
        source = choice.as_format(found.description, format_)
        for other in others:
            # two disks of one volume stay two disks of one volume
            if other.duplication is not None and other.duplication.source == source:
                return DiskPlan(disk, None, other.source, other.duplication)
        header = self._header(found, source)
        return DiskPlan(
            disk=disk,
            reason=None,
            source=VolumeReference(source.pool, source.name, source.path, source.format),
            duplication=self._plan_duplication(disk, found, source, header),
            warnings=self._header_warnings(disk, source, header),
        )

    def _header_warnings(
        self, disk: DiskDefinition, source: VolumeDescription, header: Qcow2Header | None
    ) -> tuple[str, ...]:
        warnings = []
        if header is not None and header.is_dirty:
            warnings.append(f"disk {disk.target} ('{source.path}') was not closed properly, and neither is its clone's")
        is_flattened = self.request.mode is Mode.COPY and header is not None and header.has_backing_file
        if header is not None and header.snapshot_count and is_flattened:
            warnings.append(
                f"internal snapshots of disk {disk.target} are not carried over: it is merged with what is below"
            )
        return tuple(warnings)

    def _plan_duplication(
        self, disk: DiskDefinition, found: FoundVolume, source: VolumeDescription, header: Qcow2Header | None
    ) -> Duplication:
        mode = self.request.mode
        if disk.is_sliced and mode is Mode.LINKED:
            raise UnsupportedError(
                f"disk {disk.target} is a slice of '{source.path}', which no overlay can be put on",
                hint="Use --mode copy.",
            )
        transfers = choice.choose_transfer(
            source,
            found.description.format,
            header,
            mode,
            is_local=self.connection.is_local,
            is_visible=may_be_filled_here(found.description),
            forced=self.request.transfer,
        )
        name = names.new_volume_name(
            source.name, self.source.reference.name, self.request.name, is_overlay=mode is Mode.LINKED
        )
        # by directory, since two pools may be over one
        taken = self.taken_names[posixpath.dirname(source.path)]
        name = names.distinct_volume_name(name, disk.target, taken)
        taken.add(name)
        if found.pool.find_volume(name) is not None:
            raise ConflictError(
                f"there is already a volume '{name}' in storage pool '{source.pool}'",
                hint="Choose another name for the clone.",
            )
        return plan_duplication(
            disk.target,
            MadeKind.VOLUME,
            source,
            name,
            choice.ACTIONS[mode],
            transfers,
            below=self._chain_below(source) if mode is Mode.COPY else (),
            keep_owner=self.keeps_owner,
        )

    def plan_nvram(self) -> NvramPlan | None:
        nvram = readers.nvram(self.domain)
        if nvram is None and not readers.has_selected_nvram(self.domain):
            return None
        if nvram is not None and nvram.type != "file":
            return NvramPlan(NvramAction.SHARED, None, None, nvram.format, None, None)
        path = self._nvram_path(nvram)
        if path is None:
            return None
        directory, source_name = posixpath.split(path)
        name = names.new_volume_name(source_name, self.source.reference.name, self.request.name, is_overlay=False)
        new_path = posixpath.join(directory, names.distinct_volume_name(name, "nvram", self.taken_names[directory]))
        format_ = "raw" if nvram is None else nvram.format
        known = self.pools.covering(directory)
        if known is None or not known.is_active:
            return NvramPlan(NvramAction.COPIED, path, new_path, format_, None, None)
        duplication = plan_nvram_duplication(known.pool, path, new_path, keep_owner=self.keeps_owner)
        action = NvramAction.FRESH if duplication is None else NvramAction.COPIED
        return NvramPlan(action, path, new_path, format_, known.pool.name, duplication)

    def _nvram_path(self, nvram: NvramDefinition | None) -> str | None:
        """The normalised path; libvirt 9.0 does not show the one that it chose itself, but would start QEMU with it."""
        if nvram is not None and nvram.path:
            return normalise(nvram.path)
        path = readers.nvram_path_of_command_line(
            native_command_line(self.connection, codec.unparse_definition(self.source.definition))
        )
        return None if path is None else normalise(path)

    def _find(self, disk: DiskDefinition) -> FoundVolume:
        try:
            if disk.type == "volume":
                return self.pools.find_named(disk.pool or "", disk.volume or "")
            return self.pools.find_path(disk.path or "")
        except NotFoundError as error:
            name = shlex.quote(self.source.reference.name)
            hint = error.hint or f"Bring it back, or take the disk out: virsh edit {name}"
            raise NotFoundError(f"disk {disk.target}: {error.message}", hint) from error
        except IllegalStateError as error:
            raise IllegalStateError(f"disk {disk.target}: {error.message}", error.hint) from error

    def _refuse_writer(self, disk: DiskDefinition, volume: VolumeDescription) -> None:
        keys: list[str | tuple[str, str]] = [volume.path, (volume.pool, volume.name)]
        for key in keys:
            writer = self.identities.writers.get(key)
            if writer is not None:
                raise IllegalStateError(
                    f"disk {disk.target} ('{volume.path}') is open for writing by domain '{writer}', which is active",
                    hint=f"Shut it down first: virsh shutdown {shlex.quote(writer)}",
                )

    def _with_known_format(self, found: FoundVolume, format_: str) -> FoundVolume:
        """The volume, looked at again where libvirt remembers another format than the definition gives."""
        if format_ in {"raw", found.description.format}:
            return found
        found.pool.refresh()
        volume = found.pool.find_volume(found.volume.name)
        again = found if volume is None else describe(found.pool, volume)
        if again.description.format != format_:
            raise UnsupportedError(
                f"'{found.description.path}' is {again.description.format}, but the definition calls it {format_}",
                hint=f"Put that right first: virsh edit {shlex.quote(self.source.reference.name)}",
            )
        return again

    def _header(self, found: FoundVolume, source: VolumeDescription) -> Qcow2Header | None:
        if source.format != "qcow2" or self.request.mode is Mode.LINKED:
            return None
        header = read_qcow2_header(read_head(self.connection, found.volume, HEADER_BYTES))
        choice.check_header(source, header)
        return header

    def _chain_below(self, source: VolumeDescription) -> tuple[VolumeDescription, ...]:
        """The volumes below one, nearest first, as far as they are in pools."""
        chain = []
        seen = {source.path}
        below = source.backing_path
        while below is not None and below not in seen:
            seen.add(below)
            try:
                description = self.pools.find_path(below).description
            except (IllegalStateError, NotFoundError):
                break
            chain.append(description)
            below = description.backing_path
        return tuple(chain)


def _reason_to_leave(disk: DiskDefinition) -> str | None:
    if disk.is_empty:
        return "empty drive"
    if disk.is_readonly:
        return "read-only"
    if disk.type not in {"file", "volume"}:
        return f"{disk.type} disk, not file-based"
    return None


def _untouched(disk: DiskDefinition, reason: str) -> DiskPlan:
    return DiskPlan(disk, reason, VolumeReference(disk.pool, disk.volume, disk.path, disk.format), None)


def _assemble(planner: _Planner, disks: tuple[DiskPlan, ...], nvram: NvramPlan | None) -> ClonePlan:
    source, request = planner.source, planner.request
    new_uuid = _RANDOM_UUID.read_text(encoding="ascii").strip()
    addresses = changes.new_mac_addresses(planner.domain, planner.identities.mac_addresses, os.urandom)
    outcome = changes.clone_domain_definition(
        planner.domain,
        changes.Identity(request.name, new_uuid, addresses),
        {
            plan.disk.index: changes.NewSource(
                path=plan.duplication.path,
                pool=plan.duplication.pool,
                volume=plan.duplication.new.name,
                format="qcow2" if request.mode is Mode.LINKED else plan.duplication.source.format,
            )
            for plan in disks
            if plan.duplication is not None
        },
        None if nvram is None or nvram.path is None else changes.NewNvram(nvram.path, nvram.format),
    )
    stripped = without_provenance(source.definition)
    interfaces = readers.devices(planner.domain, "interface")
    return ClonePlan(
        source=source,
        name=request.name,
        uuid=new_uuid,
        mode=request.mode,
        disks=disks,
        nvram=nvram,
        interfaces=tuple(
            InterfaceResult(mac, str(readers.child(interfaces[index], "mac")["@address"]).lower())
            for index, mac in addresses.items()
        ),
        definition=replace(stripped, domain=outcome.domain),
        changes=outcome.changes,
        warnings=(*_warnings(source, request.mode, disks, nvram), *outcome.warnings),
        keeps_owner=planner.keeps_owner,
    )


def _warnings(source: Source, mode: Mode, disks: tuple[DiskPlan, ...], nvram: NvramPlan | None) -> tuple[str, ...]:
    warnings = [
        f"disk {plan.disk.target} ({plan.disk.location}) is left untouched ({plan.reason}): "
        "original and clone both write to it"
        for plan in disks
        if plan.duplication is None and not plan.disk.is_readonly and not plan.disk.is_empty
    ]
    if nvram is not None and nvram.action is NvramAction.SHARED:
        warnings.append("the NVRAM is no file and left untouched: original and clone both write to it")
    if mode is Mode.LINKED and any(plan.duplication is not None for plan in disks):
        warnings.append(
            f"starting '{source.reference.name}' from now on destroys its linked clones: their disks rest on its own"
        )
    warnings += [warning for plan in disks for warning in plan.warnings]
    warnings += source.left_behind
    if source.has_managed_save:
        warnings.append(
            f"'{source.reference.name}' has a saved state that is not carried over: the clone's disks are as after a "
            "power cut"
        )
    return tuple(warnings)


def _check_space(connection: Connection, duplications: tuple[Duplication, ...]) -> None:
    """Compare what will be written with what each pool has; an old figure is not enough to refuse."""
    needed: defaultdict[str, int] = defaultdict(int)
    for duplication in duplications:
        needed[duplication.pool] += duplication.total_bytes
    for name, total in needed.items():
        pool = find_pool(connection, name)
        if pool is None or pool.available_bytes() >= total:
            continue
        pool.refresh()
        available = pool.available_bytes()
        if available < total:
            raise NoSpaceError(
                f"storage pool '{name}' has {available} bytes left, and the clone needs {total}",
                hint="Make room, or use --mode linked.",
            )
