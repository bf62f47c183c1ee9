"""The convert transfer: qemu-img copies an internal snapshot of a qcow2 image here, into the file of the new volume.

Source: https://www.qemu.org/docs/master/tools/qemu-img.html
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from virtomate.definition.volume import describe_volume
from virtomate.duplication import hostfs
from virtomate.duplication.host_images import forbid_writing
from virtomate.duplication.transfers.host import opened
from virtomate.errors import HypervisorError, NoSpaceError
from virtomate.hypervisor.storage import get_volume

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext

PROGRAM = "qemu-img"

# What qemu-img writes with -p: "    (12.34/100%)\r"
_SHARE = re.compile(rb"\(([0-9.]+)/100%\)")
_PIECE_BYTES = 4096
_LOOK_SECONDS = 0.1

# prctl(2): the kernel ends qemu-img (SIGKILL) when this process ends, which qemu-img would not notice.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def is_installed() -> bool:
    """Return whether there is a qemu-img here."""
    return shutil.which(PROGRAM) is not None


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Copy what the guest saw at the moment of an internal snapshot, and return the bytes that the new file takes.

    Raises:
        TransferUnavailableError: One of the files cannot be seen or opened here; nothing has been written.
        InterruptedBySignalError: A signal arrived.
        NoSpaceError: The file system is full.
        HypervisorError: qemu-img failed.
    """
    original = get_volume(context.connection, duplication.source.pool, duplication.source.name)
    volume = describe_volume(duplication.source.pool, original.document())
    with opened(volume, os.O_RDONLY) as source, opened(created, os.O_RDWR) as target:
        forbid_writing(source, volume.path)
        try:
            hostfs.match_copy_on_write(target, source)
            _run(_command(duplication, source, target), (source, target), duplication, context)
            os.fdatasync(target)
        except OSError as error:
            raise hostfs.write_failure(error, created.path) from error
        return os.fstat(target).st_blocks * 512


def _command(duplication: Duplication, source: int, target: int) -> list[str]:
    """Return the command; qemu-img opens the files that are open here, whatever is at their paths by now."""
    volume = duplication.source
    options = {"compat": volume.compat, "cluster_size": volume.cluster_size}
    options |= dict.fromkeys((name for name in ("lazy_refcounts", "extended_l2") if name in volume.features), "on")
    # the names of images below may be relative to the directory of the image
    read = volume.path if duplication.below else f"/proc/self/fd/{source}"
    name = (duplication.snapshot or "").replace(",", ",,")
    chosen = ",".join(f"{key}={value}" for key, value in options.items() if value is not None)
    words = ["convert", "-p", "-f", "qcow2", "-O", "qcow2", "-l", f"snapshot.name={name}"]
    return [PROGRAM, *words, *(("-o", chosen) if chosen else ()), read, f"/proc/self/fd/{target}"]


def _run(command: list[str], descriptors: tuple[int, ...], duplication: Duplication, context: TransferContext) -> None:
    tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
    with subprocess.Popen(  # noqa: S603 - no shell reads the words
        tied,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=descriptors,
        env={**os.environ, "LC_ALL": "C"},
        # Ctrl-C at a terminal is for this process
        process_group=0,
    ) as process:
        try:
            said = _follow(process, duplication, context)
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            raise _failure(duplication, said)


def _follow(process: subprocess.Popen[bytes], duplication: Duplication, context: TransferContext) -> str:
    """Report progress until the process ends its output, and return what else it said; look for a signal meanwhile."""
    output = process.stdout
    if output is None:
        raise AssertionError("the output is a pipe")
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            context.cancel.check()
            if not selector.select(_LOOK_SECONDS):
                continue
            if not (piece := os.read(output.fileno(), _PIECE_BYTES)):
                return _SHARE.sub(b"", said).decode(errors="replace")
            said = (said + piece)[-_PIECE_BYTES:]
            if shares := _SHARE.findall(said):
                done = int(float(shares[-1]) / 100 * duplication.total_bytes)
                context.progress.advanced(duplication.label, done)


def _failure(duplication: Duplication, said: str) -> HypervisorError | NoSpaceError:
    reason = " ".join(said.split()).removeprefix(f"{PROGRAM}: ") or "it said nothing"
    message = f"{PROGRAM} cannot copy snapshot '{duplication.snapshot}' of '{duplication.source.path}': {reason}"
    if os.strerror(errno.ENOSPC) in reason:
        return NoSpaceError(message, hint="Make room on the file system, then run the command again.")
    return HypervisorError(message)
