"""The moment of a running original: images of its disks that several clones, linked clones and reflinks start from.

One backup makes the images, whatever the number of clones. They are volumes of a domain of their own that cannot be
started. Its record lists them, so that the domain is deleted as a clone is. Copies and reflinks do not need the images
when they are complete, so the images are removed. Linked clones rest on the images, and `domain-delete` removes the
images with the last of these clones.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition.placeholders import moment_definition
from virtomate.duplication import select
from virtomate.duplication.hostfs import can_be_copied_here, with_identity
from virtomate.duplication.image_headers import HEADER_BYTES, header_digest
from virtomate.enums import Action, Mode
from virtomate.errors import ConflictError
from virtomate.hypervisor.storage import get_pool, get_volume, read_head
from virtomate.names import check_clone_name
from virtomate.services.clone.disks import DiskPlan, plan_disks, volume_reference, with_ways
from virtomate.services.storage import describe
from virtomate.services.transaction import (
    Claim,
    create_volumes,
    duplicating,
    fill_volumes,
    new_journal,
    release_unless_needed,
)
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.backup import BackupStart
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.notices import Notice
    from virtomate.rollback import Rollback
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.transaction import Run

_OUT_OF_SIGHT = "its file cannot be seen here"
_MAX_TAKEN_NAMES = 1000
_MODES = {action: mode for mode, action in select.ACTIONS.items()}


class MomentPlan(NamedTuple):
    """The images to be made of a running original.

    Attributes:
        name: Name of the domain that keeps the images.
        like: The original's definition, for the hypervisor and architecture of that domain.
        duplications: The images, each by a backup of a disk.
    """

    name: str
    uuid: str
    original: DomainReference
    like: Document
    duplications: tuple[Duplication, ...]


class Moment(NamedTuple):
    """The images of a running original, complete.

    Attributes:
        images: The volumes by their paths.
        warnings: Warnings about the images.
        start: How the backup began; None for images of an original that does not run.
    """

    plan: MomentPlan
    claim: Claim
    images: dict[str, VolumeDescription]
    warnings: tuple[Notice, ...]
    start: BackupStart | None

    def bound(self, disks: tuple[DiskPlan, ...]) -> tuple[DiskPlan, ...]:
        """Return the plans of disks with the images as they are by now."""
        return with_ways(disks, lambda way: way._replace(source=self.images.get(way.source.path, way.source)))

    def keep(self) -> None:
        """Keep the images for linked clones."""
        self.claim.become(moment_definition(self.plan.name, self.claim.provenance, self.plan.like))


def needs_moment(survey: Survey, disks: tuple[DiskPlan, ...]) -> bool:
    """Return whether the backup of a running original cannot fill the clone itself.

    A new volume whose file cannot be opened here would keep all the space that was reserved for the backup. A copy of
    an image that is removed does not.
    """
    if survey.has_two_hosts:
        # other images are made of it, see `crossing_disks`
        return False
    ways = [disk.duplication for disk in disks if disk.duplication is not None]
    if survey.has_siblings or any(way.action is not Action.COPIED for way in ways):
        return bool(ways)
    return not all(_is_at_hand(survey, way) for way in ways)


def plan_moment(
    survey: Survey, disks: tuple[DiskPlan, ...], taken: TakenNames
) -> tuple[MomentPlan, tuple[DiskPlan, ...]]:
    """Plan the images of a running original, and return with them how the disks of clones start from the images.

    Raises:
        ConflictError: There is no free name for the images.
        VirtomateError: The clones cannot be filled from the images.
    """
    plan, images = plan_images(survey, disks, taken)
    cautions: dict[int, tuple[Notice, ...]] = {}

    def start(way: Duplication) -> Duplication:
        started, cautions[id(started)] = _from_image(survey, way, images[id(way)])
        return started

    return plan, tuple(_resting(disk, cautions.get(id(disk.duplication), ())) for disk in with_ways(disks, start))


def plan_images(
    survey: Survey, disks: tuple[DiskPlan, ...], taken: TakenNames
) -> tuple[MomentPlan, dict[int, Duplication]]:
    """Plan images of disks on the host of the original, and return with them each image by the ID of a disk's way.

    Raises:
        ConflictError: There is no free name for the images.
    """
    original = survey.source.reference
    # the name that was asked for is the clone's
    wanted = with_ways(
        disks, lambda way: way._replace(action=Action.COPIED, place=way.place._replace(name=""), capacity=None)
    )
    for name in itertools.islice(_moment_names(original.name), _MAX_TAKEN_NAMES):
        if name in survey.original.identities.names or name in survey.request.names:
            continue
        check_clone_name(name)
        try:
            with taken.for_clone():
                planned = plan_disks(survey, wanted, (original.name,), name, taken)
            break
        except ConflictError:
            continue
    else:
        raise ConflictError(f"there are no names left for the images of '{original.name}'")
    images = {
        id(disk.duplication): image.duplication
        for disk, image in zip(disks, planned, strict=True)
        if disk.duplication is not None and image.duplication is not None
    }
    every = tuple({image.place.path: image for image in images.values()}.values())
    return MomentPlan(name, str(uuid4()), original, survey.source.definition.domain, every), images


def make_moment(run: Run, plan: MomentPlan, undo: Rollback) -> Moment:
    """Make the images of a running original.

    Raises:
        VirtomateError: The images cannot be made; what was made is on the undo stack.
    """
    run = run.at_source
    run.cancel.begin()
    jobs = tuple(map(duplicating, plan.duplications))
    made = tuple(job.planned() for job in jobs)
    journal = new_journal(plan.uuid, plan.original, Mode.COPY, made)._replace(moment=plan.uuid)
    claim = Claim(run.target, plan.name, journal, plan.like)
    undo.push(
        f"domain '{plan.name}', the images of '{plan.original.name}'", partial(release_unless_needed, claim, undo)
    )
    claim.take()
    volumes = create_volumes(run, jobs, claim, undo)
    with ThreadPoolExecutor(1, "backup-") as transfers:
        filled = fill_volumes(run, volumes, transfers)
    claim.require_intact()
    images = {way.place.path: _describe(run.target.connection, way) for way in plan.duplications}
    warnings = tuple(dict.fromkeys(warning for done in filled.values() for warning in done.warnings))
    start = next((done.start for done in filled.values() if done.start is not None), None)
    return Moment(plan, claim, images, warnings, start)


def _moment_names(original: str) -> Iterator[str]:
    yield f"{original}-moment"
    for number in itertools.count(2):
        yield f"{original}-moment-{number}"


def image_of(way: Duplication, image: Duplication) -> VolumeDescription:
    """Return the description of an image of a disk's volume that is not there yet."""
    place, source = image.place, way.source
    return source._replace(
        pool=place.pool,
        name=place.name,
        path=place.path,
        allocation=image.total_bytes,
        physical=source.capacity,
        backing_path=None,
        backing_format=None,
        changed=None,
        modified=None,
        inode=None,
        birth_time=None,
        header=None,
    )


def _from_image(survey: Survey, way: Duplication, image_way: Duplication) -> tuple[Duplication, tuple[Notice, ...]]:
    """Return how a clone's volume is made of an image that is not there yet, and warnings about that."""
    target = survey.target.pools.named(way.place.pool)
    image = image_of(way, image_way)
    transfers = select.choose_transfer(
        image,
        image.format,
        None,
        _MODES[way.action],
        is_local=survey.connection.is_local,
        obstacle=None if _is_at_hand(survey, way) else _OUT_OF_SIGHT,
        is_exposed=select.is_exposed(image, target.description.mode),
        is_limited=bool(survey.request.bandwidth_bytes),
    )
    transfers, cautions = survey.admit(transfers, target, (), f"disk {way.label}")
    return way._replace(source=image, transfers=transfers, below=(), running=None), cautions


def _resting(disk: DiskPlan, cautions: tuple[Notice, ...]) -> DiskPlan:
    """Return the plan of a disk with its warnings; a linked disk names the image, on which it rests."""
    disk = disk._replace(warnings=tuple(dict.fromkeys((*disk.warnings, *cautions))))
    if disk.duplication is None or disk.action is not Action.LINKED:
        return disk
    image = disk.duplication.source
    return disk._replace(source=volume_reference(image.pool, image.name, image.path, image.format))


def _describe(connection: Connection, way: Duplication) -> VolumeDescription:
    pool = get_pool(connection, way.place.pool)
    if way.is_filled_unnoticed and way.running is None:
        # libvirt knows the empty raw file of the beginning
        pool.refresh()
    volume = get_volume(connection, way.place.pool, way.place.name)
    image = with_identity(select.as_format(describe(pool, volume).description, way.source.format))
    if image.format == "qcow2":
        image = image._replace(header=header_digest(read_head(connection, volume, HEADER_BYTES)))
    # what is reserved for the backup and could not be given back is no reason to preallocate a copy
    return image._replace(allocation=min(image.allocation, way.total_bytes))


def _is_at_hand(survey: Survey, way: Duplication) -> bool:
    """Return whether the file of a new volume can probably be opened here."""
    return survey.connection.is_local and can_be_copied_here(way.source.path)
