"""The seeds of an original, from which cloud-init would name its clones like itself, and the seeds of the clones."""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING

from virtomate.definition import rewrite as changes
from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.labels import LABEL_BYTES, TOKEN_OFFSET, file_system_label
from virtomate.enums import Action, ArtifactKind
from virtomate.errors import ConnectionLostError, UsageError, VirtomateError
from virtomate.hypervisor.storage import read_head
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise
from virtomate.services.clone.beside import PlaceBeside, plan_beside, survey_place
from virtomate.services.clone.disks import DiskPlan, volume_reference
from virtomate.services.clone_parts import SeedResult
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.clone_parts import VolumeReference
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.seed import SeedFiles
    from virtomate.services.transaction import VolumeJob

# https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html and configdrive.html; in capitals, too
_LABELS = frozenset({"cidata", "config-2"})
# A configuration drive has at most 64 MB, and a seed is smaller; larger duplicated disks are not read.
_MAX_SEED_BYTES = 64 << 20

_REPLACED = "the seed of the original"
_SUFFIX = "-seed.iso"
_WHAT = "the seed"


class FoundSeed(NamedTuple):
    """A disk of the original that is a seed: its place among the disks, and its label."""

    number: int
    label: str


class SurveyedSeed(NamedTuple):
    """What the seeds of all clones have in common.

    Attributes:
        place: Where the new volumes go.
        drive: The disk of the clone that gets the volume.
    """

    files: SeedFiles
    place: PlaceBeside
    drive: changes.SeedDrive


class SeedPlan(NamedTuple):
    """The seed of one clone.

    Attributes:
        job: The volume that is made.
        target: The disk of the clone.
    """

    job: VolumeJob
    target: str
    host_name: str
    files: tuple[str, ...]

    @property
    def volume(self) -> VolumeReference:
        """The new volume."""
        place = self.job.place
        return volume_reference(place.pool, place.name, place.path, "raw")

    def result(self) -> SeedResult:
        """Return the seed for the result of a clone."""
        return SeedResult(self.target, self.volume, self.host_name, self.files)


def check_host_names(request: CloneRequest) -> None:
    """Raise UsageError if a clone of a request would get a host name that is not valid."""
    is_prepared = request.preparation is not None and request.preparation.gives_host_name
    if request.seed is None and not request.host_names and not is_prepared:
        return
    from virtomate.services.seed import check_host_name, host_name_of  # noqa: PLC0415 - few clones get a host name

    for host_name in request.host_names:
        check_host_name(host_name)
    for name in () if request.host_names else request.names:
        host_name_of(name)


def refuse_unheard_name(survey: Survey) -> None:
    """Raise UsageError if nothing would tell the guests of clones the host names that were asked for."""
    request, source = survey.request, survey.source
    is_told = request.seed is not None or request.preparation is not None
    if not is_told and request.host_names and not changes.tells_name(source.definition.domain):
        raise UsageError(
            "--hostname would reach no guest, since nothing in the definition of "
            f"'{source.reference.name}' tells a host name or an instance ID; --seed makes a disk that "
            "does, and --sysprep writes the name into the disks"
        )


def find_seeds(survey: Survey, disks: Iterable[DiskPlan]) -> tuple[FoundSeed, ...]:
    """Return the readable disks of the original that are seeds, by their labels.

    The first bytes of a disk on another host are read over the connection.
    """
    found = []
    for number, item in enumerate(disks):
        head = _head(survey, item)
        label = None if head is None else file_system_label(head)
        if label is not None and label.lower() in _LABELS:
            found.append(FoundSeed(number, label))
    return tuple(found)


def seed_warnings(disks: tuple[DiskPlan, ...], seeds: Iterable[FoundSeed]) -> Iterator[Notice]:
    """Yield a warning for each seed that gives original and clone the same identity."""
    for seed in seeds:
        item = disks[seed.number]
        if item.action in {Action.REPLACED, Action.DROPPED}:
            continue
        code = CloneWarning.SHARED_SEED if item.action is Action.SHARED else CloneWarning.SAME_SEED
        yield notice(code, item.disk.target, location=item.disk.location, label=seed.label)


def survey_seed(
    survey: Survey, files: SeedFiles, disks: tuple[DiskPlan, ...], seeds: tuple[FoundSeed, ...]
) -> tuple[SurveyedSeed, tuple[DiskPlan, ...]]:
    """Look where the seeds of the clones go, and return the disks without the seeds of the original.

    Raises:
        UsageError: No pool for the new volumes is known, or a disk is asked for that a seed replaces.
        UnsupportedError: The machine has no place for a disk.
        VirtomateError: The pool cannot be used.
    """
    chosen = {options.target for options in survey.request.disks}
    left = list(disks)
    for seed in seeds:
        item = disks[seed.number]
        if item.action is Action.DROPPED:
            continue
        if item.disk.target in chosen:
            raise UsageError(
                f"--disk {item.disk.target} contradicts --seed, since disk {item.disk.target} is {_REPLACED} (label "
                f"'{seed.label}'), which the seed of the clone replaces"
            )
        has_place = any(other.action is Action.REPLACED for other in left)
        is_place = not has_place and changes.can_hold_seed(survey.source.definition.domain, item.disk.position)
        action = Action.REPLACED if is_place else Action.DROPPED
        left[seed.number] = item._replace(
            action=action, reason=_REPLACED, duplication=None, warnings=(), keeps_snapshots=False
        )
    position = next((item.disk.position for item in left if item.action is Action.REPLACED), None)
    gone = {item.disk.position for item in left if item.action is Action.DROPPED}
    place = survey_place(survey, disks, left, _WHAT)
    drive = changes.seed_drive(survey.source.definition.domain, position, gone)
    return SurveyedSeed(files, place, drive), tuple(left)


def plan_seed(
    survey: Survey, surveyed: SurveyedSeed, clone_name: str, uuid: str, host_name: str | None, taken: TakenNames
) -> SeedPlan:
    """Plan the seed of one clone, and add its name to the taken names.

    Without a host name the guest is called like the clone.

    Raises:
        ConflictError: The name of the volume is taken.
        UsageError: The name would be too long, or cannot be a host name.
    """
    from virtomate.services.seed import host_name_of, seed_image  # noqa: PLC0415 - few clones get a seed

    host_name = host_name or host_name_of(clone_name)
    image = seed_image(surveyed.files.of_clone(uuid, host_name))
    label = f"{clone_name}/seed" if survey.has_siblings else "seed"
    names = (label, f"{clone_name}{_SUFFIX}")
    job = plan_beside(survey, surveyed.place, ArtifactKind.SEED, names, image, taken, TOKEN_OFFSET)
    return SeedPlan(job, surveyed.drive.target, host_name, surveyed.files.names)


def _head(survey: Survey, item: DiskPlan) -> bytes | None:
    """Return the first bytes of a disk that may be a seed."""
    disk, descriptor = item.disk, None
    if item.duplication is not None:
        source = item.duplication.source
        if source.format != "raw" or source.capacity > _MAX_SEED_BYTES:
            return None
        # the file with that path here may be another file than the daemon's
        path, descriptor = source.path, open_visible(source, os.O_RDONLY)
    elif item.action is Action.SHARED and disk.is_readonly:
        named = disk.path if disk.volume is None else survey.pools.path_of(disk.pool or "", disk.volume)
        if named is None:
            return None
        path, descriptor = named, _open_here(named) if survey.connection.is_local else None
    else:
        return None
    return _read_there(survey, path) if descriptor is None else _read_here(descriptor)


def _open_here(path: str) -> int | None:
    """Open a file that is not a volume; never wait for a device or a pipe."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None


def _read_here(descriptor: int) -> bytes | None:
    """Return the first bytes of a regular file, and close the file."""
    try:
        return os.pread(descriptor, LABEL_BYTES, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _read_there(survey: Survey, path: str) -> bytes | None:
    """Return the first bytes of the volume with a path, over the connection."""
    directory, name = posixpath.split(normalise(path))
    known = survey.pools.covering(directory)
    if known is None or not known.is_active:
        return None
    try:
        volume = known.pool.find_volume(name)
        if volume is None or not volume.is_file():
            return None
        return read_head(survey.connection, volume, LABEL_BYTES)
    except ConnectionLostError:
        raise
    except VirtomateError:
        return None
