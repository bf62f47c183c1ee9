"""Addresses that a user asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class AddressWish(NamedTuple):
    """The IPv4 addresses that libvirt's DHCP server is to give to one interface of the clones.

    Attributes:
        interface: What names the interface: its number, MAC address or target device; None for the first one in a
            libvirt network.
        addresses: The address of each clone, in order; empty for free addresses of a range.
        first: First address of the range; the last address likewise.
        text: The range in the user's words.
    """

    interface: str | None
    addresses: tuple[str, ...] = ()
    first: str = ""
    last: str = ""
    text: str = ""

    def only(self, numbers: Iterable[int]) -> AddressWish:
        """Return the addresses of the clones with these numbers."""
        return self._replace(addresses=tuple(self.addresses[number] for number in numbers)) if self.addresses else self
