"""Disks of clones on another host that sees the files of the original: what rests on them, or is made of them there.

A path that both hosts have proves nothing, nor do the times of a file: hosts that were made of one image have equal
files. The plan goes by the times, since files with other times are not one. The proof is the clone's own new volume:
before anything is written to it, the libvirt of the original must see it (see `transaction.shared_storage`). A volume
that the other libvirt copies while it makes the volume is seen afterwards.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.definition.readers import child, devices
from virtomate.definition.volume import SEEN_LATER_SECONDS, network_source
from virtomate.enums import Action, DiskAction, MapKind, Mode, Transfer
from virtomate.errors import UnsupportedError, VirtomateError
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import url_in
from virtomate.services.clone.disk_survey import survey_disks
from virtomate.services.clone.disks import with_ways
from virtomate.services.linked import look_at_base
from virtomate.services.storage import find_volume

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Document
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.target import Survey
    from virtomate.services.storage import PoolEntry

# What can be made without the volumes of the original, too.
_COPYING = frozenset({Mode.COPY, Mode.AUTO})
# Names that every host has for itself.
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def mode_of(survey: Survey, target: str) -> Mode:
    """Return how a disk that is duplicated is to be duplicated."""
    treatment = _treatment(survey, target)
    return survey.request.mode if treatment is None else Mode(treatment.value)


def _treatment(survey: Survey, target: str) -> DiskAction | None:
    """Return what is to be done with one disk by an option of its own."""
    return next((chosen.treatment for chosen in survey.request.disks if chosen.target == target), None)


def needs_sharing(survey: Survey, disk: DiskPlan) -> bool:
    """Return whether a disk can be duplicated as was asked only where both hosts see its volume."""
    way = disk.duplication
    if way is None:
        return False
    # the mode is about files alone, unlike an option for this disk
    is_copied_device = way.source.is_device and way.action is Action.COPIED
    is_reflink_asked = _treatment(survey, disk.disk.target) is DiskAction.REFLINK
    is_copy = mode_of(survey, disk.disk.target) in _COPYING or (is_copied_device and not is_reflink_asked)
    return survey.request.transfer is Transfer.SERVER or not is_copy


def copied_there(survey: Survey, disk: DiskPlan, streamed: DiskPlan) -> DiskPlan:
    """Return a disk that the other host itself copies or reflinks, if both hosts see its volume.

    Args:
        survey: The survey of both hosts.
        disk: The disk as it would be copied on the host of the original.
        streamed: The disk as it is copied otherwise, which stays possible.
    """
    way = streamed.duplication
    if way is None or way.involves_device or survey.request.transfer is not None:
        return streamed
    is_auto = mode_of(survey, disk.disk.target) is Mode.AUTO
    if way.transfer is Transfer.HOST and not is_auto:
        return streamed
    try:
        (there,) = made_there(survey, (disk,))
    except VirtomateError:
        return streamed
    found = there.duplication
    is_better = found is not None and (
        found.action is Action.REFLINKED or Transfer.STREAM not in {found.transfer, *way.transfers[:-1]}
    )
    if found is None or not is_better:
        return streamed
    return there._replace(duplication=found._replace(otherwise=way._replace(cautions=streamed.warnings)))


def made_there(survey: Survey, disks: tuple[DiskPlan, ...]) -> tuple[DiskPlan, ...]:
    """Plan disks as if the original were on the other host, with the volumes as that host has them.

    Raises:
        UnsupportedError: Nothing shows that both hosts see a volume, or a volume cannot be duplicated as was asked.
    """
    if survey.source.backed_up is not None or survey.source.snapshot is not None:
        target = disks[0].disk.target
        what = "the disks of a running original, or of a snapshot, are copied through virtomate"
        hint = f"Use {_copying(survey, target)}."
        if survey.source.backed_up is not None and mode_of(survey, target) is Mode.LINKED:
            hint = f"Use --freeze, or {_copying(survey, target)}."
        raise _refusal(survey, target, what, hint)
    ways = {disk.disk.target: disk.duplication for disk in disks if disk.duplication is not None}
    for target, way in ways.items():
        if way.source.is_device:
            reason = f"disk {target} ('{way.source.path}') is a block device of the original's host"
            raise _refusal(survey, target, reason, f"Use {_copying(survey, target)}.")
    seen = {target: _find(survey, way.source, target) for target, way in ways.items()}
    definition = survey.source.definition
    source = survey.source._replace(
        definition=definition._replace(domain=_with_sources(definition.domain, seen, ways)),
        modes={seen[target].path: survey.source.modes.get(way.source.path, 0) for target, way in ways.items()},
        freeze_mark=None,
        running=None,
        is_active=survey.source.is_active or survey.source.running is not None,
    )
    request = survey.request._replace(
        disks=tuple(item for item in survey.request.disks if item.target in ways), freeze=False
    )
    alone = survey._replace(original=survey.target, source=source, request=request)
    planned = {disk.disk.target: disk for disk in survey_disks(alone)}
    there = tuple(planned[target] for target in ways)

    def seen_twice(way: Duplication) -> Duplication:
        original = ways[way.label]
        images = (original.source, *original.below)
        _require_same(survey, images, way)
        return way._replace(originals=images, keep_owner=False)

    there = with_ways(there, seen_twice)
    return tuple(
        disk._replace(
            action=other.action,
            reason=other.reason,
            duplication=other.duplication,
            warnings=(*other.warnings, *_dependence(survey, other)),
            keeps_snapshots=other.keeps_snapshots,
        )
        for disk, other in zip(disks, there, strict=True)
    )


def _find(survey: Survey, image: VolumeDescription, target: str) -> VolumeDescription:
    """Return the volume of the other host with the times of a volume of the original."""
    chosen = next((item.pool for item in survey.request.disks if item.target == target), None)
    mapped = image.pool if survey.crossing is None else survey.crossing.moved.name(MapKind.POOL, image.pool)
    pools = survey.target.pools
    names = (mapped, chosen or "", survey.request.pool or "")
    candidates = (*map(pools.find, names), pools.covering(posixpath.dirname(image.path)))
    # each once, since a pool that does not have the volume is refreshed
    for known in {known.pool.name: known for known in candidates if known is not None}.values():
        if known.is_active and not known.backend.makes_devices:
            found = find_volume(known.pool, image.name)
            if found is not None and _may_be_same(survey, found.description, image):
                return found.description
    raise _not_shared(survey, target, image)


def _may_be_same(survey: Survey, there: VolumeDescription, here: VolumeDescription) -> bool:
    """Return whether both hosts tell the same of a file; a file still written to is compared by `seen_again` later."""
    is_written = survey.source.running is not None and here.changed is None
    return there.changed is not None if is_written else there.is_seen_as(here)


def seen_again(way: Duplication, base: VolumeDescription, connection: Connection, cancel: CancelToken) -> Duplication:
    """Return how an overlay is made on a base that the original was moved off.

    Raises:
        UnsupportedError: The host of the clone, to which the connection leads, has another file there.
        InterruptedBySignalError: A signal arrived.
    """
    for _ in backoff(SEEN_LATER_SECONDS, cancel):
        there = look_at_base(connection, way.source)
        if there.is_seen_as(base):
            return way._replace(source=there, originals=(base, *way.originals[1:]))
    raise UnsupportedError(
        f"the hosts do not share '{base.path}': the host of the clone tells another time of its last change",
        hint="Use --mode copy, or --disk TARGET=copy, without --freeze.",
    )


def _refusal(survey: Survey, target: str, reason: str, hint: str) -> UnsupportedError:
    hosts = survey.crossing and survey.crossing.hosts
    word = f"--disk {target}={mode_of(survey, target).value}"
    if mode_of(survey, target) in _COPYING:
        word = f"--transfer {Transfer.SERVER.value}"
    elif _treatment(survey, target) is None:
        word = f"--mode {survey.request.mode.value}"
    return UnsupportedError(f"{word} is not possible on host '{hosts and hosts.target}': {reason}", hint)


def _copying(survey: Survey, target: str) -> str:
    """Return the option by which a disk needs no shared storage."""
    if mode_of(survey, target) in _COPYING:
        return f"--transfer {Transfer.STREAM.value}"
    return "--mode copy" if _treatment(survey, target) is None else f"--disk {target}=copy"


def _not_shared(survey: Survey, target: str, image: VolumeDescription) -> UnsupportedError:
    is_linked = mode_of(survey, target) is Mode.LINKED
    remark = "; linked clones of a copy can be made there" if is_linked else ""
    return _refusal(
        survey,
        target,
        f"nothing shows that a storage pool there has the file '{image.path}'",
        "If the hosts share the storage, make the directory of the file a storage pool there (--map pool:A=B where the "
        f"pool has another name). Otherwise use {_copying(survey, target)}{remark}.",
    )


def _with_sources(domain: Document, seen: dict[str, VolumeDescription], ways: dict[str, Duplication]) -> Document:
    """Return a definition whose only disks are these, as files of the other host."""
    disks = []
    for number, disk in enumerate(devices(domain, "disk")):
        target = str(child(disk, "target").get("@dev", f"disk {number}"))
        if target not in seen:
            continue
        inner = {key: value for key, value in child(disk, "source").items() if not key.startswith("@")}
        kept = {key: value for key, value in disk.items() if key != "backingStore"}
        source = {"@file": seen[target].path, **inner}
        driver = {**child(disk, "driver"), "@type": ways[target].source.format}
        disks.append({**kept, "@type": "file", "source": source, "driver": driver})
    return {**domain, "devices": {**child(domain, "devices"), "disk": disks}}


def _require_same(survey: Survey, images: tuple[VolumeDescription, ...], way: Duplication) -> None:
    """Raise UnsupportedError unless the hosts see the same images, and the proof will be about all of them."""
    there = (way.source, *way.below)
    last = images[-1].backing_path
    is_whole = last is None or url_in(last) is not None or way.action is Action.COPIED
    if len(images) != len(there) or not is_whole:
        raise _not_shared(survey, way.label, images[min(len(there), len(images) - 1)])
    for image, other in zip(images, there, strict=True):
        if not _may_be_same(survey, other, image):
            raise _not_shared(survey, way.label, image)
        if posixpath.dirname(other.path) == way.place.directory:
            continue
        server = _server(survey.original.pools.find(image.pool))
        if server is None or server != _server(survey.target.pools.find(other.pool)):
            raise _refusal(
                survey,
                way.label,
                f"only a new volume beside '{other.path}' proves that both hosts see that file, and the new volume "
                f"would be in '{way.place.directory}'",
                f"Make the clone in the storage pool of the original: --pool {other.pool}. Or use "
                f"{_copying(survey, way.label)}.",
            )


def _server(known: PoolEntry | None) -> tuple[str, str] | None:
    """Return host and directory of a pool that libvirt mounts from a server."""
    server = None if known is None or known.description.type != "netfs" else network_source(known.pool.document())
    return None if server is None or server[0] in _OWN_NAMES else server


def _dependence(survey: Survey, disk: DiskPlan) -> tuple[Notice, ...]:
    """Return the warning that the host of the original does not know the clone, which needs a file there."""
    way = disk.duplication
    if way is None or way.base_path is None or survey.crossing is None:
        return ()
    host = survey.crossing.hosts.original
    return (notice(CloneWarning.UNKNOWN_DEPENDENT, disk.disk.target, base=way.base_path, host=host),)
