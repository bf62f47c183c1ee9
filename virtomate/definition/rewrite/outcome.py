"""What a rule returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtomate.definition.codec import Document


@dataclass(frozen=True)
class Outcome:
    """A changed definition, and what the user should know about it.

    Attributes:
        changes: What was renewed or is now chosen by libvirt, each a phrase.
        warnings: What original and clone still share, or what was not carried over, each a sentence.
    """

    domain: Document
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
