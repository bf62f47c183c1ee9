"""Translation of libvirt's errors, by code and never by text.

Source: https://libvirt.org/html/libvirt-virterror.html
"""

from __future__ import annotations

import errno
import posixpath
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
)

if TYPE_CHECKING:
    from collections.abc import Iterator


_KINDS: tuple[tuple[set[int], type[VirtomateError]], ...] = (
    ({libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL}, NotFoundError),
    ({libvirt.VIR_ERR_DOM_EXIST, libvirt.VIR_ERR_STORAGE_VOL_EXIST}, ConflictError),
    ({libvirt.VIR_ERR_OPERATION_INVALID}, IllegalStateError),
)
# `DIR/././.`, which a temporary pool has for its directory
_REPETITIONS = r"(?<=[^\s'\"/])(?:/\.)+(?=[/'\":\s]|$)"
# the file that it was about
_QUOTED_PATH = r"'(/[^']*)'"
# a failed system call comes with its errno
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {
    libvirt.VIR_ERR_OPERATION_DENIED,
    libvirt.VIR_ERR_ACCESS_DENIED,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}


@contextmanager
def translating_errors(failure: str) -> Iterator[None]:
    """Raise libvirt's errors as ours.

    Args:
        failure: What did not work, as the beginning of a sentence: "cannot define domain 'web-1'".

    Raises:
        NotFoundError: The domain, pool or volume is not there.
        ConflictError: Its name is taken.
        IllegalStateError: It is in a state that does not allow it.
        ConnectionLostError: The connection broke.
        OversizeError: What was to be sent, or the answer, is too long.
        HypervisorError: Anything else.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, failure) from error


def translate(error: libvirt.libvirtError, failure: str) -> VirtomateError:
    """Return virtomate's error for an error of libvirt's."""
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
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() in _FULL:
        return NoSpaceError(message, hint="Make room on that file system, then run the command again.")
    if code in _NOT_ALLOWED:
        return HypervisorError(message, hint="Use an account that may manage this libvirt.", code=code)
    return HypervisorError(message, code=code)


def no_room(error: libvirt.libvirtError, what: str) -> NoSpaceError:
    """Return the error for something other than a volume that libvirt has no room for.

    Args:
        error: The error of libvirt's, of which `translate` makes a `NoSpaceError`.
        what: Such as `the definition of 'web-1'`.
    """
    message = one_line(error)
    found = re.search(_QUOTED_PATH, message)
    where = "the directory of libvirt's definitions" if found is None else f"'{posixpath.dirname(found[1])}'"
    return NoSpaceError(
        f"libvirt has no room for {what}: {message}",
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
