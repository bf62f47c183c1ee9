"""What the token and the fingerprint of a file prove of an artifact.

Nothing is removed because of its name, path or age, or because a record lists it.
"""

from __future__ import annotations

import posixpath
from enum import StrEnum
from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import nanoseconds
from virtomate.enums import ArtifactKind, ArtifactState, TokenPlace, Transfer
from virtomate.services.storage.pools import is_temporary
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, virsh

if TYPE_CHECKING:
    from virtomate.definition.provenance import Artifact, Fingerprint
    from virtomate.definition.volume import VolumeDescription


class Verdict(StrEnum):
    """What can be said of the file at an artifact's path.

    `proved`: the file bears the clone's token. `unproved`: the file may be the artifact, but nothing that can be read
    says so. `empty`: a run was killed between the making of the file and its first byte. `foreign`: the file certainly
    is something else. `gone`: there is no file. `away`: there is no file, and its directory is another one than before.
    """

    PROVED = "proved"
    UNPROVED = "unproved"
    EMPTY = "empty"
    FOREIGN = "foreign"
    GONE = "gone"
    AWAY = "away"


_NOUNS = {
    ArtifactKind.VOLUME: "volume",
    ArtifactKind.NVRAM: "NVRAM",
    ArtifactKind.SEED: "seed",
    ArtifactKind.CREDENTIAL: "credential",
    ArtifactKind.TPM: "TPM state",
    ArtifactKind.TPM_SOURCE: "TPM state",
}

# What a run may remove that it made a moment ago; and what it may remove that it was about to make when that failed.
OWN = frozenset({Verdict.PROVED, Verdict.UNPROVED, Verdict.EMPTY})
BEGUN = frozenset({Verdict.PROVED, Verdict.EMPTY})


class Sighting(NamedTuple):
    """What is at an artifact's path now.

    Attributes:
        volume: The volume as libvirt describes it, None if there is none.
        is_seen: Whether its file can be read here.
        attribute: Token in the extended attribute of a file that is seen.
        header: Token in the header of an overlay, or in the file system of a seed.
        fingerprint: Fingerprint of the file, or of its place if there is no file.
        is_blank: Whether the file certainly reads as zeroes from its begin to its end.
    """

    volume: VolumeDescription | None
    is_seen: bool = False
    attribute: str | None = None
    header: str | None = None
    fingerprint: Fingerprint | None = None
    is_blank: bool = False


class Judgement(NamedTuple):
    """What is proved of an artifact.

    Attributes:
        reason: Why nothing is proved, as the end of a sentence about the file.
        volume: The file as it is now, None if there is none.
        hint: What to do about a file that cannot be looked at.
        may_be_gone: Whether a file that cannot be looked at may have been removed by somebody.
    """

    verdict: Verdict
    reason: str = ""
    volume: VolumeDescription | None = None
    hint: str | None = None
    may_be_gone: bool = False


def contradicts(made: Fingerprint, now: Fingerprint) -> bool:
    """Return whether two fingerprints certainly are not of one file."""
    if made.key is not None or now.key is not None:
        return made.key != now.key
    if made.inode is not None and now.inode is not None:
        births = {made.birth_time, now.birth_time} - {None}
        return made.inode != now.inode or len(births) > 1
    if made.changed is None or now.changed is None:
        return False
    return nanoseconds(now.changed) < nanoseconds(made.changed)


def is_same_device(made: Fingerprint | None, now: Fingerprint | None) -> bool:
    """Return whether two fingerprints certainly are of one device: each new logical volume has a new UUID."""
    return made is not None and now is not None and made.key is not None and made.key == now.key


def judge(made: Artifact, token: str | None, sighting: Sighting) -> Judgement:
    """Say whether the file at an artifact's path is the one that cloning made; records of 0.2.0 have no token."""
    volume = sighting.volume
    if volume is None:
        return judge_absence(made, sighting.fingerprint)
    is_other = made.fingerprint is not None and contradicts(made.fingerprint, sighting.fingerprint or made.fingerprint)
    if volume.path != made.path or posixpath.basename(made.path) != made.volume:
        verdict, reason = Verdict.FOREIGN, f"is not where storage pool '{made.pool}' has that volume now"
    elif is_same_device(made.fingerprint, sighting.fingerprint):
        verdict, reason = Verdict.PROVED, ""
    elif token is not None and token in {sighting.attribute, sighting.header}:
        verdict, reason = (Verdict.UNPROVED, "is a copy of what was made") if is_other else (Verdict.PROVED, "")
    elif sighting.attribute is not None or (made.kind is ArtifactKind.SEED and sighting.header is not None):
        verdict, reason = Verdict.FOREIGN, "was made for another clone"
    elif is_other:
        verdict, reason = Verdict.FOREIGN, "is another file than the one that was made"
    else:
        verdict, reason = _judge_without_token(made, volume, sighting)
    return Judgement(verdict, reason, volume)


def _judge_without_token(made: Artifact, volume: VolumeDescription, sighting: Sighting) -> tuple[Verdict, str]:
    """Judge a file on which no token can be read; return verdict and reason."""
    is_planned = made.state is ArtifactState.PLANNED
    is_early = is_planned or made.token_place is TokenPlace.HEADER
    # libvirt may not know the size of a device
    has_no_length = volume.physical == 0 and not volume.is_device
    if (is_early and has_no_length) or (is_planned and sighting.is_blank):
        return Verdict.EMPTY, "is empty"
    if made.token_place is TokenPlace.HEADER or (made.token_place is TokenPlace.ATTRIBUTE and sighting.is_seen):
        return Verdict.FOREIGN, "does not bear the clone's token"
    if not is_planned:
        return Verdict.UNPROVED, "bears no token that can be read here"
    if volume.is_device:
        # nothing tells a device that this run made from one that somebody else made at the same moment
        return Verdict.UNPROVED, "may be a device that was made for this clone"
    is_far = made.transfer is Transfer.STREAM and not sighting.is_seen
    if is_far or made.transfer in {Transfer.SERVER, Transfer.BACKUP}:
        return Verdict.UNPROVED, "may be a copy that libvirt did not finish"
    return Verdict.FOREIGN, "was not made for this clone"


def judge_absence(made: Artifact, now: Fingerprint | None) -> Judgement:
    """Tell a file that is gone from one whose file system is not mounted, and a device from one that is not active."""
    then = made.fingerprint
    if then is not None and then.key is not None and now is not None:
        return Judgement(
            Verdict.AWAY,
            "is not there, and may be one of the volumes in its volume group that are not active",
            hint=f"Activate the volume on libvirt's host: lvchange --activate y {shell_word(made.path)}.",
            may_be_gone=True,
        )
    if then is not None and now is not None:
        for before, today in ((then.directory, now.directory), (then.file_system_bytes, now.file_system_bytes)):
            if before is not None and today is not None and before != today:
                return Judgement(
                    Verdict.AWAY,
                    "is not there, and its directory is another one than it was",
                    hint=f"Mount the file system of '{posixpath.dirname(made.path)}', then run the command again.",
                    may_be_gone=True,
                )
    return Judgement(Verdict.GONE)


def may_be_named(made: Artifact, verdict: Verdict, sighting: Sighting) -> bool:
    """Return whether a clone's definition may name the file at an artifact's path.

    Where no token could be put, a file that was seen here must be seen again: libvirt follows a symbolic link that has
    taken its place, and tells of what the link leads to.
    """
    if verdict is Verdict.PROVED or made.token_place is not None:
        return verdict is Verdict.PROVED
    then, now = made.fingerprint, sighting.fingerprint
    is_hidden = then is not None and then.inode is not None and (now is None or now.inode is None)
    return verdict is Verdict.UNPROVED and not is_hidden


def delete_command(made: Artifact) -> str:
    """Return the command that deletes the volume of an artifact, whatever it holds."""
    if is_temporary(made.pool):
        return f"rm {shell_word(made.path)}"
    return virsh("vol-delete", made.volume or "", options=f"--pool {shell_word(made.pool)}")


def name_artifact(made: Artifact) -> str:
    """Return a phrase that names an artifact."""
    if made.kind is ArtifactKind.POOL:
        return f"temporary storage pool '{made.pool}'"
    return f"{_NOUNS[made.kind]} '{made.path}'"
