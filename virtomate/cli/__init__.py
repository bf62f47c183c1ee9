"""The command line: parse, call one service, hand its record to output."""

from virtomate.cli.root import run

__all__ = ["run"]
