"""What is at the place of an artifact now, through libvirt and through the file system here.

A record in a definition proves nothing by itself, since whoever may define a domain may write one. A token, the UUID of
the clone and a random text, stands in the record and on the file; on somebody else's file a forger cannot put it, and
where a file or a record is copied along, the UUID is another clone's. It is an extended attribute wherever the file can
be seen here (ext4, XFS and Btrfs keep it through chown, relabelling and starts of the domain), and a header extension
of the overlays that we make, and a field of the file systems of seeds, which are read over a connection, too.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.definition.provenance import Fingerprint
from virtomate.duplication.blank import is_blank
from virtomate.duplication.hostfs import NANOSECONDS, open_visible
from virtomate.duplication.image_headers import HEADER_BYTES, read_qcow2_header
from virtomate.duplication.labels import LABEL_BYTES, iso_token
from virtomate.enums import ArtifactKind, ArtifactState, TokenPlace
from virtomate.errors import HypervisorError, IllegalStateError
from virtomate.hypervisor.storage import read_head
from virtomate.services.storage.artifacts.places import pool_of
from virtomate.services.storage.artifacts.proof import (
    Judgement,
    Sighting,
    Verdict,
    judge,
    judge_absence,
    may_be_named,
    name_artifact,
)
from virtomate.services.storage.file_pools import directory_inode
from virtomate.services.storage.pools import FoundVolume, PoolEntry, find_volume
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from virtomate.definition.provenance import Artifact
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume

ATTRIBUTE = "user.virtomate.id"
_SIGHT_SECONDS = 1


def put_token(volume: VolumeDescription, token: str) -> VolumeDescription | None:
    """Put a token on a volume's file, and return the volume with its new change time.

    Return None if the file cannot be seen here, or its file system keeps no attributes.
    """
    descriptor = open_visible(volume, os.O_RDONLY if volume.is_directory else os.O_WRONLY)
    if descriptor is None:
        return None
    try:
        os.setxattr(descriptor, ATTRIBUTE, token.encode())
        changed = os.fstat(descriptor).st_ctime_ns
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return volume._replace(changed=f"{changed // NANOSECONDS}.{changed % NANOSECONDS:09}")


def read_attribute(file: int | str) -> str | None:
    """Return the token in the extended attribute of an open file, or of the file at a path, never behind a link."""
    try:
        return os.getxattr(file, ATTRIBUTE, follow_symlinks=isinstance(file, int)).decode(errors="replace")
    except (OSError, ValueError):
        return None


def read_header_token(head: bytes) -> str | None:
    """Return the token in the header of an overlay, by its first bytes, if there is one."""
    header = read_qcow2_header(head[:HEADER_BYTES])
    return None if header is None else header.token


def _read_inner_token(made: Artifact, read: Callable[[int], bytes]) -> str | None:
    """Return the token in the content of an artifact: in the file system of a seed, or in the header of an overlay."""
    if made.kind is ArtifactKind.SEED:
        return iso_token(read(LABEL_BYTES))
    return read_header_token(read(HEADER_BYTES))


def sight(connection: Connection, known: PoolEntry, made: Artifact) -> tuple[Sighting, Volume | None]:
    """Look at an artifact's place; again while a file cannot be seen because somebody is just writing to it."""
    then = made.fingerprint
    was_seen = then is not None and then.inode is not None and connection.is_local
    for _ in backoff(_SIGHT_SECONDS):
        found = find_volume(known.pool, made.volume or posixpath.basename(made.path))
        if found is None:
            return Sighting(None, fingerprint=known.backend.absence(made, known.pool)), None
        sighting, volume = _sight(connection, known, found, made), found.volume
        if not sighting.is_seen and connection.is_local and _may_be(made):
            # the times of a file that is being written are never those that libvirt has just told
            attribute = read_attribute(made.path)
            sighting = sighting._replace(is_seen=attribute is not None, attribute=attribute)
        if sighting.is_seen or not was_seen:
            break
    return sighting, volume


def _may_be(made: Artifact) -> bool:
    """Return whether the file at an artifact's path here has the artifact's inode number, as far as that is known."""
    inode = None if made.fingerprint is None else made.fingerprint.inode
    try:
        return inode is None or os.lstat(made.path).st_ino == inode
    except (OSError, ValueError):
        return False


def _sight(connection: Connection, known: PoolEntry, found: FoundVolume, made: Artifact) -> Sighting:
    volume = found.description
    sighting = Sighting(volume, fingerprint=known.backend.fingerprint(volume))
    descriptor = open_visible(volume, os.O_RDONLY)
    if descriptor is not None:
        try:
            if volume.is_directory:
                return sighting._replace(is_seen=True, attribute=read_attribute(descriptor))
            header = _read_inner_token(made, lambda length: os.pread(descriptor, length, 0))
            attribute = read_attribute(descriptor)
            # libvirt reserves space while it creates a volume, before anybody can put a token on it
            has_no_token = attribute is None and header is None and made.state is ArtifactState.PLANNED
            return sighting._replace(
                is_seen=True,
                attribute=attribute,
                header=header,
                is_blank=has_no_token and is_blank(descriptor),
            )
        finally:
            os.close(descriptor)
    if volume.physical > 0 and not volume.is_device:
        # libvirt refuses to send what it is still building
        with suppress(HypervisorError, IllegalStateError):
            read = partial(read_head, connection, found.volume)
            return sighting._replace(header=_read_inner_token(made, read))
    return sighting


def why_not_in(made: Artifact, known: PoolEntry | None) -> str | None:
    """Return why an artifact cannot be looked at in its storage pool, as the end of a sentence; None if it can."""
    if known is None:
        return f"cannot be looked at, since its storage pool '{made.pool}' is not there"
    if known.description.path != posixpath.dirname(made.path):
        return f"cannot be looked at, since storage pool '{made.pool}' is over another directory now"
    if not known.is_active:
        return f"cannot be looked at, since its storage pool '{made.pool}' is not active"
    return None


def pool_cure(made: Artifact, known: PoolEntry | None) -> str:
    """Return what to do about a storage pool in which an artifact cannot be looked at, see `why_not_in`."""
    directory = posixpath.dirname(made.path)
    if known is None:
        return f"Define and start storage pool '{made.pool}' over '{directory}' again."
    if known.description.path != directory:
        return f"Define storage pool '{made.pool}' over '{directory}' again, and start it."
    return f"Start it: {virsh('pool-start', made.pool)}"


def judge_in_pool(
    connection: Connection, known: PoolEntry | None, made: Artifact, token: str | None
) -> Judgement | None:
    """Judge an artifact in its storage pool; return None if it cannot be looked at there."""
    if known is None or why_not_in(made, known) is not None:
        return None
    return judge(made, token, sight(connection, known, made)[0])


def judge_outside_pools(
    made: Artifact, token: str | None, directories: Collection[str], *, is_local: bool
) -> Judgement:
    """Say whether a file in no storage pool is the artifact; libvirt does not describe such files.

    Only in the directories in which libvirt keeps NVRAM may the record alone be a reason to delete a file.
    """
    if bears_token_here(made, token):
        return Judgement(Verdict.PROVED)
    directory = posixpath.dirname(made.path)
    is_there = _is_there_here(made) if is_local else None
    if is_there is False:
        return judge_absence(made, made.fingerprint and Fingerprint(None, directory=directory_inode(directory)))
    verdict, reason = Verdict.FOREIGN, "does not bear the clone's token"
    if is_copy := token is not None and read_attribute(made.path) == token:
        reason = "is a copy of what was made"
    can_be_read = is_there is not None and made.token_place is TokenPlace.ATTRIBUTE
    if directory not in directories:
        reason = f"is in no storage pool, and {reason}"
    elif is_copy:
        verdict = Verdict.UNPROVED
    elif not can_be_read and made.state is ArtifactState.PLANNED:
        reason = "was not made for this clone"
    elif not can_be_read:
        verdict, reason = Verdict.UNPROVED, "bears no token that can be read here"
    return Judgement(verdict, reason)


def _is_there_here(made: Artifact) -> bool | None:
    """Return whether there is a file at an artifact's path here; None if that says nothing of the artifact.

    The daemon behind a local socket may have other files than we: a file that could not be seen here when it was made
    is not gone because it is not seen here. Nor is a file gone whose directory we may not search.
    """
    then = made.fingerprint
    if then is not None and then.file_system_bytes is not None and made.token_place is None:
        return None
    try:
        os.lstat(made.path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return None
    return True


def require_intact(connection: Connection, artifacts: Iterable[Artifact], token: str) -> None:
    """Raise IllegalStateError if an artifact was replaced, or its storage pool is another one by now."""
    by_pool: defaultdict[str, list[Artifact]] = defaultdict(list)
    for made in artifacts:
        by_pool[made.pool].append(made)
    for name, group in by_pool.items():
        directory = posixpath.dirname(group[0].path)
        with pool_of(connection, group[0]) as known:
            if known is None or not known.is_active or known.description.path != directory:
                raise IllegalStateError(
                    f"storage pool '{name}' is not the one over '{directory}' any more",
                    hint="Try again when nobody redefines or stops storage pools.",
                )
            for made in group:
                if not bears_token_here(made, token):
                    _require_nameable(connection, known, made, token)


def _require_nameable(connection: Connection, known: PoolEntry, made: Artifact, token: str) -> None:
    sighting, _ = sight(connection, known, made)
    judgement = judge(made, token, sighting)
    if not may_be_named(made, judgement.verdict, sighting):
        raise IllegalStateError(
            f"{name_artifact(made)} {judgement.reason or 'is not there any more'}",
            hint="Somebody moved or replaced it while the clone was being made. Try again.",
        )


def bears_token_here(made: Artifact, token: str | None) -> bool:
    """Return whether the file at an artifact's path here has the artifact's token and inode number, as no other has."""
    return token is not None and _may_be(made) and read_attribute(made.path) == token
