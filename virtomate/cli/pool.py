"""Commands about storage pools."""

from __future__ import annotations

import click

from virtomate.cli.app import open_app
from virtomate.cli.help import Group
from virtomate.cli.options import CONTEXT_SETTINGS, Settings, common_options


@click.group(cls=Group, context_settings=CONTEXT_SETTINGS)
@common_options
def pool() -> None:
    """Work with storage pools."""


@pool.command("list", context_settings=CONTEXT_SETTINGS)
@common_options
@click.pass_obj
def list_(settings: Settings) -> None:
    """List all storage pools, active or not."""
    from virtomate.output.lists import render_pools  # noqa: PLC0415
    from virtomate.services.pool_listings import list_all_pools  # noqa: PLC0415 - help and completion need no libvirt

    with open_app(settings) as app:
        render_pools(list_all_pools(app.session.connection), settings.format)
