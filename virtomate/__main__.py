"""Entry point of the command line."""

import signal
import sys


def main() -> None:
    """Run virtomate and exit with its status."""
    try:
        from virtomate.cli import run  # noqa: PLC0415 - so that Ctrl-C is understood this early

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)


if __name__ == "__main__":
    main()
