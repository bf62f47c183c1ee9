"""The options of `domain-clone` about another host, and what they make of a request."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from virtomate.enums import DiskAction, MapKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

    from virtomate.services.other_host import HostMap, OtherHost

# Where libvirt's client looks for aliases of URIs (https://libvirt.org/uri.html#uri-aliases).
_CLIENT_SETTINGS = (("XDG_CONFIG_HOME", "~/.config", "libvirt/libvirt.conf"), ("", "/etc", "libvirt/libvirt.conf"))
_ALIASES = r"^\s*uri_aliases\s*=\s*\[(?P<items>[^\]]*)\]"
_ALIAS = r"\"(?P<name>[^\"=]+)=(?P<uri>[^\"]+)\""


def other_uri(value: str) -> str:
    """Return the URI of another libvirt; an empty one would lead to the libvirt of the original."""
    if not value:
        raise click.BadParameter("'' is not a URI; expected: the URI of another libvirt, or an alias of one.")
    return value


def host_map(value: str) -> HostMap:
    """Return what a thing is called on the other host: KIND:A=B."""
    from virtomate.services.other_host import HostMap  # noqa: PLC0415 - help and completion need no records

    kind, colon, rest = value.partition(":")
    old, equals, new = rest.rpartition("=")
    if not colon or not equals or not old or not new:
        raise click.BadParameter(f"'{value}' is not of the form KIND:A=B, such as network:default=lab")
    if kind not in set(MapKind):
        raise click.BadParameter(f"'{kind}' in '{value}' is not known; expected: {', '.join(MapKind)}")
    return HostMap(MapKind(kind), old, new)


def _complete_host(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the aliases of URIs that libvirt's client settings have."""
    names: dict[str, None] = {}
    for variable, otherwise, path in _CLIENT_SETTINGS:
        try:
            directory = os.environ.get(variable) or os.path.expanduser(otherwise)
            with open(os.path.join(directory, path), encoding="utf-8") as file:
                text = re.sub(r"(?m)^\s*#.*$", "", file.read())
        except (OSError, ValueError):
            continue
        for found in re.finditer(_ALIASES, text, re.MULTILINE):
            names |= dict.fromkeys(alias["name"] for alias in re.finditer(_ALIAS, found["items"]))
    return [name for name in names if name.startswith(incomplete)]


def _complete_map(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only completion needs it

    return [CompletionItem(f"{kind.value}:") for kind in MapKind if f"{kind.value}:".startswith(incomplete)]


def read_other_host(to: str | None, maps: Sequence[HostMap], *, block: str) -> OtherHost | None:
    """Return the host that was asked for; None for the host of the original.

    Raises:
        click.UsageError: The words do not go together.
    """
    if to is None:
        if maps:
            raise click.UsageError(f"--map {maps[0].word} is for another host, and needs --to.")
        return None
    if block == DiskAction.LINKED:
        raise click.UsageError(
            "--block linked cannot be given with --to: an overlay rests on a device of its own host."
        )
    seen: set[tuple[MapKind, str]] = set()
    for item in maps:
        if (item.kind, item.old) in seen:
            raise click.UsageError(f"--map is given twice for {item.kind.value} '{item.old}'.")
        seen.add((item.kind, item.old))
    from virtomate.services.other_host import OtherHost  # noqa: PLC0415 - few clones go to another host

    return OtherHost(to, tuple(maps))


OPTIONS = (
    click.Option(
        ["--to"],
        type=other_uri,
        metavar="URI",
        shell_complete=_complete_host,
        help="Make the clones on the host of another libvirt. Volumes are copied through virtomate, unless the hosts "
        "share the storage. [default: the host of DOMAIN]",
    ),
    click.Option(
        ["--map", "maps"],
        type=host_map,
        metavar="KIND:A=B",
        multiple=True,
        shell_complete=_complete_map,
        help="With --to, use B of that host where DOMAIN uses A of its own; KIND is pool, network, bridge, machine, "
        "cpu, virt, file, secret or hostdev. Can be repeated. [default: B is called as A]",
    ),
)
