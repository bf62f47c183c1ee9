"""qemu-img, which works on files that are open here, whatever is at their paths by now.

Source: https://www.qemu.org/docs/master/tools/qemu-img.html
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from virtomate.cancel import CancelToken

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
# glibc gives each large buffer of qemu-img back to the kernel at once, unless told otherwise (mallopt(3)): keeping
# them halves the time of a copy through a filter.
_KEEPING_BUFFERS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


class Outcome(NamedTuple):
    """How qemu-img ended: its exit status, and what it said apart from its progress."""

    status: int
    said: str

    @property
    def reason(self) -> str:
        """What qemu-img said, as the end of a sentence."""
        return " ".join(self.said.split()).removeprefix(f"{PROGRAM}: ") or "it said nothing"


def is_installed() -> bool:
    """Return whether there is a qemu-img here."""
    return shutil.which(PROGRAM) is not None


def run_qemu_img(
    words: Sequence[str],
    descriptors: Iterable[int],
    cancel: CancelToken,
    advance: Callable[[float], None] = lambda _share: None,
) -> Outcome:
    """Run qemu-img until its end; a signal kills it.

    Args:
        words: The command's words, in which `/proc/self/fd/N` stands for a file that is open here.
        descriptors: These files.
        cancel: Tells of signals.
        advance: Is told which share of the work is done, 0 to 1, if the words contain `-p`.

    Raises:
        InterruptedBySignalError: A signal arrived.
        OSError: There is no qemu-img.
    """
    tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), PROGRAM, *words]
    with subprocess.Popen(  # noqa: S603 - no shell reads the words
        tied,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=tuple(descriptors),
        env={**os.environ, **_KEEPING_BUFFERS, "LC_ALL": "C"},
        # Ctrl-C at a terminal is for this process
        process_group=0,
    ) as process:
        try:
            said = _follow(process, cancel, advance)
        except BaseException:
            process.kill()
            raise
        return Outcome(process.wait(), said)


def _follow(process: subprocess.Popen[bytes], cancel: CancelToken, advance: Callable[[float], None]) -> str:
    """Report progress until the process ends its output, and return what else it said; look for a signal meanwhile."""
    output = process.stdout
    if output is None:
        raise AssertionError("the output is a pipe")
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            cancel.check()
            if not selector.select(_LOOK_SECONDS):
                continue
            if not (piece := os.read(output.fileno(), _PIECE_BYTES)):
                return _SHARE.sub(b"", said).decode(errors="replace")
            said = (said + piece)[-_PIECE_BYTES:]
            if shares := _SHARE.findall(said):
                advance(float(shares[-1]) / 100)
