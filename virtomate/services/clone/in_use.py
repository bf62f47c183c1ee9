"""The MAC addresses, files and volumes that the definitions of all domains name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from virtomate.definition.mentions import read_mentions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.mentions import Mentions

# Characters that stand for themselves in any document; escapes, which can stand for any character, need one of the two.
_PLAIN = re.compile(r"[\w.:-]+", re.ASCII)
_ESCAPING = ("%", "\\")


class InUse:
    """Definitions that are searched for a name or an address, and read only where one may be.

    Reading the definitions of a thousand domains takes longer than a linked clone.
    """

    def __init__(self) -> None:
        self._documents: list[tuple[str, str]] = []
        self._mentions: dict[int, Mentions] = {}

    def add(self, domain: str, document: str) -> None:
        """Add a definition of a domain; several threads may do that."""
        self._documents.append((domain, document))

    def owner_of_address(self, address: str) -> str | None:
        """Return the name of a domain with this MAC address, which is in lower case."""
        return next((domain for domain, found in self.mentioning(address) if address in found.mac_addresses), None)

    def mentioning(self, name: str) -> Iterator[tuple[str, Mentions]]:
        """Yield the domains that may name a file, a volume or an address, with everything that they name."""
        plain = max(_PLAIN.findall(name), key=len, default="")
        for number, (domain, document) in enumerate(self._documents):
            if plain in document or any(sign in document for sign in _ESCAPING):
                if number not in self._mentions:
                    self._mentions[number] = read_mentions(document)
                yield domain, self._mentions[number]
