"""Entry point of the command line."""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Run virtomate and exit with its status."""
    _replace_closed_streams()
    try:
        from virtomate.cli import run  # noqa: PLC0415 - so that Ctrl-C is understood this early

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    _end(status)


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


def _end(status: int) -> None:
    """End at once: to take everything apart takes Python as long as a tenth of a clone, and the kernel no time.

    What could not be written has been reported by now.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
