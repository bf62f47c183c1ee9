"""External snapshots of clones: with one, a disk is an overlay, which rests on what the disk was before."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers, readers
from virtomate.errors import VirtomateError
from virtomate.paths import normalise
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.definition.codec import Document
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.storage import PoolIndex

# Older ones delete no external snapshots.
_DELETES_EXTERNAL_SNAPSHOTS = 9_000_000

_MAX_COMMANDS = 5
_MAX_DEPTH = 200


def advise_merging(domain: Domain, definition: Document, pools: PoolIndex, images: Iterable[str]) -> str | None:
    """Return how images that are a domain's own disks can be merged into their bases; None where one is not its own."""
    chains = {target: tuple(_chain(path, pools)) for target, path in _disk_paths(definition, pools)}
    concerned = {target: chain[0] for target, chain in chains.items() for path in images if normalise(path) in chain}
    if any(all(normalise(path) not in chain for chain in chains.values()) for path in images) or not concerned:
        return None
    snapshots = domain.external_snapshots() if domain.daemon_version >= _DELETES_EXTERNAL_SNAPSHOTS else ()
    files = {normalise(path) for _, text in snapshots for path in _files(text)}
    if set(concerned.values()) <= files:
        commands = [virsh("snapshot-delete", domain.name, snapshot) for snapshot, _ in snapshots]
        more = "; and so on, the newest first" if len(commands) > _MAX_COMMANDS else ""
        return f"Delete its external snapshots first: {'; '.join(commands[:_MAX_COMMANDS])}{more}"
    merge = "--active --pivot --delete --wait"
    commands = [
        virsh("start", domain.name),
        *(virsh("blockcommit", domain.name, target, options=merge) for target in concerned),
        virsh("shutdown", domain.name),
    ]
    return f"Start it, merge its overlays, and shut it down again: {'; '.join(commands)}"


def _disk_paths(definition: Document, pools: PoolIndex) -> Iterator[tuple[str, str]]:
    for disk in file_readers.disks(definition):
        path = disk.path or pools.path_of(disk.pool or "", disk.volume or "")
        if path is not None:
            yield disk.target, normalise(path)


def _chain(path: str, pools: PoolIndex) -> Iterator[str]:
    """Yield the paths of an image and of those below it, as far as they are volumes."""
    with suppress(VirtomateError):
        for _ in range(_MAX_DEPTH):
            yield path
            below = pools.find_path(path).description.backing_path
            if below is None:
                return
            path = normalise(below)


def _files(snapshot: str) -> Iterator[str]:
    """Yield the files of an external snapshot's disks."""
    disks = readers.child(codec.parse(snapshot, "domainsnapshot"), "disks").get("disk", [])
    for disk in disks if isinstance(disks, list) else [disks]:
        if path := readers.child(disk, "source").get("@file"):
            yield str(path)
