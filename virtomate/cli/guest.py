"""Commands about guests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.abandoned import program_in_guest
from virtomate.cli.app import open_app
from virtomate.cli.completion import DOMAIN, PROGRAM
from virtomate.cli.help import Command, Group
from virtomate.cli.options import OptionalArgument, read_seconds
from virtomate.errors import UsageError

if TYPE_CHECKING:
    from virtomate.cli.options import Settings

_SIGNAL_BASE = 128
_MAX_STATUS = 255


def _seconds(value: str | float) -> float:
    """Return a time, which may have a fraction."""
    seconds = read_seconds(str(value))
    if seconds is None:
        raise click.BadParameter(f"'{value}' is not a number of seconds, such as 30 or 0.5.")
    return seconds


class _RunCommand(Command):
    """Leaves everything from the program on to the guest, options included."""

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        """Return nothing if a shell completes words after the program."""
        has_program = context.resilient_parsing and context.params.get("program") is not None
        return [] if has_program else super().get_params(context)

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Parse options before and after the domain, none from the program on, and none after `--`."""
        begin, words = self._cut(context, arguments)
        domain, rest = words[:1], words[1:]
        is_marked = begin[-1:] == ["--"]
        if not is_marked:
            more, rest = self._cut(context, rest)
            begin += more
        elif rest[:1] == ["--"]:
            del rest[0]
        if rest or is_marked:
            arguments = [*(word for word in begin if word != "--"), "--", *domain, *rest]
        return super().parse_args(context, arguments)

    def _cut(self, context: click.Context, arguments: list[str]) -> tuple[list[str], list[str]]:
        """Return the options at the beginning, with the `--` that ends them, and the words after them."""
        options = [parameter for parameter in self.get_params(context) if isinstance(parameter, click.Option)]
        parser = click.Command(None, params=[*options], add_help_option=False).make_parser(context)
        parser.allow_interspersed_args = False
        _, words, _ = parser.parse_args(list(arguments))
        return arguments[: len(arguments) - len(words)], words


@click.group(cls=Group)
def guest() -> None:
    """Work with guests, through the QEMU guest agent."""


@guest.command("ping", short_help="See whether a guest's agent answers.")
@click.option(
    "--wait",
    "seconds",
    type=_seconds,
    metavar="SECONDS",
    default=0.0,
    help="How long to wait for an answer. [default: 0, ask once]",
)
@click.argument("name", metavar="DOMAIN", type=DOMAIN)
@click.pass_obj
def ping(settings: Settings, name: str, *, seconds: float) -> None:
    """See whether the guest agent of DOMAIN, given by name or UUID, answers.

    DOMAIN must be running. If the agent does not answer, the exit status is 125.
    """
    from virtomate.output.render import render_ping  # noqa: PLC0415
    from virtomate.services.guest import ping_guest  # noqa: PLC0415 - help and completion need no libvirt

    with open_app(settings) as app:
        render_ping(ping_guest(app.session.connection, name, seconds, app.cancel), settings.format)


@guest.command("run", cls=_RunCommand, short_help="Run a program in a guest.")
@click.option("--stdin", "has_stdin", is_flag=True, help="Pass the standard input of virtomate to the program.")
@click.option("-e", "--encode", is_flag=True, help="Write the program's output in Base64; for --json.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=_seconds,
    metavar="SECONDS",
    help="How long to wait for the program's end; then the program goes on without virtomate. [default: no limit]",
)
@click.argument("domain", metavar="DOMAIN", type=DOMAIN)
@click.argument("program", metavar="PROGRAM", type=PROGRAM)
@click.argument("arguments", cls=OptionalArgument, metavar="[ARG]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(settings: Settings, /, *, has_stdin: bool, encode: bool, **words: Any) -> int:  # noqa: ANN401
    """Run PROGRAM in the guest of DOMAIN, given by name or UUID.

    Everything from PROGRAM on is passed to the guest unchanged; options of virtomate stand before PROGRAM. The output
    of the program is shown when the program has ended, and the exit status of this command is the program's. With
    --json, the exit status tells only whether the program could be run.
    """
    is_json = settings.format.is_json
    if encode and not is_json:
        raise UsageError("--encode requires --json: without --json, output is passed on byte for byte")
    if settings.format.has_json_messages and not is_json:
        raise UsageError(
            "--progress json requires --json here: without --json, stderr contains the output of the guest"
        )
    stdin = sys.stdin.buffer.read() if has_stdin else None
    from virtomate.output.render import render_run  # noqa: PLC0415
    from virtomate.services.guest import RunRequest, run_in_guest  # noqa: PLC0415 - help and completion need no libvirt

    request = RunRequest(stdin=stdin, **words)
    with open_app(settings) as app:
        with app.working(program_in_guest(request.domain)):
            result = run_in_guest(app.session, request, app.cancel)
        render_run(result, settings.format, encode=encode)
    if is_json:
        return 0
    status = (result.exit_code or 0) if result.signal is None else _SIGNAL_BASE + result.signal
    # exit codes of Windows can be larger or negative, and must not become 0
    return status if 0 <= status <= _MAX_STATUS else _MAX_STATUS
