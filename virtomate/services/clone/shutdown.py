"""Originals that run: they are shut down, cloned, and started again."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from virtomate.cancel import backoff, call_interruptibly
from virtomate.enums import Action
from virtomate.errors import (
    ConnectionLostError,
    IllegalStateError,
    InternalError,
    InterruptedBySignalError,
    TimedOutError,
    VirtomateError,
)
from virtomate.hypervisor.calls import asking
from virtomate.hypervisor.domains import find_domain
from virtomate.services.clone_records import Shutdown
from virtomate.services.restart import Restart, record_name, with_restart_failed
from virtomate.words import counted, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from virtomate.definition.provenance import DomainReference
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.original import Source
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.transaction import Run

# A guest that boots ignores ACPI, and libvirt falls back to ACPI where a busy agent is late.
_REQUEST_EVERY_SECONDS = 15.0
# libvirt fails the request where QEMU ends before it answers, and learns of QEMU's end a moment later.
_END_SECONDS = 5.0


def refuse_restart_of_base(source: Source, request: CloneRequest, disks: Iterable[DiskPlan]) -> None:
    """Refuse a linked clone of an original that has to be started again, unless it is left shut off or frozen.

    Raises:
        IllegalStateError: The clone would have a linked disk.
    """
    snapshot = source.snapshot
    linked = [
        item.disk.target
        for item in disks
        if item.action is Action.LINKED and (snapshot is None or not snapshot.keeps(item.disk))
    ]
    if not linked or request.freeze or (request.shutdown is not None and not request.shutdown.restarts):
        return
    name = source.reference.name
    again = "after cloning" if source.is_active else "after cloning, which a run that was killed could not do"
    advice = "--freeze moves it onto an overlay, --shutdown --no-restart leaves it shut off" if snapshot is None else ""
    if not source.is_active:
        advice += "; " if advice else ""
        advice += f"{virtomate('domain-delete', record_name(source.reference))} starts it now"
    raise IllegalStateError(
        f"domain '{name}' would be started again {again}, and that would destroy the linked clone (disk {linked[0]})",
        hint=f"{advice}. Or use another mode than linked.",
    )


def while_shut_off(
    run: Run, source: Source, request: CloneRequest, clone: Callable[[], tuple[CloneResult, ...]]
) -> tuple[CloneResult, ...]:
    """Shut the original down unless that is done, clone it, and start it again, however cloning ends.

    What has to be started again is recorded before it is shut down, see `services.restart`.

    Args:
        run: What the command works with.
        source: The original, which runs, or which a run that was killed has not started again.
        request: What was asked for.
        clone: Plans anew, and makes the clones.

    Raises:
        TimedOutError: The guest did not shut down in time; nothing was changed.
        VirtomateError: What `clone` raises, or libvirt does not shut the original down.
    """
    shutdown = request.shutdown or Shutdown(0.0)
    original = source.reference
    restart = Restart(run.source, original, source.definition.domain, is_inherited=source.is_owed)
    run.cancel.begin()
    results: tuple[CloneResult, ...] = ()
    error: VirtomateError | None = None
    try:
        if shutdown.restarts or source.is_owed:
            restart.record()
        if source.is_active and shutdown.restarts and not source.is_owed:
            _require_active(run, original, restart)
        if not shutdown.restarts and source.is_owed:
            restart.drop()
        run.cancel.check()
        if source.is_active:
            _shut_down(run, original, shutdown)
        else:
            _tell_inherited(run, original, shutdown)
        results = clone()
    except Exception as unforeseen:  # noqa: BLE001 - the original is started again whatever goes wrong
        error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
    is_restarted = False
    if shutdown.restarts:
        try:
            with run.cancel.awaiting(f"the start of domain '{original.name}'"):
                is_restarted = restart.fulfil()
        except Exception as unforeseen:  # noqa: BLE001 - the clones must be told of all the same
            cause = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            error = with_restart_failed(results[0].error if results else error, original, cause, run.at_original)
            results = tuple(result._replace(error=error) for result in results[:1]) + results[1:]
    if is_restarted:
        run.progress.note(f"started domain '{original.name}' again")
    if not results and error is not None:
        raise error
    return tuple(result._replace(restarted=is_restarted) for result in results)


def _require_active(run: Run, original: DomainReference, restart: Restart) -> None:
    """Make sure that the original still ran when its restart had been recorded.

    Until then another run may have planned a linked clone of an original that was off, which a restart would destroy.
    From then on other runs see the record.

    Raises:
        IllegalStateError: Somebody else has shut the original off.
    """
    if find_domain(run.source.connection, original.uuid).is_active():
        return
    restart.drop()
    raise IllegalStateError(
        f"domain '{original.name}' was shut off by somebody else before virtomate could shut it down",
        hint="Run the command again: it clones the domain, and leaves it shut off.",
    )


def _tell_inherited(run: Run, original: DomainReference, shutdown: Shutdown) -> None:
    then = "it is started again after cloning" if shutdown.restarts else "it is left shut off"
    run.progress.note(f"a virtomate that was killed may have shut down domain '{original.name}': {then}")


def _shut_down(run: Run, original: DomainReference, shutdown: Shutdown) -> None:
    """Ask the guest to shut down, and wait until the domain is shut off.

    Raises:
        TimedOutError: It was not in time.
        InterruptedBySignalError: A signal arrived.
        VirtomateError: libvirt does not shut it down.
    """
    name, limit = original.name, counted(shutdown.seconds, "second")
    domain = find_domain(run.source.connection, original.uuid)
    run.progress.note(f"shutting down domain '{name}', {limit} at most")
    run.progress.waiting(name, time.monotonic())
    try:
        _await_shutdown(run, domain, shutdown.seconds)
    except (TimedOutError, InterruptedBySignalError, ConnectionLostError) as error:
        if _is_surely_off(domain):
            raise
        later = "if the guest still follows it, the domain stays shut off until you start it"
        hint = f"The request to shut down cannot be taken back: {later}: {virsh('start', name)}"
        if isinstance(error, TimedOutError):
            message = f"domain '{name}' did not shut down within {limit}"
            raise TimedOutError(message, f"Give it more time with --shutdown-timeout. {hint}") from error
        raise error.adding(hint=hint) from error
    finally:
        run.progress.close()


def _is_surely_off(domain: Domain) -> bool:
    try:
        return not domain.is_active()
    except VirtomateError:
        return False


def _await_shutdown(run: Run, domain: Domain, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        # libvirt waits for an agent that does not answer
        call_interruptibly(partial(_request, run, domain.uuid), run.cancel, left)
        for _ in backoff(min(max(0.0, deadline - time.monotonic()), _REQUEST_EVERY_SECONDS), run.cancel):
            if not domain.is_active():
                return
    raise TimedOutError("the guest did not shut down")


def _request(run: Run, uuid: str) -> None:
    """Ask the guest to shut down, on a connection of its own, which stays busy if a signal ends the waiting."""
    with run.source.borrow() as connection:
        domain = find_domain(connection, uuid)
        try:
            # its agent, where it has one
            with asking(f"the guest of domain '{domain.name}'"):
                domain.shut_down()
        except ConnectionLostError:
            raise
        except VirtomateError:
            # the guest may have been faster
            for _ in backoff(_END_SECONDS, run.cancel):
                if not domain.is_active():
                    return
            raise
