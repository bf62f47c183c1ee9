"""Names for shells to complete: quickly, quietly, and without asking anybody anything."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import PROVENANCE_NAMESPACE, TEMPLATE_NAMESPACE
from virtomate.errors import OversizeError
from virtomate.hypervisor.connection import connect_read_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.hypervisor.connection import Connection

# with Python's own start this stays below a second
_LIMIT_SECONDS = 0.5


class Kind(Enum):
    """What has names."""

    DOMAIN = "domain"
    CLONE = "clone"
    TEMPLATE = "template"
    VOLUME = "volume"
    POOL = "pool"


def list_names(kind: Kind, uri: str | None) -> list[str]:
    """Return the names of all such things, sorted; none where libvirt needs too long. Volumes are POOL/NAME."""
    return _listed(uri, partial(_names, kind))


def list_snapshots(domain: str, uri: str | None) -> list[str]:
    """Return the names of a domain's snapshots, as `list_names` does."""
    return _listed(uri, partial(_snapshots, domain))


def list_targets(domain: str, uri: str | None) -> list[str]:
    """Return the targets of a domain's disks, as `list_names` does."""
    return _listed(uri, partial(_targets, domain))


def _listed(uri: str | None, names: Callable[[Connection], list[str]]) -> list[str]:
    """Return names, sorted.

    A thread asks libvirt, since calls of libvirt cannot be interrupted. The process has no terminal any more, so that
    nobody can be asked for a password; a program that libvirt started, such as ssh, ends when the time is over.
    """
    _leave_terminal()
    found: list[str] = []
    thread = threading.Thread(target=_find, args=(names, uri, found), daemon=True)
    thread.start()
    thread.join(_LIMIT_SECONDS)
    if thread.is_alive():
        from virtomate.hypervisor.opening import end_programs  # noqa: PLC0415 - most daemons answer in time

        end_programs()
    # a terminal might obey what cannot be printed
    return sorted(name for name in found if name.isprintable())


def _leave_terminal() -> None:
    try:
        os.setsid()
    except PermissionError:
        # the leader of a process group cannot have a new session, but can leave its terminal (ioctl_tty(2))
        import fcntl  # noqa: PLC0415 - shells start few completions as leaders
        import termios  # noqa: PLC0415 - as above

        # with the leader of a session, others would lose the terminal as well
        if os.getsid(0) != os.getpid():
            with suppress(OSError), open("/dev/tty", "rb", buffering=0) as terminal:
                fcntl.ioctl(terminal, termios.TIOCNOTTY)


def _find(names: Callable[[Connection], list[str]], uri: str | None, found: list[str]) -> None:
    """Add the names to a list, all of them or, on any trouble, none."""
    with suppress(Exception), connect_read_only(uri) as connection:
        found += names(connection)


def _snapshots(domain: str, connection: Connection) -> list[str]:
    from virtomate.hypervisor.domains import find_domain  # noqa: PLC0415 - either pools or domains are completed
    from virtomate.hypervisor.snapshots import snapshot_names  # noqa: PLC0415 - as above

    return snapshot_names(find_domain(connection, domain))


def _targets(domain: str, connection: Connection) -> list[str]:
    from virtomate.definition import codec, file_readers  # noqa: PLC0415 - as above
    from virtomate.hypervisor.domains import find_domain  # noqa: PLC0415 - as above

    definition = codec.parse_definition(find_domain(connection, domain).inactive_definition_without_secrets())
    return [disk.target for disk in file_readers.disks(definition.domain)]


def _names(kind: Kind, connection: Connection) -> list[str]:
    if kind in {Kind.POOL, Kind.VOLUME}:
        from virtomate.hypervisor.storage import list_pools  # noqa: PLC0415 - either pools or domains are completed

        pools = list_pools(connection)
        if kind is Kind.POOL:
            return [pool.name for pool in pools]
        names = []
        for pool in pools:
            # a pool may have more volumes than libvirt lists
            with suppress(OversizeError):
                names += [f"{pool.name}/{volume.name}" for volume in (pool.list_volumes() if pool.is_active() else ())]
        return names
    from virtomate.hypervisor.domains import list_domains  # noqa: PLC0415 - as above

    domains = list_domains(connection)
    if kind is Kind.CLONE:
        domains = [domain for domain in domains if domain.metadata_element(PROVENANCE_NAMESPACE)]
    if kind is Kind.TEMPLATE:
        domains = [domain for domain in domains if domain.metadata_element(TEMPLATE_NAMESPACE)]
    return [domain.name for domain in domains]
