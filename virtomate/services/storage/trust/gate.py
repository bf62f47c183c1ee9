"""Finds out about the directories of pools how far they are trusted."""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from virtomate.definition.capabilities import qemu_users
from virtomate.definition.volume import describe_pool
from virtomate.enums import Transfer
from virtomate.errors import VirtomateError
from virtomate.services.storage.trust.rule import ROOT, Directory, Trust, admitted, assess, cautions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.definition.volume import PoolDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.notices import Notice

_PERMISSIONS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


class PoolGate:
    """Assesses directories of pools, each once in a run, by what libvirt tells and by what is seen here.

    Several threads may use it, each with a connection of its own.
    """

    def __init__(self, *, is_open: bool) -> None:
        self._is_open = is_open
        self._assessed: dict[str, Trust] = {}
        self._qemu_users: frozenset[int] | None = None

    def assess(self, connection: Connection, pool: Pool, description: PoolDescription) -> Trust:
        """Assess a pool's directory; `description` is what libvirt last told of the pool."""
        path = description.path or "/"
        if self._is_open:
            return Trust(path)
        if path not in self._assessed:
            self._assessed[path] = self._judge(connection, self._look(connection, pool, description))
        return self._assessed[path]

    def assess_here(self, connection: Connection, path: str) -> Trust:
        """Assess a directory over which there is no pool, as far as it can be seen from here."""
        seen = None if self._is_open else _seen(connection, path)
        return Trust(path) if seen is None else self._judge(connection, seen)

    def admit(
        self,
        connection: Connection,
        transfers: tuple[Transfer, ...],
        pools: Iterable[tuple[Pool, PoolDescription]],
        what: str,
    ) -> tuple[tuple[Transfer, ...], tuple[Notice, ...]]:
        """Return the transfers that may be used, the best first, and warnings of the directories.

        The pools are those in which files are written and read; `what` is duplicated: `disk vda`.

        Raises:
            IllegalStateError: None may be used.
        """
        assessed = [self.assess(connection, pool, description) for pool, description in pools]
        transfers = admitted(transfers, assessed, what)
        return transfers, () if transfers[0] is Transfer.HOST else cautions(assessed, what)

    def _look(self, connection: Connection, pool: Pool, description: PoolDescription) -> Directory:
        """Return the directory as it is now.

        libvirt tells what it saw when it last looked. Where that speaks against the directory, or is not what is seen
        here, it looks again. If it still sees something else, its daemon is in a container or behind a forwarded
        socket, and what is seen here is another directory.
        """
        told = _told(description)
        seen = _seen(connection, told.path)
        if seen is not None and _agree(seen, told):
            return seen
        is_in_doubt = seen is not None or bool(self._judge(connection, told).objections)
        if not is_in_doubt:
            return told
        if not pool.refresh():
            return seen or told
        told = _told(describe_pool(pool.document()))
        return seen if seen is not None and _agree(seen, told) else told

    def _judge(self, connection: Connection, directory: Directory) -> Trust:
        users = _own_users() if connection.is_local else set()
        owners = {place.owner for place in (directory, *directory.above)}
        if owners - users - {ROOT, None}:
            users |= self._users_of_qemu(connection)
        return assess(directory, users)

    def _users_of_qemu(self, connection: Connection) -> frozenset[int]:
        """Return the users that QEMU runs as; the document is large, so it is read only where it matters."""
        if self._qemu_users is None:
            self._qemu_users = frozenset()
            with suppress(VirtomateError):
                self._qemu_users = qemu_users(connection.capabilities())
        return self._qemu_users


def runs_unprivileged(connection: Connection) -> bool:
    """Return whether the daemon runs as an ordinary user, who cannot write to files of others through a link.

    To root, libvirt gives its system daemon under the name of a session as well.
    """
    return connection.is_session and not (connection.is_local and os.geteuid() == ROOT)


def _own_users() -> set[int]:
    """Who we are on this host, and who has become root for this command."""
    users = {os.geteuid()}
    if (invoker := os.environ.get("SUDO_UID", "")).isdecimal():
        users.add(int(invoker))
    return users


def _told(description: PoolDescription) -> Directory:
    return Directory(description.path or "/", description.owner, description.mode, description.group)


def _agree(seen: Directory, told: Directory) -> bool:
    return (seen.owner, (seen.mode or 0) & _PERMISSIONS) == (told.owner, told.mode)


def _seen(connection: Connection, path: str) -> Directory | None:
    """Return a directory of a local daemon, with those that it lies in, also behind symbolic links."""
    if not connection.is_local:
        return None
    try:
        place = Path(path)
        above = sorted({*place.parents, *place.resolve().parents})
        return _read(place)._replace(above=tuple(map(_read, above)))
    except (OSError, ValueError):
        return None


def _read(path: Path) -> Directory:
    status = path.stat()
    name = None
    if status.st_uid != ROOT:
        with suppress(KeyError):
            name = pwd.getpwuid(status.st_uid).pw_name
    return Directory(str(path), status.st_uid, stat.S_IMODE(status.st_mode), status.st_gid, name)
