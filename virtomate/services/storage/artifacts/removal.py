"""The removal of what cloning made, and of nothing else."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from virtomate.duplication.host_images import alone_with, loop_device_over
from virtomate.errors import ConflictError, HypervisorError, IllegalStateError, NotFoundError
from virtomate.hypervisor.storage import find_pool
from virtomate.services.storage.artifacts.looking import bears_token_here, pool_cure, sight, why_not_in
from virtomate.services.storage.artifacts.places import over_directory, over_directory_of
from virtomate.services.storage.artifacts.proof import Verdict, is_same_device, judge, name_artifact
from virtomate.services.storage.pools import find_entry, is_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from virtomate.definition.provenance import Artifact
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume
    from virtomate.services.storage.pools import PoolEntry

# LVM itself tries for 5 seconds before it refuses, unless its configuration says otherwise.
_MOST_REFUSALS = 2
# What swtpm puts into the directory with the state of a TPM (swtpm_nvstore_dir.c).
_OF_TPM = re.compile(r"\.lock|(tpm|TMP)2?-[0-9a-f]{2}\.(permall|savestate|volatilestate)")


def remove_artifact(
    connection: Connection,
    made: Artifact,
    token: str | None,
    accepted: Collection[Verdict],
    turns: Iterable[object],
) -> bool:
    """Remove an artifact from its storage pool; return whether it was there, since it may only have been planned.

    Args:
        connection: Where the artifact is.
        made: The artifact.
        token: Token of the clone's artifacts.
        accepted: The verdicts that are enough.
        turns: What `backoff` yields: when to try while libvirt is still building the artifact.

    Raises:
        ConflictError: The file is not certainly the artifact; it is left alone.
        IllegalStateError: Its storage pool or its directory is not there, and it is not proved without them.
        VirtomateError: It cannot be removed.
    """
    was_there = False

    def find() -> Volume | None:
        nonlocal was_there
        sighting, volume = sight(connection, known, made)
        judgement = judge(made, token, sighting)
        if judgement.verdict is Verdict.GONE or (judgement.verdict is Verdict.AWAY and was_there):
            return None
        if judgement.verdict is Verdict.AWAY:
            raise IllegalStateError(f"it {judgement.reason}")
        if judgement.verdict not in accepted:
            raise ConflictError(f"it {judgement.reason}, and is left alone")
        was_there = True
        if judgement.volume is not None and judgement.volume.is_directory and judgement.verdict is not Verdict.EMPTY:
            _clear_state(connection, made)
        return volume

    with _pool_of(connection, made, token) as known:
        _delete_when_idle(find, turns, _MOST_REFUSALS if _is_device(made) else 0)
    return was_there


def _clear_state(connection: Connection, made: Artifact) -> None:
    """Remove the files of an emulated TPM from its directory; other files stay, and keep the directory."""
    with over_directory(connection, made.path) as known:
        for volume in known.pool.list_volumes():
            if _OF_TPM.fullmatch(volume.name):
                volume.delete()


def _delete_when_idle(find: Callable[[], Volume | None], turns: Iterable[object], most_refusals: int) -> None:
    """Delete a volume; libvirt refuses while that volume, or another in the pool, is being built, or a device is open.

    In each turn `find` looks the volume up and identifies it, or returns None where the volume is gone.

    Raises:
        IllegalStateError: The volume was still in use in the last turn.
        HypervisorError: libvirt cannot delete the volume.
    """
    busy: VirtomateError | None = None
    refusals = 0
    for _ in turns:
        volume = find()
        if volume is None:
            return
        try:
            volume.delete()
        except NotFoundError:
            return
        except IllegalStateError as error:
            # "still being allocated"
            busy = error
        except HypervisorError as error:
            # LVM removes no volume that something has open, such as udev for a moment
            refusals += 1
            if refusals > most_refusals:
                raise
            busy = error
        else:
            return
    raise busy or ValueError("no turn was given")


@contextmanager
def _pool_of(connection: Connection, made: Artifact, token: str | None) -> Iterator[PoolEntry]:
    """The storage pool of an artifact; a temporary one over its directory, if its own pool does not have it now."""
    known = find_entry(connection, made.pool)
    objection = why_not_in(made, known)
    if known is not None and objection is None:
        yield known
        return
    if not (is_temporary(made.pool) or bears_token_here(made, token)):
        raise IllegalStateError(f"it {objection}", hint=pool_cure(made, known))
    with over_directory_of(connection, made) as known:
        yield known


@contextmanager
def locked(connection: Connection, artifacts: Iterable[Artifact], token: str | None) -> Iterator[None]:
    """Keep QEMU, its tools and other runs from opening artifacts seen here; raise IllegalStateError if one is used."""
    with ExitStack() as stack:
        for made in artifacts:
            if _is_here(connection, made, token):
                stack.enter_context(alone_with(made.path))
                if (device := loop_device_over(made.path)) is not None:
                    raise IllegalStateError(
                        f"{name_artifact(made)} is the content of loop device '{device}'",
                        hint=f"Detach the device first: losetup --detach {device}",
                    )
            elif connection.is_local and _is_used_device(connection, made):
                raise IllegalStateError(
                    f"{name_artifact(made)} is mounted or otherwise in use on this host",
                    hint="Unmount it, or end what uses it, then run the command again.",
                )
        yield


def _is_here(connection: Connection, made: Artifact, token: str | None) -> bool:
    """Return whether the file at an artifact's path here is that of the daemon."""
    if bears_token_here(made, token):
        return True
    known = find_entry(connection, made.pool)
    return known is not None and known.is_active and sight(connection, known, made)[0].is_seen


def _is_device(made: Artifact) -> bool:
    """Return whether an artifact is a device with a key of its own."""
    return made.fingerprint is not None and made.fingerprint.key is not None


def _is_used_device(connection: Connection, made: Artifact) -> bool:
    """Return whether an artifact is a device that this host uses: LVM would not remove it, but the others are gone."""
    if not _is_device(made):
        return False
    from virtomate.duplication.devices import is_used_device  # noqa: PLC0415 - few artifacts are devices

    known = find_entry(connection, made.pool)
    if known is None or not known.is_active or why_not_in(made, known) is not None:
        return False
    sighting, _ = sight(connection, known, made)
    return is_same_device(made.fingerprint, sighting.fingerprint) and is_used_device(made.path)


def stop_temporary_pool(connection: Connection, made: Artifact) -> bool:
    """Stop a temporary pool of a killed run; return whether it was there, or raise ConflictError for other pools."""
    if not is_temporary(made.pool):
        raise ConflictError("that is not the name of a temporary pool")
    pool = find_pool(connection, made.pool)
    if pool is None:
        return False
    if pool.is_persistent():
        raise ConflictError("it is not a temporary pool")
    pool.stop()
    return True
