"""Text from libvirt that may hold what a guest wrote."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_REPLACEMENT = "\ufffd"
# What XML cannot hold: https://www.w3.org/TR/xml/#charsets
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def sanitise(describe: Callable[[], str]) -> str:
    """A description, with U+FFFD for what no document can hold.

    Libvirt puts the path of a backing file into it as it finds it in an image, be it the raw disk of a guest that wrote
    something there, and its binding takes all of it for UTF-8.
    """
    try:
        text = str(describe())
    except UnicodeDecodeError as error:
        text = bytes(error.object).decode(errors="replace")
    return _NO_XML.sub(_REPLACEMENT, text)
