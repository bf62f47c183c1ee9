"""The options of `domain-clone` for addresses that DHCP entries keep, and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address

    from virtomate.services.address_wish import AddressWish


def _address(value: str) -> AddressWish:
    """Return the address of one interface: [IF=]ADDRESS."""
    from virtomate.services.address_wish import AddressWish  # noqa: PLC0415 - few clones get an address

    interface, text = _split(value)
    return AddressWish(interface, (str(_ipv4(text, "192.168.122.10")),))


def _range(value: str) -> AddressWish:
    """Return a range of addresses for one interface: [IF=]FIRST-LAST or [IF=]NETWORK/PREFIX."""
    from ipaddress import IPv4Network  # noqa: PLC0415 - as above

    from virtomate.services.address_wish import AddressWish  # noqa: PLC0415 - as above

    interface, text = _split(value)
    example = "192.168.122.10-192.168.122.99 or 192.168.122.64/26"
    if "/" in text:
        address = _ipv4(text.partition("/")[0], example)
        try:
            network = IPv4Network(text)
        except ValueError as error:
            try:
                known = f"; {address} is in {IPv4Network(text, strict=False)}"
            except ValueError:
                known = ""
            raise click.BadParameter(f"'{text}' is not a network; expected: such as {example}{known}") from error
        return AddressWish(interface, (), str(network[0]), str(network[-1]), text)
    begin, hyphen, end = text.partition("-")
    if not hyphen:
        raise click.BadParameter(f"'{text}' is not a range of addresses; expected: such as {example}")
    first, last = _ipv4(begin, example), _ipv4(end, example)
    if last < first:
        raise click.BadParameter(f"'{text}' ends before it begins; expected: such as {example}")
    return AddressWish(interface, (), str(first), str(last), text)


def _split(value: str) -> tuple[str | None, str]:
    interface, equals, text = value.rpartition("=")
    if equals and not interface:
        raise click.BadParameter(f"'{value}' names no interface before '='; expected: such as 1={text}")
    return (interface if equals else None), text


def _ipv4(text: str, example: str) -> IPv4Address:
    from ipaddress import AddressValueError, IPv4Address, IPv6Address  # noqa: PLC0415 - as above

    try:
        return IPv4Address(text)
    except AddressValueError:
        pass
    try:
        IPv6Address(text)
    except AddressValueError as error:
        raise click.BadParameter(f"'{text}' is not an IPv4 address; expected: such as {example}") from error
    raise click.BadParameter(
        f"'{text}' is an IPv6 address: libvirt keeps these for client IDs (DUIDs), which guests make at their first "
        f"start, and not for MAC addresses; expected: an IPv4 address such as {example}"
    )


ADDRESS_OPTIONS = (
    click.Option(
        ["--ip", "ips"],
        type=_address,
        metavar="[IF=]ADDRESS",
        multiple=True,
        help="IPv4 address that libvirt's DHCP server gives the clone, by an entry in the network of interface IF, "
        "such as 2 for the second. Repeat it for each clone, and for each interface. [default: any address; IF: the "
        "first interface in a libvirt network]",
    ),
    click.Option(
        ["--ip-range", "ip_ranges"],
        type=_range,
        metavar="[IF=]RANGE",
        multiple=True,
        help="Give each clone a free address of RANGE in this way: FIRST-LAST, or NETWORK/PREFIX. [default: no range; "
        "IF: as for --ip]",
    ),
)


def read_addresses(
    ips: Sequence[AddressWish], ranges: Sequence[AddressWish], how_many: int, *, keeps_mac_addresses: bool
) -> tuple[AddressWish, ...]:
    """Return the addresses for each interface, in the order in which the interfaces are named.

    Raises:
        click.UsageError: There are too few or too many addresses, or options do not go together.
    """
    if not ips and not ranges:
        return ()
    if keeps_mac_addresses:
        word = "--ip" if ips else "--ip-range"
        raise click.UsageError(f"{word} is for the MAC address of the clone, and cannot be given with --mac keep.")
    found: dict[str | None, AddressWish] = {}
    for wish in ips:
        before = found.get(wish.interface)
        found[wish.interface] = wish if before is None else wish._replace(addresses=before.addresses + wish.addresses)
    addresses = [address for wish in found.values() for address in wish.addresses]
    for address in addresses:
        if addresses.count(address) > 1:
            raise click.UsageError(f"--ip {address} is given twice, and every clone needs an address of its own.")
    for wish in found.values():
        if len(wish.addresses) != how_many:
            place = "" if wish.interface is None else f" for {wish.interface}"
            be = "is" if how_many == 1 else "are"
            raise click.UsageError(
                f"--ip gives {counted(len(wish.addresses), 'address')}{place}, and {counted(how_many, 'clone')} {be} "
                "to be made; --ip-range takes free addresses of a range."
            )
    for wish in ranges:
        if wish.interface in found:
            place = "the same interface" if wish.interface is None else f"interface {wish.interface}"
            raise click.UsageError(f"--ip-range {wish.text} and another option give addresses for {place}: choose one.")
        found[wish.interface] = wish
    return tuple(found.values())
