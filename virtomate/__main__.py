"""Entry point of the command line."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


def main() -> None:
    """Run virtomate and exit with its status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # the command takes them over; before and after, nothing has to be cleaned up
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end_by_signal)
    _replace_closed_streams()
    from virtomate.cli import run  # noqa: PLC0415 - so that Ctrl-C is understood this early

    _end(run(sys.argv[1:]))


def _replace_closed_streams() -> None:
    """Put something in the place of streams that were closed for us, so that no socket of libvirt's gets their numbers.

    Nothing is read from stdin, what goes to stderr is lost, and a result that cannot be written to stdout is an error.
    """
    for stream, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, stream) is None:
            # the lowest number that is free
            setattr(sys, stream, os.fdopen(os.open(os.devnull, flags), mode))


def _end(status: int) -> NoReturn:
    """End at once: to take everything apart takes Python as long as a tenth of a clone, and the kernel no time.

    What could not be written has been reported by now.

    Args:
        status: The exit status, or the negative number of a signal.
    """
    if status < 0:
        # Everything is written at once, and what is left alone may still hold the stream: it is not to be waited for.
        _end_by_signal(-status)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _end_by_signal(number: int, _frame: FrameType | None = None) -> NoReturn:
    """End as who handles no signal ends, so that a shell stops the loop or script that it is in the midst of.

    Source: https://www.cons.org/cracauer/sigint.html
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # the first process of a container survives that
    os._exit(128 + number)


if __name__ == "__main__":
    main()
