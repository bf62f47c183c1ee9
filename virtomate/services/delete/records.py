"""What `domain-delete` would do, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.enums import DeletionStatus, Mode
    from virtomate.errors import VirtomateError


class DoomedThing(NamedTuple):
    """Something that goes away with a clone, as a phrase that names it.

    Attributes:
        size_bytes: What it takes on the host, None where that is not known or does not apply.
        doubt: Why it is not proved that it was made for the clone; None where that is proved, or needs no proof.
        owner: User and group that a file in doubt belongs to, as numbers; None where that is not known.
        modified: When a file in doubt was last written to, in seconds since 1970, likewise.
    """

    what: str
    size_bytes: int | None = None
    doubt: str | None = None
    owner: str | None = None
    modified: float | None = None


class DeletionPreview(NamedTuple):
    """What the deletion of one clone would do.

    Attributes:
        is_finished: False for what is left of a clone that was never completed, or never deleted completely.
        doomed: What would be removed besides the definition.
        kept: What would stay, each a phrase with the reason.
    """

    name: str
    uuid: str
    is_finished: bool
    source: DomainReference
    mode: Mode
    doomed: tuple[DoomedThing, ...]
    kept: tuple[str, ...]


class DeletionResult(NamedTuple):
    """What `domain-delete` did about one clone.

    Attributes:
        removed: What was removed besides the definition, each a phrase that names it.
        kept: Disks and NVRAM that the domain had and cloning did not make, likewise.
    """

    status: DeletionStatus
    name: str
    uuid: str
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    error: VirtomateError | None = None
