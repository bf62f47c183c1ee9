"""What commands and groups of commands have in common: their documented names, and help in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.options import CommonOption

if TYPE_CHECKING:
    from collections.abc import Sequence


# How wide options get before their explanation goes on in the next line.
_COLUMN = 30


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
    """A command whose help has its own options and examples; the help of the program has the common options.

    Attributes:
        examples: Command lines that show what the command is for.
    """

    context_class = _Context

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **attributes)
        self.examples = examples

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options into the help."""
        _format_options(self, context, formatter)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples into the help, and where the common options are explained."""
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in self.examples))
        _format_pointer(context, formatter)


class Group(click.Group):
    """The commands about one kind of object."""

    context_class = _Context
    command_class = Command

    @property
    def group_name(self) -> str | None:
        """What the documented names of its commands begin with."""
        return self.name

    def documented_name(self, name: str) -> str:
        """What the documentation calls a command of this group."""
        return f"{self.name}-{name}"

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for one that does not exist, suggest one that does. `help` is none, and shows help."""
        name, *rest = arguments
        is_known = name.startswith("-") or self.get_command(context, name) is not None
        if not is_known and not context.resilient_parsing:
            if name == "help":
                return self._resolve_help(context, rest)
            context.fail(f"There is no command '{name}'. {self._advice(context, name)}")
        return super().resolve_command(context, arguments)

    def _resolve_help(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Call the help of the command that is named behind `help`, or show that of this group."""
        if not arguments or arguments[0].startswith("-"):
            click.echo(context.get_help())
            context.exit()
        name, command, rest = self.resolve_command(context, arguments)
        # further words belong to a group; a command could take them for what it is to do
        return name, command, ["help", *rest] if isinstance(command, Group) else ["--help"]

    def _advice(self, context: click.Context, name: str) -> str:
        from virtomate.cli.suggestions import similar_commands  # noqa: PLC0415 - difflib takes a while to load

        commands = [self.documented_name(command) for command in self.list_commands(context)]
        found = similar_commands(name, commands, self.group_name)
        if not found:
            return f"{context.command_path} -h lists the commands."
        *front, last = [f"'{command}'" for command in found]
        return f"Did you mean {', '.join(front)}{' or ' if front else ''}{last}?"

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write how the commands are called into the help."""
        formatter.write_usage(f"{context.command_path}-COMMAND", "[OPTIONS] [ARGS]...")

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands and the options into the help."""
        self.format_commands(context, formatter)
        _format_options(self, context, formatter)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write into the help where the common options are explained."""
        _format_pointer(context, formatter)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by their documented names into the help."""
        rows = [
            (self.documented_name(name), command.get_short_help_str(formatter.width))
            for name in self.list_commands(context)
            if (command := self.get_command(context, name)) is not None
        ]
        with formatter.section(f"{(self.name or '').capitalize()} commands"):
            formatter.write_dl(rows)


def _format_pointer(context: click.Context, formatter: click.HelpFormatter) -> None:
    if context.parent is not None:
        formatter.write_paragraph()
        formatter.write_text("Common options such as -c, --json and -q: see 'virtomate -h'.")


def _format_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    common: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        # some versions of Click list arguments as well, with nothing to say of them
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is None:
            continue
        if isinstance(parameter, CommonOption) or "--help" in parameter.opts:
            common.append(record)
        else:
            sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
    if context.parent is None:
        sections["Options"] = common
    width = max((len(words) for records in sections.values() for words, _ in records), default=0)
    for heading, records in sections.items():
        with formatter.section(heading):
            formatter.write_dl([(words.ljust(min(width, _COLUMN)), text) for words, text in records], col_max=_COLUMN)
