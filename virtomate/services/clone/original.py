"""The original, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.provenance import DomainReference, read_provenance
from virtomate.errors import IllegalStateError
from virtomate.hypervisor.domains import find_domain
from virtomate.notices import CloneWarning, Notice
from virtomate.tuples import NamedTuple
from virtomate.words import shutdown_commands, virtomate

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.connection import Connection


class Source(NamedTuple):
    """The original, as it was when it was read.

    Attributes:
        not_carried_over: Warnings of what libvirt stores beside the definition and a clone does not get.
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
        IllegalStateError: The domain is active, or an unfinished clone or import.
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
            f"domain '{domain.name}' is {describe_unfinished(provenance)}",
            hint=f"{virtomate('domain-delete', domain.name)} removes the domain and its volumes.",
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


def describe_unfinished(provenance: Provenance) -> str:
    """Return how a sentence calls the domain of an unfinished record; the original of an import is its file."""
    kind = "import" if provenance.source.uuid == provenance.uuid else "clone"
    return f"an unfinished {kind} of '{provenance.source.name}'"
