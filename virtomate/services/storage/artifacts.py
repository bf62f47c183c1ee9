"""Artifacts: finding what cloning made, telling it from anything else, and removing it.

Nothing is removed because of its name, its path, its age or a line in a record. `judge` says what a file's token and
fingerprint prove; whoever removes says which verdicts are enough for that.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from virtomate.advice import virsh
from virtomate.definition.provenance import Fingerprint
from virtomate.definition.volume import describe_pool
from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.image_headers import HEADER_BYTES
from virtomate.duplication.image_lock import alone_with
from virtomate.duplication.loop_devices import loop_device_over
from virtomate.enums import ArtifactKind, ArtifactState, TokenPlace, Transfer
from virtomate.errors import ConflictError, HypervisorError, IllegalStateError
from virtomate.hypervisor.storage import delete_when_idle, find_pool
from virtomate.hypervisor.volume_streams import read_head
from virtomate.services.storage.fingerprint import contradicts, directory_inode, fingerprint
from virtomate.services.storage.pools import TEMPORARY_POOL_PREFIX, FoundVolume, PoolEntry, find_volume
from virtomate.services.storage.temporary_pools import start_temporary_pool
from virtomate.services.storage.token import ATTRIBUTE, read_attribute, read_header_token
from virtomate.waiting import backoff

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from virtomate.definition.provenance import Artifact
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool, Volume

_SIGHT_SECONDS = 1


class Verdict(StrEnum):
    """What can be said of the file at an artifact's place.

    `proved` bears the clone's token. `unproved` may well be the artifact, but nothing that can be read says so. `empty`
    holds nothing: a run was killed between the making of the file and the first byte. `foreign` is certainly something
    else. `gone`: there is no file. `away`: there is none, but its directory is another one than it was.
    """

    PROVED = "proved"
    UNPROVED = "unproved"
    EMPTY = "empty"
    FOREIGN = "foreign"
    GONE = "gone"
    AWAY = "away"


# What a run may remove of what it made itself a moment ago; and of what it was about to make when that failed.
OWN = frozenset({Verdict.PROVED, Verdict.UNPROVED, Verdict.EMPTY})
BEGUN = frozenset({Verdict.PROVED, Verdict.EMPTY})


class Sighting(NamedTuple):
    """What is at an artifact's place now.

    Attributes:
        volume: The volume as libvirt describes it, None where there is none.
        is_seen: Whether its file can be read here.
        attribute: Token in the extended attribute of a file that is seen.
        header: Token in the header of an overlay.
        fingerprint: What identifies the file; of no file, what is known of its directory.
    """

    volume: VolumeDescription | None
    is_seen: bool
    attribute: str | None
    header: str | None
    fingerprint: Fingerprint | None


class Judgement(NamedTuple):
    """What is proved of an artifact.

    Attributes:
        reason: Why nothing is proved, as the end of a sentence that begins with the file; empty where something is.
        volume: The file as it is now, None where there is none.
        hint: What to do about a file that cannot be looked at.
    """

    verdict: Verdict
    reason: str = ""
    volume: VolumeDescription | None = None
    hint: str | None = None


def judge(made: Artifact, token: str | None, sighting: Sighting) -> Judgement:
    """Say whether the file at an artifact's place is the one that cloning made.

    Args:
        made: The artifact, as the record has it.
        token: What stands on every artifact of the clone, None where the record is of a version that had no tokens.
        sighting: What is there now.
    """
    volume = sighting.volume
    if volume is None:
        return _judge_absence(made, sighting.fingerprint)
    is_other = made.fingerprint is not None and contradicts(made.fingerprint, sighting.fingerprint or made.fingerprint)
    if volume.path != made.path or posixpath.basename(made.path) != made.volume:
        verdict, reason = Verdict.FOREIGN, f"is not what storage pool '{made.pool}' has now"
    elif token is not None and token in {sighting.attribute, sighting.header}:
        verdict, reason = (Verdict.UNPROVED, "is a copy of what was made") if is_other else (Verdict.PROVED, "")
    elif sighting.attribute is not None:
        verdict, reason = Verdict.FOREIGN, "was made for another clone"
    elif is_other:
        verdict, reason = Verdict.FOREIGN, "is another file than the one that was made"
    else:
        verdict, reason = _judge_without_token(made, volume, is_seen=sighting.is_seen)
    return Judgement(verdict, reason, volume)


def _judge_without_token(made: Artifact, volume: VolumeDescription, *, is_seen: bool) -> tuple[Verdict, str]:
    """What can be said of a file on which no token can be read; for the answer see `Judgement`."""
    is_planned = made.state is ArtifactState.PLANNED
    if volume.physical == 0 and (is_planned or made.token_place is TokenPlace.HEADER):
        return Verdict.EMPTY, "is empty"
    if made.token_place is TokenPlace.HEADER or (made.token_place is TokenPlace.ATTRIBUTE and is_seen):
        return Verdict.FOREIGN, "does not bear the clone's token"
    if not is_planned:
        return Verdict.UNPROVED, "bears no token that can be read here"
    if made.transfer is Transfer.SERVER:
        return Verdict.UNPROVED, "may be a copy that libvirt did not finish"
    return Verdict.FOREIGN, "was not made for this clone"


def _judge_absence(made: Artifact, now: Fingerprint | None) -> Judgement:
    then = made.fingerprint
    if then is not None and now is not None:
        for before, today in ((then.directory, now.directory), (then.file_system_bytes, now.file_system_bytes)):
            if before is not None and today is not None and before != today:
                return Judgement(
                    Verdict.AWAY,
                    "is not there, and its directory is another one than it was",
                    hint=f"Mount the file system of '{posixpath.dirname(made.path)}', then run the command again. If "
                    f"somebody deleted the file, {virsh('undefine')} removes the definition.",
                )
    return Judgement(Verdict.GONE)


def sight(connection: Connection, pool: Pool, made: Artifact) -> tuple[Sighting, Volume | None]:
    """Look at an artifact's place; again while a file cannot be seen because somebody is just writing to it."""
    then = made.fingerprint
    was_seen = then is not None and then.inode is not None and connection.is_local
    for left in backoff(_SIGHT_SECONDS):
        found = find_volume(pool, made.volume or posixpath.basename(made.path))
        if found is None:
            return Sighting(None, is_seen=False, attribute=None, header=None, fingerprint=_of_place(pool, made)), None
        sighting = _sight(connection, found)
        if sighting.is_seen or not was_seen or not left:
            return sighting, found.volume
    raise AssertionError("unreachable")


def remove_artifact(
    connection: Connection,
    made: Artifact,
    token: str | None,
    accepted: Collection[Verdict],
    turns: Iterable[object],
) -> bool:
    """Remove one artifact from the storage pool that has it.

    Args:
        connection: Where it is.
        made: The artifact.
        token: What stands on every artifact of the clone.
        accepted: The verdicts that are enough.
        turns: What `backoff` yields: when to try while libvirt is still building the artifact.

    Returns:
        Whether it was there; what was only planned may never have been made.

    Raises:
        ConflictError: What is there is not, or not certainly, the artifact; it is left alone.
        IllegalStateError: Its storage pool or its directory is not there, and it is not proved without them.
        VirtomateError: It cannot be removed.
    """
    pool = find_pool(connection, made.pool)
    known = None if pool is None else PoolEntry(pool, describe_pool(pool.document()), pool.is_active())
    objection = why_not_in(made, known)
    if known is not None and objection is None:
        return _remove_from(connection, known.pool, made, token, accepted, turns)
    if token is None or not bears_token_here(made, token):
        raise IllegalStateError(f"it {objection}")
    temporary = start_temporary_pool(connection, str(uuid4()), posixpath.dirname(made.path))
    try:
        return _remove_from(connection, temporary, made, token, accepted, turns)
    finally:
        temporary.stop()


def why_not_in(made: Artifact, known: PoolEntry | None) -> str | None:
    """Why an artifact cannot be looked at in its storage pool, as the end of a sentence; None where it can."""
    if known is None:
        return f"cannot be looked at, since its storage pool '{made.pool}' is not there"
    if known.description.path != posixpath.dirname(made.path):
        return f"cannot be looked at, since storage pool '{made.pool}' is over another directory now"
    if not known.is_active:
        return f"cannot be looked at, since its storage pool '{made.pool}' is not active"
    return None


def _remove_from(
    connection: Connection,
    pool: Pool,
    made: Artifact,
    token: str | None,
    accepted: Collection[Verdict],
    turns: Iterable[object],
) -> bool:
    was_there = False

    def find() -> Volume | None:
        nonlocal was_there
        sighting, volume = sight(connection, pool, made)
        judgement = judge(made, token, sighting)
        if judgement.verdict is Verdict.GONE:
            return None
        if judgement.verdict is Verdict.AWAY:
            raise IllegalStateError(f"it {judgement.reason}")
        if judgement.verdict not in accepted:
            raise ConflictError(f"it {judgement.reason}, and is left alone")
        was_there = True
        return volume

    delete_when_idle(find, turns)
    return was_there


@contextmanager
def locked(connection: Connection, artifacts: Iterable[Artifact], token: str | None) -> Iterator[None]:
    """Keep everybody from opening artifacts whose files are seen here: QEMU, its tools, and runs that link to them.

    Raises:
        IllegalStateError: Somebody has one open.
    """
    with ExitStack() as stack:
        for made in artifacts:
            if _is_here(connection, made, token):
                stack.enter_context(alone_with(made.path))
                if (device := loop_device_over(made.path)) is not None:
                    raise IllegalStateError(
                        f"{name_artifact(made)} is the content of loop device '{device}'",
                        hint=f"Detach that first: losetup --detach {device}",
                    )
        yield


def _is_here(connection: Connection, made: Artifact, token: str | None) -> bool:
    """Whether the file at an artifact's path here is that of the daemon."""
    if token is not None and bears_token_here(made, token):
        return True
    pool = find_pool(connection, made.pool)
    return pool is not None and pool.is_active() and sight(connection, pool, made)[0].is_seen


def judge_outside_pools(
    made: Artifact, token: str | None, directories: Collection[str], *, is_local: bool
) -> Judgement:
    """Say whether a file in no storage pool is the one that was made; libvirt does not tell of it.

    Args:
        made: The artifact.
        token: What stands on every artifact of the clone.
        directories: Where libvirt keeps NVRAM. Elsewhere a record alone is no reason to touch anything.
        is_local: Whether the daemon runs on this host.
    """
    if token is not None and bears_token_here(made, token):
        return Judgement(Verdict.PROVED)
    if is_local and not os.path.lexists(made.path):
        then = made.fingerprint
        directory = posixpath.dirname(made.path)
        return _judge_absence(made, then and Fingerprint(None, directory=directory_inode(directory)))
    if posixpath.dirname(made.path) not in directories:
        return Judgement(Verdict.FOREIGN, "is in no storage pool, and does not bear the clone's token")
    if is_local and made.token_place is TokenPlace.ATTRIBUTE:
        return Judgement(Verdict.FOREIGN, "does not bear the clone's token")
    if made.state is ArtifactState.PLANNED:
        return Judgement(Verdict.FOREIGN, "was not made for this clone")
    return Judgement(Verdict.UNPROVED, "bears no token that can be read here")


def require_intact(connection: Connection, artifacts: Iterable[Artifact], token: str) -> None:
    """Make sure that what was made is what is there, before a definition names it.

    Raises:
        IllegalStateError: A file was replaced, or its storage pool is another one by now.
    """
    by_pool: defaultdict[str, list[Artifact]] = defaultdict(list)
    for made in artifacts:
        by_pool[made.pool].append(made)
    for name, group in by_pool.items():
        pool = find_pool(connection, name)
        directory = posixpath.dirname(group[0].path)
        if pool is None or not pool.is_active() or describe_pool(pool.document()).path != directory:
            raise IllegalStateError(
                f"storage pool '{name}' is not the one over '{directory}' any more",
                hint="Try again when nobody redefines or stops storage pools.",
            )
        for made in group:
            if not bears_token_here(made, token):
                _require_intact(connection, pool, made, token)


def _require_intact(connection: Connection, pool: Pool, made: Artifact, token: str) -> None:
    sighting, _ = sight(connection, pool, made)
    judgement = judge(made, token, sighting)
    if not may_be_named(made, judgement.verdict, sighting):
        raise IllegalStateError(
            f"{name_artifact(made)} {judgement.reason or 'is not there any more'}",
            hint="Somebody moved or replaced it while the clone was being made. Try again.",
        )


def may_be_named(made: Artifact, verdict: Verdict, sighting: Sighting) -> bool:
    """Whether a clone's definition may name the file at an artifact's place.

    Where no token could be put, a file that was seen here must be seen again: libvirt follows a symbolic link that has
    taken its place, and tells of what the link leads to.
    """
    if verdict is Verdict.PROVED or made.token_place is not None:
        return verdict is Verdict.PROVED
    then, now = made.fingerprint, sighting.fingerprint
    is_hidden = then is not None and then.inode is not None and (now is None or now.inode is None)
    return verdict is Verdict.UNPROVED and not is_hidden


def bears_token_here(made: Artifact, token: str) -> bool:
    """Whether the file at its path here is the one that was made: nobody else's has that token and inode number."""
    inode = None if made.fingerprint is None else made.fingerprint.inode
    try:
        is_it = inode is None or os.lstat(made.path).st_ino == inode
        return is_it and os.getxattr(made.path, ATTRIBUTE, follow_symlinks=False) == token.encode()
    except (OSError, ValueError):
        return False


def stop_temporary_pool(connection: Connection, made: Artifact) -> bool:
    """Stop a temporary pool that a killed run has left, and tell whether it was there.

    Raises:
        ConflictError: The record names a pool that is none of ours.
    """
    if not made.pool.startswith(TEMPORARY_POOL_PREFIX):
        raise ConflictError("that is not the name of a temporary pool")
    pool = find_pool(connection, made.pool)
    if pool is None:
        return False
    if pool.is_persistent():
        raise ConflictError("it is not a temporary pool")
    pool.stop()
    return True


def name_artifact(made: Artifact) -> str:
    """A phrase that names an artifact."""
    if made.kind is ArtifactKind.POOL:
        return f"temporary storage pool '{made.pool}'"
    what = "NVRAM" if made.kind is ArtifactKind.NVRAM else "volume"
    return f"{what} '{made.path}'"


def _sight(connection: Connection, found: FoundVolume) -> Sighting:
    volume = found.description
    now = fingerprint(volume)
    descriptor = open_visible(volume, os.O_RDONLY)
    if descriptor is not None:
        try:
            attribute = read_attribute(descriptor)
            header = read_header_token(os.pread(descriptor, HEADER_BYTES, 0))
        finally:
            os.close(descriptor)
        return Sighting(volume, is_seen=True, attribute=attribute, header=header, fingerprint=now)
    header = None
    if volume.physical > 0:
        # libvirt refuses to send what it is still building
        with suppress(HypervisorError, IllegalStateError):
            header = read_header_token(read_head(connection, found.volume, HEADER_BYTES))
    return Sighting(volume, is_seen=False, attribute=None, header=header, fingerprint=now)


def _of_place(pool: Pool, made: Artifact) -> Fingerprint | None:
    """What is known of the place of a file that is not there, as far as it was known when the file was made."""
    then = made.fingerprint
    if then is None:
        return None
    return Fingerprint(
        None,
        directory=None if then.directory is None else directory_inode(posixpath.dirname(made.path)),
        file_system_bytes=None if then.file_system_bytes is None else pool.capacity_bytes(),
    )
