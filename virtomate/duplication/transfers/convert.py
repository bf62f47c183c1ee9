"""The convert transfer: qemu-img copies an internal snapshot of a qcow2 image here, into the file of the new volume."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication import hostfs
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.host_images import forbid_writing
from virtomate.duplication.qemu_img import PROGRAM, Outcome, run_qemu_img
from virtomate.duplication.transfers.host import opened
from virtomate.errors import HypervisorError, NoSpaceError, lack_of_room

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Copy what the guest saw at the moment of an internal snapshot, and return the bytes that the new file takes.

    Raises:
        TransferUnavailableError: One of the files cannot be seen or opened here; nothing has been written.
        InterruptedBySignalError: A signal arrived.
        NoSpaceError: The file system is full.
        HypervisorError: qemu-img failed.
    """
    original = context.get_original(duplication.source)
    volume = describe_volume(duplication.source.pool, original.document())

    def advance(share: float) -> None:
        context.progress.advanced(duplication.label, int(share * duplication.total_bytes))

    with opened(volume, os.O_RDONLY) as source, opened(created, os.O_RDWR) as target:
        forbid_writing(source, volume.path)
        try:
            hostfs.match_copy_on_write(target, source)
            outcome = run_qemu_img(_words(duplication, source, target), (source, target), context.cancel, advance)
            if outcome.status != 0:
                raise _failure(duplication, outcome)
            os.fdatasync(target)
        except OSError as error:
            raise write_failure(error, created.path) from error
        return os.fstat(target).st_blocks * 512


def _words(duplication: Duplication, source: int, target: int) -> list[str]:
    """Return the words of the command; qemu-img opens the files that are open here."""
    volume = duplication.source
    options = {"compat": volume.compat, "cluster_size": volume.cluster_size}
    options |= dict.fromkeys((name for name in ("lazy_refcounts", "extended_l2") if name in volume.features), "on")
    # the names of images below may be relative to the directory of the image
    read = volume.path if duplication.below else f"/proc/self/fd/{source}"
    name = (duplication.snapshot or "").replace(",", ",,")
    chosen = ",".join(f"{key}={value}" for key, value in options.items() if value is not None)
    words = ["convert", "-p", "-f", "qcow2", "-O", "qcow2", "-l", f"snapshot.name={name}"]
    return [*words, *(("-o", chosen) if chosen else ()), read, f"/proc/self/fd/{target}"]


def _failure(duplication: Duplication, outcome: Outcome) -> HypervisorError | NoSpaceError:
    reason = outcome.reason
    message = f"{PROGRAM} cannot copy snapshot '{duplication.snapshot}' of '{duplication.source.path}': {reason}"
    return lack_of_room(message) or HypervisorError(message)
