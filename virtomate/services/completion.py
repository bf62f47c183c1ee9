"""Names for shells to complete: quickly, quietly, and without asking anybody anything."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from virtomate.definition import PROVENANCE_NAMESPACE
from virtomate.hypervisor.connection import connect_read_only
from virtomate.hypervisor.domains import list_domains
from virtomate.hypervisor.storage import list_pools

if TYPE_CHECKING:
    from typing import NoReturn

    from virtomate.hypervisor.connection import Connection

# with Python's own start this stays below a second
_LIMIT_SECONDS = 0.5
_CHUNK_BYTES = 1 << 16
_SEPARATOR = "\0"


class Kind(Enum):
    """What has names."""

    DOMAIN = "domain"
    CLONE = "clone"
    POOL = "pool"


def list_names(kind: Kind, uri: str | None) -> list[str]:
    """The names of all domains, clones or storage pools, sorted; none where they cannot be had in a moment.

    A process of its own asks libvirt. It has no terminal, so that nobody can be asked for a password, and it is ended
    with everything that it started, such as ssh, when it takes too long: calls of libvirt cannot be interrupted.

    Args:
        kind: What has the names.
        uri: libvirt's URI; None lets libvirt decide.
    """
    deadline = time.monotonic() + _LIMIT_SECONDS
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(kind, uri, writer)
    os.close(writer)
    try:
        answer = _read(reader, deadline)
    finally:
        os.close(reader)
        # It leads a group, unless it has not come so far.
        for end in (os.killpg, os.kill):
            with suppress(OSError):
                end(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # A terminal might obey what cannot be printed.
    return sorted(name for name in answer.decode().split(_SEPARATOR) if name and name.isprintable())


def _answer(kind: Kind, uri: str | None, writer: int) -> NoReturn:
    """In the child: write the names, and end without what Python does at an end."""
    status = 1
    try:
        os.setsid()
        with connect_read_only(uri) as connection:
            answer = memoryview(_SEPARATOR.join(_find(kind, connection)).encode(errors="replace"))
        while answer:
            answer = answer[os.write(writer, answer) :]
        status = 0
    finally:
        os._exit(status)


def _find(kind: Kind, connection: Connection) -> list[str]:
    if kind is Kind.POOL:
        return [pool.name for pool in list_pools(connection)]
    domains = list_domains(connection)
    if kind is Kind.CLONE:
        domains = [domain for domain in domains if domain.has_metadata(PROVENANCE_NAMESPACE)]
    return [domain.name for domain in domains]


def _read(reader: int, deadline: float) -> bytes:
    """Everything that is written until the other end is closed; nothing if that comes too late."""
    parts: list[bytes] = []
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reader, _CHUNK_BYTES)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""
