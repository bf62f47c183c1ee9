"""Text from libvirt that may hold what a guest wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.names import NOT_XML

if TYPE_CHECKING:
    from collections.abc import Callable

_REPLACEMENT = "\ufffd"


def sanitise(describe: Callable[[], str]) -> str:
    """A description, with U+FFFD for what no document can hold.

    Libvirt puts the path of a backing file into it as it finds it in an image, be it the raw disk of a guest that wrote
    something there, and its binding takes all of it for UTF-8.
    """
    try:
        text = str(describe())
    except UnicodeDecodeError as error:
        text = bytes(error.object).decode(errors="replace")
    return NOT_XML.sub(_REPLACEMENT, text)
