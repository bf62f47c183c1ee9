"""The values of the options of `domain-clone`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.options import read_seconds
from virtomate.enums import DiskAction, WaitFor

if TYPE_CHECKING:
    from virtomate.notices import CloneWarning
    from virtomate.services.clone_records import DiskOptions, NetworkChoice, Wait

WAIT_SECONDS = 120
SHUTDOWN_SECONDS = 120
KEEP = "keep"
_ANY = "any"

# Patterns are compiled when they are used: most command lines need no pattern.
_MAC_ADDRESS = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"
_NO_MAC_ADDRESS = "00:00:00:00:00:00"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NO_UUID = "00000000-0000-0000-0000-000000000000"

# A comma ends a part; two commas stand for one comma of a name, as in QEMU's options.
_COMMA = r"(?<!,),(?!,)"


def disk_choice(value: str) -> DiskOptions:
    """Return how to handle one disk: TARGET=HOW."""
    from virtomate.services.clone_records import DiskOptions  # noqa: PLC0415 - help and completion need no records

    target, equals, rest = value.partition("=")
    if not equals or not target or not rest:
        raise click.BadParameter(f"'{value}' is not of the form TARGET=HOW, such as vda=linked")
    treatment, size = None, None
    places: dict[str, str] = {}
    for number, part in enumerate(re.split(_COMMA, rest)):
        key, has_value, text = part.replace(",,", ",").partition("=")
        if has_value and key in {"name", "pool"} and text and key not in places:
            places[key] = text
        elif has_value and key == "size" and size is None:
            size = _disk_size(text)
        elif number == 0 and not has_value and key in set(DiskAction):
            treatment = DiskAction(key)
        else:
            expected = f"{', '.join(DiskAction)}, name=NAME, pool=POOL or size=SIZE, each once"
            raise click.BadParameter(f"'{part}' in '{value}' is not understood; expected: {expected}")
    if (places or size is not None) and treatment in {DiskAction.SHARE, DiskAction.DROP}:
        what = "a place for" if places else "the size of"
        raise click.BadParameter(f"'{value}' names {what} a new volume, but with {treatment} there is none")
    return DiskOptions(target, treatment, places.get("name"), places.get("pool"), size)


def _disk_size(value: str) -> int:
    """Return a size in bytes that a disk can have."""
    from virtomate.cli.shape_request import SECTOR_BYTES, read_size  # noqa: PLC0415 - few clones change their size

    return read_size(value, SECTOR_BYTES)


def memory_size(value: str) -> int:
    """Return a size in bytes that memory can have."""
    from virtomate.cli.shape_request import MEMORY_BYTES, read_size  # noqa: PLC0415 - as above

    return read_size(value, MEMORY_BYTES)


def network(value: str) -> NetworkChoice:
    """Return the network of an interface: [IF=]NETWORK or [IF=]bridge:NAME."""
    from virtomate.cli.shape_request import read_network  # noqa: PLC0415 - as above

    return read_network(value)


def mac_address(value: str) -> str:
    """Return the MAC address of one interface in lower case, or `keep`."""
    address = value.lower()
    if address == KEEP:
        return KEEP
    if re.fullmatch(_MAC_ADDRESS, address) is None or address == _NO_MAC_ADDRESS:
        expected = "six octets such as 52:54:00:12:34:56"
        raise click.BadParameter(f"'{value}' is not a valid MAC address; expected: {expected}")
    if int(address[:2], 16) & 1:
        raise click.BadParameter(f"'{value}' is a multicast address, which no interface can have")
    return address


def uuid(value: str) -> str:
    """Return a UUID in lower case."""
    word = value.lower()
    if re.fullmatch(_UUID, word) is None or word == _NO_UUID:
        expected = "hexadecimal digits in groups of 8, 4, 4, 4 and 12 with hyphens between"
        raise click.BadParameter(f"'{value}' is not a valid UUID; expected: {expected}")
    return word


def text_value(value: str, allowed: str = "\t\n") -> str:
    """Return a text without signs that no definition can hold."""
    from virtomate.names import has_unwritable  # noqa: PLC0415 - as above

    if has_unwritable(value, allowed):
        raise click.BadParameter(f"{value!r} has a control character, which is not possible here")
    return value


def title(value: str) -> str:
    """Return a text of one line."""
    return text_value(value, "\t")


def user(value: str) -> str:
    """Return the name of a user."""
    from virtomate.errors import UsageError  # noqa: PLC0415 - few clones get a seed
    from virtomate.services.seed import check_user  # noqa: PLC0415 - as above

    try:
        check_user(value)
    except UsageError as error:
        raise click.BadParameter(error.message) from error
    return value


def wait(value: str) -> Wait:
    """Return what to wait for, and how long: agent|ip[,SECONDS]."""
    from virtomate.services.clone_records import Wait  # noqa: PLC0415 - help and completion need no records

    what, comma, rest = value.partition(",")
    seconds = read_seconds(rest) if comma else WAIT_SECONDS
    if what not in set(WaitFor) or not seconds:
        expected = "agent or ip, or agent,SECONDS or ip,SECONDS with SECONDS greater than 0"
        raise click.BadParameter(f"'{value}' is not understood; expected: {expected}")
    return Wait(WaitFor(what), seconds)


def seconds(value: str) -> float:
    """Return a time above 0, which may have a fraction."""
    number = read_seconds(value)
    if not number:
        expected = f"a number of seconds greater than 0, such as {SHUTDOWN_SECONDS} or 0.5"
        raise click.BadParameter(f"'{value}' is not a valid time; expected: {expected}")
    return number


def codes(value: str) -> frozenset[CloneWarning]:
    """Return codes of warnings: CODE[,CODE...]; `any` stands for all."""
    from virtomate.notices import CloneWarning  # noqa: PLC0415 - few commands name a code

    codes = set(value.split(","))
    if unknown := sorted(codes - {*CloneWarning, _ANY}):
        import difflib  # noqa: PLC0415 - mistakes are rare

        similar = difflib.get_close_matches(unknown[0], [*CloneWarning, _ANY], n=1)
        expected = f"did you mean {similar[0]}?" if similar else "expected: any, or a code such as linked-original"
        raise click.BadParameter(f"'{unknown[0]}' is not the code of a warning; {expected}")
    return frozenset(CloneWarning) if _ANY in codes else frozenset(map(CloneWarning, codes))


def complete_codes(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the codes that continue a list, for `shell_complete`."""
    from virtomate.notices import CloneWarning  # noqa: PLC0415 - few commands name a code

    given, comma, begun = incomplete.rpartition(",")
    left = sorted({*CloneWarning, _ANY} - set(given.split(",")))
    return [f"{given}{comma}{code}" for code in left if code.startswith(begun)]


class WholeNumber(click.IntRange):
    """A number whose refusal names the range; the help text of the option has the range in words, not as 1<=x<=64."""

    def _describe_range(self) -> str:
        return ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Return the number."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"'{value}' is not a whole number from {self.min} to {self.max}.", param, ctx)
