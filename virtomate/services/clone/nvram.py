"""The NVRAM of a clone."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from virtomate.definition import file_readers
from virtomate.definition.volume import describe_pool
from virtomate.duplication import select
from virtomate.duplication.acl import may_be_given_here, with_acl
from virtomate.duplication.hostfs import can_be_copied_here, find_obstacle
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import Action, ArtifactKind, SideFileAction, Transfer
from virtomate.errors import ConflictError, ConnectionLostError, HypervisorError, NotFoundError, UsageError
from virtomate.names import check_volume_name
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise
from virtomate.services.clone.frozen import holds_nvram
from virtomate.services.clone.side_files import SideFilePlan, is_missing, is_moving_original
from virtomate.services.clone.target import errors_of
from virtomate.services.clone.volume_names import distinct_volume_name, new_volume_name
from virtomate.services.firmware import is_template, own_nvram_path
from virtomate.services.storage import PoolEntry, find_volume, is_certainly_unwritable
from virtomate.services.transaction import without_acl
from virtomate.services.trust import admitted, cautions
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.firmware import Firmware
    from virtomate.services.storage import PoolIndex, TemporaryPools

_WHAT = "the NVRAM"
_NAME_A_PLACE = "Name a place for the clone's NVRAM: --nvram PATH."


class SurveyedNvram(NamedTuple):
    """The original's NVRAM, and where the NVRAM of every clone goes.

    Attributes:
        format: Format by the definition.
        path: Normalised path, None where the NVRAM is not a file; then the attributes below are empty.
        pool: The active pool over the NVRAM's directory, None where there is none.
        content: The file, None where it was never made or only a temporary pool can tell.
        model: The name that the clone's file is named after.
        directory: Normalised path of the directory of the clone's file.
        name: The name that was asked for, None for a name made from the clone's.
        target: The active pool over that directory, None where there is none.
    """

    format: str
    path: str | None = None
    pool: Pool | None = None
    content: VolumeDescription | None = None
    model: str = ""
    directory: str = ""
    name: str | None = None
    target: Pool | None = None
    warnings: tuple[Notice, ...] = ()

    def plan(self, survey: Survey, clone: DomainReference, taken: TakenNames) -> SideFilePlan:
        """Plan the NVRAM of one clone, see `plan_nvram`."""
        return plan_nvram(survey, self, clone.name, taken)

    def settle(
        self, survey: Survey, plan: SideFilePlan, clone: DomainReference, temporary: TemporaryPools
    ) -> SideFilePlan:
        """Plan the NVRAM of a clone again, see `settle_nvram`."""
        return settle_nvram(survey, self, plan, clone.name, temporary)


def survey_nvram(survey: Survey, firmware: Firmware) -> SurveyedNvram | None:
    """Look at the NVRAM of the original; return None where the original has no NVRAM.

    Raises:
        UsageError: The original has no NVRAM for the place that was asked for, or the name there is not valid.
        VirtomateError: The pool that was asked for cannot be used.
        HypervisorError: The NVRAM has to go where libvirt keeps NVRAMs, and libvirt does not tell where that is.
    """
    nvram = file_readers.nvram(survey.source.definition.domain)
    is_file = nvram is None or nvram.type == "file"
    path, place = firmware.nvram_path if is_file else None, survey.request.nvram
    if path is None and place is not None:
        original = survey.source.reference.name
        raise UsageError(f"--nvram '{place}' is not possible, since domain '{original}' has no NVRAM file")
    format_ = "raw" if nvram is None else nvram.format
    if path is None:
        return None if is_file else SurveyedNvram(format_)
    model, warnings = _model(survey, path)
    directory, name = _place(survey, model)
    pool = _active_pool(survey.original.pools, posixpath.dirname(path))
    target = _active_pool(survey.target.pools, directory)
    if pool is not None and target is not None:
        # a pool does not hear of the files that libvirt makes for domains
        target.refresh()
    found = None if pool is None else find_volume(pool, posixpath.basename(path))
    content = None if found is None else found.description
    return SurveyedNvram(format_, path, pool, content, posixpath.basename(model), directory, name, target, warnings)


def _model(survey: Survey, path: str) -> tuple[str, tuple[Notice, ...]]:
    """Return the path that the clone's NVRAM is put beside and named after, with warnings about that.

    The clone's NVRAM goes neither beside a template, where packages keep theirs, nor where libvirt cannot write.
    """
    connection, domain, place = survey.target.connection, survey.source.definition.domain, survey.request.nvram
    warnings: tuple[Notice, ...] = ()
    if is_template(domain, path):
        warnings = (notice(CloneWarning.NVRAM_TEMPLATE, survey.source.reference.name, path=path),)
    elif survey.crossing is None and not is_certainly_unwritable(connection, posixpath.dirname(path)):
        return path, ()
    if place is not None and "/" in place:
        return path, warnings
    try:
        own = own_nvram_path(connection, domain if survey.crossing is None else survey.crossing.domain)
    except ConnectionLostError:
        # a place does not bring it back
        raise
    except HypervisorError as error:
        raise HypervisorError(error.message, hint=_NAME_A_PLACE, code=error.code) from error
    if own is None:
        raise HypervisorError("libvirt does not tell where it keeps the NVRAM of domains", hint=_NAME_A_PLACE)
    if survey.crossing is not None:
        # the directory is that of the other host, and the name is made of the original's
        return posixpath.join(posixpath.dirname(own), posixpath.basename(path)), warnings
    return own, warnings or (Notice(CloneWarning.NVRAM_ELSEWHERE, posixpath.dirname(path)),)


def _place(survey: Survey, model: str) -> tuple[str, str | None]:
    """Return the directory of the clones' NVRAM, and the name that was asked for."""
    place = survey.request.nvram
    directory = posixpath.dirname(model)
    if place is None:
        return directory, None
    name = place
    if place.startswith("/"):
        directory, name = posixpath.split(normalise(place))
    elif "/" in place:
        pool, _, name = place.partition("/")
        with errors_of(survey.request.target_uri):
            directory = survey.target.pools.for_new_files(pool).description.path or ""
    check_volume_name(name)
    return directory, name


def _active_pool(pools: PoolIndex, directory: str) -> Pool | None:
    known = pools.covering(directory)
    return None if known is None or not known.is_active else known.pool


def plan_nvram(survey: Survey, nvram: SurveyedNvram, clone_name: str, taken: TakenNames) -> SideFilePlan:
    """Plan the NVRAM of one clone, and add its name to the taken names.

    Raises:
        ConflictError: The path of the clone's NVRAM is taken.
        NotFoundError: The directory does not exist.
        UsageError: The name would be too long.
    """
    if nvram.path is None:
        return SideFilePlan(ArtifactKind.NVRAM, SideFileAction.SHARED, None, None, nvram.format)
    directory, name = nvram.directory, nvram.name
    if name is None:
        name = new_volume_name(nvram.model, survey.source.reference.name, clone_name, is_overlay=False)
        name = distinct_volume_name(name, "nvram", taken.names(directory))
    other = "" if nvram.name else "name for the clone, or another "
    taken.take(directory, name, f"Choose another {other}--nvram.")
    path = posixpath.join(directory, name)
    fresh = SideFilePlan(ArtifactKind.NVRAM, SideFileAction.FRESH, nvram.path, path, nvram.format)
    if nvram.pool is not None and nvram.target is not None:
        return _settled(survey, fresh, nvram.pool, nvram.target, nvram.content, clone_name)
    covering = ((posixpath.dirname(nvram.path), nvram.pool), (directory, nvram.target))
    fresh = fresh._replace(uncovered=frozenset(place for place, pool in covering if pool is None))
    # The daemon probably sees what this process sees; the temporary pools will tell for sure.
    if survey.target.connection.is_local and not survey.has_two_hosts:
        if os.path.lexists(path) and not survey.gives_way(path):
            raise _taken(path)
        if nvram.name is not None and is_missing(directory):
            raise NotFoundError(
                f"the NVRAM would be '{path}', but there is no such directory",
                hint="Make it, or choose another --nvram.",
            )
        if is_missing(nvram.path):
            return fresh
    warnings = _judge_uncovered(survey, nvram.path, fresh.uncovered, directory)
    return fresh._replace(action=SideFileAction.COPIED, warnings=warnings)


def settle_nvram(
    survey: Survey, nvram: SurveyedNvram, plan: SideFilePlan, clone_name: str, temporary: TemporaryPools
) -> SideFilePlan:
    """Plan the NVRAM of a clone again with what temporary pools tell.

    Raises:
        ConflictError: The path of the clone's NVRAM is taken.
        HypervisorError: A directory cannot be read.
        IllegalStateError: Other users could put a symbolic link into a directory.
    """
    if plan.source_path is None or plan.path is None:
        return plan
    directory, name = posixpath.split(plan.source_path)
    pool = nvram.pool or temporary.at_original.over(directory)
    target = nvram.target or temporary.over(posixpath.dirname(plan.path))
    found = find_volume(pool, name)
    fresh = plan._replace(action=SideFileAction.FRESH, uncovered=frozenset(), warnings=())
    return _settled(survey, fresh, pool, target, None if found is None else found.description, clone_name)


def _settled(
    survey: Survey, fresh: SideFilePlan, pool: Pool, target: Pool, content: VolumeDescription | None, clone_name: str
) -> SideFilePlan:
    """Return the settled plan: a byte copy of the original's NVRAM, or fresh NVRAM if the original's was never made."""
    path = fresh.path or ""
    # libvirt would silently use the file as the clone's NVRAM; a pool does not list a link to a missing file
    is_there = survey.target.connection.is_local and not survey.has_two_hosts and os.path.lexists(path)
    is_there = is_there or target.find_volume(posixpath.basename(path)) is not None
    if is_there and not survey.gives_way(path):
        raise _taken(path)
    if content is None:
        return fresh
    is_moving, snapshot = is_moving_original(survey), survey.source.snapshot
    is_held = holds_nvram(survey, content, fresh.format)
    # bytes are copied whatever they mean
    source = with_acl(content if is_held else select.as_format(content, "raw"))
    is_near = survey.original.connection.is_local and survey.target.connection.is_local
    is_at_hand = is_near and not is_moving and find_obstacle(source) is None
    possible = (Transfer.HOST, Transfer.STREAM) if is_at_hand else (Transfer.STREAM,)
    transfers, warnings = survey.admit(possible, _entry(target), (_entry(pool),), _WHAT)
    if source.acl and not may_be_given_here(source):
        warnings = (*warnings, without_acl(source))
    if snapshot is not None and not is_held:
        warnings = (*warnings, notice(CloneWarning.NVRAM_OF_NOW, source.path, snapshot=snapshot.name))
    duplication = Duplication(
        label=f"{clone_name}/nvram" if survey.has_siblings else "nvram",
        kind=ArtifactKind.NVRAM,
        source=source,
        place=Place(target.name, target.uuid, *posixpath.split(path)),
        action=Action.COPIED,
        transfers=(Transfer.CONVERT,) if is_held else transfers,
        below=(),
        keep_owner=survey.keeps_owner,
        is_read_again=False,
        snapshot=snapshot.name if snapshot is not None and is_held else None,
        is_moving=is_moving,
    )
    return fresh._replace(action=SideFileAction.COPIED, duplication=duplication, warnings=warnings)


def _entry(pool: Pool) -> PoolEntry:
    return PoolEntry(pool, describe_pool(pool.document()), is_active=True)


def _judge_uncovered(
    survey: Survey, source_path: str, uncovered: frozenset[str], new_directory: str
) -> tuple[Notice, ...]:
    """Judge directories that are in no pool yet by what is seen here, and return warnings about the directories."""
    is_at_hand = not is_moving_original(survey) and can_be_copied_here(source_path)
    transfers = (Transfer.HOST,) if is_at_hand else (Transfer.STREAM,)
    sides = {posixpath.dirname(source_path): survey.original, new_directory: survey.target}
    assessed = [
        side.gate.assess_here(side.connection, directory)
        for directory, side in sorted(sides.items())
        if directory in uncovered
    ]
    admitted(transfers, assessed, _WHAT)
    return () if transfers[0] is Transfer.HOST else cautions(assessed, _WHAT)


def _taken(path: str) -> ConflictError:
    return ConflictError(
        f"there is already a file '{path}', which the clone would take for its NVRAM",
        hint="Choose another name for the clone or another --nvram, or move that file away.",
    )
