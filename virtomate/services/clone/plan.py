"""The plan of clones: everything that will be done, and every reason not to do it, before anything is changed."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition import readers
from virtomate.definition import rewrite as changes
from virtomate.definition.provenance import read_provenance, without_provenance
from virtomate.enums import Action, Mode
from virtomate.errors import ConflictError, IllegalStateError, UsageError
from virtomate.names import check_clone_name, check_volume_name
from virtomate.notices import CloneWarning, Notice
from virtomate.services.clone.disk_survey import survey_disks
from virtomate.services.clone.disks import DiskPlan, plan_disks
from virtomate.services.clone.moment import MomentPlan, needs_moment, plan_moment
from virtomate.services.clone.original import Source, read_source
from virtomate.services.clone.side_files import SideFilePlan, SurveyedNvram, plan_nvram, settle_nvram, survey_nvram
from virtomate.services.clone.target import (
    Survey,
    check_identity,
    refuse_taken_names,
    refuse_taken_uuid,
    scan_identities,
)
from virtomate.services.clone.volume_names import TakenNames, automatic_names
from virtomate.services.clone.warnings import clone_warnings, refuse_to_start, refuse_warnings
from virtomate.services.clone_records import InterfaceResult
from virtomate.services.firmware import read_firmware
from virtomate.services.linked import refuse_broken
from virtomate.services.storage import SpaceLedger, SpaceNeed, read_pools
from virtomate.services.transaction import VolumeJob, duplicating
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.rewrite.unshared import Outcome
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.freezing import Freezing
    from virtomate.services.clone.target import Borrow
    from virtomate.services.clone_records import CloneRequest, FrozenDiskResult
    from virtomate.services.storage import TemporaryPools

_LOG = logging.getLogger(__name__)

# After so many taken names in a row, something else than the name is taken.
_MAX_TAKEN_NAMES = 1000


class ClonePlan(NamedTuple):
    """Everything that will be done to make one clone.

    Attributes:
        is_uuid_given: Whether the user chose the UUID, so that other clones may be asked to have it, too.
        definition: The clone's definition without a record of ours.
        reserved: MAC addresses and paths that the user chose, and that another run may be asked for as well.
        needs: The space that the clone's volumes will take, by pool.
        moment: The images of a running original that the clone starts from.
        frozen: The disks of the original that are frozen.
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
    moment: MomentPlan | None = None
    frozen: tuple[FrozenDiskResult, ...] = ()

    @property
    def base(self) -> MomentPlan | None:
        """The images of a running original that it rests on when it is complete."""
        return self.moment if any(disk.action is Action.LINKED for disk in self.disks) else None

    @property
    def rests_on_frozen_bases(self) -> bool:
        """Whether the original may be started and written to meanwhile."""
        frozen = {disk.target for disk in self.frozen}
        duplicated = [disk.disk for disk in self.disks if disk.duplication is not None]
        return bool(frozen) and all(disk.target in frozen or disk.is_readonly for disk in duplicated)

    @property
    def duplications(self) -> tuple[Duplication, ...]:
        """Every volume to be duplicated, once, even if two disks share it."""
        every = (*(disk.duplication for disk in self.disks), *(file.duplication for file in self.side_files))
        return tuple({item.place.path: item for item in every if item is not None}.values())

    @property
    def jobs(self) -> tuple[VolumeJob, ...]:
        """Every volume that is to be made."""
        return tuple(map(duplicating, self.duplications))

    @property
    def all_warnings(self) -> tuple[Notice, ...]:
        """The warnings of the plan and of its side files, each once."""
        side_files = (warning for file in self.side_files for warning in file.warnings)
        return tuple(dict.fromkeys((*self.warnings, *side_files)))

    @property
    def sources(self) -> tuple[VolumeDescription, ...]:
        """The volumes that must not change: what the clone is made of or rests on, down to the last image."""
        still = (duplication for duplication in self.duplications if not duplication.is_moving)
        return tuple(volume for duplication in still for volume in (duplication.source, *duplication.below))

    @property
    def new_paths(self) -> tuple[str, ...]:
        """The paths of the clone's new volumes and side files."""
        paths = (*(item.place.path for item in self.duplications), *(file.path for file in self.side_files))
        return tuple(path for path in paths if path is not None)


class ClonePlanner(NamedTuple):
    """Plans one clone after another, so that no two clones get the same identity, path or port.

    Only one thread at a time may use it, and its connection with it.

    Attributes:
        prepared: The original's definition with the changes that are the same for all clones.
        warnings: The warnings about all clones.
        space: The space that the clones planned so far will take.
        mac_addresses: The addresses of the clones planned so far.
        names: Names for clones that have none.
        moment: The images of a running original that the clones start from, None where they need none.
        freezing: The freeze of the original, None where nothing is frozen.
    """

    survey: Survey
    prepared: Outcome
    disks: tuple[DiskPlan, ...]
    nvram: SurveyedNvram | None
    warnings: tuple[Notice, ...]
    space: SpaceLedger
    taken: TakenNames
    mac_addresses: set[str]
    names: Iterator[str]
    moment: MomentPlan | None
    freezing: Freezing | None

    def plan(self, name: str) -> ClonePlan:
        """Plan the clone of this name, which has been checked; for the errors see `plan_disks` and `plan_nvram`."""
        _LOG.info("planning to clone %r to %r", self.survey.source.reference.name, name)
        with self.taken.for_clone():
            source = self.survey.source.reference.name if self.moment is None else self.moment.name
            disks = plan_disks(self.survey, self.disks, source, name, self.taken)
            nvram = None if self.nvram is None else plan_nvram(self.survey, self.nvram, name, self.taken)
        plan = self._assemble(name, disks, nvram)
        return plan._replace(needs=self.space.add_clone(plan.duplications, self.survey.pools))

    def plan_automatically(self, instead_of: ClonePlan | None = None) -> ClonePlan:
        """Plan a clone with the next free name; the volume names of the plan that it replaces are free again.

        Raises:
            ConflictError: Something else than the name is taken.
        """
        if instead_of is not None:
            # the UUID may be the conflict, and stays the same
            refuse_taken_uuid(self.survey.connection, self.survey.request)
            self.taken.give_back(instead_of.new_paths)
        taken = None
        for _ in range(_MAX_TAKEN_NAMES):
            name = next(self.names)
            check_clone_name(name)
            if name in self.survey.identities.names:
                continue
            try:
                return self.plan(name)
            except ConflictError as error:
                taken = error
        raise taken or ConflictError(f"there are no names left for clones of '{self.survey.source.reference.name}'")

    def settle(self, plan: ClonePlan, pools: TemporaryPools) -> ClonePlan:
        """Look at side files whose directory is in no storage pool, through temporary pools; see `settle_nvram`."""
        if self.nvram is None:
            return plan
        files = (settle_nvram(self.survey, self.nvram, file, plan.name, pools) for file in plan.side_files)
        return plan._replace(side_files=tuple(files))

    @property
    def other_domain(self) -> str | None:
        """Name of a domain other than the original, None where there is no other domain."""
        return min(self.survey.identities.names - {self.survey.source.reference.name}, default=None)

    def _has_address(self, address: str) -> bool:
        in_use = self.survey.identities.in_use
        return address in self.mac_addresses or in_use.owner_of_address(address) is not None

    def _assemble(self, name: str, disks: tuple[DiskPlan, ...], nvram: SideFilePlan | None) -> ClonePlan:
        request, source = self.survey.request, self.survey.source
        domain = source.definition.domain
        uuid = request.uuid or str(uuid4())
        addresses: dict[int, str] = {}
        if not request.keep_mac_addresses:
            addresses = changes.new_mac_addresses(domain, self._has_address, os.urandom, request.mac_addresses)
            self.mac_addresses.update(addresses.values())
        reserved_paths = () if request.nvram is None or nvram is None or nvram.path is None else (nvram.path,)
        outcome = changes.clone_domain_definition(
            self.prepared,
            changes.Identity(name, uuid, addresses, request.title, request.description),
            {plan.disk.position: _new_source(plan.duplication) for plan in disks if plan.duplication is not None},
            None if nvram is None or nvram.path is None else changes.NewNvram(nvram.path, nvram.format),
            [plan.disk.position for plan in disks if plan.action is Action.DROPPED],
        )
        macs = [
            str(readers.child(interface, "mac").get("@address", "")).lower()
            for interface in readers.devices(domain, "interface")
        ]
        return ClonePlan(
            source=source,
            name=name,
            uuid=uuid,
            is_uuid_given=request.uuid is not None,
            mode=request.mode,
            disks=disks,
            side_files=() if nvram is None else (nvram,),
            interfaces=tuple(InterfaceResult(addresses.get(index, mac), mac) for index, mac in enumerate(macs) if mac),
            definition=without_provenance(source.definition)._replace(domain=outcome.domain),
            changes=outcome.changes,
            warnings=(*self.warnings, *outcome.warnings),
            fail_on=request.fail_on,
            moment=self.moment,
            frozen=() if self.freezing is None else self.freezing.disks,
            reserved=tuple(address.lower() for address in request.mac_addresses) + reserved_paths,
        )


def plan_clones(
    connection: Connection, request: CloneRequest, cancel: CancelToken, borrow: Borrow | None = None
) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    """Plan all clones of a request; nothing is changed by it, and one refusal refuses all.

    Returns:
        A planner of further clones, on the same connection, and the plans.

    Raises:
        UsageError: Something in the request is not possible, on any hypervisor or for this original.
        NotFoundError: There is no such domain, or a volume is missing.
        IllegalStateError: The state of the original, a volume or a pool does not allow cloning.
        ConflictError: The name or identity of a clone, or the name of a volume, is taken.
        UnsupportedError: A volume cannot be duplicated in the way that was asked for.
        NoSpaceError: A pool has too little space.
        RefusedWarningError: There is a warning that the request refuses.
        InterruptedBySignalError: A signal arrived.
    """
    planner = _survey(connection, request, borrow)
    plans = []
    for name in request.names or (None,) * request.auto_names:
        cancel.check()
        plans.append(planner.plan_automatically() if name is None else planner.plan(name))
    for plan in plans:
        refuse_warnings(plan.fail_on, plan.all_warnings)
    if request.check_space:
        # one linked clone of a running original needs an image of each disk, as a copy does
        is_smallest = request.mode is Mode.LINKED or (len(plans) == 1 and plans[0].source.running is not None)
        smaller = "" if is_smallest else ", use --mode linked"
        advice = f"Make room{smaller}, or, where the file system compresses, use --no-space-check."
        planner.space.refuse_lack(advice, f" for {counted(len(plans), 'clone')}" if len(plans) > 1 else "")
    return planner, tuple(plan._replace(needs=planner.space.up_to_date(plan.needs)) for plan in plans)


def check_request(request: CloneRequest) -> None:
    """Refuse what is not possible on any hypervisor, without asking libvirt.

    Raises:
        UsageError: A name is not valid, or is given twice.
    """
    for name, count in Counter(request.names).items():
        check_clone_name(name)
        if count > 1:
            raise UsageError(f"'{name}' is given twice, and every clone needs a name of its own")
    for chosen in request.disks:
        if chosen.name is not None:
            check_volume_name(chosen.name)


def _survey(connection: Connection, request: CloneRequest, borrow: Borrow | None) -> ClonePlanner:
    """Look once at everything that is the same for all clones of a run."""
    source = read_source(connection, request)
    domain, name = source.definition.domain, source.reference.name
    identities = scan_identities(connection, borrow)
    if source.is_active or source.running is not None:
        identities = identities.without_writer(name)
    refuse_taken_names(connection, [name for name in request.names if name in identities.names])
    check_identity(connection, request, source, identities)
    refuse_broken(connection, name, read_provenance(source.definition))
    pools = read_pools(connection)
    if request.pool is not None:
        pools.for_new_volumes(request.pool)
    gate = PoolGate(is_open=request.trust_pool or runs_unprivileged(connection))
    survey = Survey(connection, request, source, identities, pools, gate)
    disks = survey_disks(survey)
    if not source.stands_still:
        from virtomate.services.clone.shutdown import refuse_restart_of_base  # noqa: PLC0415 - few originals run

        refuse_restart_of_base(source, request, disks)
    if source.has_managed_save and any(disk.action is Action.LINKED for disk in disks):
        raise IllegalStateError(
            f"domain '{name}' has a managed-save image, so its disks are not in a consistent state",
            hint="Start it and shut it down, or use --mode copy.",
        )
    firmware = read_firmware(connection, domain)
    nvram = survey_nvram(survey, firmware)
    refuse_to_start(request, disks, nvram)
    taken = TakenNames(identities.in_use, pools.directory_of, is_local=connection.is_local)
    space, moment = SpaceLedger(is_local=connection.is_local), None
    if source.running is not None and needs_moment(survey, disks):
        moment, disks = plan_moment(survey, disks, taken)
        space.add_clone(moment.duplications, pools)
    freezing = None
    if request.freeze:
        from virtomate.services.clone.freezing import plan_freeze  # noqa: PLC0415 - few originals are frozen

        if (freezing := plan_freeze(survey, disks, taken)) is not None:
            space.add_clone(freezing.duplications, pools)
    prepared = changes.auto_allocated(domain)
    uncompared = sorted(identities.abridged) if readers.mac_addresses(domain) else ()
    return ClonePlanner(
        survey,
        prepared=changes.with_named_firmware(prepared) if firmware.is_unselectable else prepared,
        disks=disks,
        nvram=nvram,
        warnings=(
            *clone_warnings(survey, disks, firmware, nvram),
            *(() if freezing is None else freezing.warnings),
            *(Notice(CloneWarning.UNCOMPARED_MAC_ADDRESSES, other) for other in uncompared),
        ),
        space=space,
        taken=taken,
        mac_addresses=set(),
        names=automatic_names(name),
        moment=moment,
        freezing=freezing,
    )


def _new_source(duplication: Duplication) -> changes.NewSource:
    is_linked = duplication.action is Action.LINKED
    source, place = duplication.source, duplication.place
    return changes.NewSource(
        path=place.path,
        pool=place.pool,
        volume=place.name,
        format="qcow2" if is_linked else source.format,
        base_path=source.path if is_linked else None,
        base_format=source.format if is_linked else None,
    )
