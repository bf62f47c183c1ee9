"""The original, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.provenance import DomainReference, find_provenance, read_provenance
from virtomate.errors import ConflictError, IllegalStateError, combined_error
from virtomate.hypervisor.domains import find_domain, find_domain_by_name
from virtomate.notices import CloneWarning, Notice
from virtomate.services.definitions import Definitions
from virtomate.tuples import NamedTuple
from virtomate.words import quoted, shutdown_commands, virtomate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.definition.codec import Definition
    from virtomate.hypervisor.connection import Connection


class Source(NamedTuple):
    """The original, as it was when it was read.

    Attributes:
        snapshot_count: How many snapshots libvirt knows of it.
        external_snapshot_count: How many of those are external ones.
        not_carried_over: What libvirt keeps of it beside the definition, and a clone does not get.
    """

    reference: DomainReference
    definition: Definition
    has_managed_save: bool
    snapshot_count: int
    external_snapshot_count: int
    not_carried_over: tuple[Notice, ...]


def read_source(connection: Connection, name_or_uuid: str) -> Source:
    """Read the original once.

    Raises:
        NotFoundError: There is no such domain.
        IllegalStateError: It is active, or an unfinished clone.
    """
    domain = find_domain(connection, name_or_uuid)
    if domain.is_active():
        state = domain.state()
        raise IllegalStateError(
            f"domain '{domain.name}' is {state}, and must be shut off to be cloned",
            hint=f"Shut it down first: {shutdown_commands(domain.name, state)}",
        )
    definition = codec.parse_definition(domain.inactive_definition())
    provenance = read_provenance(definition)
    if provenance is not None and not provenance.finished:
        raise IllegalStateError(
            f"domain '{domain.name}' is an unfinished clone",
            hint=f"{virtomate('domain-delete', domain.name)} removes what is there of it.",
        )
    not_carried_over = {
        CloneWarning.CHECKPOINTS: domain.checkpoint_count() > 0,
        CloneWarning.AUTOSTART: domain.is_autostarted(),
    }
    return Source(
        reference=DomainReference(domain.name, domain.uuid),
        definition=definition,
        has_managed_save=domain.has_managed_save(),
        snapshot_count=domain.snapshot_count(),
        external_snapshot_count=domain.external_snapshot_count(),
        not_carried_over=tuple(Notice(code, domain.name) for code, is_so in not_carried_over.items() if is_so),
    )


def refuse_taken_names(connection: Connection, names: Iterable[str]) -> None:
    """Refuse the names of existing domains, all at once.

    Raises:
        ConflictError: There are such domains.
    """
    taken = []
    refusals = []
    for name in names:
        domain = find_domain_by_name(connection, name)
        if domain is None:
            continue
        provenance = find_provenance(Definitions().inactive(domain), domain.uuid)
        if provenance is None or provenance.finished:
            taken.append(name)
            continue
        delete = virtomate("domain-delete", name)
        refusals.append(
            ConflictError(
                f"there is already a domain '{name}', an unfinished clone of '{provenance.source.name}'",
                hint=f"If no other virtomate is making it, {delete} removes it.",
            )
        )
    if len(taken) == 1:
        refusals.append(ConflictError(f"there is already a domain '{taken[0]}'", "Choose another name for the clone."))
    elif taken:
        refusals.append(
            ConflictError(f"there are already domains {quoted(taken)}", "Choose other names for the clones.")
        )
    if refusals:
        raise combined_error(refusals)
