"""Commands about storage pools and volumes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from virtomate.cli.abandoned import unfinished_import
from virtomate.cli.app import open_app
from virtomate.cli.completion import POOL
from virtomate.cli.help import Group
from virtomate.cli.options import VOLUME_OPTIONS

if TYPE_CHECKING:
    from virtomate.cli.options import Settings


@click.group(cls=Group)
def pool() -> None:
    """Work with storage pools."""


@pool.command("list")
@click.pass_obj
def list_pools(settings: Settings) -> None:
    """List all storage pools, active or not."""
    from virtomate.output.lists import render_pools  # noqa: PLC0415
    from virtomate.services.pool_listings import list_all_pools  # noqa: PLC0415 - help and completion need no libvirt

    with open_app(settings) as app:
        render_pools(list_all_pools(app.session.connection), settings.format)


@click.group(cls=Group)
def volume() -> None:
    """Work with storage volumes."""


@volume.command("list", short_help="List all volumes of a storage pool.")
@click.argument("pool", metavar="POOL", type=POOL)
@click.pass_obj
def list_volumes(settings: Settings, pool: str) -> None:
    """List all volumes of the storage pool POOL, which must be active."""
    from virtomate.output.lists import render_volumes  # noqa: PLC0415
    from virtomate.services.pool_listings import list_all_volumes  # noqa: PLC0415 - help and completion need no libvirt

    with open_app(settings) as app:
        render_volumes(list_all_volumes(app.session.connection, pool), settings.format)


@volume.command("import", short_help="Import a local file as a volume.", sections={"Options": VOLUME_OPTIONS})
@click.argument("file", metavar="FILE", type=click.Path())
@click.argument("pool", metavar="POOL", type=POOL)
@click.argument("name", metavar="[NEWNAME]", required=False)
@click.pass_obj
def import_(
    settings: Settings, file: str, pool: str, name: str | None, *, no_space_check: bool, trust_pool: bool
) -> None:
    """Import the local file FILE into the storage pool POOL as a new volume, NEWNAME or named like the file.

    The volume gets the content and the format of the file, byte for byte; holes stay holes. The pool may be on another
    host. An existing volume is never touched.
    """
    from virtomate.output.render import render_import  # noqa: PLC0415
    from virtomate.services.volume_import import ImportRequest, import_volume  # noqa: PLC0415 - help needs no libvirt

    request = ImportRequest(file, pool, name, check_space=not no_space_check, trust_pool=trust_pool)
    with open_app(settings) as app:
        with app.making(unfinished_import(pool, name or os.path.basename(file))) as run:
            result = import_volume(run, request)
        render_import(result, settings.format)
