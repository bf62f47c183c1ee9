"""Names for shells to complete: quickly, quietly, and without asking anybody anything."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from virtomate.definition import PROVENANCE_NAMESPACE
from virtomate.hypervisor.connection import connect_read_only

if TYPE_CHECKING:
    from typing import NoReturn

    from virtomate.hypervisor.connection import Connection

# with Python's own start this stays below a second
_LIMIT_SECONDS = 0.5
_SEPARATOR = "\0"


class Kind(Enum):
    """What has names."""

    DOMAIN = "domain"
    CLONE = "clone"
    POOL = "pool"


def list_names(kind: Kind, uri: str | None) -> list[str]:
    """Return the names of all domains, clones or storage pools, sorted; none where libvirt needs too long.

    A process of its own asks libvirt, since calls of libvirt cannot be interrupted. It has no terminal, so that nobody
    can be asked for a password, and everything that it started, such as ssh, ends with it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(kind, uri, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        names = stream.read().decode().split(_SEPARATOR)
    # the child keeps its number, which is that of its group, until it is asked for its status
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    # a terminal might obey what cannot be printed
    return [] if status else sorted(name for name in names if name and name.isprintable())


def _answer(kind: Kind, uri: str | None, writer: int) -> NoReturn:
    """In the child: write the names, and end without what Python does at an end; a timer ends it before."""
    try:
        signal.setitimer(signal.ITIMER_REAL, _LIMIT_SECONDS)
        os.setsid()
        with connect_read_only(uri) as connection, os.fdopen(writer, "wb") as stream:
            stream.write(_SEPARATOR.join(_find(kind, connection)).encode(errors="replace"))
        os._exit(0)
    finally:
        os._exit(1)


def _find(kind: Kind, connection: Connection) -> list[str]:
    if kind is Kind.POOL:
        from virtomate.hypervisor.storage import list_pools  # noqa: PLC0415 - either pools or domains are completed

        return [pool.name for pool in list_pools(connection)]
    from virtomate.hypervisor.domains import list_domains  # noqa: PLC0415 - as above

    domains = list_domains(connection)
    if kind is Kind.CLONE:
        domains = [domain for domain in domains if domain.metadata_element(PROVENANCE_NAMESPACE)]
    return [domain.name for domain in domains]
