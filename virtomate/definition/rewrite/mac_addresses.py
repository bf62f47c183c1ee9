"""Rule: every interface gets a MAC address of its own, by the same manufacturer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.readers import child, devices
from virtomate.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from virtomate.definition.codec import Document

_MAC_OCTETS = 6
_OUI_OCTETS = 3
_ATTEMPTS = 10_000


def new_mac_addresses(
    domain: Document, taken: Collection[str], random_bytes: Callable[[int], bytes], requested: Iterable[str] = ()
) -> dict[int, str]:
    """Return a new MAC address for every interface that has one, by position.

    The first three octets name the manufacturer and stay the original's
    (https://en.wikipedia.org/wiki/Organizationally_unique_identifier); the rest is random.

    Args:
        domain: The original.
        taken: Addresses in use, in lower case.
        random_bytes: Returns the given number of random bytes.
        requested: Addresses for the first interfaces, in order.

    Raises:
        UnsupportedError: No free address was found; the manufacturer's whole range must be in use.
    """
    requested = tuple(requested)
    used = {*taken, *requested}
    left = iter(requested)
    addresses = {}
    for index, interface in enumerate(devices(domain, "interface")):
        address = child(interface, "mac").get("@address")
        if isinstance(address, str):
            oui = address.lower().split(":")[:_OUI_OCTETS]
            addresses[index] = next(left, None) or _new_mac_address(oui, used, random_bytes)
            used.add(addresses[index])
    return addresses


def _new_mac_address(oui: list[str], used: Collection[str], random_bytes: Callable[[int], bytes]) -> str:
    for _ in range(_ATTEMPTS):
        rest = [f"{octet:02x}" for octet in random_bytes(_MAC_OCTETS - _OUI_OCTETS)]
        address = ":".join(oui + rest)
        if address not in used:
            return address
    raise UnsupportedError(f"no free MAC address begins with {':'.join(oui)}")
