"""What a rule returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.notices import Notice


class Outcome(NamedTuple):
    """A changed definition, and what the user should know about it.

    Attributes:
        changes: What was renewed or is now chosen by libvirt.
        warnings: What original and clone still share, or what was not carried over.
    """

    domain: Document
    changes: tuple[Notice, ...] = ()
    warnings: tuple[Notice, ...] = ()
