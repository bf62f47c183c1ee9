"""The log on stderr that --log asks for."""

from __future__ import annotations

import logging

from virtomate.output.json import dump
from virtomate.output.text import printable


class _JsonFormatter(logging.Formatter):
    """Lines for a front end, which reads every line of stderr as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return dump({"event": "log", "level": record.levelname.lower(), "message": text}, pretty=False)


class _PrintableFormatter(logging.Formatter):
    """Lines for a terminal, which nothing that came from a guest or a definition can drive."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).split("\n"))


def start_log(level: str, *, is_json: bool) -> None:
    """Log to stderr from a level on.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        is_json: Write each record as a JSON object.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter("%(message)s")
        if is_json
        else _PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logger = logging.getLogger("virtomate")
    logger.addHandler(handler)
    logger.setLevel(level.upper())


def log_traceback(error: Exception) -> None:
    """Log where an exception comes from."""
    logging.getLogger("virtomate").debug("unforeseen", exc_info=error)
