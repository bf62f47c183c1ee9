"""Disks in a Ceph cluster (RBD), as bases of overlays in a storage pool of files.

libvirt has no upload and no download for such images. Its createXMLFrom always makes a clone of a snapshot, which stays
on the original, protected, and which nothing removes. So such an image is never copied.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.definition.network_images import (
    PROTOCOL,
    holds_image,
    image_of_disk,
    image_of_volume,
    is_encrypted,
)
from virtomate.definition.volume import outside_pools
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import Action, ArtifactKind, DiskAction, Transfer
from virtomate.errors import IllegalStateError, NotFoundError, UnsupportedError, UsageError
from virtomate.services.clone.disks import DiskPlan
from virtomate.services.clone_parts import VolumeReference
from virtomate.words import binary_size, virsh

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.network_images import NetworkImage
    from virtomate.definition.volume import VolumeDescription
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone_records import DiskOptions
    from virtomate.services.storage import PoolEntry

_POOL_TYPE = "rbd"


def plan_network_overlay(survey: Survey, disk: DiskDefinition, chosen: DiskOptions) -> DiskPlan:
    """Plan an overlay on the image of a disk.

    Raises:
        UsageError: A size is less than the image's.
        UnsupportedError: The disk cannot be duplicated in this way, or no storage pool is given for the overlay.
        IllegalStateError: An active domain writes to the image.
    """
    image = _image(survey, disk)
    _refuse_other_ways(survey, disk, chosen, image)
    pool = chosen.pool or survey.request.pool
    if pool is None:
        raise UnsupportedError(
            f"disk {disk.target} ('{image.url}') needs a storage pool for its overlay: a Ceph cluster holds no overlay",
            hint=f"Name a pool: --disk {disk.target}=linked,pool=POOL, or --pool POOL.",
        )
    target = survey.target.pools.for_new_files(pool)
    _refuse_writer(survey, disk, image)
    capacity = _capacity(survey, disk, chosen, image)
    transfers, cautions = survey.admit((Transfer.LINK,), target, (), f"disk {disk.target}")
    source = _described(image, capacity)
    duplication = Duplication(
        label=disk.target,
        kind=ArtifactKind.VOLUME,
        source=source,
        place=Place(target.pool.name, target.pool.uuid, target.description.path or "", chosen.name or ""),
        action=Action.LINKED,
        transfers=transfers,
        below=(),
        keep_owner=False,
        is_read_again=False,
        capacity=chosen.size,
        network=image,
    )
    reference = VolumeReference(disk.pool, disk.volume, source.path, source.format)
    return DiskPlan(disk, Action.LINKED, None, reference, duplication, cautions)


def _image(survey: Survey, disk: DiskDefinition) -> NetworkImage:
    known = survey.pools.find(disk.pool or "") if disk.type == "volume" else None
    if known is not None:
        image = image_of_volume(known.pool.document(), disk.volume or "")
    else:
        image = image_of_disk(survey.source.definition.domain, disk.position)
    if image is None:
        raise UnsupportedError(
            f"disk {disk.target} ('{disk.location}') cannot be linked: its source names no pool and image of a Ceph "
            "cluster",
            hint=f"Use --disk {disk.target}=share or --disk {disk.target}=drop.",
        )
    return image


def _refuse_other_ways(survey: Survey, disk: DiskDefinition, chosen: DiskOptions, image: NetworkImage) -> None:
    leave = f"--disk {disk.target}=share or --disk {disk.target}=drop"
    if chosen.treatment is not DiskAction.LINKED:
        raise UnsupportedError(
            f"disk {disk.target} ('{image.url}') cannot be copied: libvirt neither reads nor writes images in a Ceph "
            "cluster, and a clone that it makes there leaves a protected snapshot on the original",
            hint=f"Use --disk {disk.target}=linked,pool=POOL, which makes an overlay in a pool of files, or {leave}. "
            "rbd cp copies an image inside the cluster.",
        )
    source, request = survey.source, survey.request
    reasons = {
        "it is shareable, and an overlay cannot be: only raw volumes can": disk.is_shareable,
        "it is a slice of the image": disk.is_sliced,
        f"its format is {disk.format}, and only raw images in a cluster can be a base": disk.format
        not in {None, "raw"},
        "the original runs and would go on writing to the base": source.running is not None,
        "a snapshot of the original says nothing about it": source.snapshot is not None,
        "--freeze cannot move the original onto an overlay": request.freeze,
    }
    if (reason := next((reason for reason, is_so in reasons.items() if is_so), None)) is not None:
        raise UnsupportedError(f"disk {disk.target} ('{image.url}') cannot be linked: {reason}", hint=f"Use {leave}.")


def _refuse_writer(survey: Survey, disk: DiskDefinition, image: NetworkImage) -> None:
    """Refuse an image that an active domain may write to; nothing shows what other hosts do."""
    if image.snapshot is not None:
        return
    names = {(known.pool.name, image.image) for known in _pools_of(survey, image)}
    for key, writer in survey.original.identities.writers.items():
        is_same = key in names if isinstance(key, tuple) else key.startswith(f"{PROTOCOL}:") and _is_same(key, image)
        if is_same:
            raise IllegalStateError(
                f"disk {disk.target} ('{image.url}') is open for writing by domain '{writer}', which is active",
                hint=f"Shut it down first: {virsh('shutdown', writer)}",
            )


def _is_same(url: str, image: NetworkImage) -> bool:
    """Return whether a URL names the pool and the image, in any cluster: one cluster has many monitors."""
    return url.partition("://")[2].partition("/")[2].partition("?")[0] == f"{image.pool}/{image.image}"


def _pools_of(survey: Survey, image: NetworkImage) -> list[PoolEntry]:
    """Return the storage pools over the pool of the cluster that has the image."""
    pools = (known for known in survey.pools.known if known.description.type == _POOL_TYPE)
    return [known for known in pools if holds_image(known.pool.document(), image)]


def _capacity(survey: Survey, disk: DiskDefinition, chosen: DiskOptions, image: NetworkImage) -> int:
    # the guest sees less of an encrypted image, and a snapshot may have another size than its image
    is_as_told = image.snapshot is None and not is_encrypted(survey.source.definition.domain, disk.position)
    known = _known_capacity(survey, image) if is_as_told else None
    if known is None and chosen.size is None:
        raise UnsupportedError(
            f"disk {disk.target} ('{image.url}') cannot be linked: no active storage pool tells its size",
            hint=f"Give the size that the guest sees: --disk {disk.target}=linked,size=SIZE. rbd info shows the size.",
        )
    if known is not None and chosen.size is not None and chosen.size < known:
        was, wanted = binary_size(known), binary_size(chosen.size)
        if was == wanted:
            was, wanted = f"{known} bytes", f"{chosen.size} bytes"
        raise UsageError(f"--disk {disk.target}: a size of {wanted} is less than the {was} of the original's disk")
    return known or chosen.size or 0


def _known_capacity(survey: Survey, image: NetworkImage) -> int | None:
    for known in _pools_of(survey, image):
        if known.is_active:
            try:
                return survey.pools.find_named(known.pool.name, image.image).description.capacity
            except NotFoundError:
                continue
    return None


def _described(image: NetworkImage, capacity: int) -> VolumeDescription:
    """Return the image as the source of an overlay; its file is on no host."""
    # the name of the overlay is made of that name, and ends in the format of the overlay
    return outside_pools(f"{posixpath.basename(image.image)}.raw", image.url, capacity)
