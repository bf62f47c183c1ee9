"""Commands about originals and linked clones after cloning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.cli.app import open_app
from virtomate.cli.completion import DOMAIN
from virtomate.cli.domain import domain
from virtomate.errors import combined_exit_status

# `load_group` takes the group from here, with the commands of this module.
__all__ = ["domain"]

if TYPE_CHECKING:
    from virtomate.cli.options import Settings


@domain.command("template", short_help="Make a domain one that is only cloned.")
@click.option("--undo", is_flag=True, help="Make ordinary domains of templates, as they were before.")
@click.argument("names", metavar="DOMAIN...", nargs=-1, required=True, type=DOMAIN)
@click.pass_obj
def template(settings: Settings, names: tuple[str, ...], *, undo: bool) -> int:
    """Make a template of each DOMAIN, given by name or UUID: a domain that is only cloned.

    A template cannot be started, so that its linked clones stay whole. It is not started with its host, and its
    volumes cannot be written to, except by root. DOMAIN must be shut off.
    """
    from virtomate.output.linked import render_templates  # noqa: PLC0415
    from virtomate.services import linked as service  # noqa: PLC0415 - help and completion need no libvirt

    with open_app(settings) as app, app.working():
        change = service.undo_templates if undo else service.make_templates
        results = change(app.session.connection, names, app.cancel)
    render_templates(results, settings.format)
    return combined_exit_status(result.error for result in results if result.error is not None)
