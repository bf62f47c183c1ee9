"""The plan of a clone: everything that will be done, and every reason not to do it, before anything is touched."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from virtomate.definition import clone as changes
from virtomate.definition import readers
from virtomate.definition.provenance import without_provenance
from virtomate.errors import IllegalStateError, NoSpaceError
from virtomate.hypervisor.storage import find_pool
from virtomate.records import InterfaceResult, Mode, NvramAction
from virtomate.services.disks import DiskPlan, DiskPlanner
from virtomate.services.identities import scan_identities
from virtomate.services.nvram import NvramPlan, plan_nvram
from virtomate.services.pools import read_pools
from virtomate.services.source import Source, read_source, refuse_taken_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.definition.codec import Definition
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.records import CloneRequest

# A random UUID of the kernel's (random(4)); Python's module takes longer to import than libvirt to define a domain.
_RANDOM_UUID = Path("/proc/sys/kernel/random/uuid")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClonePlan:
    """Everything that will be done to make one clone.

    Attributes:
        definition: The clone's definition without a record of ours.
        keep_owner: Whether new volumes get their originals' owners.
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
    keep_owner: bool

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
    # an unprivileged daemon may not give files away
    keep_owner = not connection.is_session
    identities = scan_identities(connection)
    pools = read_pools(connection)
    planner = DiskPlanner(connection, source, request, identities, pools, keep_owner)
    disks = planner.plan()
    nvram = plan_nvram(connection, source, request.name, pools, planner.taken_names, keep_owner=keep_owner)
    addresses = changes.new_mac_addresses(source.definition.domain, identities.mac_addresses, os.urandom)
    plan = _assemble(source, request, disks, nvram, addresses, keep_owner=keep_owner)
    if request.check_space:
        _check_space(connection, plan.duplications)
    return plan


def _assemble(
    source: Source,
    request: CloneRequest,
    disks: tuple[DiskPlan, ...],
    nvram: NvramPlan | None,
    addresses: Mapping[int, str],
    *,
    keep_owner: bool,
) -> ClonePlan:
    domain = source.definition.domain
    new_uuid = _RANDOM_UUID.read_text(encoding="ascii").strip()
    outcome = changes.clone_domain_definition(
        domain,
        changes.Identity(request.name, new_uuid, addresses),
        {
            plan.disk.index: changes.NewSource(
                path=plan.duplication.path,
                pool=plan.duplication.pool,
                volume=plan.duplication.new.name,
                format="qcow2" if request.mode is Mode.LINKED else plan.duplication.source.format,
                base_path=plan.duplication.source.path if request.mode is Mode.LINKED else None,
                base_format=plan.duplication.source.format if request.mode is Mode.LINKED else None,
            )
            for plan in disks
            if plan.duplication is not None
        },
        None if nvram is None or nvram.path is None else changes.NewNvram(nvram.path, nvram.format),
    )
    stripped = without_provenance(source.definition)
    interfaces = readers.devices(domain, "interface")
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
        keep_owner=keep_owner,
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
                hint="Make room, use --mode linked, or, where the file system compresses, --no-space-check.",
            )
