"""Commands about storage volumes."""

from __future__ import annotations

import click

from virtomate.cli.commands import Group
from virtomate.cli.completion import complete_pool
from virtomate.cli.options import CONTEXT_SETTINGS, Settings, common_options
from virtomate.cli.session import open_session
from virtomate.output.render import render_volumes


@click.group(cls=Group, context_settings=CONTEXT_SETTINGS)
@common_options
def volume() -> None:
    """Work with storage volumes."""


@volume.command("list", context_settings=CONTEXT_SETTINGS)
@common_options
@click.argument("pool", metavar="POOL", shell_complete=complete_pool)
@click.pass_obj
def list_(settings: Settings, pool: str) -> None:
    """List all volumes of the storage pool POOL, which must be active."""
    from virtomate.services.volumes import list_all_volumes  # noqa: PLC0415 - help and completion need no libvirt

    with open_session(settings) as session:
        render_volumes(list_all_volumes(session.connection, pool), settings.format)
