"""Trust: whether others could put a symbolic link into a pool's directory, where libvirt writes.

libvirt looks a volume up by its path each time, and follows whatever link stands there by then. Whoever may write to
the directory can therefore have a libvirt that runs as root overwrite any file of the host, or read one into a clone.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.readers import qemu_users
from virtomate.definition.volume import describe_pool
from virtomate.enums import Transfer
from virtomate.errors import IllegalStateError, VirtomateError
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtomate.definition.volume import PoolDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool

_ROOT = 0
_PERMISSIONS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


class Directory(NamedTuple):
    """What is known of a directory; None stands for what is not known.

    Attributes:
        owner: User ID.
        mode: Permission bits, without a sticky bit where libvirt told them.
        group: Group ID.
        owner_name: Name of the user.
        above: The directories that it lies in, as far as they are known.
    """

    path: str
    owner: int | None
    mode: int | None
    group: int | None = None
    owner_name: str | None = None
    above: tuple[Directory, ...] = ()


class Trust(NamedTuple):
    """How far a directory is trusted.

    Attributes:
        objections: Why libvirt must not write there, each the end of a sentence about the directory.
        remedies: The commands that remove the objections.
        cautions: What else to know about the directory, each the end of a sentence about it.
    """

    path: str
    objections: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


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
        """Assess a directory that is in no pool, as far as it can be seen from here."""
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

        The pools are those in which files are written and read; `what` is duplicated: `disk vda`. Raise
        IllegalStateError if no transfer may be used.
        """
        return admit(transfers, [self.assess(connection, pool, description) for pool, description in pools], what)

    def _look(self, connection: Connection, pool: Pool, description: PoolDescription) -> Directory:
        """Return the directory as it is now.

        libvirt tells what it saw at its last refresh. If that speaks against the directory, or differs from what is
        seen here, libvirt refreshes the pool. If libvirt still sees something else, its daemon is in a container or
        behind a forwarded socket, and what is seen here is another directory.
        """
        told = _told(description)
        seen = _seen(connection, told.path)
        if seen is not None and _agree(seen, told):
            return seen
        if seen is None and not self._judge(connection, told).objections:
            return told
        if not pool.refresh():
            return seen or told
        told = _told(describe_pool(pool.document()))
        return seen if seen is not None and _agree(seen, told) else told

    def _judge(self, connection: Connection, directory: Directory) -> Trust:
        users = _own_users() if connection.is_local else set()
        owners = {place.owner for place in (directory, *directory.above)}
        if owners - users - {_ROOT, None}:
            users |= self._users_of_qemu(connection)
        return assess(directory, users)

    def _users_of_qemu(self, connection: Connection) -> frozenset[int]:
        """Return the users that QEMU runs as; the document is large, so it is read only where it matters."""
        if self._qemu_users is None:
            self._qemu_users = frozenset()
            with suppress(VirtomateError):
                self._qemu_users = qemu_users(connection.capabilities())
        return self._qemu_users


def assess(directory: Directory, users: Iterable[int]) -> Trust:
    """Say how far a directory is trusted that root or one of the users may own; what is not known does not count."""
    trusted = {_ROOT, *users}
    objections, remedies = _objections(directory, trusted)
    cautions = []
    mode = directory.mode or 0
    if mode & stat.S_IWGRP and not mode & (stat.S_ISVTX | stat.S_IWOTH):
        cautions.append(f"can be written to by group {directory.group} (mode {mode:04o})")
    for above in directory.above:
        reasons, _ = _objections(above, trusted)
        cautions += [f"lies in '{above.path}', which {reason}" for reason in reasons]
    return Trust(directory.path, tuple(objections), tuple(remedies), tuple(cautions))


def _objections(directory: Directory, trusted: set[int]) -> tuple[list[str], list[str]]:
    objections, remedies = [], []
    path = shell_word(directory.path)
    if directory.owner is not None and directory.owner not in trusted:
        name = "" if directory.owner_name is None else f" ({directory.owner_name})"
        objections.append(f"belongs to user {directory.owner}{name}")
        remedies.append(f"chown root {path}")
    mode = directory.mode or 0
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        objections.append(f"can be written to by everybody (mode {mode:04o})")
        remedies.append(f"chmod o-w {path}")
    return objections, remedies


def admit(
    transfers: tuple[Transfer, ...], assessed: Sequence[Trust], what: str
) -> tuple[tuple[Transfer, ...], tuple[Notice, ...]]:
    """Return the transfers that may be used, the best first, and warnings of the directories, see `admitted`."""
    transfers = admitted(transfers, assessed, what)
    return transfers, () if transfers[0] is Transfer.HOST else cautions(assessed, what)


def admitted(transfers: tuple[Transfer, ...], assessed: Iterable[Trust], what: str) -> tuple[Transfer, ...]:
    """Return the transfers that may be used: in a directory that is not trusted, only those of this process.

    Raise IllegalStateError if no transfer may be used.
    """
    trust = next((trust for trust in assessed if trust.objections), None)
    if trust is None:
        return transfers
    if Transfer.HOST in transfers:
        return (Transfer.HOST,)
    raise IllegalStateError(
        f"{what}: libvirt would follow a symbolic link that somebody else puts into '{trust.path}', which "
        f"{' and '.join(trust.objections)}",
        hint=f"Make the directory safe ({'; '.join(trust.remedies)}), use another pool, or give --trust-pool if you "
        "trust whoever can write there.",
    )


def cautions(assessed: Iterable[Trust], what: str) -> tuple[Notice, ...]:
    """Return warnings of directories in which libvirt opens files."""
    return tuple(
        notice(CloneWarning.WRITABLE_DIRECTORY, what, directory=trust.path, reason=caution)
        for trust in assessed
        for caution in trust.cautions
    )


def runs_unprivileged(connection: Connection) -> bool:
    """Return whether the daemon runs as an ordinary user, who cannot write to files of others through a link.

    libvirt gives root its system daemon under the name of a session as well.
    """
    return connection.is_session and not (connection.is_local and os.geteuid() == _ROOT)


def _own_users() -> set[int]:
    """Return our user on this host, and the user who has become root for this command."""
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
        above = sorted({*_parents(path), *_parents(os.path.realpath(path))})
        return _read(path)._replace(above=tuple(map(_read, above)))
    except (OSError, ValueError):
        return None


def _parents(path: str) -> list[str]:
    """Return the directories that a path lies in, nearest first."""
    parents = []
    while path != (path := os.path.dirname(path)):
        parents.append(path)
    return parents


def _read(path: str) -> Directory:
    status = os.stat(path)
    name = None
    if status.st_uid != _ROOT:
        with suppress(KeyError):
            name = pwd.getpwuid(status.st_uid).pw_name
    return Directory(path, status.st_uid, stat.S_IMODE(status.st_mode), status.st_gid, name)
