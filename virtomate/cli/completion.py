"""The command that prints completion scripts, and the names that they complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.cli.help import Command
from virtomate.cli.options import CONTEXT_SETTINGS, Settings, common_options

if TYPE_CHECKING:
    from collections.abc import Callable

# Click's name for it, which virtomate 0.1.2 had as well: what a shell's script sets when it wants to know something.
COMPLETE_VARIABLE = "_VIRTOMATE_COMPLETE"

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion", cls=Command, short_help="Print the completion script for a shell.", context_settings=CONTEXT_SETTINGS
)
@common_options
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
@click.pass_obj
def completion(settings: Settings, shell: str) -> None:
    """Print the script with which SHELL (bash, zsh or fish) completes virtomate's command lines.

    Completed are commands, options and their values, files, and the names of domains and storage pools.
    """
    from virtomate.output.render import render_completion_script  # noqa: PLC0415 - help needs no output

    render_completion_script(shell, read_script(shell), settings.format)


def read_script(shell: str) -> str:
    """The script for one of the shells."""
    from pathlib import Path  # noqa: PLC0415 - nothing else needs it before a command is known

    return (Path(__file__).parent / "scripts" / f"virtomate.{shell}").read_text(encoding="utf-8")


def _completer(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        from virtomate.services.completion import Kind, list_names  # noqa: PLC0415 - only names need libvirt

        given = context.params.get(parameter.name or "")
        taken = given if isinstance(given, tuple) else ()
        names = list_names(Kind(kind), context.ensure_object(Settings).uri)
        return [name for name in names if name.startswith(incomplete) and name not in taken]

    return complete


# Functions for `shell_complete`.
complete_domain, complete_clone, complete_pool = map(_completer, ("domain", "clone", "pool"))
