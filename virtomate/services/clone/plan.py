"""The plan of clones: everything that will be done, and every reason not to do it, before anything is touched."""

from __future__ import annotations

import logging
import os
import posixpath
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from virtomate.definition import readers
from virtomate.definition import rewrite as changes
from virtomate.definition.provenance import without_provenance
from virtomate.enums import Action, Mode
from virtomate.errors import ConflictError, IllegalStateError, UsageError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.names import check_clone_name, check_volume_name
from virtomate.notices import CloneWarning, Notice
from virtomate.services.clone.disks import DiskPlan, DiskPlanner, DiskSurveyor
from virtomate.services.clone.original import Source, read_source, refuse_taken_names
from virtomate.services.clone.records import InterfaceResult
from virtomate.services.clone.sharing import refuse_to_start
from virtomate.services.clone.side_files import NvramPlan, NvramPlanner, refuse_needless_nvram, survey_nvram
from virtomate.services.clone.taken import TakenNames
from virtomate.services.clone.target import scan_identities
from virtomate.services.clone.volume_names import automatic_names
from virtomate.services.clone.warnings import clone_warnings, refuse_warnings
from virtomate.services.storage import SpaceLedger, SpaceNeed, read_firmware, read_pools
from virtomate.services.storage.trust import PoolGate, runs_unprivileged
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition, Document
    from virtomate.definition.rewrite.outcome import Outcome
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.disks import SurveyedDisk
    from virtomate.services.clone.records import CloneRequest
    from virtomate.services.clone.side_files import SurveyedNvram
    from virtomate.services.clone.target import Borrow, Identities
    from virtomate.services.storage import PoolIndex

_LOG = logging.getLogger(__name__)

# Where libvirt keeps the state of emulated TPMs, by the UUID of the domain (src/qemu/qemu_conf.c).
_TPM_STATES = "/var/lib/libvirt/swtpm"

# In a row, until it is not the name that stands in the way.
_MAX_TAKEN_NAMES = 1000


class ClonePlan(NamedTuple):
    """Everything that will be done to make one clone.

    Attributes:
        is_uuid_given: Whether somebody chose the UUID, so that other clones may be asked to have it, too.
        nvram_planner: Plans the NVRAM again where only temporary pools can tell what there is.
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
    nvram: NvramPlan | None
    nvram_planner: NvramPlanner | None
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
        unique = {plan.duplication.path: plan.duplication for plan in self.disks if plan.duplication is not None}
        if self.nvram is not None and self.nvram.duplication is not None:
            unique[self.nvram.duplication.path] = self.nvram.duplication
        return tuple(unique.values())

    @property
    def sources(self) -> tuple[VolumeDescription, ...]:
        """What the clone is made of or rests on, down to the last image."""
        return tuple(volume for duplication in self.duplications for volume in (duplication.source, *duplication.below))

    @property
    def new_paths(self) -> tuple[str, ...]:
        """Where its volumes and its NVRAM are to be."""
        paths = [duplication.path for duplication in self.duplications]
        if self.nvram is not None and self.nvram.path is not None:
            paths.append(self.nvram.path)
        return tuple(paths)


class Survey(NamedTuple):
    """What is the same for all clones of a run, looked at once.

    Attributes:
        prepared: The original's definition with those changes that are the same for all clones.
        warnings: What should be known of all of them.
    """

    source: Source
    prepared: Outcome
    identities: Identities
    pools: PoolIndex
    disks: tuple[SurveyedDisk, ...]
    nvram: SurveyedNvram | None
    keep_owner: bool
    warnings: tuple[Notice, ...]
    gate: PoolGate


class ClonePlanner:
    """Plans one clone after another, so that no two get the same of anything.

    Only one thread at a time may use it, and its connection with it.

    Attributes:
        space: What the clones planned so far will take.
    """

    def __init__(self, connection: Connection, request: CloneRequest, survey: Survey) -> None:
        self._connection = connection
        self._request = request
        self._survey = survey
        has_siblings = max(len(request.names), request.auto_names) > 1
        name = survey.source.reference.name
        self._disks = DiskPlanner(survey.disks, name, has_siblings, survey.keep_owner)
        self._nvram = None
        if survey.nvram is not None:
            self._nvram = NvramPlanner(
                connection,
                survey.nvram,
                name,
                survey.pools,
                request.nvram,
                has_siblings,
                survey.keep_owner,
                survey.gate,
            )
        self.space = SpaceLedger(is_local=connection.is_local)
        self._taken = TakenNames(survey.identities.named, survey.pools.directory_of, is_local=connection.is_local)
        self._mac_addresses = set(survey.identities.mac_addresses)
        self._automatic_names = automatic_names(name)

    def plan(self, name: str) -> ClonePlan:
        """Plan the clone of this name, which has been checked.

        Raises:
            ConflictError: The clone's name, or that of one of its volumes, is taken.
            UsageError: A volume's name would be too long.
        """
        _LOG.info("planning to clone %r to %r", self._survey.source.reference.name, name)
        with self._taken.kept_on_success():
            disks = self._disks.plan(name, self._taken)
            nvram = None if self._nvram is None else self._nvram.plan(name, self._taken)
        addresses = self._new_mac_addresses()
        plan = self._assemble(name, disks, nvram, addresses)
        return plan._replace(needs=self.space.add_clone(plan.duplications, self._survey.pools))

    def plan_automatically(self, instead_of: ClonePlan | None = None) -> ClonePlan:
        """Plan a clone with the next name that nobody has.

        Args:
            instead_of: A plan that will not be carried out, whose volumes' names are free again.

        Raises:
            ConflictError: Something else than the name is taken, whatever the name.
        """
        if instead_of is not None:
            # it may have been the UUID, which stays the same
            _refuse_taken_uuid(self._connection, self._request)
            self._taken.give_back(instead_of.new_paths)
        taken = None
        for _ in range(_MAX_TAKEN_NAMES):
            name = next(self._automatic_names)
            check_clone_name(name)
            if name in self._survey.identities.names:
                continue
            try:
                return self.plan(name)
            except ConflictError as error:
                taken = error
        raise taken or ConflictError(f"there are no names left for clones of '{self._survey.source.reference.name}'")

    @property
    def other_domain(self) -> str | None:
        """Name of a domain other than the original, None where there is no other."""
        names = self._survey.identities.names - {self._survey.source.reference.name}
        return min(names, default=None)

    def _new_mac_addresses(self) -> dict[int, str]:
        if self._request.keep_mac_addresses:
            return {}
        domain = self._survey.source.definition.domain
        addresses = changes.new_mac_addresses(domain, self._mac_addresses, os.urandom, self._request.mac_addresses)
        self._mac_addresses.update(addresses.values())
        return addresses

    def _assemble(
        self, name: str, disks: tuple[DiskPlan, ...], nvram: NvramPlan | None, addresses: Mapping[int, str]
    ) -> ClonePlan:
        request, source = self._request, self._survey.source
        domain = source.definition.domain
        uuid = request.uuid or str(uuid4())
        outcome = changes.clone_domain_definition(
            self._survey.prepared,
            changes.Identity(name, uuid, addresses, request.title, request.description),
            {
                plan.surveyed.disk.position: _new_source(plan.duplication)
                for plan in disks
                if plan.duplication is not None
            },
            None if nvram is None or nvram.path is None else changes.NewNvram(nvram.path, nvram.format),
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
            nvram=nvram,
            nvram_planner=self._nvram,
            reserved=_reserved(request, nvram),
            interfaces=tuple(
                InterfaceResult(addresses.get(index, mac), mac)
                for index, interface in enumerate(interfaces)
                if (mac := str(readers.child(interface, "mac").get("@address", "")).lower())
            ),
            definition=without_provenance(source.definition)._replace(domain=outcome.domain),
            changes=outcome.changes,
            warnings=(*self._survey.warnings, *self._unknown(), *outcome.warnings),
            fail_on=self._request.fail_on,
        )

    def _unknown(self) -> tuple[Notice, ...]:
        """What could not be found out about other domains."""
        if not readers.mac_addresses(self._survey.source.definition.domain):
            return ()
        abridged = sorted(self._survey.identities.abridged)
        return tuple(Notice(CloneWarning.UNCOMPARED_MAC_ADDRESSES, name) for name in abridged)


def plan_clones(
    connection: Connection, request: CloneRequest, cancel: CancelToken, borrow: Borrow | None = None
) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    """Plan all clones of a request; nothing is changed by it, and one refusal refuses all.

    Args:
        connection: The connection, which is kept for planning further clones.
        request: What is to be done.
        cancel: Looked at between two clones.
        borrow: Gives further connections for a while, for looking at many domains.

    Returns:
        The plans, and what can plan further clones.

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
    planner = ClonePlanner(connection, request, _survey(connection, request, borrow))
    plans = []
    for name in request.names:
        cancel.check()
        plans.append(planner.plan(name))
    for _ in range(request.auto_names):
        cancel.check()
        plans.append(planner.plan_automatically())
    told = (warning for plan in plans for warning in (*plan.warnings, *(plan.nvram.warnings if plan.nvram else ())))
    refuse_warnings(request.fail_on, told)
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
    if (twice := next(_repeated(request.names), None)) is not None:
        raise UsageError(f"'{twice}' is given twice, and every clone needs a name of its own")
    for chosen in request.disks:
        if chosen.name is not None:
            check_volume_name(chosen.name)


def _repeated(names: tuple[str, ...]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _survey(connection: Connection, request: CloneRequest, borrow: Borrow | None) -> Survey:
    source = read_source(connection, request.source)
    identities = scan_identities(connection, borrow)
    refuse_taken_names(connection, [name for name in request.names if name in identities.names])
    _check_identity(connection, request, source, identities)
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
    return Survey(
        source=source,
        prepared=changes.with_named_firmware(prepared) if firmware.is_unselectable else prepared,
        identities=identities,
        pools=pools,
        disks=disks,
        nvram=nvram,
        # an unprivileged daemon may not give files away
        keep_owner=not connection.is_session,
        warnings=clone_warnings(connection, request, source, pools, disks, firmware, nvram),
        gate=gate,
    )


def _check_identity(connection: Connection, request: CloneRequest, source: Source, identities: Identities) -> None:
    """Refuse a UUID or MAC address that was asked for and cannot be had."""
    _refuse_taken_uuid(connection, request)
    if request.uuid is not None:
        _refuse_tpm_state(connection, request.uuid, source.definition.domain)
    count = len(readers.mac_addresses(source.definition.domain))
    if len(request.mac_addresses) > count:
        raise UsageError(
            f"--mac gives {counted(len(request.mac_addresses), 'MAC address')}, but domain "
            f"'{source.reference.name}' has {counted(count, 'network interface')}"
        )
    for address in request.mac_addresses:
        if address in identities.mac_addresses:
            raise ConflictError(
                f"MAC address '{address}' is already used by domain '{identities.mac_addresses[address]}'",
                hint="Choose another address, or let virtomate choose one.",
            )


def _reserved(request: CloneRequest, nvram: NvramPlan | None) -> tuple[str, ...]:
    path = None if request.nvram is None or nvram is None else nvram.path
    return (*(address.lower() for address in request.mac_addresses), *(() if path is None else (path,)))


def _refuse_taken_uuid(connection: Connection, request: CloneRequest) -> None:
    if request.uuid is not None and (holder := find_domain_by_uuid(connection, request.uuid)) is not None:
        raise ConflictError(
            f"domain '{holder.name}' has the UUID '{request.uuid}'", hint="Leave out --uuid, or name another one."
        )


def _refuse_tpm_state(connection: Connection, uuid: str, domain: Document) -> None:
    """Refuse a UUID under which the state of an emulated TPM is kept: the clone would start with that.

    Raises:
        ConflictError: There is such a state, as far as it can be seen from here.
    """
    if not connection.is_local or connection.is_session or not readers.devices(domain, "tpm"):
        return
    path = posixpath.join(_TPM_STATES, uuid)
    if os.path.lexists(path):
        raise ConflictError(
            f"'{path}' holds the state of a TPM, which the clone would take for its own",
            hint="Leave out --uuid, name another one, or move that directory away.",
        )


def _new_source(duplication: Duplication) -> changes.NewSource:
    is_linked = duplication.action is Action.LINKED
    source = duplication.source
    return changes.NewSource(
        path=duplication.path,
        pool=duplication.pool,
        volume=duplication.new.name,
        format="qcow2" if is_linked else source.format,
        base_path=source.path if is_linked else None,
        base_format=source.format if is_linked else None,
    )
