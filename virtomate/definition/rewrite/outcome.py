"""What a rule makes of a definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtomate.definition.codec import Document


@dataclass(frozen=True)
class Outcome:
    """A changed definition, and what a person should know of it.

    Attributes:
        changes: What was renewed or made automatic, each a phrase.
        warnings: What original and clone still share, or what was not carried over, each a sentence.
    """

    domain: Document
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
