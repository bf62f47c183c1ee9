"""Translation of libvirt's errors, by code and never by text, and of text that may hold what a guest wrote.

Source: https://libvirt.org/html/libvirt-virterror.html
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import libvirt

from virtomate.errors import (
    ConflictError,
    ConnectionLostError,
    HypervisorError,
    IllegalStateError,
    NoSpaceError,
    NotFoundError,
    OversizeError,
    VirtomateError,
    lack_of_room,
)
from virtomate.names import NOT_XML

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Answer = TypeVar("Answer")

_KINDS: tuple[tuple[set[int], type[VirtomateError]], ...] = (
    ({libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL}, NotFoundError),
    ({libvirt.VIR_ERR_DOM_EXIST, libvirt.VIR_ERR_STORAGE_VOL_EXIST}, ConflictError),
    ({libvirt.VIR_ERR_OPERATION_INVALID}, IllegalStateError),
)
# `DIR/././.`, the directory of a temporary pool
_REPETITIONS = r"(?<=[^\s'\"/])(?:/\.)+(?=[/'\":\s]|$)"
# the file that an error is about
_QUOTED_PATH = r"'(/[^']*)'"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {
    libvirt.VIR_ERR_OPERATION_DENIED,
    libvirt.VIR_ERR_ACCESS_DENIED,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}
_REPLACEMENT = "\ufffd"


@contextmanager
def translating_errors(failure: str) -> Iterator[None]:
    """Raise libvirt's errors as ours.

    Args:
        failure: The beginning of a sentence that says what did not work: "cannot define domain 'web-1'".

    Raises:
        NotFoundError: The domain, pool or volume is not there.
        ConflictError: The name is taken.
        IllegalStateError: The state of the domain, pool or volume does not allow the call.
        ConnectionLostError: The connection broke.
        OversizeError: The request or the answer is too long.
        HypervisorError: Anything else.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, failure) from error


def look_up(ask: Callable[[], Answer], failure: str, *absent: int) -> Answer | None:
    """Return libvirt's answer; None for an error with a code in `absent`; see `translating_errors` for other errors."""
    try:
        return ask()
    except libvirt.libvirtError as error:
        if error.get_error_code() in absent:
            return None
        raise translate(error, failure) from error


def translate(error: libvirt.libvirtError, failure: str, new: str = "") -> VirtomateError:
    """Return virtomate's error for an error of libvirt's.

    Args:
        error: The error.
        failure: See `translating_errors`.
        new: What was to be written where libvirt keeps its own files, such as `the definition of 'web-1'`.
    """
    code = error.get_error_code()
    import logging  # noqa: PLC0415 - completion fails quietly, and need not load it

    log = logging.getLogger(__name__)
    log.debug("%s: libvirt error %s of domain %s: %s", failure, code, error.get_error_domain(), error)
    message = f"{failure}: {one_line(error)}"
    for codes, kind in _KINDS:
        if code in codes:
            return kind(message)
    if code == libvirt.VIR_ERR_RPC and error.get_error_domain() == libvirt.VIR_FROM_RPC:
        # "unable to encode message payload", by us or by the daemon
        return OversizeError(f"{failure}: it is longer than libvirt can send ({one_line(error)})", code=code)
    if _is_loss(error):
        return ConnectionLostError(
            f"{failure}: the connection to libvirt was lost ({one_line(error)})",
            hint="Check that the daemon and the network are up, then try again.",
            code=code,
        )
    if (lack := _lack_of_room(error, message)) is not None:
        return _no_room(error, new) if new else lack
    hint = "Use an account that may manage this libvirt." if code in _NOT_ALLOWED else None
    return HypervisorError(message, hint=hint, code=code)


def _lack_of_room(error: libvirt.libvirtError, message: str) -> NoSpaceError | None:
    """Return the error for a full file system or an exceeded quota; None for another failure.

    A failed system call comes with its errno, and a daemon may speak another language. Of a program that libvirt runs,
    such as qemu-img, only the text tells.
    """
    is_call = error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR
    if is_call and error.get_int1() in _FULL and (reason := os.strerror(error.get_int1())) not in message:
        message = f"{message} ({reason})"
    return lack_of_room(message, "that file system")


def _no_room(error: libvirt.libvirtError, new: str) -> NoSpaceError:
    message = one_line(error)
    found = re.search(_QUOTED_PATH, message)
    where = "the directory of libvirt's definitions" if found is None else f"'{posixpath.dirname(found[1])}'"
    return NoSpaceError(
        f"libvirt has no room for {new}: {message}",
        hint=f"Make room in {where} on libvirt's host, then run the command again.",
    )


def _is_loss(error: libvirt.libvirtError) -> bool:
    """Return whether the error comes from the link and not from the daemon.

    The client raises plain internal and system errors in the RPC domain. The daemon's answers never have that domain,
    except for refused authentication and for messages that are too long.
    """
    of_link = {libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_NO_CONNECT}
    code = error.get_error_code()
    is_of_link = error.get_error_domain() == libvirt.VIR_FROM_RPC and code in of_link
    return is_of_link or code == libvirt.VIR_ERR_INVALID_CONN


def one_line(error: libvirt.libvirtError) -> str:
    """Return libvirt's message in one line, with directories of temporary pools in their plain spelling."""
    message = " ".join(str(error.get_error_message() or error).split())
    return re.sub(_REPETITIONS, "", message)


def sanitise(describe: Callable[[], str]) -> str:
    """Return a description, with U+FFFD for characters that no document can hold.

    libvirt copies the path of a backing file from an image, even from the raw disk of a guest, and its binding expects
    UTF-8.
    """
    try:
        text = str(describe())
    except UnicodeDecodeError as error:
        text = bytes(error.object).decode(errors="replace")
    return NOT_XML.sub(_REPLACEMENT, text)
