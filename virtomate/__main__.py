"""Entry point of the command line."""

import os
import signal
import sys


def main() -> None:
    """Run virtomate and exit with its status."""
    try:
        from virtomate.cli import run  # noqa: PLC0415 - so that Ctrl-C is understood this early

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    _end(status)


def _end(status: int) -> None:
    """End at once: to take everything apart takes Python as long as a tenth of a clone, and the kernel no time."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        # closed or broken: Python knows what to say of that
        sys.exit(status)
    os._exit(status)


if __name__ == "__main__":
    main()
