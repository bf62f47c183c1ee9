"""Entry point of the command line."""

import sys


def main() -> None:
    """Run virtomate and exit with its status."""
    from virtomate.cli import run  # noqa: PLC0415

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
