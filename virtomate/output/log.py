"""The log on stderr that --log asks for."""

from __future__ import annotations

import logging

from virtomate.output.json import dump
from virtomate.output.text import printable


class _JsonFormatter(logging.Formatter):
    """Lines of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return dump({"event": "log", "level": record.levelname.lower(), "message": text}, pretty=False)


class _PrintableFormatter(logging.Formatter):
    """Lines that cannot drive a terminal, wherever their text comes from."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).split("\n"))


def start_log(level: str, *, is_json: bool) -> None:
    """Log to stderr from a level on: `debug`, `info`, `warning` or `error`."""
    handler = logging.StreamHandler()
    as_text = _PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter("%(message)s") if is_json else as_text)
    logger = logging.getLogger("virtomate")
    logger.addHandler(handler)
    logger.setLevel(level.upper())


def log_traceback(error: Exception) -> None:
    """Log the traceback of an exception."""
    logging.getLogger("virtomate").debug("unforeseen", exc_info=error)
