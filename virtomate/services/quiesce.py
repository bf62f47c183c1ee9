"""Guests whose file systems are frozen for the moment in which a backup begins.

A run marks the running domain before the freeze, and removes the mark after the thaw. If the run is killed, its
watchdog thaws (`hypervisor.watchdog`). If the watchdog was killed, too, the mark stays as long as the domain runs: the
next run thaws, or the deletion of the unfinished clone. A freeze that somebody else has made has no mark, and is never
thawed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from virtomate.cancel import backoff
from virtomate.definition.quiesce_mark import QuiesceMark, read_mark, write_mark
from virtomate.duplication.transfers.backup import BackupStart
from virtomate.enums import Consistency, Quiesce
from virtomate.errors import ConnectionLostError, HypervisorError, IllegalStateError, ProgramError, VirtomateError
from virtomate.hypervisor import freeze
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.hypervisor.watchdog import start_watchdog
from virtomate.services.storage import may_be_running, this_process
from virtomate.tuples import NamedTuple
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.watchdog import Watchdog


# How long a thaw is tried; the watchdog goes on for longer.
_THAW_SECONDS = 10.0
_NONE = "the guest agent froze no file system"


class StillFrozenError(IllegalStateError):
    """The file systems of a guest may still be frozen."""


class Readiness(NamedTuple):
    """Whether the file systems of a guest can be frozen.

    Attributes:
        quiesce: What is to be done; OFF where the guest cannot freeze its file systems and need not.
        obstacle: Why the guest cannot, or an empty text.
    """

    quiesce: Quiesce
    obstacle: str = ""


class Guest(NamedTuple):
    """A guest whose file systems are to be frozen.

    Attributes:
        connection: The connection of the domain.
        token: Token of the claim for which the backup is made.
        is_required: Whether the backup must not begin without a freeze.
    """

    connection: Connection
    domain: Domain
    token: str
    is_required: bool
    cancel: CancelToken


def examine_guest(domain: Domain, quiesce: Quiesce) -> Readiness:
    """Find out whether the file systems of a guest can be frozen, as far as that can be known before.

    Raises:
        IllegalStateError: They cannot, and that is required.
    """
    if quiesce is Quiesce.OFF:
        return Readiness(Quiesce.OFF)
    obstacle = _find_obstacle(domain)
    if not obstacle:
        return Readiness(quiesce)
    if quiesce is Quiesce.REQUIRE:
        raise _unfrozen(domain.name, obstacle)
    return Readiness(Quiesce.OFF, obstacle)


def _find_obstacle(domain: Domain) -> str:
    # libvirt asks no agent of such a domain
    if (state := domain.state()) == "paused":
        return f"it is {state}"
    try:
        if not freeze.is_frozen(domain) and freeze.count_file_systems(domain) == 0:
            return "the guest has mounted no file system that can be frozen"
    except ConnectionLostError:
        raise
    except (HypervisorError, IllegalStateError, ProgramError) as error:
        return error.message
    return ""


def begin_frozen(guest: Guest, begin: Callable[[], None]) -> BackupStart:
    """Begin a backup while the file systems of a guest are frozen, and thaw them at once.

    Args:
        guest: The guest.
        begin: Begins the backup.

    Raises:
        StillFrozenError: The file systems may still be frozen; the watchdog goes on trying to thaw them.
        IllegalStateError: The file systems were not frozen at that moment, and that is required.
        VirtomateError: What `begin` raises, or a signal arrived.
    """
    domain = guest.domain
    try:
        if freeze.is_frozen(domain):
            watchdog = None
        else:
            _require_free(domain)
            watchdog = start_watchdog(guest.connection, domain.uuid, guest.token, guest.cancel)
    except (HypervisorError, IllegalStateError, ProgramError) as error:
        return _begin_unfrozen(guest, begin, error)
    if watchdog is None:
        return _begin_in_freeze_of_others(guest, begin)
    with watchdog:
        return _begin_in_own_freeze(guest, begin, watchdog)


def _begin_in_own_freeze(guest: Guest, begin: Callable[[], None], watchdog: Watchdog) -> BackupStart:
    domain = guest.domain
    try:
        freeze.put_mark(domain, write_mark(QuiesceMark(guest.token, domain.run_id, this_process())))
        begun = time.monotonic()
        count = _freeze(domain, watchdog)
    except StillFrozenError:
        raise
    except (HypervisorError, IllegalStateError, ProgramError) as error:
        return _begin_unfrozen(guest, begin, error)
    try:
        if not count and guest.is_required:
            raise _unfrozen(domain.name, _NONE)
        guest.cancel.check()
        begin()
    except VirtomateError as error:
        try:
            _thaw(domain, watchdog)
        except StillFrozenError as failure:
            raise error.adding(f"; {failure.message}", failure.hint) from failure
        raise
    thawed, ended = _thaw(domain, watchdog)
    if count and thawed:
        return BackupStart(Consistency.FILESYSTEM, round(ended - begun, 3))
    return _judge(guest, "they were thawed too early" if count else _NONE)


def _begin_in_freeze_of_others(guest: Guest, begin: Callable[[], None]) -> BackupStart:
    """Begin a backup in a freeze that somebody else has made, and will end; look whether the freeze was long enough."""
    begin()
    try:
        if freeze.is_frozen(guest.domain):
            return BackupStart(Consistency.FILESYSTEM)
        problem = "somebody else had frozen them, and thawed them too early"
    except (HypervisorError, IllegalStateError, ProgramError) as error:
        problem = error.message
    return _judge(guest, problem)


def _begin_unfrozen(guest: Guest, begin: Callable[[], None], error: VirtomateError) -> BackupStart:
    """Begin a backup without a freeze, which has failed, unless the freeze is required or the connection broke."""
    if isinstance(error, ConnectionLostError):
        raise error
    if guest.is_required:
        raise _unfrozen(guest.domain.name, error.message) from error
    begin()
    return BackupStart(Consistency.CRASH, problem=error.message)


def _judge(guest: Guest, problem: str) -> BackupStart:
    """Return that a backup has begun without the freeze, or raise an error if the freeze is required."""
    if guest.is_required:
        raise _unfrozen(guest.domain.name, problem)
    return BackupStart(Consistency.CRASH, problem=problem)


def _require_free(domain: Domain) -> None:
    """Raise IllegalStateError if another run has marked the domain, and is about to freeze its guest."""
    if (mark := _find_mark(domain)) is not None:
        raise IllegalStateError(f"process {mark.maker.pid} on host '{mark.maker.host}' is freezing or thawing them")


def _freeze(domain: Domain, watchdog: Watchdog) -> int:
    """Freeze the file systems of a guest, and return how many were frozen."""
    try:
        return freeze.freeze(domain)
    except ProgramError:
        # nothing is frozen, or somebody else was faster
        freeze.clear_mark(domain)
        watchdog.dismiss()
        raise
    except VirtomateError:
        # the agent may still carry it out
        _thaw(domain, watchdog)
        raise


def _thaw(domain: Domain, watchdog: Watchdog) -> tuple[int, float]:
    """Thaw the file systems of a guest, and return how many were thawed, and when; a busy agent is asked again."""
    count, ended = 0, 0.0
    for left in backoff(_THAW_SECONDS):
        try:
            count, ended = freeze.thaw(domain), time.monotonic()
            freeze.clear_mark(domain)
            break
        except VirtomateError as error:
            if isinstance(error, ConnectionLostError) or not left:
                raise _still_frozen(domain.name, error) from error
    watchdog.dismiss()
    return count, ended


def thaw_own(connection: Connection, original_uuid: str, token: str) -> bool:
    """Thaw the guest of an original that was frozen for the claim with this token; return whether it was frozen.

    Raises:
        StillFrozenError: The guest agent does not thaw, or does not answer.
    """
    domain = find_domain_by_uuid(connection, original_uuid)
    mark = None if domain is None else _find_mark(domain)
    if domain is None or mark is None or mark.token != token:
        return False
    return _thaw_marked(domain)


def thaw_abandoned(domain: Domain) -> bool:
    """Thaw the guest of an original that a run has frozen which was killed; return whether it was frozen.

    Raises:
        StillFrozenError: The guest agent does not thaw, or does not answer.
    """
    mark = _find_mark(domain)
    return mark is not None and not may_be_running(mark.maker) and _thaw_marked(domain)


def thawed_note(original: str) -> str:
    """Return the note that a guest was thawed which a killed run had frozen."""
    return f"thawed the file systems of domain '{original}', which a virtomate that was killed had frozen"


def _thaw_marked(domain: Domain) -> bool:
    try:
        if was_frozen := freeze.is_frozen(domain):
            freeze.thaw(domain)
        freeze.clear_mark(domain)
    except VirtomateError as error:
        raise _still_frozen(domain.name, error) from error
    return was_frozen


def _find_mark(domain: Domain) -> QuiesceMark | None:
    """Return the mark of a freeze in this run of the domain."""
    mark = read_mark(freeze.find_mark(domain)) if domain.is_active() else None
    return mark if mark is not None and mark.run_id == domain.run_id else None


def _still_frozen(name: str, error: VirtomateError) -> StillFrozenError:
    return StillFrozenError(
        f"the file systems of the guest of domain '{name}' may still be frozen: {error.message}",
        hint=f"Thaw them as soon as its agent answers: {virsh('domfsthaw', name)}",
    )


def _unfrozen(name: str, reason: str) -> IllegalStateError:
    return IllegalStateError(
        f"the file systems of the guest of domain '{name}' cannot be frozen, as --quiesce require demands: {reason}",
        hint="With --quiesce auto the clone gets the disks as after a power cut.",
    )
