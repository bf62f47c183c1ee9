"""Options that every command takes, before its name or after it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

from virtomate import __version__
from virtomate.cli.signals import Signals
from virtomate.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.output.streams import Format

Command = TypeVar("Command", bound="Callable[..., Any]")

CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


class CommonOption(click.Option):
    """An option that every command takes."""


class SectionOption(click.Option):
    """An option that stands below a heading of its own in the help of its command."""

    def __init__(self, *arguments: Any, section: str, **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **attributes)
        self.section = section


class Settings:
    """What those options say; an option after the command's name overrides the one before it.

    Attributes:
        signals: What they do to the command.
        terminal: Where a person may be asked something.
    """

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
        from virtomate.advice import Reach  # noqa: PLC0415 - help and completion write no results
        from virtomate.output.streams import Format  # noqa: PLC0415

        uri = self.uri or os.environ.get("LIBVIRT_DEFAULT_URI") or None
        # virsh has a variable of its own for where there is no -c; where an empty one is given, libvirt decides
        has_own = bool(os.environ.get("VIRSH_DEFAULT_CONNECT_URI"))
        reach = Reach(virtomate=uri, virsh="" if uri is None and has_own else uri)
        return Format(self.json or self.pretty, self.pretty, self.progress == "json", reach)


def common_options(command: Command) -> Command:
    """Add the options that every command takes."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def option(*names: str, section: str, **attributes: Any) -> Callable[[Command], Command]:  # noqa: ANN401
    """Add an option below a heading of the command's help."""
    return click.option(*names, cls=SectionOption, section=section, **attributes)


def trust_pool_option(section: str) -> Callable[[Command], Command]:
    """Add the option of those commands that have libvirt write files."""
    return option(
        "--trust-pool",
        section=section,
        is_flag=True,
        help="Let libvirt write even where other users could place a symbolic link, which libvirt follows.",
    )


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:  # noqa: ANN401
    settings = context.ensure_object(Settings)
    if value is not None and parameter.name is not None:
        setattr(settings, parameter.name, value)


def _option(*names: str, **attributes: Any) -> Callable[[Command], Command]:  # noqa: ANN401
    # without a default an option that is not given leaves what was given before the command's name
    return click.option(
        *names, cls=CommonOption, default=None, expose_value=False, callback=_remember, is_eager=True, **attributes
    )


def _complete_uri(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    uris = dict.fromkeys([os.environ.get("LIBVIRT_DEFAULT_URI", ""), "qemu:///system", "qemu:///session"])
    return [uri for uri in uris if uri and uri.startswith(incomplete)]


_OPTIONS = (
    _option(
        "-c",
        "--connection",
        "--connect",
        "uri",
        metavar="URI",
        shell_complete=_complete_uri,
        help="libvirt connection URI. [default: libvirt decides]",
    ),
    _option("--json", "json", is_flag=True, help="Write one JSON document to stdout."),
    _option("-p", "--pretty", "pretty", is_flag=True, help="Indent the JSON; implies --json."),
    _option("-q", "--quiet", "quiet", is_flag=True, help="Show neither progress nor notes."),
    _option(
        "--progress",
        "progress",
        type=click.Choice(["auto", "bar", "json", "none"]),
        help="How progress is shown on stderr; auto shows bars at a terminal. [default: auto]",
    ),
    _option(
        "-l",
        "--log",
        "log",
        type=click.Choice(["debug", "info", "warning", "error"]),
        metavar="LEVEL",
        help="Log to stderr from this level on: debug, info, warning or error. [default: no log]",
    ),
    click.version_option(
        __version__,
        "-v",
        "--version",
        cls=CommonOption,
        prog_name="virtomate",
        message="%(prog)s %(version)s",
    ),
)
