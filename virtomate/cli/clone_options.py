"""The options of `domain-clone`, and their values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.completion import POOL, SNAPSHOT
from virtomate.cli.options import VOLUME_OPTIONS, read_seconds
from virtomate.enums import DiskAction, Mode, Quiesce, Transfer, WaitFor

if TYPE_CHECKING:
    from virtomate.notices import CloneWarning
    from virtomate.services.clone_records import DiskOptions, Wait

_WAIT_SECONDS = 120
SHUTDOWN_SECONDS = 120
_MAX_COUNT = 9999
_JOBS = 4
_MAX_JOBS = 64
_MAX_BANDWIDTH = 1024 * 1024
KEEP = "keep"
_ANY = "any"

# Patterns are compiled when they are used: most command lines need no pattern.
_MAC_ADDRESS = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"
_NO_MAC_ADDRESS = "00:00:00:00:00:00"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NO_UUID = "00000000-0000-0000-0000-000000000000"

# A comma ends a part; two commas stand for one comma of a name, as in QEMU's options.
_COMMA = r"(?<!,),(?!,)"


def _disk_choice(value: str) -> DiskOptions:
    """Return how to handle one disk: TARGET=HOW."""
    from virtomate.services.clone_records import DiskOptions  # noqa: PLC0415 - help and completion need no records

    target, equals, rest = value.partition("=")
    if not equals or not target or not rest:
        raise click.BadParameter(f"'{value}' is not of the form TARGET=HOW, such as vda=linked")
    treatment = None
    places: dict[str, str] = {}
    for number, part in enumerate(re.split(_COMMA, rest)):
        key, has_value, text = part.replace(",,", ",").partition("=")
        if has_value and key in {"name", "pool"} and text and key not in places:
            places[key] = text
        elif number == 0 and not has_value and key in set(DiskAction):
            treatment = DiskAction(key)
        else:
            expected = f"{', '.join(DiskAction)}, name=NAME or pool=POOL, each once"
            raise click.BadParameter(f"'{part}' in '{value}' is not understood; expected: {expected}")
    if places and treatment in {DiskAction.SHARE, DiskAction.DROP}:
        raise click.BadParameter(f"'{value}' names a place for a new volume, but with {treatment} there is none")
    return DiskOptions(target, treatment, places.get("name"), places.get("pool"))


def _mac_address(value: str) -> str:
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


def _uuid(value: str) -> str:
    """Return a UUID in lower case."""
    uuid = value.lower()
    if re.fullmatch(_UUID, uuid) is None or uuid == _NO_UUID:
        expected = "hexadecimal digits in groups of 8, 4, 4, 4 and 12 with hyphens between"
        raise click.BadParameter(f"'{value}' is not a valid UUID; expected: {expected}")
    return uuid


def _text(value: str, allowed: str = "\t\n") -> str:
    """Return a text without signs that no definition can hold."""
    from virtomate.names import has_unwritable  # noqa: PLC0415 - as above

    if has_unwritable(value, allowed):
        raise click.BadParameter(f"{value!r} has a control character, which is not possible here")
    return value


def _title(value: str) -> str:
    """Return a text of one line."""
    return _text(value, "\t")


def _user(value: str) -> str:
    """Return the name of a user."""
    from virtomate.errors import UsageError  # noqa: PLC0415 - few clones get a seed
    from virtomate.services.seed import check_user  # noqa: PLC0415 - as above

    try:
        check_user(value)
    except UsageError as error:
        raise click.BadParameter(error.message) from error
    return value


def _wait(value: str) -> Wait:
    """Return what to wait for, and how long: agent|ip[,SECONDS]."""
    from virtomate.services.clone_records import Wait  # noqa: PLC0415 - help and completion need no records

    what, comma, rest = value.partition(",")
    seconds = read_seconds(rest) if comma else _WAIT_SECONDS
    if what not in set(WaitFor) or seconds is None:
        expected = "agent or ip, or agent,SECONDS or ip,SECONDS"
        raise click.BadParameter(f"'{value}' is not understood; expected: {expected}")
    return Wait(WaitFor(what), seconds)


def _seconds(value: str) -> float:
    """Return a time above 0, which may have a fraction."""
    seconds = read_seconds(value)
    if not seconds:
        expected = f"a number of seconds greater than 0, such as {SHUTDOWN_SECONDS} or 0.5"
        raise click.BadParameter(f"'{value}' is not a valid time; expected: {expected}")
    return seconds


def _codes(value: str) -> frozenset[CloneWarning]:
    """Return codes of warnings: CODE[,CODE...]; `any` stands for all."""
    from virtomate.notices import CloneWarning  # noqa: PLC0415 - few commands name a code

    codes = set(value.split(","))
    if unknown := sorted(codes - {*CloneWarning, _ANY}):
        import difflib  # noqa: PLC0415 - mistakes are rare

        similar = difflib.get_close_matches(unknown[0], [*CloneWarning, _ANY], n=1)
        expected = f"did you mean {similar[0]}?" if similar else "expected: any, or a code such as linked-original"
        raise click.BadParameter(f"'{unknown[0]}' is not the code of a warning; {expected}")
    return frozenset(CloneWarning) if _ANY in codes else frozenset(map(CloneWarning, codes))


def _complete_codes(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the codes that continue a list, for `shell_complete`."""
    from virtomate.notices import CloneWarning  # noqa: PLC0415 - few commands name a code

    given, comma, begun = incomplete.rpartition(",")
    left = sorted({*CloneWarning, _ANY} - set(given.split(",")))
    return [f"{given}{comma}{code}" for code in left if code.startswith(begun)]


class _WholeNumber(click.IntRange):
    """A number whose refusal names the range; the help text of the option has the range in words, not as 1<=x<=64."""

    def _describe_range(self) -> str:
        return ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Return the number."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"'{value}' is not a whole number from {self.min} to {self.max}.", param, ctx)


SECTIONS: dict[str, tuple[click.Option, ...]] = {
    "Clone": (
        click.Option(
            ["--mode"],
            type=click.Choice([mode.value for mode in Mode]),
            default=Mode.COPY.value,
            help="How volumes are duplicated: copy makes independent volumes, shallow copies only the top image of a "
            "backing chain, linked makes overlays on the original's volumes, reflink shares equal blocks within the "
            "file system, auto makes a reflink of each volume where the file system can, else a copy. [default: copy]",
        ),
        click.Option(
            ["--freeze"],
            is_flag=True,
            help="With --mode linked or --disk TARGET=linked, move the linked disks of DOMAIN onto overlays first, so "
            "that DOMAIN can be started, too: its former volumes become bases that nobody writes to.",
        ),
        click.Option(
            ["--count"],
            type=_WholeNumber(1, _MAX_COUNT),
            metavar="N",
            help="Make N clones, with names made from one NEWNAME. In NEWNAME, {} stands for the number and {:02} for "
            "the number with at least two digits; otherwise a hyphen and the number follow NEWNAME. N is at most "
            f"{_MAX_COUNT}. [default: one clone for each NEWNAME]",
        ),
        click.Option(
            ["--snapshot"],
            metavar="NAME",
            type=SNAPSHOT,
            help="Clone DOMAIN as it was at its snapshot NAME; if the snapshot is external, DOMAIN may run meanwhile. "
            "[default: as it is now]",
        ),
        click.Option(["--auto-name"], is_flag=True, help="Choose a free name for each clone, such as DOMAIN-clone-2."),
        click.Option(
            ["--jobs"],
            type=_WholeNumber(1, _MAX_JOBS),
            default=_JOBS,
            metavar="N",
            help=f"Number of clones to create in parallel, at most {_MAX_JOBS}. [default: {_JOBS}]",
        ),
        click.Option(
            ["--fail-on"],
            type=_codes,
            metavar="CODE[,CODE...]",
            multiple=True,
            shell_complete=_complete_codes,
            help="Make no clone if there is a warning with one of these codes, such as linked-original; any stands for "
            "all codes. Can be repeated. [default: warnings refuse nothing]",
        ),
    ),
    "Storage": (
        click.Option(
            ["--disk", "disks"],
            type=_disk_choice,
            metavar="TARGET=HOW",
            multiple=True,
            help="How to handle one disk: copy, shallow, linked, reflink or auto (see --mode), share (use the "
            "original's volume) or drop; then where the new volume goes, such as vda=linked,name=NAME,pool=POOL. Can "
            "be repeated. [default: as --mode says]",
        ),
        click.Option(
            ["--pool"],
            metavar="POOL",
            type=POOL,
            help="Pool for new volumes. [default: the pool of each original volume]",
        ),
        click.Option(
            ["--nvram"],
            metavar="PLACE",
            help="Destination of the NVRAM copy: absolute path, POOL/VOLUME, or a file name in the original's "
            "directory. [default: a file there with the clone's name]",
        ),
        click.Option(
            ["--transfer"],
            type=click.Choice([Transfer.HOST.value, Transfer.STREAM.value, Transfer.SERVER.value]),
            help="How content gets into new volumes: virtomate writes the files (host), virtomate writes through the "
            "libvirt connection (stream), or libvirt copies (server). [default: the fastest possible]",
        ),
        click.Option(
            ["--bandwidth"],
            type=_WholeNumber(0, _MAX_BANDWIDTH),
            default=0,
            metavar="MiB/s",
            help="Limit on what all transfers together write in a second, for host, stream and --live. [default: 0, no "
            "limit]",
        ),
        *VOLUME_OPTIONS,
    ),
    "Identity": (
        click.Option(
            ["--mac", "macs"],
            type=_mac_address,
            metavar=f"MAC|{KEEP}",
            multiple=True,
            help="MAC address of the first interface; a repeated --mac is for the next interface; keep leaves all "
            "addresses as they are. [default: random]",
        ),
        click.Option(["--uuid"], type=_uuid, metavar="UUID", help="UUID of the clone. [default: random]"),
        click.Option(
            ["--title"], type=_title, metavar="TEXT", help="Title of the clone, '' for none. [default: the original's]"
        ),
        click.Option(
            ["--description"],
            type=_text,
            metavar="TEXT",
            help="Description of the clone, '' for none. [default: the original's]",
        ),
    ),
    "Seed": (
        click.Option(
            ["--seed"],
            is_flag=True,
            help="Make a disk for each clone from which cloud-init takes the host name and what the options below say. "
            "A seed of the original is replaced. [default: no disk]",
        ),
        click.Option(
            ["--hostname"],
            metavar="NAME",
            help="Host name of the guest; {} stands for the number of the clone, as in NEWNAME. [default: the name "
            "of the clone]",
        ),
        click.Option(
            ["--ssh-key", "ssh_keys"],
            metavar="FILE|TEXT",
            multiple=True,
            type=click.Path(),
            help="Public key of SSH, or a file with such keys, that may log in as the default user. Can be repeated. "
            "[default: no key]",
        ),
        click.Option(
            ["--user"],
            metavar="NAME",
            type=_user,
            help="Name of the default user. [default: as the image has it, such as debian]",
        ),
        click.Option(
            ["--user-data"],
            metavar="FILE",
            type=click.Path(),
            help="User data for cloud-init, instead of --ssh-key and --user. [default: none]",
        ),
        click.Option(
            ["--network-data"],
            metavar="FILE",
            type=click.Path(),
            help="Network configuration for cloud-init. [default: DHCP]",
        ),
        click.Option(
            ["--vendor-data"],
            metavar="FILE",
            type=click.Path(),
            help="Vendor data for cloud-init. [default: none]",
        ),
        click.Option(
            ["--seed-dir"],
            metavar="DIR",
            type=click.Path(file_okay=False),
            help="Directory with the files of the seed: meta-data, user-data, network-config, vendor-data. "
            "[default: the options above]",
        ),
    ),
    "Running": (
        click.Option(
            ["--live"],
            is_flag=True,
            help="Clone DOMAIN also while it runs or is paused; all disks are copied as of one moment, with "
            "frozen file systems if the guest agent answers (see --quiesce), else as after a power cut. [default: "
            "DOMAIN must be shut off]",
        ),
        click.Option(
            ["--live-devices"],
            is_flag=True,
            help="With --live, give the clone the devices that DOMAIN has now, hot-plugged ones included. [default: "
            "the devices that DOMAIN has after its next start]",
        ),
        click.Option(
            ["--risk-original"],
            is_flag=True,
            help="With --live, also use file systems that cannot reserve space: should one get full meanwhile, the "
            "guest of DOMAIN stops or sees I/O errors.",
        ),
        click.Option(
            ["--quiesce"],
            type=click.Choice([quiesce.value for quiesce in Quiesce]),
            help="With --live, whether the guest agent freezes the file systems for the moment in which the copy "
            "begins: auto if the agent can, require or else make no clone, off never. [default: auto]",
        ),
        click.Option(
            ["--shutdown"],
            is_flag=True,
            help="If DOMAIN is running, shut it down, clone it, and start it again, also if cloning fails.",
        ),
        click.Option(
            ["--shutdown-timeout"],
            type=_seconds,
            metavar="SECONDS",
            help=f"How long the guest may take to shut down before the command fails. [default: {SHUTDOWN_SECONDS}]",
        ),
        click.Option(["--no-restart"], is_flag=True, help="Leave DOMAIN shut off after --shutdown."),
        click.Option(["--start"], is_flag=True, help="Start each clone when it is complete."),
        click.Option(
            ["--wait"],
            type=_wait,
            metavar="agent|ip[,SECONDS]",
            help="Start each clone and wait until its guest agent answers (agent) or it has an IP address (ip), for at "
            f"most SECONDS. [default: no waiting; SECONDS: {_WAIT_SECONDS}]",
        ),
    ),
    "Output": (
        click.Option(["--dry-run"], is_flag=True, help="Show what would be done, and change nothing."),
        click.Option(["--print-xml"], is_flag=True, help="Print the definition of the clone, and change nothing."),
    ),
}

EXAMPLES = (
    "virtomate domain-clone ubuntu-24.04 web-1",
    "virtomate domain-clone --mode linked --count 3 ubuntu-24.04 ci",
    "virtomate domain-clone --disk vdb=drop --wait ip ubuntu-24.04 dev",
)
