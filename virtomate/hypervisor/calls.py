"""The calls of libvirt's that have not returned, and who has to answer them."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BINDINGS = {"libvirt", "libvirt_qemu"}
# The event loop waits in its call all the time, and libvirt copies a volume for as long as the copy takes.
_LONG_CALLS = {"virEventRunDefaultImpl", "createXMLFrom"}

# Who was asked, by the thread that waits for the answer.
_asked: dict[int, str] = {}


@contextmanager
def asking(who: str) -> Iterator[None]:
    """Remember, during the block, that libvirt passes the calls of this thread on, and to whom: a phrase."""
    thread = threading.get_ident()
    _asked[thread] = who
    try:
        yield
    finally:
        del _asked[thread]


def calls_in_progress() -> Mapping[object, str | None]:
    """Return a mark for each call of libvirt's that has not returned, with who has to answer; None for libvirt itself.

    The mark is the call's frame in libvirt's binding, and a call keeps it. Calls that may take any time have none.
    """
    # first, since a call that begins meanwhile is looked at again anyway, and one that ends meanwhile is not
    asked = dict(_asked)
    frames = sys._current_frames().items()  # noqa: SLF001 - the way of the standard library's own `faulthandler`
    return {
        frame: asked.get(thread)
        for thread, frame in frames
        if frame.f_globals.get("__name__") in _BINDINGS and frame.f_code.co_name not in _LONG_CALLS
    }
