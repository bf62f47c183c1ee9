"""Listing domains, and deleting clones."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.provenance import read_provenance, with_provenance
from virtomate.errors import ConflictError, IllegalStateError, InterruptedBySignalError, NotFoundError, VirtomateError
from virtomate.hypervisor.domains import define_domain, find_domain, find_domain_by_uuid, list_domains
from virtomate.records import CloneOrigin, DeletionResult, DomainListing
from virtomate.services.maker import is_running, this_process
from virtomate.services.removal import name_made, remove_made

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.progress import Progress
    from virtomate.records import Provenance

_INTERVAL_SECONDS = 0.2


def list_all_domains(connection: Connection) -> tuple[DomainListing, ...]:
    """All domains by name; one that vanishes meanwhile is passed over."""
    listings = []
    for domain in list_domains(connection):
        try:
            provenance = _provenance(domain)
            state = domain.state()
        except NotFoundError:
            continue
        origin = None
        if provenance is not None:
            origin = CloneOrigin(provenance.finished, provenance.source, provenance.mode, provenance.created)
        listings.append(DomainListing(domain.name, domain.uuid, state, origin))
    return tuple(sorted(listings, key=lambda listing: listing.name))


def delete_unfinished_clone(
    connection: Connection, name_or_uuid: str, progress: Progress, cancel: CancelToken
) -> DeletionResult:
    """Remove an unfinished clone, and exactly what was made for it.

    A volume that libvirt is still building is waited for.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is no unfinished clone, or is still being made.
        InterruptedBySignalError: A signal ended the waiting; what is left is still an unfinished clone.
        VirtomateError: Something could not be removed.
    """
    domain = find_domain(connection, name_or_uuid)
    provenance = _provenance(domain)
    if provenance is None or provenance.finished:
        what = "a finished clone" if provenance is not None else "not a clone made by virtomate"
        raise IllegalStateError(
            f"domain '{domain.name}' is {what}, and only unfinished clones are deleted",
            hint=f"virsh undefine {shlex.quote(domain.name)} removes a domain's definition and leaves its volumes.",
        )
    if domain.is_active():
        raise IllegalStateError(f"domain '{domain.name}' is {domain.state()}")
    if provenance.maker is not None and is_running(provenance.maker):
        raise IllegalStateError(
            f"domain '{domain.name}' is still being made by process {provenance.maker.pid}",
            hint="Wait for it to end, or interrupt it: it cleans up after itself.",
        )
    cancel.check()
    provenance = _seize(connection, domain, provenance)
    removed, replaced, failed = _remove_all(connection, provenance, _patience(progress, cancel))
    claim = f"domain '{domain.name}', an unfinished clone (kept as the record of these)"
    if failed and cancel.signal_number is not None:
        interrupted = InterruptedBySignalError(cancel.signal_number)
        interrupted.leftovers = (*replaced, *failed, claim)
        raise interrupted
    if failed:
        raise IllegalStateError(
            f"not everything that belongs to the unfinished clone '{domain.name}' could be removed",
            hint=f"Mend that, then run virtomate domain-delete {shlex.quote(domain.name)} again.",
            leftovers=(*replaced, *failed, claim),
        )
    _undefine(connection, domain, provenance)
    if replaced:
        raise ConflictError(
            f"the unfinished clone '{domain.name}' was removed, but files that are not its own have taken the place of "
            "some of its volumes",
            hint="They are left as they are. See whose they are.",
            leftovers=tuple(replaced),
        )
    return DeletionResult(domain.name, domain.uuid, tuple(removed))


def _seize(connection: Connection, domain: Domain, provenance: Provenance) -> Provenance:
    """Take the claim over, so that a run that is still making the clone somewhere finds it gone and does not finish."""
    definition = codec.parse_definition(domain.inactive_definition())
    seized = replace(provenance, token=os.urandom(16).hex(), maker=this_process())
    define_domain(connection, domain.name, codec.unparse_definition(with_provenance(definition, seized)))
    return seized


def _patience(progress: Progress, cancel: CancelToken) -> Callable[[VirtomateError], None]:
    """What waits for libvirt until a signal comes, and says once that it does."""
    has_said_so = False

    def wait(error: VirtomateError) -> None:
        nonlocal has_said_so
        if not has_said_so:
            progress.note("waiting for libvirt to finish a volume that it is still writing")
            has_said_so = True
        if cancel.wait(_INTERVAL_SECONDS):
            raise error

    return wait


def _remove_all(
    connection: Connection, provenance: Provenance, wait: Callable[[VirtomateError], None]
) -> tuple[list[str], list[str], list[str]]:
    """Remove everything in the journal, newest first: what was removed, what is another's by now, what failed."""
    removed, replaced, failed = [], [], []
    for made in reversed(provenance.made):
        try:
            if remove_made(connection, made, provenance, wait):
                removed.append(name_made(made))
        except ConflictError as error:
            replaced.append(f"{name_made(made)} ({error.message})")
        except VirtomateError as error:
            failed.append(f"{name_made(made)} ({error.message})")
    return removed, replaced, failed


def _undefine(connection: Connection, domain: Domain, provenance: Provenance) -> None:
    """Undefine the claim if it still is what it was."""
    now = find_domain_by_uuid(connection, domain.uuid)
    if now is None:
        return
    again = _provenance(now)
    if again is None or again.token != provenance.token or again.finished or now.is_active():
        raise IllegalStateError(f"domain '{domain.name}' was changed by somebody else meanwhile")
    try:
        now.undefine_keeping_nvram()
    except VirtomateError as error:
        error.leftovers = (f"domain '{domain.name}', an unfinished clone",)
        raise


def _provenance(domain: Domain) -> Provenance | None:
    return read_provenance(codec.parse_definition(domain.inactive_definition_without_secrets()))
