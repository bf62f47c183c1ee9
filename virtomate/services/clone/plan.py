"""The plan of clones: everything that will be done, and every reason not to do it, before anything is touched."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition import readers
from virtomate.definition import rewrite as changes
from virtomate.definition.provenance import without_provenance
from virtomate.enums import Action, Mode
from virtomate.errors import ConflictError, IllegalStateError, UsageError
from virtomate.names import check_clone_name, check_volume_name
from virtomate.notices import CloneWarning, Notice
from virtomate.services.clone.disk_survey import DiskSurveyor
from virtomate.services.clone.disks import DiskPlan, DiskPlanner
from virtomate.services.clone.original import Source, read_source, refuse_taken_names
from virtomate.services.clone.sharing import refuse_to_start
from virtomate.services.clone.side_files import NvramPlanner, SideFilePlan, refuse_needless_nvram, survey_nvram
from virtomate.services.clone.taken import TakenNames
from virtomate.services.clone.target import check_identity, refuse_taken_uuid, scan_identities
from virtomate.services.clone.volume_names import automatic_names
from virtomate.services.clone.warnings import clone_warnings, refuse_warnings
from virtomate.services.clone_records import InterfaceResult
from virtomate.services.firmware import read_firmware
from virtomate.services.storage import SpaceLedger, SpaceNeed, read_pools
from virtomate.services.transaction import VolumeJob, duplicating
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.rewrite.unshared import Outcome
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.target import Borrow, Identities
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.storage import PoolIndex, TemporaryPools

_LOG = logging.getLogger(__name__)

# In a row, until it is not the name that stands in the way.
_MAX_TAKEN_NAMES = 1000


class ClonePlan(NamedTuple):
    """Everything that will be done to make one clone.

    Attributes:
        is_uuid_given: Whether somebody chose the UUID, so that other clones may be asked to have it, too.
        definition: The clone's definition without a record of ours.
        reserved: MAC addresses and paths that were asked for, which another run may have been asked for as well.
        needs: What its volumes will take, by pool.
    """

    source: Source
    name: str
    uuid: str
    is_uuid_given: bool
    mode: Mode
    disks: tuple[DiskPlan, ...]
    side_files: tuple[SideFilePlan, ...]
    interfaces: tuple[InterfaceResult, ...]
    definition: Definition
    changes: tuple[Notice, ...]
    warnings: tuple[Notice, ...]
    fail_on: frozenset[CloneWarning]
    reserved: tuple[str, ...] = ()
    needs: tuple[SpaceNeed, ...] = ()

    @property
    def duplications(self) -> tuple[Duplication, ...]:
        """Every volume to be duplicated once, also where two disks share it."""
        every = (*(disk.duplication for disk in self.disks), *(file.duplication for file in self.side_files))
        return tuple({item.place.path: item for item in every if item is not None}.values())

    @property
    def jobs(self) -> tuple[VolumeJob, ...]:
        """Every volume that is to be made."""
        return tuple(map(duplicating, self.duplications))

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it is left to temporary pools."""
        return not any(file.uncovered for file in self.side_files)

    def refuse_warnings(self) -> None:
        """Refuse warnings that the user does not accept.

        Raises:
            RefusedWarningError: There are such warnings.
        """
        side_files = (warning for file in self.side_files for warning in file.warnings)
        refuse_warnings(self.fail_on, (*self.warnings, *side_files))

    @property
    def sources(self) -> tuple[VolumeDescription, ...]:
        """What the clone is made of or rests on, down to the last image."""
        return tuple(volume for duplication in self.duplications for volume in (duplication.source, *duplication.below))

    @property
    def new_paths(self) -> tuple[str, ...]:
        """Where its volumes and its side files are to be."""
        paths = (*(item.place.path for item in self.duplications), *(file.path for file in self.side_files))
        return tuple(path for path in paths if path is not None)


class ClonePlanner(NamedTuple):
    """Plans one clone after another, so that no two get the same of anything.

    Only one thread at a time may use it, and its connection with it.

    Attributes:
        prepared: The original's definition with those changes that are the same for all clones.
        warnings: What should be known of all of them.
        space: What the clones planned so far will take.
        mac_addresses: Those that are in use.
        names: Names that clones can be given.
    """

    connection: Connection
    request: CloneRequest
    source: Source
    prepared: Outcome
    identities: Identities
    pools: PoolIndex
    disks: DiskPlanner
    nvram: NvramPlanner | None
    warnings: tuple[Notice, ...]
    space: SpaceLedger
    taken: TakenNames
    mac_addresses: set[str]
    names: Iterator[str]

    def plan(self, name: str) -> ClonePlan:
        """Plan the clone of this name, which has been checked.

        Raises:
            ConflictError: The clone's name, or that of one of its volumes, is taken.
            UsageError: A volume's name would be too long.
        """
        _LOG.info("planning to clone %r to %r", self.source.reference.name, name)
        with self.taken.kept_on_success():
            disks = self.disks.plan(name, self.taken)
            side_files = () if self.nvram is None else (self.nvram.plan(name, self.taken),)
        plan = self._assemble(name, disks, side_files, self._new_mac_addresses())
        return plan._replace(needs=self.space.add_clone(plan.duplications, self.pools))

    def plan_automatically(self, instead_of: ClonePlan | None = None) -> ClonePlan:
        """Plan a clone with the next name that nobody has.

        Args:
            instead_of: A plan that will not be carried out, whose volumes' names are free again.

        Raises:
            ConflictError: Something else than the name is taken, whatever the name.
        """
        if instead_of is not None:
            # it may have been the UUID, which stays the same
            refuse_taken_uuid(self.connection, self.request)
            self.taken.give_back(instead_of.new_paths)
        taken = None
        for _ in range(_MAX_TAKEN_NAMES):
            name = next(self.names)
            check_clone_name(name)
            if name in self.identities.names:
                continue
            try:
                return self.plan(name)
            except ConflictError as error:
                taken = error
        raise taken or ConflictError(f"there are no names left for clones of '{self.source.reference.name}'")

    def settle(self, plan: ClonePlan, pools: TemporaryPools) -> ClonePlan:
        """Look at side files whose directory is in no storage pool, through temporary ones.

        Raises:
            VirtomateError: One cannot be copied, or something has the path of the clone's.
        """
        if self.nvram is None:
            return plan
        return plan._replace(side_files=tuple(self.nvram.settle(file, plan.name, pools) for file in plan.side_files))

    @property
    def other_domain(self) -> str | None:
        """Name of a domain other than the original, None where there is no other."""
        names = self.identities.names - {self.source.reference.name}
        return min(names, default=None)

    def _new_mac_addresses(self) -> dict[int, str]:
        if self.request.keep_mac_addresses:
            return {}
        domain = self.source.definition.domain
        addresses = changes.new_mac_addresses(domain, self.mac_addresses, os.urandom, self.request.mac_addresses)
        self.mac_addresses.update(addresses.values())
        return addresses

    def _assemble(
        self,
        name: str,
        disks: tuple[DiskPlan, ...],
        side_files: tuple[SideFilePlan, ...],
        addresses: Mapping[int, str],
    ) -> ClonePlan:
        request, source = self.request, self.source
        domain = source.definition.domain
        uuid = request.uuid or str(uuid4())
        outcome = changes.clone_domain_definition(
            self.prepared,
            changes.Identity(name, uuid, addresses, request.title, request.description),
            {
                plan.surveyed.disk.position: _new_source(plan.duplication)
                for plan in disks
                if plan.duplication is not None
            },
            next((changes.NewNvram(file.path, file.format) for file in side_files if file.path is not None), None),
            [plan.surveyed.disk.position for plan in disks if plan.surveyed.action is Action.DROPPED],
        )
        interfaces = readers.devices(domain, "interface")
        return ClonePlan(
            source=source,
            name=name,
            uuid=uuid,
            is_uuid_given=request.uuid is not None,
            mode=request.mode,
            disks=disks,
            side_files=side_files,
            reserved=_reserved(request, side_files),
            interfaces=tuple(
                InterfaceResult(addresses.get(index, mac), mac)
                for index, interface in enumerate(interfaces)
                if (mac := str(readers.child(interface, "mac").get("@address", "")).lower())
            ),
            definition=without_provenance(source.definition)._replace(domain=outcome.domain),
            changes=outcome.changes,
            warnings=(*self.warnings, *self._unknown(), *outcome.warnings),
            fail_on=request.fail_on,
        )

    def _unknown(self) -> tuple[Notice, ...]:
        """What could not be found out about other domains."""
        if not readers.mac_addresses(self.source.definition.domain):
            return ()
        abridged = sorted(self.identities.abridged)
        return tuple(Notice(CloneWarning.UNCOMPARED_MAC_ADDRESSES, name) for name in abridged)


def plan_clones(
    connection: Connection, request: CloneRequest, cancel: CancelToken, borrow: Borrow | None = None
) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    """Plan all clones of a request; nothing is changed by it, and one refusal refuses all.

    Returns:
        The plans, and what can plan further clones, on the same connection.

    Raises:
        UsageError: Something in the request cannot be, whatever the hypervisor holds, or does not fit the original.
        NotFoundError: There is no such domain, or a volume of it is missing.
        IllegalStateError: The original, one of its volumes or a pool is in no state to be cloned.
        ConflictError: The name or identity of a clone, or the name of a volume, is taken.
        UnsupportedError: A volume cannot be duplicated in the way that was asked for.
        NoSpaceError: A pool has too little space.
        RefusedWarningError: There is a warning that the request refuses.
        InterruptedBySignalError: A signal arrived.
    """
    planner = survey(connection, request, borrow)
    plans = []
    for name in request.names:
        cancel.check()
        plans.append(planner.plan(name))
    for _ in range(request.auto_names):
        cancel.check()
        plans.append(planner.plan_automatically())
    for plan in plans:
        plan.refuse_warnings()
    if request.check_space:
        smaller = "" if request.mode is Mode.LINKED else ", use --mode linked"
        advice = f"Make room{smaller}, or, where the file system compresses, use --no-space-check."
        planner.space.refuse_lack(advice, f" for {counted(len(plans), 'clone')}" if len(plans) > 1 else "")
        plans = [plan._replace(needs=planner.space.up_to_date(plan.needs)) for plan in plans]
    return planner, tuple(plans)


def check_request(request: CloneRequest) -> None:
    """Refuse names that cannot be, without asking libvirt.

    Raises:
        UsageError: One cannot be that of a domain or volume, or is given twice.
    """
    for name in request.names:
        check_clone_name(name)
    if (twice := next((name for name in request.names if request.names.count(name) > 1), None)) is not None:
        raise UsageError(f"'{twice}' is given twice, and every clone needs a name of its own")
    for chosen in request.disks:
        if chosen.name is not None:
            check_volume_name(chosen.name)


def survey(connection: Connection, request: CloneRequest, borrow: Borrow | None) -> ClonePlanner:
    """Look at what is the same for all clones of a run, once.

    Raises:
        VirtomateError: One of the reasons for which `plan_clones` refuses.
    """
    source = read_source(connection, request.source)
    identities = scan_identities(connection, borrow)
    refuse_taken_names(connection, [name for name in request.names if name in identities.names])
    check_identity(connection, request, source, identities)
    pools = read_pools(connection)
    if request.pool is not None:
        pools.for_new_volumes(request.pool)
    gate = PoolGate(is_open=request.trust_pool or runs_unprivileged(connection))
    disks = DiskSurveyor(connection, source, request, identities, pools, gate).survey()
    if source.has_managed_save and any(disk.action is Action.LINKED for disk in disks):
        raise IllegalStateError(
            f"domain '{source.reference.name}' has a managed-save image, so its disks are not in a consistent state",
            hint="Start it and shut it down, or use --mode copy.",
        )
    firmware = read_firmware(connection, source.definition.domain)
    nvram = survey_nvram(connection, source, firmware, pools, request.nvram)
    refuse_needless_nvram(nvram, request.nvram)
    refuse_to_start(request, disks, nvram)
    prepared = changes.auto_allocated(source.definition.domain)
    name = source.reference.name
    has_siblings = max(len(request.names), request.auto_names) > 1
    # an unprivileged daemon may not give files away
    keep_owner = not connection.is_session
    return ClonePlanner(
        connection,
        request,
        source,
        prepared=changes.with_named_firmware(prepared) if firmware.is_unselectable else prepared,
        identities=identities,
        pools=pools,
        disks=DiskPlanner(disks, pools, name, has_siblings, keep_owner),
        nvram=None
        if nvram is None
        else NvramPlanner(connection, nvram, name, pools, request.nvram, has_siblings, keep_owner, gate, set()),
        warnings=clone_warnings(connection, request, source, pools, disks, firmware, nvram),
        space=SpaceLedger(is_local=connection.is_local),
        taken=TakenNames(identities.named, pools.directory_of, is_local=connection.is_local),
        mac_addresses=set(identities.mac_addresses),
        names=automatic_names(name),
    )


def _reserved(request: CloneRequest, side_files: tuple[SideFilePlan, ...]) -> tuple[str, ...]:
    paths = (file.path for file in side_files if file.path is not None and request.nvram is not None)
    return (*(address.lower() for address in request.mac_addresses), *paths)


def _new_source(duplication: Duplication) -> changes.NewSource:
    is_linked = duplication.action is Action.LINKED
    source = duplication.source
    return changes.NewSource(
        path=duplication.place.path,
        pool=duplication.place.pool,
        volume=duplication.place.name,
        format="qcow2" if is_linked else source.format,
        base_path=source.path if is_linked else None,
        base_format=source.format if is_linked else None,
    )
