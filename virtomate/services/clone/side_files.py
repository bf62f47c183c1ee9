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
from virtomate.enums import Action, ArtifactKind, NvramAction, Transfer
from virtomate.errors import ConflictError, HypervisorError, NotFoundError, UsageError
from virtomate.names import check_volume_name
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise
from virtomate.services.clone.volume_names import distinct_volume_name, new_volume_name
from virtomate.services.firmware import is_certainly_read_only, is_template, own_nvram_path
from virtomate.services.storage import find_volume
from virtomate.services.transaction import without_acl
from virtomate.services.trust import admitted, cautions
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.taken import TakenNames
    from virtomate.services.firmware import Firmware
    from virtomate.services.storage import PoolIndex, TemporaryPools
    from virtomate.services.trust import PoolGate

_WHAT = "the NVRAM"

_NAME_A_PLACE = "Name a place for the clone's NVRAM: --nvram PATH."


class SurveyedNvram(NamedTuple):
    """The original's NVRAM, the same for all clones.

    Attributes:
        path: Normalised path, None where it is no file.
        model: The path that the clone's is put beside and named after, likewise; mostly the same.
        pool: The active pool over its directory, None where there is none.
        content: Its file, None where it was never made or only a temporary pool can tell.
        warnings: What should be known of it.
    """

    path: str | None
    model: str | None
    format: str
    pool: Pool | None
    content: VolumeDescription | None
    warnings: tuple[Notice, ...] = ()


class SideFilePlan(NamedTuple):
    """What becomes of a file beside the disks in one clone; the only kind so far is the NVRAM.

    Attributes:
        action: For what only temporary pools can tell, what it probably will be.
        source_path: Path of the original's, None where it is no file.
        path: Path of the clone's, likewise.
        uncovered: The directories of both that are in no pool, for which temporary pools are needed.
        duplication: How it is duplicated; None where that needs temporary pools to tell, or nothing is to be copied.
        warnings: What should be known of that.
    """

    action: NvramAction
    source_path: str | None
    path: str | None
    format: str
    uncovered: frozenset[str] = frozenset()
    duplication: Duplication | None = None
    warnings: tuple[Notice, ...] = ()


class NvramPlanner(NamedTuple):
    """Plans the NVRAM of one clone after another; it only reads.

    Attributes:
        place: Where it goes: an absolute path, POOL/VOLUME, or a name; None leaves that to the clone's name.
        has_siblings: Whether several clones are made of the original.
        looked_at: Names of the pools that libvirt has looked through.
    """

    connection: Connection
    surveyed: SurveyedNvram
    source_name: str
    pools: PoolIndex
    place: str | None
    has_siblings: bool
    keep_owner: bool
    gate: PoolGate
    looked_at: set[str]

    def plan(self, clone_name: str, taken: TakenNames) -> SideFilePlan:
        """Plan it, and add its name to those that are taken.

        Raises:
            ConflictError: Something has the path that the clone's NVRAM would get.
            NotFoundError: There is no such directory.
            UsageError: That path cannot be used.
        """
        surveyed = self.surveyed
        if surveyed.path is None or surveyed.model is None:
            return SideFilePlan(NvramAction.SHARED, None, None, surveyed.format)
        directory, name = self._place(surveyed.model, clone_name, taken)
        path = posixpath.join(directory, name)
        if self.place is not None and taken.has(directory, name):
            raise ConflictError(f"two new volumes would be '{path}'", hint="Choose another --nvram.")
        taken.refuse_named(directory, name, "Choose another name for the clone, or another --nvram.")
        taken.add(directory, name)
        pool = self._pool(directory)
        fresh = SideFilePlan(NvramAction.FRESH, surveyed.path, path, surveyed.format)
        if surveyed.pool is not None and pool is not None:
            self._look_at(pool)
            return self._settled(fresh, surveyed.pool, pool, surveyed.content, clone_name)
        covering = ((posixpath.dirname(surveyed.path), surveyed.pool), (directory, pool))
        fresh = fresh._replace(uncovered=frozenset(place for place, known in covering if known is None))
        # What is seen here is probably what the daemon sees; the temporary pools will tell for sure.
        if self.connection.is_local and os.path.lexists(path):
            raise _taken(path)
        if self.connection.is_local and self.place is not None and _is_missing(directory):
            raise NotFoundError(
                f"the NVRAM would be '{path}', but there is no such directory",
                hint="Make it, or choose another --nvram.",
            )
        if self.connection.is_local and _is_missing(surveyed.path):
            return fresh
        warnings = self._judge_uncovered(surveyed.path, fresh.uncovered)
        return fresh._replace(action=NvramAction.COPIED, warnings=warnings)

    def settle(self, plan: SideFilePlan, clone_name: str, temporary: TemporaryPools) -> SideFilePlan:
        """Plan it again by what temporary pools tell.

        Raises:
            ConflictError: Something has the path of the clone's.
            HypervisorError: One of the directories cannot be read.
            IllegalStateError: Others could put a symbolic link into one of them.
        """
        if plan.source_path is None or plan.path is None:
            return plan
        source_directory, source_name = posixpath.split(plan.source_path)
        source_pool = self.surveyed.pool or temporary.over(source_directory)
        pool = self._pool(posixpath.dirname(plan.path)) or temporary.over(posixpath.dirname(plan.path))
        found = find_volume(source_pool, source_name)
        fresh = plan._replace(action=NvramAction.FRESH, uncovered=frozenset(), warnings=())
        return self._settled(fresh, source_pool, pool, None if found is None else found.description, clone_name)

    def _settled(
        self, fresh: SideFilePlan, source_pool: Pool, pool: Pool, content: VolumeDescription | None, clone_name: str
    ) -> SideFilePlan:
        """The plan where all is known: a byte copy of the original's NVRAM, or a fresh one if that was never made."""
        path = fresh.path or ""
        # libvirt would silently take what is there for the clone's NVRAM; a pool lists no link that leads nowhere
        is_there = self.connection.is_local and os.path.lexists(path)
        if is_there or pool.find_volume(posixpath.basename(path)) is not None:
            raise _taken(path)
        if content is None:
            return fresh
        # bytes are copied whatever they mean
        raw = with_acl(select.as_format(content, "raw"))
        possible = (Transfer.HOST, Transfer.STREAM) if find_obstacle(raw) is None else (Transfer.STREAM,)
        pools = {known.name: (known, describe_pool(known.document())) for known in (pool, source_pool)}
        transfers, warnings = self.gate.admit(self.connection, possible, pools.values(), _WHAT)
        if raw.acl and not may_be_given_here(raw):
            warnings = (*warnings, without_acl(raw))
        label = f"{clone_name}/nvram" if self.has_siblings else "nvram"
        place = Place(pool.name, pool.uuid, *posixpath.split(path))
        duplication = Duplication(
            label=label,
            kind=ArtifactKind.NVRAM,
            source=raw,
            place=place,
            action=Action.COPIED,
            transfers=transfers,
            below=(),
            keep_owner=self.keep_owner,
            is_read_again=False,
        )
        return fresh._replace(action=NvramAction.COPIED, duplication=duplication, warnings=warnings)

    def _judge_uncovered(self, source_path: str, uncovered: frozenset[str]) -> tuple[Notice, ...]:
        """Judge directories that no pool is over yet by what is seen here, and tell what should be known of them."""
        transfers = (Transfer.HOST,) if can_be_copied_here(source_path) else (Transfer.STREAM,)
        assessed = [self.gate.assess_here(self.connection, directory) for directory in sorted(uncovered)]
        admitted(transfers, assessed, _WHAT)
        return () if transfers[0] is Transfer.HOST else cautions(assessed, _WHAT)

    def _place(self, model: str, clone_name: str, taken: TakenNames) -> tuple[str, str]:
        """Directory and name of the clone's NVRAM."""
        directory, source_name = posixpath.split(model)
        if self.place is None:
            name = new_volume_name(source_name, self.source_name, clone_name, is_overlay=False)
            is_taken = taken.has(directory, name)
            return directory, distinct_volume_name(name, "nvram", {name} if is_taken else set())
        if self.place.startswith("/"):
            directory, name = posixpath.split(normalise(self.place))
        elif "/" in self.place:
            pool_name, _, name = self.place.partition("/")
            directory = self.pools.for_new_volumes(pool_name).description.path or ""
        else:
            name = self.place
        check_volume_name(name)
        return directory, name

    def _look_at(self, pool: Pool) -> None:
        """Have libvirt look at the pool's files once: a pool does not hear of those that are made for domains."""
        if pool.name not in self.looked_at:
            pool.refresh()
            self.looked_at.add(pool.name)

    def _pool(self, directory: str) -> Pool | None:
        """The active pool over a directory, if any."""
        known = self.pools.covering(directory)
        return None if known is None or not known.is_active else known.pool


def survey_nvram(
    connection: Connection, source: Source, firmware: Firmware, pools: PoolIndex, place: str | None
) -> SurveyedNvram | None:
    """Look at the NVRAM of the original; None where it has none.

    Raises:
        HypervisorError: libvirt does not tell where it keeps the NVRAM of domains, and the clone's has to go there.
    """
    domain = source.definition.domain
    nvram = file_readers.nvram(domain)
    if nvram is not None and nvram.type != "file":
        return SurveyedNvram(None, None, nvram.format, None, None)
    path = firmware.nvram_path
    if path is None:
        return None
    format_ = "raw" if nvram is None else nvram.format
    model, warnings = _model(connection, source, path, place)
    known = pools.covering(posixpath.dirname(path))
    if known is None or not known.is_active:
        return SurveyedNvram(path, model, format_, None, None, warnings)
    found = find_volume(known.pool, posixpath.basename(path))
    return SurveyedNvram(path, model, format_, known.pool, None if found is None else found.description, warnings)


def _model(connection: Connection, source: Source, path: str, place: str | None) -> tuple[str, tuple[Notice, ...]]:
    """What the clone's NVRAM is put beside and named after, and what is to be said of that.

    Nothing is put beside a template, where packages keep theirs, or where libvirt could not write to it.
    """
    domain, name = source.definition.domain, source.reference.name
    warnings: tuple[Notice, ...] = ()
    if is_template(domain, path):
        warnings = (notice(CloneWarning.NVRAM_TEMPLATE, name, path=path),)
    elif not is_certainly_read_only(connection, posixpath.dirname(path)):
        return path, ()
    if place is not None and "/" in place:
        return path, warnings
    try:
        own = own_nvram_path(connection, domain)
    except HypervisorError as error:
        raise HypervisorError(error.message, hint=_NAME_A_PLACE, code=error.code) from error
    if own is None:
        raise HypervisorError("libvirt does not tell where it keeps the NVRAM of domains", hint=_NAME_A_PLACE)
    if not warnings:
        warnings = (Notice(CloneWarning.NVRAM_ELSEWHERE, posixpath.dirname(path)),)
    return own, warnings


def refuse_needless_nvram(surveyed: SurveyedNvram | None, place: str | None) -> None:
    """Refuse a place for an NVRAM where there is none to put there.

    Raises:
        UsageError: The original has no NVRAM that is a file.
    """
    if place is not None and (surveyed is None or surveyed.path is None):
        raise UsageError(f"there is no NVRAM to be put at '{place}': the original has none that is a file")


def _is_missing(path: str) -> bool:
    """Whether a file or directory is certainly not there, in a directory that is seen here."""
    return os.access(posixpath.dirname(path), os.X_OK) and not os.path.lexists(path)


def _taken(path: str) -> ConflictError:
    return ConflictError(
        f"there is already a file '{path}', which the clone would take for its NVRAM",
        hint="Choose another name for the clone or another --nvram, or move that file away.",
    )
