"""Size and shape in a request of `domain-clone`, made of the words of the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from virtomate.services.clone_records import NetworkChoice, Shape
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTOR_BYTES = 512
MEMORY_BYTES = 1024

_SIZE = r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,6})?)(?P<unit>[kmgt])(?P<kind>i?b)?"
_POWERS = "kmgt"
_BINARY, _DECIMAL = 1024, 1000
# libvirt counts in 64 bits, with a sign
_MAX_BYTES = (1 << 63) - 1

_BRIDGE = "bridge:"
# IFNAMSIZ of Linux, without the zero at its end
_BRIDGE_NAME = r"[^\s/:]{1,15}"


def read_size(word: str, step_bytes: int) -> int:
    """Return a size in bytes: K, M, G, T and KiB, ... are powers of 1024, and KB, ... of 1000, as for libvirt.

    Raises:
        click.BadParameter: The word is no size, or the size is no multiple of the step.
    """
    match = re.fullmatch(_SIZE, word, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"'{word}' is not a size; expected: a number with a unit, such as 40G or 512M")
    base = _DECIMAL if (match["kind"] or "").lower() == "b" else _BINARY
    whole, _, fraction = match["number"].partition(".")
    factor = int(base ** (_POWERS.index(match["unit"].lower()) + 1))
    size, rest = divmod(int(whole + fraction) * factor, int(10 ** len(fraction)))
    if rest or size % step_bytes or not 0 < size <= _MAX_BYTES:
        expected = f"a multiple of {counted(step_bytes, 'byte')} greater than 0"
        raise click.BadParameter(f"'{word}' cannot be the size here; expected: {expected}")
    return size


def read_network(word: str) -> NetworkChoice:
    """Return the network of an interface, or raise click.BadParameter."""
    interface, equals, rest = word.rpartition("=")
    if equals and not interface:
        raise click.BadParameter(f"'{word}' names no interface; expected: [IF=]NETWORK or [IF=]bridge:NAME")
    is_bridge = rest.startswith(_BRIDGE)
    name = rest.removeprefix(_BRIDGE)
    if not name or not name.isprintable() or "/" in name or (is_bridge and re.fullmatch(_BRIDGE_NAME, name) is None):
        what = "a bridge of the host" if is_bridge else "a network of libvirt"
        expected = "[IF=]bridge:NAME, with a NAME of at most 15 characters" if is_bridge else "[IF=]NETWORK"
        raise click.BadParameter(f"'{name}' in '{word}' cannot be the name of {what}; expected: {expected}")
    return NetworkChoice(word, interface or None, "bridge" if is_bridge else "network", name)


def read_shape(*, memory: int | None, vcpus: int | None, networks: Sequence[NetworkChoice], autostart: bool) -> Shape:
    """Return what the clones have otherwise than their original, or raise click.UsageError."""
    named = [choice.interface for choice in networks]
    if None in named and len(named) > 1:
        word = next(choice.word for choice in networks if choice.interface is None)
        raise click.UsageError(f"--network {word} names no interface, and cannot be given with another --network.")
    return Shape(memory, vcpus, tuple(networks), autostart)
