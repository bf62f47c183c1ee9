"""Entry point of the command line."""

from __future__ import annotations

# built into the interpreter, so that there is nothing to load
import _signal  # type: ignore[import-not-found]

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # no traceback for Ctrl-C during the imports
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_OBJECTS_BEFORE_COLLECTION = 50_000


def main() -> None:
    """Run virtomate and exit with its status."""
    # what imports make is never garbage, and looking for it takes 5 % of a linked clone
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # the command handles signals while it works; before and after, there is nothing to clean up
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end_by_signal)
    _replace_closed_streams()
    from virtomate.cli import run  # noqa: PLC0415 - so that Ctrl-C is understood this early

    _end(run(sys.argv[1:]))


def _replace_closed_streams() -> None:
    """Replace standard streams that the caller closed, so that no socket of libvirt's gets their file descriptors.

    stdin is empty, stderr is discarded, and writing to stdout is an error.
    """
    for stream, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, stream) is None:
            # the lowest free number
            setattr(sys, stream, os.fdopen(os.open(os.devnull, flags), "r" if stream == "stdin" else "w"))


def _end(status: int) -> NoReturn:
    """End with an exit status or the negative number of a signal, without the interpreter's shutdown.

    The shutdown takes about 10 % of a linked clone.
    """
    if status < 0:
        # results are flushed when they are written, and an abandoned thread may hold a stream's lock
        _end_by_signal(-status)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _end_by_signal(number: int, _frame: FrameType | None = None) -> NoReturn:
    """End by the signal itself, so that a shell stops its loop or script.

    Source: https://www.cons.org/cracauer/sigint.html
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # the first process of a container survives the signal
    os._exit(128 + number)


if __name__ == "__main__":
    main()
