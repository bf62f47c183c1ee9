"""What commands and groups of commands have in common: their documented names, and help in one order."""

from __future__ import annotations

import click

from virtomate.cli.options import CommonOption


class _Context(click.Context):
    """Calls a command `GROUP-COMMAND`, as the documentation does, also where it was called as `GROUP COMMAND`."""

    @property
    def command_path(self) -> str:
        """The program and the command, for usage lines."""
        names: list[str] = []
        context: click.Context | None = self
        while context is not None:
            names.insert(0, context.info_name or "")
            context = context.parent
        program, *command = names
        return " ".join([program, *(["-".join(command)] if command else [])])


class Command(click.Command):
    """A command whose help shows its own options before the common ones."""

    context_class = _Context

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options into the help."""
        _format_options(self, context, formatter)


class Group(click.Group):
    """The commands about one kind of object."""

    context_class = _Context
    command_class = Command

    def documented_name(self, name: str) -> str:
        """What the documentation calls a command of this group."""
        return f"{self.name}-{name}"

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for one that does not exist, suggest one that does."""
        name = arguments[0]
        is_known = name.startswith("-") or self.get_command(context, name) is not None
        if not is_known and not context.resilient_parsing:
            import difflib  # noqa: PLC0415 - a twentieth of the time that a clone takes

            advice = f"{context.command_path} -h lists the commands."
            for similar in difflib.get_close_matches(name, self.list_commands(context), n=1):
                advice = f"Did you mean '{self.documented_name(similar)}'?"
            context.fail(f"There is no command '{name}'. {advice}")
        return super().resolve_command(context, arguments)

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write how the commands are called into the help."""
        formatter.write_usage(f"{context.command_path}-COMMAND", "[OPTIONS] [ARGS]...")

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands and the options into the help."""
        self.format_commands(context, formatter)
        _format_options(self, context, formatter)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by their documented names into the help."""
        rows = [
            (self.documented_name(name), command.get_short_help_str(formatter.width))
            for name in self.list_commands(context)
            if (command := self.get_command(context, name)) is not None
        ]
        with formatter.section(f"{(self.name or '').capitalize()} commands"):
            formatter.write_dl(rows)


def _format_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        # some versions of Click list arguments as well, with nothing to say of them
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            is_common = isinstance(parameter, CommonOption) or "--help" in parameter.opts
            (common if is_common else own).append(record)
    if own:
        with formatter.section("Options"):
            formatter.write_dl(own)
    with formatter.section("Common options" if own else "Options"):
        formatter.write_dl(common)
