"""The root command: groups of commands, which are also commands with a hyphen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from virtomate.cli.completion import COMPLETE_VARIABLE, completion
from virtomate.cli.help import Group
from virtomate.cli.options import Settings
from virtomate.errors import (
    EXIT_FAILED,
    EXIT_LEFTOVERS,
    EXIT_NO_AGENT,
    EXIT_USAGE,
    InternalError,
    InterruptedBySignalError,
    UsageError,
    VirtomateError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# After a signal, these failures are its consequence.
_OUTRANKED = {EXIT_FAILED, EXIT_NO_AGENT}


def load_group(name: str) -> Group | None:
    """Return a group of commands, or None if the name is unknown; most command lines need one group."""
    match name:
        case "domain":
            from virtomate.cli.linked import domain as group  # noqa: PLC0415
        case "guest":
            from virtomate.cli.guest import guest as group  # noqa: PLC0415
        case "pool":
            from virtomate.cli.storage import pool as group  # noqa: PLC0415
        case "volume":
            from virtomate.cli.storage import volume as group  # noqa: PLC0415
        case _:
            return None
    return group


class RootGroup(Group):
    """Resolves `GROUP-COMMAND`, the documented spelling, besides `GROUP COMMAND`."""

    prefix = ""

    @property
    def groups(self) -> list[Group]:
        """All groups, in the order of the help text."""
        return [group for name in ("domain", "guest", "pool", "volume") if (group := load_group(name))]

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the documented names of all commands, group by group, then those outside groups."""
        grouped = [f"{group.prefix}{name}" for group in self.groups for name in group.list_commands(context)]
        return [*grouped, *self.commands]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a group, or a command of a group."""
        group_name, hyphen, command_name = name.partition("-")
        group = load_group(group_name)
        if group is None:
            return super().get_command(context, name)
        return group.get_command(context, command_name) if hyphen else group

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write into the help how commands are called."""
        click.Command.format_usage(self, context, formatter)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands into the help, group by group."""
        for group in self.groups:
            group.format_commands(context, formatter)
        others = [(name, command.get_short_help_str(formatter.width)) for name, command in self.commands.items()]
        with formatter.section("Other commands"):
            formatter.write_dl(others)


@click.group(cls=RootGroup)
def root() -> None:
    """Clone libvirt domains, and look after the clones.

    'virtomate COMMAND -h' shows what a command does. Every command takes the options below before or after its name.
    """


root.add_command(completion)


def run(arguments: Sequence[str]) -> int:
    """Run the command line, and return the exit status, or the negative number of the signal to end by."""
    settings = Settings()
    if COMPLETE_VARIABLE in os.environ:
        from virtomate.cli.shells import complete  # noqa: PLC0415 - only shells need it

        return complete(root, settings, os.environ[COMPLETE_VARIABLE], list(arguments))
    settings.terminal.remember()
    try:
        status = settings.signals.watch(lambda: _work(arguments, settings))
    except InterruptedBySignalError as error:
        from virtomate.output.render import render_interruption  # noqa: PLC0415 - few commands are interrupted

        settings.terminal.restore()
        render_interruption(error, settings.format, is_asking=settings.terminal.is_asking)
        status = error.exit_status
    settings.terminal.restore()
    number = settings.signals.cancel.signal_number
    return status if number is None or status == EXIT_LEFTOVERS else -number


def _work(arguments: Sequence[str], settings: Settings) -> int:
    try:
        # the standalone mode of Click prints "Aborted!" and exits with 1 in any case
        status = root.main(list(arguments), prog_name="virtomate", standalone_mode=False, obj=settings)
    except Exception as error:  # noqa: BLE001 - people cannot use a traceback
        return _report(error, settings)
    return status if isinstance(status, int) else 0


def _takes_names(context: click.Context) -> bool:
    return any(isinstance(parameter, click.Argument) for parameter in context.command.params)


def _report(error: Exception, settings: Settings) -> int:
    """Show an error, and return the exit status for it."""
    from virtomate.output import render  # noqa: PLC0415 - few commands fail
    from virtomate.output.streams import tell  # noqa: PLC0415 - as above

    if settings.signals.has_left_command:
        return EXIT_FAILED
    if isinstance(error, OSError):
        # Click itself writes help
        error = render.find_unwritten() or error
    match error:
        case click.exceptions.NoArgsIsHelpError():
            tell(f"{error.format_message()}\n")
            return EXIT_USAGE
        case click.ClickException():
            context = error.ctx if isinstance(error, click.UsageError) else None
            usage = f"{context.get_usage()}\nTry '{context.command_path} -h' for help." if context else ""
            message = error.format_message()
            if isinstance(error, click.MissingParameter):
                # Click lists choices below each other; the message contains nothing that was given
                message = " ".join(message.split())
            if isinstance(error, click.NoSuchOption) and not error.possibilities and context and _takes_names(context):
                message += " A name that begins with - must stand behind --."
            render.render_usage_error(usage, message, settings.format)
            return error.exit_code
        case UsageError():
            render.render_usage_error("", error.message, settings.format)
            return EXIT_USAGE
        case VirtomateError():
            number = settings.signals.cancel.signal_number
            if number is not None and error.exit_status in _OUTRANKED:
                error = InterruptedBySignalError(number)
            render.render_error(error, settings.format)
            return error.exit_status
    from virtomate.output.log import log_traceback  # noqa: PLC0415 - as above

    log_traceback(error)
    render.render_error(InternalError(error), settings.format)
    return EXIT_FAILED
