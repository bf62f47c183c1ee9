"""Originals that were shut down to be cloned, and have to be started again.

A run records the restart before it shuts down the original, and removes the record when the original runs again. The
record is a claim that has nothing but its journal. Its UUID follows from that of the original, so that one look-up
finds the record, and no two runs have it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from virtomate.definition import codec
from virtomate.definition.provenance import read_provenance
from virtomate.enums import Mode
from virtomate.errors import ConflictError, ConnectionLostError, IllegalStateError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.notices import Leftover, notice
from virtomate.rollback import persist
from virtomate.services.storage import may_be_running, this_process
from virtomate.services.transaction import Claim, new_journal
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.definition.codec import Definition, Document
    from virtomate.definition.provenance import DomainReference, Provenance
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session

_UUIDS = UUID("6f0a3c1e-52f7-4b0e-9d3b-0e6c8a4f7d21")


def record_name(original: DomainReference) -> str:
    """Return the name of the domain that records the restart of an original."""
    return f"virtomate-restart-{original.uuid}"


def is_owed(connection: Connection, original: DomainReference) -> bool:
    """Return whether a run that was killed has not started the original again.

    Raises:
        IllegalStateError: Another run has shut down the original, or is about to, and may still go on.
    """
    found = _find(connection, original)
    if found is None or found[0].maker == this_process():
        return False
    if may_be_running(found[0].maker):
        raise _busy(original)
    return True


class Restart:
    """The duty of a run to start an original again.

    Args:
        like: A domain of the same hypervisor, see `Claim`.
        is_inherited: Whether there is a record already, of a run that was killed.
    """

    def __init__(self, session: Session, original: DomainReference, like: Document, *, is_inherited: bool) -> None:
        self.original = original
        self._session = session
        self._is_inherited = is_inherited
        self._is_started = False
        journal = new_journal(_record_uuid(original), original, Mode.COPY, ())._replace(restarts=True)
        self._claim = Claim(session, record_name(original), journal, like, is_uuid_given=not is_inherited)

    def record(self) -> None:
        """Write the record, or raise IllegalStateError if another run has written one."""
        if self._is_inherited:
            self._take_name()
        try:
            self._claim.take()
        except ConflictError as error:
            raise _busy(self.original) from error

    def _take_name(self) -> None:
        """Take the name of the record that is there; a run that was killed may not have come to give it its own."""
        domain = find_domain_by_uuid(self._session.connection, _record_uuid(self.original))
        if domain is not None:
            self._claim.name = domain.name

    def drop(self) -> None:
        """Remove the record, if it is still this run's."""
        self._claim.release()

    def fulfil(self) -> bool:
        """Start the original, unless it runs, and remove the record; return whether the original was started.

        Whoever has taken over the record or removed it has taken over the duty.

        Raises:
            VirtomateError: The original cannot be started, and the record stays.
        """
        return persist(self._fulfil)

    def _fulfil(self) -> bool:
        try:
            self._claim.require_intact()
        except IllegalStateError:
            return self._is_started
        try:
            self._is_started |= start_again(self._session.connection, self.original)
        except ConnectionLostError:
            # libvirt may have started the original all the same, and then `start_again` does not
            self._is_started = True
            raise
        self._claim.release()
        return self._is_started


def start_again(connection: Connection, original: DomainReference) -> bool:
    """Start an original, unless it runs or is gone, and return whether it was started."""
    domain = find_domain_by_uuid(connection, original.uuid)
    if domain is None or domain.is_active():
        return False
    try:
        domain.start()
    except IllegalStateError:
        # somebody else was faster
        if not domain.is_active():
            raise
        return False
    return True


def restart_owed(session: Session, original: DomainReference, note: Callable[[str], None]) -> bool:
    """Start an original again if a run that was killed has not done so, and return whether it was started.

    A process on another host may still run and do that itself; then the note says what to do if it does not.

    Raises:
        VirtomateError: The original cannot be started, and the record stays.
    """
    found = _find(session.connection, original)
    if found is None:
        return False
    record, definition = found
    if may_be_running(record.maker):
        host = "" if record.maker is None else record.maker.host
        note(
            f"a virtomate on host '{host}' has shut down domain '{original.name}'; if it has ended, delete "
            f"'{record_name(original)}' to start the domain again"
        )
        return False
    restart = Restart(session, original, definition.domain, is_inherited=True)
    restart.record()
    return restart.fulfil()


def drop_served(session: Session, original: DomainReference) -> None:
    """Remove the record of a run that was killed if the original runs, so that nobody starts it again later.

    Somebody else may have started the original; whoever shuts it down from now on wants it to be off.

    Raises:
        VirtomateError: The record cannot be removed.
    """
    found = _find(session.connection, original)
    if found is None or may_be_running(found[0].maker):
        return
    domain = find_domain_by_uuid(session.connection, original.uuid)
    if domain is not None and domain.is_active():
        restart = Restart(session, original, found[1].domain, is_inherited=True)
        restart.record()
        restart.drop()


def with_restart_failed(
    error: VirtomateError | None, original: DomainReference, cause: VirtomateError, reaching: Callable[[str], str] = str
) -> VirtomateError:
    """Return a run's error, if any, which also says that the original could not be started again, and what to do.

    `reaching` lets the commands of a text reach the host of the original.
    """
    failure = f"domain '{original.name}', which was shut down for cloning, could not be started again: {cause.message}"
    record = record_name(original)
    start = f"Mend what kept '{original.name}' from starting, then start it: {virtomate('domain-delete', record)}"
    start = reaching(start)
    leftover = notice(Leftover.SHUT_OFF, original.name, record=record)
    if error is None:
        return IllegalStateError(failure, start, (leftover,))
    return error.adding(f"; {failure}", start, (leftover,))


def _busy(original: DomainReference) -> IllegalStateError:
    return IllegalStateError(
        f"domain '{original.name}' is being cloned by another virtomate, which shuts it down and starts it again",
        hint=f"Wait for its end. If it was killed on another host, {virtomate('domain-delete', record_name(original))} "
        f"starts '{original.name}' again.",
    )


def _find(connection: Connection, original: DomainReference) -> tuple[Provenance, Definition] | None:
    """Return the record of an original's restart, and the definition that holds the record."""
    domain = find_domain_by_uuid(connection, _record_uuid(original))
    if domain is None:
        return None
    definition = codec.parse_definition(domain.inactive_definition_without_secrets())
    record = read_provenance(definition)
    is_about_it = record is not None and record.restarts and record.source.uuid == original.uuid
    return (record, definition) if record is not None and is_about_it else None


def _record_uuid(original: DomainReference) -> str:
    return str(uuid5(_UUIDS, original.uuid))
