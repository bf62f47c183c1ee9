"""Commands about originals and linked clones after cloning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.cli.abandoned import to_repeat
from virtomate.cli.app import open_app
from virtomate.cli.completion import CLONE, DOMAIN, TARGET, TEMPLATE_OR_DOMAIN, VOLUME
from virtomate.cli.domain import domain
from virtomate.cli.options import VOLUME_OPTIONS, OptionalArgument
from virtomate.errors import EXIT_FAILED, combined_exit_status

# `load_group` takes the group from here, with the commands of this module.
__all__ = ["domain"]

if TYPE_CHECKING:
    from virtomate.cli.options import Settings


FLATTEN_OPTIONS = (
    click.Option(
        ["--disk", "disks"],
        metavar="TARGET",
        multiple=True,
        type=TARGET,
        help="Flatten only the disk TARGET, such as vda; may be given several times. [default: all disks with a base]",
    ),
    click.Option(
        ["--discard-snapshots"],
        is_flag=True,
        help="Delete internal snapshots of the domain, which need the base and would be damaged.",
    ),
    click.Option(
        ["--unsafe"],
        is_flag=True,
        help="Flatten clones that are broken, since their base is not what it was, with what they read now.",
    ),
)


@domain.command("template", short_help="Make a domain one that is only cloned.")
@click.option("--undo", is_flag=True, help="Make ordinary domains of templates, as they were before.")
@click.argument("names", metavar="DOMAIN...", nargs=-1, required=True, type=TEMPLATE_OR_DOMAIN)
@click.pass_obj
def template(settings: Settings, names: tuple[str, ...], *, undo: bool) -> int:
    """Make a template of each DOMAIN: a domain that is only cloned.

    DOMAIN is a name, a UUID, or a pattern for names in quotes, such as 'gold-*'; with --undo for names of templates.

    A template cannot be started, so that its linked clones stay whole. It is not started with its host, and its
    volumes cannot be written to, except by root. DOMAIN must be shut off.
    """
    from virtomate.output.linked import render_templates  # noqa: PLC0415
    from virtomate.services import linked as service  # noqa: PLC0415 - help and completion need no libvirt

    with (
        open_app(settings) as app,
        app.working(to_repeat("without the domains that are done: it completes the change of the others")),
    ):
        change = service.undo_templates if undo else service.make_templates
        results = change(app.session, names, app.cancel)
    render_templates(results, settings.format)
    return combined_exit_status(result.error for result in results if result.error is not None)


@domain.command(
    "flatten",
    short_help="Make linked clones independent of their bases.",
    sections={"Options": (*FLATTEN_OPTIONS, *VOLUME_OPTIONS)},
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=DOMAIN)
@click.pass_obj
def flatten(
    settings: Settings,
    names: tuple[str, ...],
    *,
    disks: tuple[str, ...],
    discard_snapshots: bool,
    unsafe: bool,
    no_space_check: bool,
    trust_pool: bool,
) -> int:
    """Make the domains NAME... independent of the images that their disks rest on.

    NAME is a name, a UUID, or a pattern for names of clones in quotes, such as 'web-*'.

    What a disk lacks is copied into its image. The guest reads the same as before, and the base is not needed any more:
    the original of a linked clone may be started again. A domain may be shut off or running.
    """
    from virtomate.output.flattened import render_flattened  # noqa: PLC0415
    from virtomate.services import linked as service  # noqa: PLC0415 - help and completion need no libvirt

    request = service.FlattenRequest(
        names,
        tuple(dict.fromkeys(disks)),
        discard_snapshots=discard_snapshots,
        check_space=not no_space_check,
        trust_pool=trust_pool,
        is_checked=not unsafe,
    )
    with open_app(settings) as app:
        with app.making(to_repeat("which completes the work")) as run:
            results = service.flatten_domains(run, request)
        render_flattened(results, settings.format)
    return combined_exit_status(result.error for result in results if result.error is not None)


@domain.command("reset", short_help="Take linked clones back to their first moment.")
@click.option("--force", is_flag=True, help="End clones that run, at once, and discard saved states.")
@click.option("--start", is_flag=True, help="Start the clones afterwards.")
@click.argument("names", metavar="CLONE...", nargs=-1, required=True, type=CLONE)
@click.pass_obj
def reset(settings: Settings, names: tuple[str, ...], *, force: bool, start: bool) -> int:
    """Take each linked CLONE back to its first moment.

    CLONE is a name, a UUID, or a pattern for names of clones in quotes, such as 'web-*'.

    Everything that was written to its disks is lost, and its NVRAM is a copy of the original's again. Its definition
    stays as it is, with UUID and MAC addresses. CLONE must be shut off, unless --force is given.
    """
    from virtomate.output.linked import render_resets  # noqa: PLC0415
    from virtomate.services import linked as service  # noqa: PLC0415 - help and completion need no libvirt

    request = service.ResetRequest(names, force, start)
    with open_app(settings) as app, app.working(to_repeat("which completes the reset")):
        results = service.reset_clones(app.session, request, app.cancel)
    render_resets(results, settings.format)
    return combined_exit_status(result.error for result in results if result.error is not None)


@domain.command("verify", short_help="Tell whether what linked clones rest on is intact.")
@click.argument("names", cls=OptionalArgument, metavar="[NAME]...", nargs=-1, type=CLONE)
@click.pass_obj
def verify(settings: Settings, names: tuple[str, ...]) -> int:
    """Tell whether the images that clones and frozen originals rest on are what they were.

    NAME is the name or UUID of a clone or of a frozen original, or a pattern for such names in quotes, such as 'web-*'.
    Without NAME, all of them that rest on other images are verified. A clone or original is broken if somebody has
    written to such an image, or truncated, replaced, moved or deleted it.
    """
    from virtomate.output.verified import render_verifications  # noqa: PLC0415
    from virtomate.services import linked as service  # noqa: PLC0415 - help and completion need no libvirt

    with open_app(settings) as app, app.working():
        results = service.verify_clones(app.session.connection, names, app.cancel)
    render_verifications(results, settings.format)
    return EXIT_FAILED if any(result.is_broken for result in results) else 0


@domain.command("rebase", short_help="Give a linked clone another base with the same content.")
@click.option(
    "--base",
    metavar="VOLUME",
    required=True,
    type=VOLUME,
    help="The new base: an absolute path, or POOL/NAME.",
)
@click.option(
    "--disk",
    metavar="TARGET",
    type=TARGET,
    help="The disk that gets the new base, such as vda. [default: the only disk with a base]",
)
@click.option(
    "--base-format",
    type=click.Choice(["raw", "qcow2"]),
    help="Format of the new base, raw or qcow2. [default: the format of the former base]",
)
@click.option("--unsafe", is_flag=True, help="Do not compare the new base with the former base.")
@click.argument("name", metavar="NAME", type=DOMAIN)
@click.pass_obj
def rebase(
    settings: Settings, name: str, *, base: str, disk: str | None, base_format: str | None, unsafe: bool
) -> None:
    """Let a disk of the domain NAME, given by name or UUID, rest on another base: VOLUME.

    VOLUME must have the same content for the guest as the former base, which was moved, renamed or replaced by a copy.
    That is checked first. NAME must be shut off.
    """
    from virtomate.output.flattened import render_rebased  # noqa: PLC0415
    from virtomate.services import linked as service  # noqa: PLC0415 - help and completion need no libvirt

    request = service.RebaseRequest(name, base, disk, base_format, is_checked=not unsafe)
    with open_app(settings) as app:
        with app.making(to_repeat("which completes the work")) as run:
            result = service.rebase_domain(run, request)
        render_rebased(result, settings.format)
