"""The command that prints completion scripts, and the names that shells complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.help import Command
from virtomate.cli.options import Settings

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# The variable by which a shell's script asks for completion; Click and virtomate 0.1.2 chose the name.
COMPLETE_VARIABLE = "_VIRTOMATE_COMPLETE"


@click.command("completion", cls=Command, short_help="Print the completion script for a shell.")
@click.argument("shell", metavar="SHELL", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_obj
def completion(settings: Settings, shell: str) -> None:
    """Print the script with which SHELL (bash, zsh or fish) completes virtomate's command lines.

    The script completes commands, options and their values, files, and the names of domains and storage pools.
    """
    from virtomate.output.render import render_completion_script  # noqa: PLC0415 - help needs no output

    render_completion_script(shell, read_script(shell), settings.format)


def read_script(shell: str) -> str:
    """Return the completion script for a shell."""
    from pathlib import Path  # noqa: PLC0415 - nothing else needs it before a command is known

    return (Path(__file__).parent / "scripts" / f"virtomate.{shell}").read_text(encoding="utf-8")


class _Name(click.types.StringParamType):
    """The name of something that exists; shells complete the name unless the kind is None."""

    def __init__(self, kind: str | None, expected: str) -> None:
        self._kind = kind
        self._expected = expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Refuse an empty name, which libvirt would look up."""
        return str(value) or self.fail(f"'' is not a name; expected: {self._expected}.", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Return the names that the command line does not contain yet."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only shells need it

        given = ctx.params.get(param.name or "")
        taken = given if isinstance(given, tuple) else ()
        names = (name for name in self._names(ctx) if name.startswith(incomplete) and name not in taken)
        return [CompletionItem(name) for name in names]

    def _names(self, ctx: click.Context) -> list[str]:
        from virtomate.services.completion import Kind, list_names  # noqa: PLC0415 - only names need libvirt

        # a pool that domain-clone is to use is on the host of the clones
        uri = ctx.params.get("to") if self._kind == "pool" else None
        return [] if self._kind is None else list_names(Kind(self._kind), uri or ctx.ensure_object(Settings).uri)


class _SnapshotName(_Name):
    """The name of a snapshot of the domain that the command line contains."""

    def _names(self, ctx: click.Context) -> list[str]:
        from virtomate.services.completion import list_snapshots  # noqa: PLC0415 - only names need libvirt

        domain = _domain_of(ctx, "source")
        return [] if domain is None else list_snapshots(domain, ctx.ensure_object(Settings).uri)


class _Target(_Name):
    """The target of a disk of the domain that the command line contains, of the first one if there are several."""

    def _names(self, ctx: click.Context) -> list[str]:
        from virtomate.services.completion import list_targets  # noqa: PLC0415 - only names need libvirt

        domain = _domain_of(ctx, "name", "names")
        return [] if domain is None else list_targets(domain, ctx.ensure_object(Settings).uri)


class _TemplateName(_Name):
    """The name of a domain, of a template where only templates are meant."""

    def _names(self, ctx: click.Context) -> list[str]:
        return TEMPLATE._names(ctx) if ctx.params.get("undo") else super()._names(ctx)  # noqa: SLF001 - as here


def _domain_of(ctx: click.Context, *arguments: str) -> str | None:
    """Return the domain that a command line contains already in one of these arguments."""
    for argument in arguments:
        given = ctx.params.get(argument)
        if given:
            return str(given[0] if isinstance(given, tuple) else given)
    # Click does not tell arguments apart while the value of an option is missing
    return next(iter(ctx.args), None)


DOMAIN = _Name("domain", "the name or UUID of a domain")
CLONE = _Name("clone", "the name or UUID of a clone")
POOL = _Name("pool", "the name of a storage pool")
TEMPLATE = _Name("template", "the name or UUID of a template")
TEMPLATE_OR_DOMAIN = _TemplateName("domain", "the name or UUID of a domain")
TARGET = _Target(None, "the target of a disk, such as vda")
VOLUME = _Name("volume", "an absolute path, or POOL/NAME")
SNAPSHOT = _SnapshotName(None, "the name of a snapshot")
PROGRAM = _Name(None, "a program in the guest")
