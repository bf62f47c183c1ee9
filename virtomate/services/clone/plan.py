"""The plan of clones: everything that will be done, and every reason not to do it, before anything is changed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.definition import rewrite as changes
from virtomate.definition.provenance import read_provenance
from virtomate.enums import Action, Mode
from virtomate.errors import ConflictError, IllegalStateError, UnsupportedError, UsageError
from virtomate.names import check_clone_name, check_volume_name
from virtomate.notices import CloneWarning, Notice
from virtomate.services.clone.asked import as_asked, survey_asked_addresses
from virtomate.services.clone.disk_survey import survey_disks
from virtomate.services.clone.ground import Ground, look
from virtomate.services.clone.moment import needs_moment, plan_moment
from virtomate.services.clone.nvram import survey_nvram
from virtomate.services.clone.original import read_source
from virtomate.services.clone.planner import ClonePlanner
from virtomate.services.clone.seeds import (
    check_host_names,
    find_seeds,
    refuse_unheard_name,
    survey_seed,
)
from virtomate.services.clone.target import (
    Survey,
    check_identity,
    errors_of,
    refuse_taken_names,
)
from virtomate.services.clone.volume_names import automatic_names
from virtomate.services.clone.warnings import clone_warnings, refuse_to_start, refuse_warnings
from virtomate.services.firmware import read_firmware
from virtomate.words import counted

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.clone_plan import ClonePlan
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.moment import MomentPlan
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.seeds import FoundSeed
    from virtomate.services.clone.side_files import SideFile
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.storage import TemporaryPools
    from virtomate.services.transaction import Run


def plan_clones(
    run: Run, request: CloneRequest, ground: Ground | None = None, temporary: TemporaryPools | None = None
) -> tuple[ClonePlanner, tuple[ClonePlan, ...]]:
    """Plan all clones of a request, beside those of `ground`; one refusal refuses all.

    Nothing is changed, but for temporary pools over the directories of disks that are in no storage pool.

    Returns:
        A planner of further clones, on the same connections, and the plans.

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
    planner = _survey(run, request, ground, temporary)
    plans = []
    names = request.names or (None,) * request.auto_names
    for number, name in enumerate(names):
        run.cancel.check()
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
        for side in planner.survey.sides:
            side.space.refuse_lack(advice, f" for {counted(len(plans), 'clone')}" if len(plans) > 1 else "")
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


def _survey(run: Run, request: CloneRequest, ground: Ground | None, temporary: TemporaryPools | None) -> ClonePlanner:
    """Look once at everything that is the same for all clones of a run."""
    source = read_source(run.source.connection, request)
    domain, name = source.definition.domain, source.reference.name
    survey, mac_addresses = _survey_hosts(run, request, source, ground, temporary)
    original, target = survey.original, survey.target
    survey, disks, seeds, moment = _survey_content(survey)
    seed = None
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

        images = () if moment is None else moment.duplications
        preparation = survey_preparation(survey, request.preparation, disks, {way.place.path for way in images})
    firmware = read_firmware(survey.connection, domain).for_clones(leaving=survey.has_two_hosts)
    nvram = survey_nvram(survey, firmware)
    refuse_to_start(request, disks, nvram)
    if source.backed_up is not None and needs_moment(survey, disks):
        moment, disks = plan_moment(survey, disks, original.taken)
        original.space.add_clone(moment.duplications, original.pools)
    freezing = None
    if request.freeze:
        from virtomate.services.clone.freezing import plan_freeze  # noqa: PLC0415 - few originals are frozen

        freezing = plan_freeze(survey, disks, original.taken)
        if freezing is not None and moment is not None:
            raise UnsupportedError(
                f"--freeze is for linked clones, and image '{moment.duplications[0].source.path}' of domain '{name}' "
                "has to be copied into one volume on its own host first",
                hint="Leave out --freeze, or link all disks.",
            )
        if freezing is not None:
            original.space.add_clone(freezing.duplications, original.pools)
    prepared = changes.auto_allocated(domain)
    prepared, credentials = as_asked(survey, prepared, disks)
    abridged = {other for side in survey.sides for other in side.identities.abridged}
    uncompared = sorted(abridged) if readers.mac_addresses(domain) else ()
    return ClonePlanner(
        survey,
        prepared=changes.with_named_firmware(prepared) if firmware.is_unselectable else prepared,
        disks=disks,
        side_files=_side_files(survey, nvram),
        warnings=(
            *clone_warnings(survey, disks, seeds, firmware, nvram),
            *(() if freezing is None else freezing.warnings),
            *(() if seed is None else seed.place.warnings),
            *(() if credentials is None or credentials.place is None else credentials.place.warnings),
            *(Notice(CloneWarning.UNCOMPARED_MAC_ADDRESSES, other) for other in uncompared),
        ),
        space=target.space,
        taken=target.taken,
        mac_addresses=mac_addresses,
        names=automatic_names(name),
        moment=moment,
        freezing=freezing,
        seed=seed,
        preparation=preparation,
        credentials=credentials,
        addresses=survey_asked_addresses(survey, prepared),
    )


def _survey_hosts(
    run: Run, request: CloneRequest, source: Source, ground: Ground | None, temporary: TemporaryPools | None
) -> tuple[Survey, set[str]]:
    """Look at the hosts, and refuse what cannot be had there; return with that the addresses of planned clones."""
    ground = look(run, request) if ground is None else ground.for_request(request)
    if source.is_active or source.running is not None:
        ground = ground.without_writer(source.reference.name)
    if request.outside_pools and temporary is not None:
        ground = ground.opening(run, temporary)
    survey = Survey(request, source, ground.original, ground.target)
    for side in survey.sides:
        with errors_of(None if side is survey.original else request.target_uri):
            try:
                refuse_taken_names(side.connection, [name for name in request.names if name in side.identities.names])
                check_identity(side.connection, request, source, side.identities)
            except ConflictError as error:
                if not survey.has_two_hosts:
                    raise
                raise error.adding(f" on {side.connection.name}") from error
    _refuse_broken(survey.connection, source)
    if request.pool is not None:
        with errors_of(request.target_uri):
            survey.target.pools.for_new_volumes(request.pool)
    return survey, ground.mac_addresses


def _refuse_broken(connection: Connection, source: Source) -> None:
    """Raise IllegalStateError for an original, which is a clone or frozen, whose base is not what it was."""
    if source.freeze_mark is not None or read_provenance(source.definition) is not None:
        from virtomate.services.linked import refuse_broken_original  # noqa: PLC0415 - few originals are clones

        refuse_broken_original(connection, source.reference.name, source.definition, source.freeze_mark)


def _side_files(survey: Survey, nvram: SideFile | None) -> tuple[SideFile, ...]:
    """Return the files beside the disks that are handled for each clone; for the errors see `survey_tpm`."""
    tpm = None
    if readers.devices(survey.source.definition.domain, "tpm"):
        from virtomate.services.clone.tpm import survey_tpm  # noqa: PLC0415 - few domains have a TPM

        tpm = survey_tpm(survey)
    return tuple(file for file in (nvram, tpm) if file is not None)


def _survey_content(survey: Survey) -> tuple[Survey, tuple[DiskPlan, ...], tuple[FoundSeed, ...], MomentPlan | None]:
    """Look at the disks; on the way to another host, images of some are made first."""
    if survey.request.to is None:
        disks = survey_disks(survey)
        return survey, disks, find_seeds(survey, disks), None
    from virtomate.services.clone.crossing import survey_crossing  # noqa: PLC0415 - few clones go to other hosts
    from virtomate.services.clone.crossing_disks import before_crossing, crossed  # noqa: PLC0415 - as above

    with errors_of(survey.request.to.uri):
        survey = survey._replace(crossing=survey_crossing(survey, survey.request.to))
    disks = survey_disks(before_crossing(survey))
    seeds = find_seeds(survey, disks)
    moment, disks = crossed(survey, disks)
    if moment is not None:
        survey.original.space.add_clone(moment.duplications, survey.original.pools)
    return survey, disks, seeds, moment
