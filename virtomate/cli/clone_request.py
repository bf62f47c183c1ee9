"""The request of `domain-clone`, made of the words of the command line."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.address_options import read_addresses
from virtomate.cli.clone_values import KEEP, SHUTDOWN_SECONDS
from virtomate.cli.host_options import read_other_host
from virtomate.cli.seed_request import SeedWords, read_seed_words
from virtomate.enums import DiskAction, IfExists, Mode, Quiesce, TpmTreatment, Transfer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from virtomate.notices import CloneWarning
    from virtomate.services.address_wish import AddressWish
    from virtomate.services.clone_records import CloneRequest, DiskOptions, Wait
    from virtomate.services.other_host import HostMap

_MIB = 1024 * 1024

# the place of a clone's number, and what looks like such a place
_NUMBER = r"\{(:0(?P<digits>[1-9]))?\}"
_BRACES = r"\{[^{}]*\}"
_BRACES_FOR_NUMBER = r"\{(:[^{}]*)?\}"


def clone_request(
    *,
    names: Sequence[str],
    count: int | None,
    auto_name: bool,
    if_exists: str,
    mode: str,
    disks: Sequence[DiskOptions],
    macs: Sequence[str],
    ips: Sequence[AddressWish],
    ip_ranges: Sequence[AddressWish],
    tpm: str,
    transfer: str | None,
    bandwidth: int,
    no_space_check: bool,
    quiesce: str | None,
    shutdown: bool,
    shutdown_timeout: float | None,
    no_restart: bool,
    start: bool,
    wait: Wait | None,
    fail_on: Sequence[frozenset[CloneWarning]],
    block: str,
    sysprep: str | None,
    customize: Sequence[str],
    to: str | None,
    maps: Sequence[HostMap],
    **fields: Any,  # noqa: ANN401 - as the request has them
) -> CloneRequest:
    """Make a request of the words of the command line, or raise click.UsageError if they do not go together."""
    from virtomate.services.clone_records import (  # noqa: PLC0415 - help and completion need no records
        CloneRequest,
        Shutdown,
    )

    if auto_name and if_exists != IfExists.FAIL:
        raise click.UsageError(f"--if-exists {if_exists} is for names that exist, and --auto-name chooses free names.")
    clone_names = _names(names, count, auto_name=auto_name)
    auto_names = (count or 1) if auto_name else 0
    many = max(len(clone_names), auto_names)
    if many > 1:
        only_for_one = {
            "--uuid": fields["uuid"] is not None,
            "--mac with an address": any(mac != KEEP for mac in macs),
            "--nvram": fields["nvram"] is not None,
            "name= of --disk": any(disk.name is not None for disk in disks),
        }
        for word, is_given in only_for_one.items():
            if is_given:
                raise click.UsageError(f"{word} is for one clone, and several are to be made.")
    if KEEP in macs and len(macs) > 1:
        raise click.UsageError(f"--mac {KEEP} is for all interfaces, and cannot be given with another --mac.")
    if (twice := _repeated(macs)) is not None:
        raise click.UsageError(f"--mac {twice} is given twice, and every interface needs an address of its own.")
    if (twice := _repeated([disk.target for disk in disks])) is not None:
        raise click.UsageError(f"--disk is given twice for {twice}.")
    fields |= _shape_and_credentials(fields, count)
    addresses = read_addresses(ips, ip_ranges, many, keeps_mac_addresses=KEEP in macs)
    seed_words = SeedWords(**{word: fields.pop(word) for word in SeedWords._fields})
    _check_running(
        live={
            **{word: fields[word[2:].replace("-", "_")] for word in ("--live", "--live-devices", "--risk-original")},
            "--quiesce": quiesce is not None,
        },
        shutdown={
            "--shutdown": shutdown,
            "--shutdown-timeout": shutdown_timeout is not None,
            "--no-restart": no_restart,
        },
        is_snapshot=fields["snapshot"] is not None,
    )
    if fields["freeze"]:
        _check_freeze(mode, disks, is_snapshot=fields["snapshot"] is not None)
    other = read_other_host(to, maps, block=block)
    seed, host_names = read_seed_words(seed_words, many, None if count is None else numbered_names)
    preparation = None
    if sysprep is not None or customize:
        from virtomate.services.sysprep import read_preparation  # noqa: PLC0415 - few clones are prepared

        preparation = read_preparation(sysprep, customize)
    seconds = SHUTDOWN_SECONDS if shutdown_timeout is None else shutdown_timeout
    return CloneRequest(
        names=clone_names,
        auto_names=auto_names,
        mode=Mode(mode),
        disks=tuple(disks),
        mac_addresses=() if KEEP in macs else tuple(macs),
        keep_mac_addresses=KEEP in macs,
        tpm=TpmTreatment(tpm),
        transfer=None if transfer is None else Transfer(transfer),
        bandwidth_bytes=bandwidth * _MIB,
        check_space=not no_space_check,
        quiesce=Quiesce.AUTO if quiesce is None else Quiesce(quiesce),
        shutdown=Shutdown(seconds, restarts=not no_restart) if shutdown else None,
        start=start or wait is not None,
        wait=wait,
        fail_on=frozenset().union(*fail_on),
        seed=seed,
        host_names=host_names,
        preparation=preparation,
        if_exists=IfExists(if_exists),
        block=None if block == DiskAction.SHARE else Mode(block),
        addresses=addresses,
        to=other,
        **fields,
    )


def _shape_and_credentials(fields: dict[str, Any], count: int | None) -> dict[str, Any]:
    """Take the words about size, shape and credentials, and return what they make of a request."""
    found: dict[str, Any] = {}
    words = {word: fields.pop(word) for word in ("memory", "vcpus", "networks", "autostart")}
    if any(words.values()):
        from virtomate.cli.shape_request import read_shape  # noqa: PLC0415 - most clones are like their originals

        found["shape"] = read_shape(**words)
    if credentials := fields.pop("credentials"):
        from virtomate.cli.credential_request import read_credentials  # noqa: PLC0415 - few clones get any

        numbered = None if count is None else partial(numbered_values, count=count)
        found["credentials"] = read_credentials(credentials, _NUMBER, numbered)
    return found


def _check_running(live: Mapping[str, bool], shutdown: Mapping[str, bool], *, is_snapshot: bool) -> None:
    """Refuse words about an original that runs without the first word of their kind, and words of several kinds."""
    if live["--live"] and shutdown["--shutdown"]:
        raise click.UsageError("--live clones an original while it runs, and --shutdown shuts it down: choose one.")
    for word, is_given in live.items():
        if is_given and not live["--live"]:
            raise click.UsageError(f"{word} is for an original that runs, and needs --live.")
    for word, is_given in shutdown.items():
        if is_given and not shutdown["--shutdown"]:
            raise click.UsageError(f"{word} is for an original that --shutdown shuts down.")
    for word in ("--live", "--shutdown"):
        if is_snapshot and {**live, **shutdown}[word]:
            raise click.UsageError(f"{word} is for an original as it is now, and cannot be given with --snapshot.")


def _check_freeze(mode: str, disks: Sequence[DiskOptions], *, is_snapshot: bool) -> None:
    """Refuse to freeze an original of which nothing is linked, and what is no image of the original itself."""
    if mode != Mode.LINKED and not any(disk.treatment is DiskAction.LINKED for disk in disks):
        raise click.UsageError("--freeze is for linked clones, and needs --mode linked or --disk TARGET=linked.")
    if is_snapshot:
        raise click.UsageError("--freeze is for an original as it is now, and cannot be given with --snapshot.")


def numbered_names(template: str, count: int) -> tuple[str, ...]:
    """Return the names that a template stands for, from number 1 on.

    `{}` is the number, `{:0N}` the number with at least N digits. Without either, a hyphen and the number follow.
    Anything else in braces raises click.UsageError.
    """
    for place in re.findall(_BRACES, template):
        if re.fullmatch(_NUMBER, place) is None:
            expected = "{} for the number, or {:02} for the number with at least two digits, up to {:09}"
            raise click.UsageError(f"'{place}' in '{template}' is not understood; expected: {expected}.")
    if re.search(_NUMBER, template) is None:
        template = f"{template}-{{}}"
    return numbered_values(template, count)


def numbered_values(template: str, count: int) -> tuple[str, ...]:
    """Return texts with the numbers from 1 on in the places for a number, see `numbered_names`."""

    def value(number: int) -> str:
        return re.sub(_NUMBER, lambda match: str(number).zfill(int(match["digits"] or 1)), template)

    return tuple(value(number) for number in range(1, count + 1))


def _names(names: Sequence[str], count: int | None, *, auto_name: bool) -> tuple[str, ...]:
    if auto_name:
        if names:
            raise click.UsageError(f"--auto-name chooses the names, but '{names[0]}' is given.")
        return ()
    if not names:
        raise click.UsageError("Missing argument 'NEWNAME'. Give a name for the clone, or --auto-name.")
    if count is None:
        for name in names:
            if (place := re.search(_BRACES_FOR_NUMBER, name)) is not None:
                raise click.UsageError(f"'{place[0]}' in '{name}' has no number without --count.")
        return tuple(names)
    if len(names) > 1:
        raise click.UsageError(f"--count makes all names from one NEWNAME, but {len(names)} are given.")
    if not names[0]:
        raise click.UsageError("'' is not a NEWNAME for --count; expected: a name, such as web or web-{:02}.")
    return numbered_names(names[0], count)


def _repeated(words: Sequence[str]) -> str | None:
    return next((word for index, word in enumerate(words) if word in words[:index]), None)
