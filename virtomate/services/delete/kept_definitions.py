"""Definitions that libvirt does not take back, kept in a file of the user's until it does.

A definition may hold passwords, so nobody else can read the file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# of a character's four bytes at most, with what makes the file's name its own
_NAME_LENGTH = 50


def keep_definition(name: str, text: str) -> str | None:
    """Write a definition into a new file, where there is room: the user's state directory, else a temporary one.

    Args:
        name: Name of the domain.
        text: Its definition.

    Returns:
        The file's path, or None where it could be written nowhere.
    """
    for directory in (_state_directory, tempfile.gettempdir):
        try:
            return _write(directory(), name, text)
        except OSError:
            continue
    return None


def _state_directory() -> str:
    """Where programs keep what outlives a run (https://specifications.freedesktop.org/basedir-spec/latest/)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    place = Path(base) if base.startswith("/") else Path("~/.local/state").expanduser()
    place = place / "virtomate"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(place)


def _write(directory: str, name: str, text: str) -> str:
    prefix = f"{name[:_NAME_LENGTH].replace('/', '_')}-"
    descriptor, path = tempfile.mkstemp(prefix=prefix, suffix=".xml", dir=directory)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(path).unlink()
        raise
    return path
