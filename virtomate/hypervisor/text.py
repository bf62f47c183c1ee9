"""Text from libvirt that may hold what a guest wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.names import NOT_XML

if TYPE_CHECKING:
    from collections.abc import Callable

_REPLACEMENT = "\ufffd"


def sanitise(describe: Callable[[], str]) -> str:
    """Return a description, with U+FFFD for what no document can hold.

    libvirt copies the path of a backing file from an image, even from the raw disk of a guest, and its binding expects
    UTF-8.
    """
    try:
        text = str(describe())
    except UnicodeDecodeError as error:
        text = bytes(error.object).decode(errors="replace")
    return NOT_XML.sub(_REPLACEMENT, text)
