"""The command that makes linked clones independent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.cli.app import open_app
from virtomate.cli.completion import DOMAIN
from virtomate.cli.help import Command
from virtomate.errors import combined_exit_status

if TYPE_CHECKING:
    from virtomate.cli.options import Settings


@click.command("flatten", cls=Command, short_help="Make linked clones independent of their bases.")
@click.option(
    "--disk",
    "disks",
    metavar="TARGET",
    multiple=True,
    help="Flatten only the disk TARGET, such as vda; may be given several times. [default: all disks with a base]",
)
@click.option(
    "--discard-snapshots",
    is_flag=True,
    help="Delete internal snapshots of the domain, which need the base and would be damaged.",
)
@click.option(
    "--no-space-check",
    is_flag=True,
    help="Do not check for enough free space in storage pools; for file systems that compress.",
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=DOMAIN)
@click.pass_obj
def flatten(
    settings: Settings,
    names: tuple[str, ...],
    *,
    disks: tuple[str, ...],
    discard_snapshots: bool,
    no_space_check: bool,
) -> int:
    """Make the domains NAME..., each given by name or UUID, independent of the images that their disks rest on.

    What a disk lacks is copied into its image. The guest reads the same as before, and the base is not needed any more:
    the original of a linked clone may be started again. A domain may be shut off or running.
    """
    from virtomate.output.flattened import render_flattened  # noqa: PLC0415
    from virtomate.services.linked import FlattenRequest, flatten_domains  # noqa: PLC0415 - help needs no libvirt

    request = FlattenRequest(
        names, tuple(dict.fromkeys(disks)), discard_snapshots=discard_snapshots, check_space=not no_space_check
    )
    with open_app(settings) as app:
        with app.making() as run:
            results = flatten_domains(run, request)
        render_flattened(results, settings.format)
    return combined_exit_status(result.error for result in results if result.error is not None)
