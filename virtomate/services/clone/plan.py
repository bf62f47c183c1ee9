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
from virtomate.services.clone.asked import as_asked, survey_asked_addresses
from virtomate.services.clone.clone_plan import ClonePlan
from virtomate.services.clone.disk_survey import survey_disks
from virtomate.services.clone.disks import DiskPlan, plan_disks
from virtomate.services.clone.ground import Ground, look
from virtomate.services.clone.moment import MomentPlan, needs_moment, plan_moment
from virtomate.services.clone.original import read_source
from virtomate.services.clone.seeds import (
    SeedPlan,
    SurveyedSeed,
    check_host_names,
    find_seeds,
    plan_seed,
    refuse_unheard_name,
    survey_seed,
)
from virtomate.services.clone.side_files import SideFilePlan, SurveyedNvram, plan_nvram, settle_nvram, survey_nvram
from virtomate.services.clone.target import (
    Survey,
    check_identity,
    refuse_taken_names,
    refuse_taken_uuid,
)
from virtomate.services.clone.volume_names import TakenNames, automatic_names
from virtomate.services.clone.warnings import clone_warnings, refuse_to_start, refuse_warnings
from virtomate.services.clone_records import InterfaceResult
from virtomate.services.firmware import read_firmware
from virtomate.services.linked import refuse_broken
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.rewrite.unshared import Outcome
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.addresses import SurveyedAddresses
    from virtomate.services.clone.credentials import CredentialPlan, SurveyedCredentials
    from virtomate.services.clone.freezing import Freezing
    from virtomate.services.clone.preparing import SurveyedPreparation
    from virtomate.services.clone.target import Borrow
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.storage import SpaceLedger, TemporaryPools

_LOG = logging.getLogger(__name__)

# After so many taken names in a row, something else than the name is taken.
_MAX_TAKEN_NAMES = 1000


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
        seed: What the seeds of the clones have in common, None without seeds.
        preparation: What the preparations of the clones have in common, None where nothing is prepared.
        credentials: What the credentials of the clones have in common, None without credentials.
        addresses: The addresses that DHCP entries keep for the clones.
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
    seed: SurveyedSeed | None
    preparation: SurveyedPreparation | None
    credentials: SurveyedCredentials | None
    addresses: tuple[SurveyedAddresses, ...]

    def plan(self, name: str, number: int = 0) -> ClonePlan:
        """Plan the clone of this name, which has been checked, and of this number in the request, from 0 on.

        For the errors see `plan_disks`, `plan_nvram`, `plan_seed`, `plan_credentials` and `plan_entries`. Without
        a host name, a clone with a seed is called by its own name.
        """
        host_names = self.survey.request.host_names
        host_name = host_names[number] if host_names else None
        _LOG.info("planning to clone %r to %r", self.survey.source.reference.name, name)
        uuid = self.survey.request.uuid or str(uuid4())
        with self.taken.for_clone():
            source = self.survey.source.reference.name if self.moment is None else self.moment.name
            disks = plan_disks(self.survey, self.disks, source, name, self.taken)
            nvram = None if self.nvram is None else plan_nvram(self.survey, self.nvram, name, self.taken)
            seed = None
            if self.seed is not None:
                seed = plan_seed(self.survey, self.seed, name, uuid, host_name, self.taken)
            credentials: tuple[CredentialPlan, ...] = ()
            if self.credentials is not None:
                from virtomate.services.clone.credentials import plan_credentials  # noqa: PLC0415 - few clones get any

                credentials = plan_credentials(self.survey, self.credentials, number, name, self.taken)
            host_name = host_name if seed is None else seed.host_name
            prepared = None if self.preparation is None else self.preparation.plan(name, host_name)
            host_name = host_name if prepared is None else prepared.host_name or host_name
            plan = self._with_entries(self._assemble(name, uuid, host_name, disks, nvram, seed), number)
        if credentials:
            from virtomate.services.clone.credentials import carrying  # noqa: PLC0415 - as above

            definition = plan.definition._replace(domain=carrying(plan.definition.domain, credentials))
            plan = plan._replace(definition=definition, credentials=credentials)
        others: Counter[str] = Counter()
        for job in plan.small_jobs:
            others[job.place.pool] += job.total_bytes
        needs = self.space.add_clone(plan.duplications, self.survey.pools, others)
        return plan._replace(needs=needs, number=number, prepared=prepared)

    def plan_automatically(self, instead_of: ClonePlan | None = None, number: int = 0) -> ClonePlan:
        """Plan a clone with the next free name; the volume names of the plan that it replaces are free again.

        The clone has the number of the clone that it replaces, and with it the host name that was asked for.

        Raises:
            ConflictError: Something else than the name is taken.
        """
        if instead_of is not None:
            # the UUID may be the conflict, and stays the same
            refuse_taken_uuid(self.survey.connection, self.survey.request)
            self.taken.give_back(instead_of.new_paths)
            number = instead_of.number
        taken = None
        for _ in range(_MAX_TAKEN_NAMES):
            name = next(self.names)
            check_clone_name(name)
            if name in self.survey.identities.names:
                continue
            try:
                return self.plan(name, number)
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
    def ground(self) -> Ground:
        """What the clones planned so far leave for further requests."""
        return Ground(self.survey.identities, self.survey.pools, self.space, self.taken, self.mac_addresses)

    @property
    def other_domain(self) -> str | None:
        """Name of a domain other than the original, None where there is no other domain."""
        return min(self.survey.identities.names - {self.survey.source.reference.name}, default=None)

    def _has_address(self, address: str) -> bool:
        in_use = self.survey.identities.in_use
        return address in self.mac_addresses or in_use.owner_of_address(address) is not None

    def _with_entries(self, plan: ClonePlan, number: int) -> ClonePlan:
        """Return a plan with the DHCP entries of the clone."""
        if not self.addresses:
            return plan
        from virtomate.services.clone.addresses import plan_entries, with_entries  # noqa: PLC0415 - few clones

        entries = plan_entries(self.addresses, number, plan.host_name or plan.name, plan.interfaces)
        interfaces = with_entries(plan.interfaces, (planned.entry for planned in entries))
        return plan._replace(entries=entries, interfaces=interfaces)

    def _assemble(
        self,
        name: str,
        uuid: str,
        host_name: str | None,
        disks: tuple[DiskPlan, ...],
        nvram: SideFilePlan | None,
        seed: SeedPlan | None,
    ) -> ClonePlan:
        request, source = self.survey.request, self.survey.source
        domain = source.definition.domain
        addresses: dict[int, str] = {}
        if not request.keep_mac_addresses:
            addresses = changes.new_mac_addresses(domain, self._has_address, os.urandom, request.mac_addresses)
            self.mac_addresses.update(addresses.values())
        reserved_paths = () if request.nvram is None or nvram is None or nvram.path is None else (nvram.path,)
        outcome = changes.clone_domain_definition(
            self.prepared,
            changes.Identity(name, uuid, addresses, request.title, request.description, host_name),
            {plan.disk.position: _new_source(plan.duplication) for plan in disks if plan.duplication is not None},
            None if nvram is None or nvram.path is None else changes.NewNvram(nvram.path, nvram.format),
            [plan.disk.position for plan in disks if plan.action is Action.DROPPED],
            None if self.seed is None or seed is None else (self.seed.drive, seed.job.place.path),
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
            seed=seed,
            host_name=host_name,
            autostarts=request.autostarts,
            reserved=tuple(address.lower() for address in request.mac_addresses) + reserved_paths,
        )


def plan_clones(
    connection: Connection,
    request: CloneRequest,
    cancel: CancelToken,
    borrow: Borrow | None = None,
    ground: Ground | None = None,
) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    """Plan all clones of a request, beside those of `ground`; nothing is changed, and one refusal refuses all.

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
    planner = _survey(connection, request, borrow, ground)
    plans = []
    names = request.names or (None,) * request.auto_names
    for number, name in enumerate(names):
        cancel.check()
        plan = planner.plan_automatically(None, number) if name is None else planner.plan(name, number)
        plans.append(plan)
    for plan in plans:
        refuse_warnings(plan.fail_on, plan.all_warnings)
    if request.check_space:
        # one linked clone of a running original needs an image of each disk, as a copy does
        is_smallest = request.mode is Mode.LINKED or (len(plans) == 1 and plans[0].source.backed_up is not None)
        smaller = "" if is_smallest else ", use --mode linked"
        if plans[0].source.backed_up is not None and not request.risk_original:
            # the backup reserves the space in fact: with --no-space-check, it would fail for lack of space
            advice = (
                "A backup of a running original reserves the full capacity of its disks: "
                f"make room{smaller}, or choose another pool with --pool."
            )
        else:
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
    check_host_names(request)
    for chosen in request.disks:
        if chosen.name is not None:
            check_volume_name(chosen.name)


def _survey(
    connection: Connection, request: CloneRequest, borrow: Borrow | None, ground: Ground | None
) -> ClonePlanner:
    """Look once at everything that is the same for all clones of a run."""
    source = read_source(connection, request)
    domain, name = source.definition.domain, source.reference.name
    ground = ground or look(connection, request, borrow)
    identities, pools = ground.identities, ground.pools
    if source.is_active or source.running is not None:
        identities = identities.without_writer(name)
    refuse_taken_names(connection, [name for name in request.names if name in identities.names])
    check_identity(connection, request, source, identities)
    refuse_broken(connection, name, read_provenance(source.definition))
    if request.pool is not None:
        pools.for_new_volumes(request.pool)
    gate = PoolGate(is_open=request.trust_pool or runs_unprivileged(connection))
    survey = Survey(connection, request, source, identities, pools, gate)
    disks = survey_disks(survey)
    seeds, seed = find_seeds(survey, disks), None
    refuse_unheard_name(survey)
    if request.seed is not None:
        seed, disks = survey_seed(survey, request.seed, disks, seeds)
    if not source.stands_still:
        from virtomate.services.clone.shutdown import refuse_restart_of_base  # noqa: PLC0415 - few originals run

        refuse_restart_of_base(source, request, disks)
    if source.has_managed_save and any(disk.action is Action.LINKED for disk in disks):
        raise IllegalStateError(
            f"domain '{name}' has a managed-save image, so its disks are not in a consistent state",
            hint="Start it and shut it down, or use --mode copy.",
        )
    preparation = None
    if request.preparation is not None:
        from virtomate.services.clone.preparing import survey_preparation  # noqa: PLC0415 - few clones are prepared

        preparation = survey_preparation(survey, request.preparation, disks)
    firmware = read_firmware(connection, domain)
    nvram = survey_nvram(survey, firmware)
    refuse_to_start(request, disks, nvram)
    taken, space, moment = ground.taken, ground.space, None
    if source.backed_up is not None and needs_moment(survey, disks):
        moment, disks = plan_moment(survey, disks, taken)
        space.add_clone(moment.duplications, pools)
    freezing = None
    if request.freeze:
        from virtomate.services.clone.freezing import plan_freeze  # noqa: PLC0415 - few originals are frozen

        if (freezing := plan_freeze(survey, disks, taken)) is not None:
            space.add_clone(freezing.duplications, pools)
    prepared = changes.auto_allocated(domain)
    prepared, credentials = as_asked(survey, prepared, disks)
    uncompared = sorted(identities.abridged) if readers.mac_addresses(domain) else ()
    return ClonePlanner(
        survey,
        prepared=changes.with_named_firmware(prepared) if firmware.is_unselectable else prepared,
        disks=disks,
        nvram=nvram,
        warnings=(
            *clone_warnings(survey, disks, seeds, firmware, nvram),
            *(() if freezing is None else freezing.warnings),
            *(() if seed is None else seed.place.warnings),
            *(() if credentials is None or credentials.place is None else credentials.place.warnings),
            *(Notice(CloneWarning.UNCOMPARED_MAC_ADDRESSES, other) for other in uncompared),
        ),
        space=space,
        taken=taken,
        mac_addresses=ground.mac_addresses,
        names=automatic_names(name),
        moment=moment,
        freezing=freezing,
        seed=seed,
        preparation=preparation,
        credentials=credentials,
        addresses=survey_asked_addresses(survey, prepared),
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
