"""The planner of clones, one after another."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition import readers
from virtomate.definition import rewrite as changes
from virtomate.definition.provenance import DomainReference, without_provenance
from virtomate.enums import Action, ArtifactKind, TpmTreatment
from virtomate.errors import ConflictError
from virtomate.names import check_clone_name
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.services.clone.clone_plan import ClonePlan
from virtomate.services.clone.disks import DiskPlan, plan_disks
from virtomate.services.clone.ground import Ground
from virtomate.services.clone.seeds import (
    SeedPlan,
    SurveyedSeed,
    plan_seed,
)
from virtomate.services.clone.target import (
    Survey,
    errors_of,
    refuse_taken_uuid,
)
from virtomate.services.clone_parts import InterfaceResult
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.rewrite.unshared import Outcome
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.services.clone.addresses import SurveyedAddresses
    from virtomate.services.clone.credentials import CredentialPlan, SurveyedCredentials
    from virtomate.services.clone.freezing import Freezing
    from virtomate.services.clone.moment import MomentPlan
    from virtomate.services.clone.preparing import SurveyedPreparation
    from virtomate.services.clone.side_files import SideFile, SideFilePlan
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.storage import SpaceLedger, TemporaryPools

_LOG = logging.getLogger(__name__)

# After so many taken names in a row, something else than the name is taken.
_MAX_TAKEN_NAMES = 1000


class ClonePlanner(NamedTuple):
    """Plans one clone after another, so that no two clones get the same identity, path or port.

    Only one thread at a time may use it, and its connection with it.

    Attributes:
        prepared: The original's definition with the changes that are the same for all clones.
        side_files: The files beside the disks that are handled for each clone.
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
    side_files: tuple[SideFile, ...]
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

        For the errors see `plan_disks`, `SideFile.plan`, `plan_seed`, `plan_credentials` and `plan_entries`. Without
        a host name, a clone with a seed is called by its own name.
        """
        host_names = self.survey.request.host_names
        host_name = host_names[number] if host_names else None
        _LOG.info("planning to clone %r to %r", self.survey.source.reference.name, name)
        uuid = self.survey.request.uuid or str(uuid4())
        with self.taken.for_clone():
            original = self.survey.source.reference.name
            sources = (original,) if self.moment is None else (self.moment.name, original)
            disks = plan_disks(self.survey, self.disks, sources, name, self.taken)
            clone = DomainReference(name, uuid)
            side_files = tuple(file.plan(self.survey, clone, self.taken) for file in self.side_files)
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
            plan = self._with_entries(self._assemble(name, uuid, host_name, disks, side_files, seed), number)
        if credentials:
            from virtomate.services.clone.credentials import carrying  # noqa: PLC0415 - as above

            definition = plan.definition._replace(domain=carrying(plan.definition.domain, credentials))
            plan = plan._replace(definition=definition, credentials=credentials)
        others = [(job.place.pool, job.total_bytes) for job in plan.small_jobs]
        needs = self.space.add_clone(
            plan.duplications, self.survey.target.pools, others, is_crossing=self.survey.has_two_hosts
        )
        return plan._replace(needs=needs, number=number, prepared=prepared)

    def plan_automatically(self, instead_of: ClonePlan | None = None, number: int = 0) -> ClonePlan:
        """Plan a clone with the next free name; the volume names of the plan that it replaces are free again.

        The clone has the number of the clone that it replaces, and with it the host name that was asked for.

        Raises:
            ConflictError: Something else than the name is taken.
        """
        if instead_of is not None:
            # the UUID may be the conflict, and stays the same
            for side in self.survey.sides:
                with errors_of(None if side is self.survey.original else self.survey.request.target_uri):
                    refuse_taken_uuid(side.connection, self.survey.request)
            self.taken.give_back(instead_of.new_paths)
            number = instead_of.number
        taken = None
        for _ in range(_MAX_TAKEN_NAMES):
            name = next(self.names)
            check_clone_name(name)
            if any(name in side.identities.names for side in self.survey.sides):
                continue
            try:
                return self.plan(name, number)
            except ConflictError as error:
                taken = error
        raise taken or ConflictError(f"there are no names left for clones of '{self.survey.source.reference.name}'")

    def settle(self, plan: ClonePlan, pools: TemporaryPools) -> ClonePlan:
        """Look at side files whose directory is in no storage pool, through temporary pools."""
        clone = DomainReference(plan.name, plan.uuid)
        pairs = zip(self.side_files, plan.side_files, strict=True)
        settled = (
            file.settle(self.survey, planned, clone, pools) if planned.uncovered else planned for file, planned in pairs
        )
        plan = plan._replace(side_files=tuple(settled))
        if (tpm := plan.side_file(ArtifactKind.TPM_SOURCE)) is None:
            return plan
        from virtomate.definition.tpm import with_place_of_tpm  # noqa: PLC0415 - few definitions name a place

        domain = with_place_of_tpm(plan.definition.domain, tpm.path, tpm.format)
        return plan._replace(definition=plan.definition._replace(domain=domain))

    @property
    def ground(self) -> Ground:
        """What the clones planned so far leave for further requests."""
        return Ground(self.survey.original, self.survey.target, self.mac_addresses)

    @property
    def other_domain(self) -> str | None:
        """Name of a domain other than the original, None where there is no other domain."""
        return min(self.survey.target.identities.names - {self.survey.source.reference.name}, default=None)

    def _has_address(self, address: str) -> bool:
        return address in self.mac_addresses or self.survey.has_address(address)

    def _of_host(self, warnings: tuple[Notice, ...]) -> tuple[Notice, ...]:
        """Return the warnings about a definition; on another host, nothing of this host is shared."""
        crossing = self.survey.crossing
        if crossing is None:
            return warnings
        return tuple(
            notice(CloneWarning.OF_OTHER_HOST, item.subject, host=crossing.hosts.target)
            if item.code is CloneWarning.SHARED
            else item
            for item in warnings
        )

    def _with_entries(self, plan: ClonePlan, number: int) -> ClonePlan:
        """Return a plan with the DHCP entries of the clone."""
        if not self.addresses:
            return plan
        from virtomate.services.clone.addresses import plan_entries, with_entries  # noqa: PLC0415 - few clones

        with errors_of(self.survey.request.target_uri):
            entries = plan_entries(self.addresses, number, plan.host_name or plan.name, plan.interfaces)
        interfaces = with_entries(plan.interfaces, (planned.entry for planned in entries))
        return plan._replace(entries=entries, interfaces=interfaces)

    def _assemble(
        self,
        name: str,
        uuid: str,
        host_name: str | None,
        disks: tuple[DiskPlan, ...],
        side_files: tuple[SideFilePlan, ...],
        seed: SeedPlan | None,
    ) -> ClonePlan:
        request, source = self.survey.request, self.survey.source
        domain = source.definition.domain
        addresses: dict[int, str] = {}
        if not request.keep_mac_addresses:
            addresses = changes.new_mac_addresses(domain, self._has_address, os.urandom, request.mac_addresses)
            self.mac_addresses.update(addresses.values())
        nvram = next((file for file in side_files if file.kind is ArtifactKind.NVRAM), None)
        state = next((file for file in side_files if file.kind is ArtifactKind.TPM_SOURCE), None)
        tpm = changes.NewTpm(is_copy=request.tpm is TpmTreatment.COPY)
        tpm = tpm if state is None else tpm._replace(path=state.path, place=state.format)
        reserved_paths = () if request.nvram is None or nvram is None or nvram.path is None else (nvram.path,)
        outcome = changes.clone_domain_definition(
            self.prepared,
            changes.Identity(name, uuid, addresses, request.title, request.description, host_name),
            {plan.disk.position: _new_source(plan.duplication) for plan in disks if plan.duplication is not None},
            None if nvram is None or nvram.path is None else changes.NewNvram(nvram.path, nvram.format),
            [plan.disk.position for plan in disks if plan.action is Action.DROPPED],
            None if self.seed is None or seed is None else (self.seed.drive, seed.job.place.path),
            tpm,
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
            side_files=side_files,
            interfaces=tuple(InterfaceResult(addresses.get(index, mac), mac) for index, mac in enumerate(macs) if mac),
            definition=without_provenance(source.definition)._replace(domain=outcome.domain),
            changes=outcome.changes,
            warnings=(*self.warnings, *self._of_host(outcome.warnings)),
            fail_on=request.fail_on,
            moment=self.moment,
            frozen=() if self.freezing is None else self.freezing.disks,
            seed=seed,
            host_name=host_name,
            autostarts=request.autostarts,
            hosts=None if self.survey.crossing is None else self.survey.crossing.hosts,
            reserved=tuple(address.lower() for address in request.mac_addresses) + reserved_paths,
        )


def _new_source(duplication: Duplication) -> changes.NewSource:
    is_linked = duplication.action is Action.LINKED
    source, place = duplication.source, duplication.place
    return changes.NewSource(
        path=place.path,
        pool=place.pool,
        volume=place.name,
        format=duplication.new_format,
        base_path=source.path if is_linked else None,
        base_format=source.format if is_linked else None,
        base_source=None if duplication.network is None else duplication.network.source,
        is_device=duplication.to_device,
        is_base_device=source.is_device,
    )
