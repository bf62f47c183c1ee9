"""The root command: groups of commands, which are also commands with a hyphen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from virtomate.cli.domain import domain
from virtomate.cli.options import CONTEXT_SETTINGS, Settings, common_options
from virtomate.cli.pool import pool
from virtomate.cli.volume import volume
from virtomate.errors import EXIT_FAILED, EXIT_USAGE, InternalError, UsageError, VirtomateError
from virtomate.output.log import log_traceback
from virtomate.output.render import render_error, render_usage_error

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT_SIGINT = 130


class RootGroup(click.Group):
    """Resolves `GROUP-COMMAND`, the documented spelling, besides `GROUP COMMAND`."""

    def hyphenated(self, context: click.Context) -> list[str]:
        """The documented names of all commands, group by group."""
        names = []
        for group_name, group in self.commands.items():
            if isinstance(group, click.Group):
                names += [f"{group_name}-{name}" for name in group.list_commands(context)]
        return names

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The group, or the command of a group."""
        command = super().get_command(context, name)
        group_name, hyphen, command_name = name.partition("-")
        group = super().get_command(context, group_name)
        if command is None and hyphen and isinstance(group, click.Group):
            return group.get_command(context, command_name)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for one that does not exist, suggest one that does."""
        name = arguments[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            import difflib  # noqa: PLC0415 - a twentieth of the time that a clone takes

            similar = difflib.get_close_matches(name, self.hyphenated(context), n=1)
            advice = f"Did you mean '{similar[0]}'?" if similar else "virtomate -h lists the commands."
            context.fail(f"There is no command '{name}'. {advice}")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the object that they are about."""
        for group_name, group in self.commands.items():
            if not isinstance(group, click.Group):
                continue
            rows = [
                (f"{group_name}-{name}", command.get_short_help_str(formatter.width))
                for name in group.list_commands(context)
                if (command := group.get_command(context, name)) is not None
            ]
            with formatter.section(f"{group_name.capitalize()} commands"):
                formatter.write_dl(rows)


@click.group(cls=RootGroup, context_settings=CONTEXT_SETTINGS)
@common_options
def root() -> None:
    """Clone libvirt domains, and look after the clones.

    Every command takes the options below before or after its name.
    """


root.add_command(domain)
root.add_command(pool)
root.add_command(volume)


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        The exit status, as the manual page virtomate(1) lists them.
    """
    settings = Settings()
    try:
        # Click's own handling prints "Aborted!" and exits 1 whatever happened
        status = root.main(list(arguments), prog_name="virtomate", standalone_mode=False, obj=settings)
    except Exception as error:  # noqa: BLE001 - a traceback tells people nothing
        return _report(error, settings)
    return status if isinstance(status, int) else 0


def _report(error: Exception, settings: Settings) -> int:
    """Show an error, and return the exit status for it."""
    match error:
        case click.ClickException():
            return _report_misuse(error, settings)
        case UsageError():
            render_usage_error("", error.message, settings.format)
            return EXIT_USAGE
        case VirtomateError():
            render_error(error, settings.format)
            return error.exit_status
        case click.exceptions.Abort():
            # at a prompt
            return _EXIT_SIGINT
    log_traceback(error)
    render_error(InternalError(error), settings.format)
    return EXIT_FAILED


def _report_misuse(error: click.ClickException, settings: Settings) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(f"{error.format_message()}\n")
        return EXIT_USAGE
    usage = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        usage = f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} -h' for help."
    render_usage_error(usage, error.format_message(), settings.format)
    return error.exit_code
