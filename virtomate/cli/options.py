"""The options that commands have in common, and their values."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from virtomate import __version__
from virtomate.cli.signals import Signals
from virtomate.cli.terminal import Terminal

if TYPE_CHECKING:
    from virtomate.output.streams import Format

CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 80}

# More digits than that wait longer than a process can.
_SECONDS = r"[0-9]{1,9}(\.[0-9]{1,9})?|\.[0-9]{1,9}"


class OptionalArgument(click.Argument):
    """An argument that may be missing; a usage error names it without the brackets of the usage line."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the name of the argument for a usage error."""
        return super().get_error_hint(ctx).replace("[", "").replace("]", "")


class Settings:
    """The values of the common options; an option after the command's name overrides the same option before it."""

    def __init__(self) -> None:
        self.uri: str | None = None
        self.json = False
        self.pretty = False
        self.quiet = False
        self.progress = "auto"
        self.log: str | None = None
        self.signals = Signals()
        self.terminal = Terminal()

    @property
    def format(self) -> Format:
        """How results are written."""
        from virtomate.output.streams import Format  # noqa: PLC0415
        from virtomate.words import Reach  # noqa: PLC0415 - help and completion write no results

        uri = self.uri or os.environ.get("LIBVIRT_DEFAULT_URI") or None
        # without -c virsh reads a variable of its own; with an empty -c libvirt decides
        has_own = bool(os.environ.get("VIRSH_DEFAULT_CONNECT_URI"))
        reach = Reach(virtomate=uri, virsh="" if uri is None and has_own else uri)
        return Format(self.json or self.pretty, self.pretty, self.progress == "json", reach)

    def format_at(self, uri: str | None) -> Format:
        """How results about another libvirt are written; None for the libvirt of the connection."""
        from virtomate.words import Reach  # noqa: PLC0415 - as above

        return self.format if uri is None else self.format._replace(reach=Reach(uri, uri))


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:  # noqa: ANN401
    settings = context.ensure_object(Settings)
    if value is not None and parameter.name is not None:
        setattr(settings, parameter.name, value)


def _show_version(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        click.echo(f"virtomate {__version__}")
        context.exit()


def _option(names: list[str], **attributes: Any) -> click.Option:  # noqa: ANN401
    # without a default, an option that is not given keeps the value from before the command's name
    settings = {"default": None, "expose_value": False, "callback": _remember, "is_eager": True}
    return click.Option(names, **(settings | attributes))


def read_seconds(word: str) -> float | None:
    """Return the number of seconds that a word stands for, such as 30 or 0.5; None for any other word."""
    return float(word) if re.fullmatch(_SECONDS, word) else None


def _complete_uri(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    uris = dict.fromkeys([os.environ.get("LIBVIRT_DEFAULT_URI", ""), "qemu:///system", "qemu:///session"])
    return [uri for uri in uris if uri and uri.startswith(incomplete)]


# All commands have the same objects: options hold no state.
COMMON_OPTIONS = (
    _option(
        ["-c", "--connection", "--connect", "uri"],
        metavar="URI",
        shell_complete=_complete_uri,
        help="libvirt connection URI. [default: libvirt decides]",
    ),
    _option(["--json"], is_flag=True, help="Write one JSON document to stdout."),
    _option(["-p", "--pretty"], is_flag=True, help="Indent the JSON; implies --json."),
    _option(["-q", "--quiet"], is_flag=True, help="Show neither progress nor notes."),
    _option(
        ["--progress"],
        type=click.Choice(["auto", "bar", "json", "none"]),
        help="How progress is shown on stderr; auto shows bars at a terminal. [default: auto]",
    ),
    _option(
        ["-l", "--log"],
        type=click.Choice(["debug", "info", "warning", "error"]),
        metavar="LEVEL",
        help="Log to stderr from this level on: debug, info, warning or error. [default: no log]",
    ),
    _option(["-v", "--version"], is_flag=True, callback=_show_version, help="Show the version and exit."),
)
# The options of commands that write volumes.
VOLUME_OPTIONS = (
    click.Option(
        ["--no-space-check"],
        is_flag=True,
        help="Do not check for enough free space in storage pools; for file systems that compress.",
    ),
    click.Option(
        ["--trust-pool"],
        is_flag=True,
        help="Let libvirt write even where other users could place a symbolic link, which libvirt follows.",
    ),
)
