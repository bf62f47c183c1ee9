"""Commands and groups of commands: their common options, documented names and help texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.optional_value import with_equals_signs
from virtomate.cli.options import COMMON_OPTIONS, CONTEXT_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Resolved = tuple[str | None, click.Command | None, list[str]]

# Options wider than this have their explanation in the next line.
_COLUMN = 30


class _Context(click.Context):
    """Names a command `GROUP-COMMAND`, as the documentation does, also where `GROUP COMMAND` was typed."""

    @property
    def command_path(self) -> str:
        """The program and the command, for usage lines."""
        if self.parent is None:
            return self.info_name or ""
        return f"{self.parent.command_path}{' ' if self.parent.parent is None else '-'}{self.info_name}"


class Command(click.Command):
    """A command with the common options; only the help of the program explains those.

    Attributes:
        sections: The command's own options by the heading in the help.
        examples: Command lines that show what the command is for.
        other_usages: Further forms of the command line, without the name of the command.
    """

    context_class = _Context

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - Click's own
        sections: Mapping[str, Sequence[click.Option]] | None = None,
        examples: Sequence[str] = (),
        other_usages: Sequence[str] = (),
        params: Sequence[click.Parameter] | None = None,
        **attributes: Any,  # noqa: ANN401 - Click's own
    ) -> None:
        own = params or ()
        self.sections = sections or {"Options": [option for option in own if isinstance(option, click.Option)]}
        self.examples = examples
        self.other_usages = other_usages
        listed = [option for options in (sections or {}).values() for option in options]
        attributes |= {"params": [*COMMON_OPTIONS, *listed, *own], "context_settings": CONTEXT_SETTINGS}
        super().__init__(*arguments, **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        return super().parse_args(ctx, list(with_equals_signs(self.params, args)))

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write into the help how the command is called, in each of its forms."""
        super().format_usage(context, formatter)
        for pieces in self.other_usages:
            formatter.write_usage(context.command_path, pieces, prefix=" " * len("Usage: "))

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options into the help, those of all sections in the same column."""
        sections = self.sections
        if context.parent is None:
            sections = {"Options": [*COMMON_OPTIONS, *filter(None, [self.get_help_option(context)])]}
        rows = {
            heading: [row for option in options if (row := option.get_help_record(context)) is not None]
            for heading, options in sections.items()
        }
        width = max((len(words) for section in rows.values() for words, _ in section), default=0)
        for heading, section in rows.items():
            if section:
                with formatter.section(heading):
                    padded = [(words.ljust(min(width, _COLUMN)), text) for words, text in section]
                    formatter.write_dl(padded, col_max=_COLUMN)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples into the help, and where the common options are explained."""
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in self.examples))
        if context.parent is not None:
            formatter.write_paragraph()
            formatter.write_text("Common options such as -c, --json and -q: see 'virtomate -h'.")


class Group(Command, click.Group):
    """The commands about one kind of object."""

    command_class = Command

    @property
    def prefix(self) -> str:
        """The beginning of the documented names of the group's commands."""
        return f"{self.name}-"

    def resolve_command(self, context: click.Context, arguments: list[str]) -> Resolved:
        """Find a command, or suggest another one for a name that is unknown; `help` shows a help text."""
        name, *rest = arguments
        is_known = name.startswith("-") or self.get_command(context, name) is not None
        if not is_known and not context.resilient_parsing:
            if name == "help":
                return self._resolve_help(context, rest)
            context.fail(f"There is no command '{name}'. {self._advice(context, name)}")
        return super().resolve_command(context, arguments)

    def _resolve_help(self, context: click.Context, arguments: list[str]) -> Resolved:
        """Call the help of the command that is named after `help`, or show the help of this group."""
        if not arguments or arguments[0].startswith("-"):
            click.echo(context.get_help())
            context.exit()
        name, command, rest = self.resolve_command(context, arguments)
        # only a group takes further words: a command could act on them
        return name, command, ["help", *rest] if isinstance(command, Group) else ["--help"]

    def _advice(self, context: click.Context, name: str) -> str:
        from virtomate.cli.suggestions import similar_commands  # noqa: PLC0415 - difflib takes a while to load

        commands = [f"{self.prefix}{command}" for command in self.list_commands(context)]
        found = similar_commands(name, commands, self.prefix)
        if not found:
            return f"{context.command_path} -h lists the commands."
        *front, last = [f"'{command}'" for command in found]
        return f"Did you mean {', '.join(front)}{' or ' if front else ''}{last}?"

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write into the help how the commands are called."""
        formatter.write_usage(f"{context.command_path}-COMMAND", "[OPTIONS] [ARGS]...")

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands and the options into the help."""
        self.format_commands(context, formatter)
        super().format_options(context, formatter)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by their documented names into the help."""
        helps = {name: self.commands[name].get_short_help_str(formatter.width) for name in self.list_commands(context)}
        rows = [(f"{self.prefix}{name}", text) for name, text in helps.items()]
        with formatter.section(f"{(self.name or '').capitalize()} commands"):
            formatter.write_dl(rows)
